"""``sinkscope evaluate``: word error rates over a corpus, clean and in noise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkscope.cli import options
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sinkscope.avsr.evaluation import Evaluation
    from sinkscope.avsr.evaluation.table import Cell
    from sinkscope.subjects.avsr import AvsrSubject

__all__ = ["evaluate"]

SHOWN = 10
"""Failures that are shown on the screen."""


def evaluate(
    checkpoint: options.Checkpoint,
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS", help="A manifest, a folder or one media file.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of results.")],
    root: Annotated[
        Path | None, typer.Option(help="Where a manifest's relative paths start.")
    ] = None,
    landmarks: Annotated[
        Path | None, typer.Option(help="A folder with a file of face landmarks for each clip.")
    ] = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="audio, video, audiovisual (may be repeated), or all; default the most."),
    ] = None,
    noise: Annotated[
        str | None, typer.Option(help="'babble' of the corpus's own voices, or a sound file.")
    ] = None,
    snr: Annotated[
        list[float] | None, typer.Option(help="Signal-to-noise ratio, dB; may be repeated.")
    ] = None,
    audio_rate: options.AudioRate = None,
    video_rate: options.VideoRate = None,
    rates: options.Rates = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest transcript, tokens; default 64.")
    ] = None,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Beams of the search; default 1, which is greedy.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Draw in the search, at this temperature; default never.")
    ] = None,
    original: Annotated[
        bool,
        typer.Option(
            "--original",
            help="The published search where nothing else is given: 15 beams, drawn at 0.6, "
            "32 tokens.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of noise, bootstrap and draws.")] = 0,
    batch_frames: Annotated[
        int, typer.Option(min=1, help="Picture frames (1/25 s) of a batch.")
    ] = 1500,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read clips ahead.")] = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Measure the word error rate of CHECKPOINT on CORPUS, with its 95 % interval.

    Every transcript is written down at once: a run that was stopped goes on where it stopped. A
    clip that fails is counted and listed, and the others go on; the exit code is 2 if all failed.
    With --rates, sound alone is read at every audio rate once, the picture alone at every video
    rate, and the table has the tokens that reached the LLM (mean an utterance).
    Writes evaluation.json, table.csv and utterances.csv.
    """
    from dataclasses import replace

    from tqdm import tqdm

    from sinkscope.avsr.corpora import read_corpus
    from sinkscope.avsr.decoding import ORIGINAL, Decoding
    from sinkscope.avsr.evaluation import Running, Settings
    from sinkscope.avsr.evaluation import evaluate as evaluate_corpus
    from sinkscope.avsr.evaluation.settings import cases_of
    from sinkscope.subjects.avsr import AvsrSubject
    from sinkscope.subjects.subject import load

    found = read_corpus(corpus, root=root, landmarks=landmarks)
    given = {"max_new_tokens": max_new_tokens, "num_beams": beams, "temperature": temperature}
    given |= {"audio_rate": audio_rate, "video_rate": video_rate, "seed": seed}
    chosen = {name: value for name, value in given.items() if value is not None}
    search = replace(ORIGINAL if original else Decoding(), **chosen)
    subject = load(checkpoint, device=device, dtype=dtype)
    if not isinstance(subject, AvsrSubject):
        raise InputError(f"evaluate: {subject.name} is a text model and takes no clips.")
    settings = Settings(
        _modalities(modality, subject), noise, snr or (), search, options.parse_rates(rates), seed
    )
    total = len(found.entries) * len(cases_of(subject.model.config, settings))
    with tqdm(total=total, desc="evaluating", unit="utterance", leave=False, disable=None) as bar:
        running = Running(batch_frames, workers, _advance(bar))
        about = subject.provenance()
        result = evaluate_corpus(
            subject.model, found, output, settings=settings, about=about, running=running
        )
    _show(result, output, len(found.entries) + len(found.failures))


def _modalities(asked: list[str] | None, subject: "AvsrSubject") -> list[str] | None:
    from sinkscope.avsr.decoding import modalities_of

    if asked is None or options.EVERY not in asked:
        return asked
    return list(modalities_of(subject.model.config))


def _advance(bar: Any) -> "Callable[[int], None]":
    def advance(done: int) -> None:
        bar.update(done)

    return advance


def _rates(cell: "Cell") -> tuple[str, ...]:
    """A line's rates and tokens, where it has some."""
    if cell.pair is None:
        return ()
    from sinkscope.avsr.passes import name_of_pair

    tokens = "-" if cell.tokens is None else f"{cell.tokens:.1f}"
    return name_of_pair(cell.pair), tokens


def _show(found: "Evaluation", output: Path, clips: int) -> None:
    """The table, what failed or was cut, and where the files are."""
    from rich.console import Console
    from rich.table import Table

    several = any(cell.pair is not None for cell in found.table)
    rates = ("rates", "tokens") if several else ()
    table = Table("modality", *rates, "condition", "clips", "WER", "95 %", "S", "D", "I")
    for cell in found.table:
        errors, names = cell.errors, (cell.modality, *_rates(cell), cell.condition.name)
        if errors is None:
            table.add_row(*names, "0", *["-"] * 5)
            continue
        low, high = errors.interval
        counts = (errors.substitutions, errors.deletions, errors.insertions)
        rate, interval = f"{errors.rate:.1%}", f"{100 * low:.1f}-{100 * high:.1f}"
        table.add_row(*names, str(cell.utterances), rate, interval, *map(str, counts))
    console = Console(highlight=False)
    console.print(table)
    for failure in found.failures[:SHOWN]:
        console.print(f"failed: {failure.error}", markup=False)
    if found.failed_clips:
        where = f"; all are listed in {output / 'evaluation.json'}" * (len(found.failures) > SHOWN)
        failed = f"{found.failed_clips} of {clips} clips failed{where}"
        console.print(failed, style="bold", markup=False)
    if found.cut_clips:
        cut = f"{found.cut_clips} clips are longer than an encoder reads; see utterances.csv"
        console.print(cut, style="bold")
    console.print(f"wrote {output}", markup=False)
