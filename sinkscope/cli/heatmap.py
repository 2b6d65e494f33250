"""``sinkscope heatmap``: one attention map as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import options
from sinkscope.errors import InputError

__all__ = ["heatmap"]

BINS = 512


def heatmap(
    checkpoint: options.Checkpoint,
    inputs: options.Inputs,
    layer: Annotated[int, typer.Option(min=0, help="The 0-based layer.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The picture: .png, .pdf or .svg.")
    ],
    head: Annotated[
        int | None, typer.Option(min=0, help="One head; default the mean over heads.")
    ] = None,
    bos: options.Bos = None,
    modality: options.Modality = None,
    audio_rate: options.AudioRate = None,
    video_rate: options.VideoRate = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Draw the attention map of one layer of CHECKPOINT on one INPUT."""
    from sinkscope.cli.inputs import read_inputs, select
    from sinkscope.plots import attention_map
    from sinkscope.probes.probe import record
    from sinkscope.probes.reducers import PatternBins
    from sinkscope.subjects.subject import load

    _refuse_format(output)
    data = read_inputs(inputs)
    if len(data) != 1:
        raise InputError(f"heatmap draws one input, and {len(data)} were given; name one.")
    subject = select(load(checkpoint, device=device, dtype=dtype), modality, audio_rate, video_rate)
    keep = [PatternBins(BINS, layers=(layer,))]
    drawn = attention_map(
        record(subject, data[0], layers=[layer], prepend_bos=bos, keep=keep), layer=layer, head=head
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    figure = drawn.get_figure(root=True)
    if figure is not None:
        figure.savefig(output, dpi=150, bbox_inches="tight")
    typer.echo(f"wrote {output}")


def _refuse_format(output: Path) -> None:
    if output.suffix.lower() not in {".png", ".pdf", ".svg"}:
        raise InputError(f"{output}: a picture ends in .png, .pdf or .svg; rename it.")
