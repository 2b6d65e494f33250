"""``sinkscope ablate``: what the model does without some of its parts, features or tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkscope.cli import options
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.interventions.session import AnyEdit

__all__ = ["ablate"]

Places = Annotated[list[str] | None, typer.Option()]


def ablate(
    checkpoint: options.Checkpoint,
    inputs: options.Inputs,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run folder to write.")],
    mlp: Annotated[
        list[int] | None, typer.Option(help="Silence the MLP of this layer; may be repeated.")
    ] = None,
    attention: Annotated[
        list[int] | None, typer.Option(help="Silence the attention of this layer.")
    ] = None,
    head: Annotated[
        list[str] | None, typer.Option(metavar="LAYER:HEAD", help="Silence a head.")
    ] = None,
    neuron: Annotated[
        list[str] | None, typer.Option(metavar="LAYER:NEURON", help="Silence a neuron of the MLP.")
    ] = None,
    mixture: Annotated[
        list[int] | None,
        typer.Option(help="Silence all experts of the mixture (MoME) beside this layer."),
    ] = None,
    expert: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER:EXPERT", help="Silence a routed expert of a mixture."),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER:FEATURE", help="Set a feature to 0 where it leaves a layer."),
    ] = None,
    hide: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKEN", help="Hide tokens of this segment or label from all others."),
    ] = None,
    threshold: options.Threshold = 0.3,
    min_heads: options.MinHeads = 0.5,
    min_queries: options.MinQueries = 8,
    ratio: options.Ratio = None,
    modality: options.Modality = None,
    audio_rate: options.AudioRate = None,
    video_rate: options.VideoRate = None,
    seed: Annotated[int, typer.Option(help="Of the controls and the bootstrap.")] = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Change CHECKPOINT while it runs on INPUT, and measure what that does.

    With options, each is one condition. Without, the sinks and massive activations that are found
    are put to the field's causal tests, each with its control. Writes the tables, figures and
    report of a scan, and tables/effects.csv.
    """
    from sinkscope.cli.inputs import read_inputs, select
    from sinkscope.cli.scan import record_inputs
    from sinkscope.cli.sections import effects_section, explanation_section
    from sinkscope.cli.show import show_effects, show_story
    from sinkscope.interventions.explain import explain
    from sinkscope.interventions.measure import measure
    from sinkscope.interventions.session import Session
    from sinkscope.reports.run import Thresholds, refuse_existing, write_run
    from sinkscope.subjects.subject import load

    refuse_existing(output, overwrite=overwrite)
    edits = _parts(mlp, attention, mixture) | _edits(head, neuron, expert, feature, hide)
    data = read_inputs(inputs)
    subject = select(load(checkpoint, device=device, dtype=dtype), modality, audio_rate, video_rate)
    thresholds = Thresholds(threshold, min_heads, min_queries, ratio)
    for edit in edits.values():
        Session(subject, [edit]).refuse_unfit()
    seen = record_inputs(subject, data)
    with options.progress("intervening") as advance:
        if edits:
            measured = measure(subject, data, edits, rules=thresholds, seed=seed, advance=advance)
            section = effects_section(measured)
        else:
            story = explain(subject, data, rules=thresholds, seen=seen, seed=seed, advance=advance)
            measured, section = story.effects, explanation_section(story)
    write_run(output, seen, thresholds=thresholds, sections=[section], overwrite=overwrite)
    show_story(section)
    show_effects(measured, output)


def _parts(
    mlp: list[int] | None, attention: list[int] | None, mixture: list[int] | None
) -> "dict[str, AnyEdit]":
    """One condition for each whole part of a layer."""
    from sinkscope.interventions.knock_out import knock_out

    edits: dict[str, AnyEdit] = {}
    for layer in mlp or ():
        edits[f"no MLP {layer}"] = knock_out(layers=layer, part="mlp")
    for layer in attention or ():
        edits[f"no attention {layer}"] = knock_out(layers=layer, part="attention")
    for layer in mixture or ():
        edits[f"no experts {layer}"] = knock_out(layers=layer, part="experts")
    return edits


def _edits(
    head: list[str] | None,
    neuron: list[str] | None,
    expert: list[str] | None,
    feature: list[str] | None,
    hide: list[str] | None,
) -> "dict[str, AnyEdit]":
    """One condition for each of the other options."""
    from sinkscope.interventions.blocking import BlockAttention
    from sinkscope.interventions.edits import Zero
    from sinkscope.interventions.knock_out import knock_out

    edits: dict[str, AnyEdit] = {}
    for words in head or ():
        layer, number = _pair("--head", words)
        edits[f"no head {words}"] = knock_out(layers=layer, heads=number)
    for words in neuron or ():
        layer, number = _pair("--neuron", words)
        edits[f"no neuron {words}"] = knock_out(layers=layer, neurons=number)
    for words in expert or ():
        layer, number = _pair("--expert", words)
        edits[f"no expert {words}"] = knock_out(layers=layer, experts=number)
    for words in feature or ():
        layer, number = _pair("--feature", words)
        edits[f"feature {words} at 0"] = Zero(layers=layer, features=number)
    for token in hide or ():
        edits[f"hidden {token}"] = BlockAttention(keys=token)
    return edits


def _pair(option: str, words: str) -> tuple[int, int]:
    first, colon, second = words.partition(":")
    if not (colon and first.isdigit() and second.isdigit()):
        raise InputError(f"{option}: {words!r} is no place; write LAYER:NUMBER, for example 0:94.")
    return int(first), int(second)
