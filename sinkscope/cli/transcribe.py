"""``sinkscope transcribe``: what the model hears and sees said."""

from typing import Annotated

import typer

from sinkscope.cli import options
from sinkscope.errors import InputError

__all__ = ["transcribe"]


def transcribe(
    checkpoint: options.Checkpoint,
    inputs: options.Inputs,
    modality: options.Modality = None,
    audio_rate: options.AudioRate = None,
    video_rate: options.VideoRate = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest transcript, tokens.")] = 64,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Write what is said in each INPUT clip, and the word error rate where the text is known."""
    from rich.console import Console
    from tqdm import tqdm

    from sinkscope.avsr.evaluation import word_errors
    from sinkscope.cli.inputs import read_clips, select
    from sinkscope.subjects.subject import load

    clips = read_clips(inputs)
    subject = select(load(checkpoint, device=device, dtype=dtype), modality, audio_rate, video_rate)
    if not hasattr(subject, "transcribe"):
        raise InputError(f"transcribe: {subject.name} is a text model and takes no clips.")
    console = Console(highlight=False)
    references, hypotheses = [], []
    for clip in tqdm(clips, desc="transcribing", unit="clip", leave=False):
        said = subject.transcribe(clip, max_new_tokens=max_new_tokens)
        console.print(clip.name, style="bold", end="\t", markup=False)
        console.print(said, markup=False)
        for note in clip.notes:
            console.print(f"  {note}", style="dim", markup=False)
        if clip.text:
            references.append(clip.text)
            hypotheses.append(said)
    if references:
        errors = word_errors(references, hypotheses)
        console.print(f"word error rate {errors.rate:.1%} over {errors.words} words", style="bold")
