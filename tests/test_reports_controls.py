"""Input controls on paper: the sentences, the figure, and the section of a run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from tests.fake_records import fake_av_record
from tests.test_reports_run import EVIL, Seen

mpl.use("Agg")

import matplotlib.pyplot as plt

from sinkscope import plots
from sinkscope.analysis import describe
from sinkscope.analysis.control_words import control_sentences
from sinkscope.errors import InputError
from sinkscope.reports import write_run
from sinkscope.reports.controls import controls_section
from sinkscope.reports.sections import Section, refuse_clashes


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def a_row(sample: int, control: str, reason: str = "", **numbers: Any) -> dict[str, Any]:
    row = {
        "sample": sample,
        "name": f"clip {sample}",
        "control": control,
        "reason": reason,
        "tokens": 50,
        "bos_present": True,
        "sink_rate": 0.5,
        "even_alpha": 0.1,
        "n_intermediate": 0,
        "intermediate": (),
        "largest_ratio": 100.0,
        "n_massive": 2,
        "massive_features": (7, 29),
        "jaccard": 1.0,
    }
    missing = dict.fromkeys(["sink_rate", "largest_ratio", "jaccard"], np.nan)
    missing |= {"bos_present": None, "n_intermediate": None, "intermediate": None}
    return row | (missing if reason else {}) | numbers


def a_table(label: str = "</audio>") -> pd.DataFrame:
    """Two clips; the second has no picture."""
    sink = {"n_intermediate": 1, "intermediate": (label,)}
    gone = {"n_massive": 0, "massive_features": (), "jaccard": 0.0, "largest_ratio": 4.0}
    rows = [
        a_row(0, "original", **sink),
        a_row(0, "no_bos", bos_present=False, sink_rate=0.25, **gone),
        a_row(0, "frozen_frame", sink_rate=0.3, jaccard=0.25, **sink),
        a_row(1, "original", sink_rate=0.7, largest_ratio=300.0),
        a_row(1, "no_bos", bos_present=False, sink_rate=0.35, **gone),
        a_row(1, "frozen_frame", "no token is made of picture here."),
    ]
    table = pd.DataFrame(rows)
    table.attrs = {"table": "input_controls", "subject": "fake", "threshold": 0.3}
    table.attrs |= {"ratio_threshold": 50.0, "words": {"no_bos": "without BOS"}}
    return table


def test_sentences_compare_what_can_be_compared() -> None:
    unchanged, no_bos, frozen = control_sentences(a_table())
    assert "sink rate of BOS 0.60" in unchanged
    assert "an intermediate sink in 1 of 2 ('</audio>'); largest |x| 200 ×" in unchanged
    assert "massive features 7, 29" in unchanged
    assert no_bos.startswith("Without BOS: sink rate 0.60 → 0.30 (of the first token)")
    assert (
        "sink 1 → 0 of 2; largest |x| 200 → 4 × the median; no massive features any more" in no_bos
    )
    # only the clip that has a picture is compared: 0.50, not 0.60
    assert frozen.startswith("Frozen frame: sink rate 0.50 → 0.30 (of BOS)")
    assert "sink 1 → 1 of 1 ('</audio>'); largest |x| 100 → 100" in frozen
    assert "alike by 25%; not possible elsewhere (no token is made of picture here)." in frozen


def test_sentences_say_what_was_not_possible_and_warn_of_short_inputs() -> None:
    table = a_table()
    attrs = table.attrs
    table = table.loc[table["sample"] == 1].reset_index(drop=True)
    table["even_alpha"] = 0.35
    table.attrs = attrs
    told = control_sentences(table)
    assert "Frozen frame: not possible (no token is made of picture here)." in told
    assert told[-1].startswith("In 1 of 1 input even attention alone gives the first token more")
    assert describe(table) == " ".join(told)
    none = table.assign(jaccard=np.nan)
    none.attrs = attrs
    assert "no massive features, as before" in control_sentences(none)[1]
    with pytest.raises(InputError, match="no row 'original'"):
        control_sentences(table.loc[table["control"] != "original"])


def dots(axes: Any, color: str) -> list[tuple[float, float]]:
    """Places of the markers of a colour."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.lines
        if line.get_marker() == "o" and line.get_markerfacecolor() == color
    ]


