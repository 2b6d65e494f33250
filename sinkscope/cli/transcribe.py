"""``sinkscope transcribe``: what the model hears and sees said."""

from typing import TYPE_CHECKING, Annotated

import typer

from sinkscope.cli import options
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from sinkscope.avsr.clip import Clip
    from sinkscope.avsr.decoding import Heard

__all__ = ["transcribe"]

SOME_FAILED = 1
ALL_FAILED = 2


def transcribe(
    checkpoint: options.Checkpoint,
    inputs: options.Inputs,
    modality: options.Modality = None,
    audio_rate: options.AudioRate = None,
    video_rate: options.VideoRate = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest transcript, tokens.")] = 64,
    beams: Annotated[int, typer.Option(min=1, help="Beams of the search; 1 is greedy.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Draw in the search, at this temperature; default never.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of a search that draws.")] = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Write what is said in each INPUT clip, and the word error rate where the text is known.

    A clip that fails is named on standard error, and the others go on. The exit code is 0 if every
    clip was transcribed, 1 if some were, 2 if none was.
    """
    from rich.console import Console
    from tqdm import tqdm

    from sinkscope.avsr.decoding import Decoding, checked_modality, decode_batch
    from sinkscope.avsr.loading import load_clip
    from sinkscope.avsr.scoring import word_errors
    from sinkscope.cli.inputs import list_clips
    from sinkscope.subjects.avsr import AvsrSubject
    from sinkscope.subjects.subject import load

    entries = list_clips(inputs)
    search = Decoding(max_new_tokens, beams, temperature, seed, audio_rate, video_rate)
    subject = load(checkpoint, device=device, dtype=dtype)
    if not isinstance(subject, AvsrSubject):
        raise InputError(f"transcribe: {subject.name} is a text model and takes no clips.")
    config = subject.model.config
    wanted = None if modality is None else checked_modality(config, modality)
    search.rates(config)
    console = Console(highlight=False)
    references, hypotheses, failures = [], [], 0
    for number, entry in enumerate(
        tqdm(entries, desc="transcribing", unit="clip", leave=False, disable=None)
    ):
        try:
            clip = load_clip(entry)
            (heard,) = decode_batch(
                subject.model, [clip], modality=wanted, decoding=search, numbers=[number]
            )
            if heard.error is not None:
                raise InputError(heard.error)
        except (InputError, OSError) as error:
            if len(entries) == 1:
                raise
            failures += 1
            typer.echo(f"sinkscope: {' '.join(str(error).split())}", err=True)
            continue
        _say(console, clip, heard)
        if clip.text:
            references.append(clip.text)
            hypotheses.append(heard.text)
    if references:
        errors = word_errors(references, hypotheses)
        console.print(f"word error rate {errors.rate:.1%} over {errors.words} words", style="bold")
    if failures:
        typer.echo(f"sinkscope: {failures} of {len(entries)} clips failed.", err=True)
        raise typer.Exit(ALL_FAILED if failures == len(entries) else SOME_FAILED)


def _say(console: "Console", clip: "Clip", heard: "Heard") -> None:
    console.print(clip.name, style="bold", end="\t", markup=False)
    console.print(heard.text, markup=False)
    for note in (*clip.notes, heard.note):
        if note is not None:
            console.print(f"  {note}", style="dim", markup=False)
