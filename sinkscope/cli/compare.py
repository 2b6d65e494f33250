"""``sinkscope compare``: what a fine-tuning changed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkscope.cli import options
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.analysis.comparison import Comparison

__all__ = ["compare", "show_comparison"]

MODEL_HELP = "A checkpoint as in scan, or the folder of a finished scan."
INPUTS_HELP = "Media files, a manifest, or a text in quotes; none where A and B are finished runs."


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=f"Before: {MODEL_HELP}")],
    b: Annotated[str, typer.Argument(metavar="B", help=f"After: {MODEL_HELP}")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT...", help=INPUTS_HELP)
    ] = None,
    layers: options.Layers = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Key attention of a sink; default the runs' own, or 0.3."),
    ] = None,
    min_heads: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of heads; default the runs' own, or 0.5."),
    ] = None,
    min_queries: Annotated[
        int | None, typer.Option(min=1, help="Queries of a sink; default the runs' own, or 8.")
    ] = None,
    cosine: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Cosine of a twin; default the runs' own, or 0.8."),
    ] = None,
    ratio: options.Ratio = None,
    bos: options.Bos = None,
    modality: options.Modality = None,
    audio_rate: options.AudioRate = None,
    video_rate: options.VideoRate = None,
    transcribe: Annotated[
        bool,
        typer.Option(help="Compare the word error rates too, on clips whose text is known."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap over clips.")] = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Compare A (before) with B (after) on the same INPUT, clip by clip and token by token.

    Which massive features, sinks and directions of BOS stayed, vanished or came, the layers in
    which they live, the attention between segments, and the word error rate, with 95 % intervals
    over clips. Writes report.html, tables, figures and both records.
    """
    from sinkscope.analysis.compare import compare as compare_records
    from sinkscope.analysis.thresholds import Thresholds
    from sinkscope.cli.pairs import Wanted, finished_runs, opened_pair, recorded_pair
    from sinkscope.reports.comparison import write_comparison
    from sinkscope.reports.folder import refuse_existing

    refuse_existing(output, overwrite=overwrite)
    if output.resolve() in (Path(a).resolve(), Path(b).resolve()):
        raise InputError(f"compare: {output} is one of the two runs; choose another folder.")
    rules: dict[str, Any] = {
        "threshold": threshold,
        "min_heads": min_heads,
        "min_queries": min_queries,
        "ratio": ratio,
        "cosine": cosine,
    }
    chosen = {name: one for name, one in rules.items() if one is not None}
    streams = {"modality": modality, "audio_rate": audio_rate, "video_rate": video_rate}
    load = {"device": device, "dtype": dtype}
    wanted = Wanted(options.parse_layers(layers), bos, streams, load)
    if finished_runs(a, b, inputs or [], wanted):
        pair = opened_pair(a, b, chosen)
    else:
        pair = recorded_pair(
            a, b, inputs or [], wanted, thresholds=Thresholds(**chosen), transcribe=transcribe
        )
    found = compare_records(
        pair.before, pair.after, thresholds=pair.thresholds, wer=pair.wer, seed=seed
    )
    write_comparison(output, pair.before, pair.after, found, overwrite=overwrite)
    show_comparison(found, output)


def show_comparison(found: "Comparison", folder: Path) -> None:
    """The words, the numbers, and where the folder is."""
    from rich.console import Console
    from rich.table import Table

    from sinkscope.analysis.words_comparison import comparison_sentences, effect_cells

    console = Console(highlight=False)
    for sentence in comparison_sentences(found):
        console.print(f"• {sentence}", markup=False)
    table = Table("", "before", "after", "change", "95 %", "d", "clips", box=None)
    for row in found.effects.to_dict("records"):
        table.add_row(*effect_cells(row))
    console.print(table)
    console.print(f"wrote {folder}", style="bold", markup=False, soft_wrap=True)
