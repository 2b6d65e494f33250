"""``sinkscope scan``: a run folder with tables, figures, a report and the record."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkscope.cli import options
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.record import Record
    from sinkscope.reports.run import Thresholds
    from sinkscope.reports.sections import Section

__all__ = ["control_inputs", "explained", "record_inputs", "scan"]

BINS = 512
"""A run keeps the head-mean attention maps in at most 512 x 512 bins: exact up to 512 tokens."""


def scan(
    checkpoint: options.Checkpoint,
    inputs: options.Inputs,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run folder to write.")],
    layers: options.Layers = None,
    threshold: options.Threshold = 0.3,
    min_heads: options.MinHeads = 0.5,
    min_queries: options.MinQueries = 8,
    ratio: options.Ratio = None,
    bos: options.Bos = None,
    modality: options.Modality = None,
    audio_rate: options.AudioRate = None,
    video_rate: options.VideoRate = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls", help="Also under input controls: silence, a frozen frame, no BOS ..."
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Trace where they come from, and test it by intervention."),
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Find the attention sinks and massive activations of CHECKPOINT on INPUT."""
    from sinkscope.cli.inputs import read_inputs, select
    from sinkscope.cli.show import show_run
    from sinkscope.reports.run import Thresholds, refuse_existing, write_run
    from sinkscope.subjects.subject import load

    refuse_existing(output, overwrite=overwrite)
    if explain and layers is not None:
        raise InputError("--explain looks at all layers; leave --layers out.")
    chosen = options.parse_layers(layers)
    data = read_inputs(inputs)
    subject = select(load(checkpoint, device=device, dtype=dtype), modality, audio_rate, video_rate)
    record = record_inputs(subject, data, layers=chosen, prepend_bos=bos)
    thresholds = Thresholds(threshold, min_heads, min_queries, ratio)
    sections = []
    if explain:
        sections.append(explained(subject, data, record, thresholds, bos))
    if controls:
        given = {"layers": chosen, "prepend_bos": bos, **thresholds.of_sinks}
        sections.append(control_inputs(subject, data, **given))
    write_run(output, record, thresholds=thresholds, sections=sections, overwrite=overwrite)
    show_run(record, thresholds, output, sections)


def control_inputs(subject: Any, data: Sequence[Any], **given: Any) -> "Section":
    """The section on input controls; one forward for each input and control."""
    from rich.console import Console

    from sinkscope.interventions.input_controls import input_controls
    from sinkscope.reports.controls import controls_section

    with Console(stderr=True).status("input controls"):
        return controls_section(input_controls(subject, data, **given))


def explained(
    subject: Any,
    data: Sequence[Any],
    record: "Record",
    thresholds: "Thresholds",
    prepend_bos: bool | None,
) -> "Section":
    """The part of a report that says where sinks come from and what they do."""
    from sinkscope.cli.sections import explanation_section
    from sinkscope.interventions.explain import explain

    with options.progress("explaining") as advance:
        story = explain(
            subject, data, prepend_bos=prepend_bos, rules=thresholds, seen=record, advance=advance
        )
    return explanation_section(story)


def record_inputs(
    subject: Any,
    data: Sequence[Any],
    *,
    layers: list[int] | None = None,
    prepend_bos: bool | None = None,
) -> "Record":
    """One Record of all inputs, one forward each, with their head-mean attention maps."""
    from tqdm import tqdm

    from sinkscope.probes.probe import record
    from sinkscope.probes.reducers import PatternBins
    from sinkscope.record import merge

    bar = tqdm(data, desc="recording", unit="sample", leave=False, disable=None)
    keep = [PatternBins(BINS, heads="mean")]
    return merge(
        [record(subject, one, layers=layers, prepend_bos=prepend_bos, keep=keep) for one in bar]
    )
