"""The page on what each rate costs: Markdown and a figure from the tables. Depends on pandas."""

from pathlib import Path

import pandas as pd

from sinkscope.experiments.markdown import grid, line, records_of
from sinkscope.plots.wer_by_tokens import wer_by_tokens

__all__ = ["write_page"]

STREAMS = {"audio": "sound", "video": "picture", "audiovisual": "both"}


def write_page(
    folder: Path,
    measured: pd.DataFrame,
    published: pd.DataFrame,
    *,
    said: dict[str, str | int],
) -> None:
    """Write ``README.md`` and ``wer_by_tokens.png``.

    Args:
        folder: where; it exists.
        measured: of `sinkscope.experiments.elastic.measured`.
        published: of `sinkscope.experiments.elastic.published`.
        said: ``model``, ``clips``, ``rounds``, ``seconds`` and ``others``.
    """
    template = Path(__file__).with_name("elastic.md").read_text(encoding="utf-8")
    page = template.format(measured=_measured(measured), published=_published(published), **said)
    (folder / "README.md").write_text(page, encoding="utf-8")
    drawn = measured.astype({"audio_rate": float, "video_rate": float})
    drawn.loc[drawn["modality"] == "audio", "video_rate"] = float("nan")
    drawn.loc[drawn["modality"] == "video", "audio_rate"] = float("nan")
    figure = wer_by_tokens(drawn).get_figure(root=True)
    if figure is not None:
        figure.savefig(folder / "wer_by_tokens.png", dpi=130, bbox_inches="tight")


def _measured(table: pd.DataFrame) -> str:
    rows = []
    for row in records_of(table):
        audio, video = str(row["audio_rate"]), str(row["video_rate"])
        rates = {"audio": audio, "video": video}.get(row["modality"], f"{audio}, {video}")
        wer, low, high = (f"{100 * row[name]:.1f}" for name in ("wer", "wer_low", "wer_high"))
        rows.append(
            line(
                f"{STREAMS[row['modality']]}, {rates}",
                f"{row['tokens']:.0f}",
                f"{row['mega']:.0f}",
                f"{1000 * row['seconds']:.0f}",
                f"{wer} ({low} to {high})",
            )
        )
    head = ("streams and rates", "tokens", "mega-operations", "LLM, ms", "word error rate, %")
    return grid(head, rows)


def _published(table: pd.DataFrame) -> str:
    """A row a pair of rates, a column a model."""
    models = list(dict.fromkeys(table["llm"]))
    rows = []
    for pair in dict.fromkeys(zip(table["audio_rate"], table["video_rate"], strict=True)):
        own = table.loc[(table["audio_rate"] == pair[0]) & (table["video_rate"] == pair[1])]
        tera = own.pivot_table("tera", "llm", "experts")
        cells = [f"{tera.loc[name, False]:.3g} / {tera.loc[name, True]:.3g}" for name in models]
        reported = f"{own['reported'].max():.2f}"
        rows.append(line(f"{pair[0]}, {pair[1]}", own["tokens"].max(), *cells, reported))
    return grid(("rates", "tokens", *models, "reported, the last"), rows)
