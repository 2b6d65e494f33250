"""``sinkscope rates``: the same clips at several rates, on one page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkscope.cli import options
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.avsr.evaluation.cases import Rates
    from sinkscope.reports.run import Thresholds

__all__ = ["rates", "write_rates_of"]


def rates(
    checkpoint: options.Checkpoint,
    inputs: options.Inputs,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    pairs: Annotated[
        str,
        typer.Option(
            "--rates",
            metavar="4:2,16:5",
            help="Pairs audio:video, one after the other; or all pairs of the model's own rates.",
        ),
    ] = options.EVERY,
    modality: options.Modality = None,
    threshold: options.Threshold = 0.3,
    min_heads: options.MinHeads = 0.5,
    min_queries: options.MinQueries = 8,
    ratio: options.Ratio = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Compare the sinks, states and experts of CHECKPOINT on the same INPUT at several rates."""
    from sinkscope.cli.inputs import list_clips, read_inputs, select
    from sinkscope.reports.run import Thresholds, refuse_existing
    from sinkscope.subjects.subject import load

    refuse_existing(output, overwrite=overwrite)
    asked = options.parse_rates(pairs)
    list_clips(inputs)
    clips = read_inputs(inputs)
    subject = select(load(checkpoint, device=device, dtype=dtype), modality, None, None)
    rules = Thresholds(threshold, min_heads, min_queries, ratio)
    write_rates_of(subject, clips, asked, output, rules=rules, overwrite=overwrite)


def write_rates_of(
    subject: Any,
    clips: Sequence[Any],
    asked: "Rates | None",
    output: Path,
    *,
    rules: "Thresholds | None" = None,
    overwrite: bool = False,
) -> None:
    """Record the clips at every pair, write the page, and print what it says."""
    from rich.console import Console

    from sinkscope.avsr.evaluation.cases import pairs_of_model
    from sinkscope.probes.rates import record_rates
    from sinkscope.reports.rates import write_rates
    from sinkscope.subjects.avsr import AvsrSubject

    if not isinstance(subject, AvsrSubject):
        raise InputError(f"rates: {subject.name} is a text model and has no rates.")
    pairs = _distinct(pairs_of_model(asked, subject.model.config) or [], subject, clips)
    with Console(stderr=True).status(f"recording at {len(pairs)} pairs of rates"):
        records = record_rates(subject, clips, pairs, keep=["resid_post"])
    write_rates(output, records, thresholds=rules, overwrite=overwrite)
    console = Console(highlight=False)
    for sentence in json.loads((output / "run.json").read_text(encoding="utf-8"))["findings"]:
        console.print(f"• {sentence}", markup=False)
    console.print(f"report: {output / 'report.html'}", style="bold", markup=False, soft_wrap=True)


def _distinct(
    pairs: "Sequence[tuple[int, int]]", subject: Any, clips: Sequence[Any]
) -> list[tuple[int, int]]:
    """Of pairs that differ only in a stream that is not read of these clips, the first.

    Raises:
        InputError: fewer than two are left.
    """
    from sinkscope.avsr.evaluation.cases import pairs_of_modality
    from sinkscope.avsr.streams import NAMES, chosen_streams

    config = subject.model.config
    read = {name for clip in clips for name in chosen_streams(clip, subject.modality, config)}
    modality: Any = NAMES[tuple(sorted(read))]
    kept: dict[Any, tuple[int, int]] = {}
    for pair in pairs:
        kept.setdefault(pairs_of_modality(modality, [pair], config)[0], pair)
    if len(kept) < 2:
        given = ", ".join(f"{audio}:{video}" for audio, video in pairs)
        raise InputError(
            f"rates: of the pairs {given} only one remains where {modality} is read; give "
            "--rates at least two that differ in what is read."
        )
    return list(kept.values())