def test_the_figure_shows_every_clip_before_and_after() -> None:
    axes = plots.input_controls(a_table())
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "unchanged",
        "without BOS",
        "frozen frame",
    ]
    after, before = dots(axes, plots.style.ACCENT), dots(axes, "white")
    assert [(x, round(y)) for x, y in after] == [(0.25, 1), (0.35, 1), (0.3, 2)]
    assert [(x, round(y)) for x, y in before] == [(0.5, 0), (0.7, 0), (0.5, 1), (0.7, 1), (0.5, 2)]
    assert after[0][1] == before[2][1]  # a clip keeps its line
    ratios = axes.figure.axes[1]
    assert [x for x, _ in dots(ratios, plots.style.ACCENT)] == [4.0, 4.0, 100.0]
    told = [text.get_text() for text in axes.figure.axes[2].texts]
    assert told == ["intermediate sinks", "</audio> (1 of 2)", "none", "</audio> (1 of 1)"]


def test_the_figure_keeps_the_rules_of_figures() -> None:
    figure, settings = plt.figure(figsize=(9, 7)), dict(mpl.rcParams)
    given = figure.add_subplot(2, 1, 2)
    table = a_table(r"$\frac{x_")
    table["name"] = EVIL
    assert plots.input_controls(table, ax=given) is given
    assert dict(mpl.rcParams) == settings
    figure.canvas.draw()
    drawn = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert any("frac" in text for text in drawn)
    assert not any(mpl.cbook.is_math_text(text) for text in drawn)
    with pytest.raises(InputError, match="no unchanged input"):
        plots.input_controls(table.loc[table["control"] != "original"])
    with pytest.raises(InputError, match="no control beside"):
        plots.input_controls(table.loc[table["control"] == "original"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "base"
    section = controls_section(a_table(EVIL))
    return write_run(folder, fake_av_record(60), sections=[section])


def test_a_run_holds_the_section(run: Path) -> None:
    read = pd.read_csv(run / "tables" / "input_controls.csv")
    assert read["control"].tolist() == a_table()["control"].tolist()
    assert (run / "figures" / "input_controls.png").read_bytes()[:4] == b"\x89PNG"
    said = json.loads((run / "run.json").read_text())
    assert said["input_controls"] == control_sentences(a_table(EVIL))
    assert said["findings"]


def test_the_page_shows_the_section_once_and_escapes_it(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert page.count("<h2>Input controls</h2>") == 1
    assert page.index("<h2>Figures") < page.index("<h2>Input controls") < page.index("<h2>Tables")
    assert "Without BOS: sink rate 0.60 → 0.30" in page
    assert 'href="tables/input_controls.csv"' in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    seen = Seen(page)
    assert "script" not in seen.tags
    pictures = [source for source in seen.sources if source.startswith("data:image/png")]
    assert len(pictures) == len(list((run / "figures").glob("*.png")))


def test_names_that_are_taken_are_refused(tmp_path: Path) -> None:
    table = a_table()
    figure = controls_section(table).figures[0]
    taken = {"run": ["thresholds"], "tables": ["sinks"], "figures": ["attention_map"]}
    for bad in (
        [Section("more", "More", [], {"sinks": table})],
        [Section("more", "More", [], figures=[figure, figure])],
        [Section("thresholds", "More", [])],
        [Section("one", "One", [], {"mine": table}), Section("two", "More", [], {"mine": table})],
    ):
        with pytest.raises(
            InputError, match=r"'More' brings '\w+', a name that the run's \w+ have"
        ):
            refuse_clashes(bad, taken)
    refuse_clashes([controls_section(table)], taken)
    with pytest.raises(InputError, match="brings 'sinks'"):
        write_run(
            tmp_path / "run",
            fake_av_record(60),
            sections=[Section("more", "More", [], {"sinks": table})],
        )
    assert not list(tmp_path.iterdir())
