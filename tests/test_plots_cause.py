"""Figures of births, neurons and effects: they say what they are and show what the tables hold."""

from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

import sinkscope as ss
from sinkscope.analysis import describe
from sinkscope.analysis.effects import effects
from sinkscope.errors import InputError
from tests.planted import planted

IDS = planted().ids(40, sinks=[0, 9])


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def origin():
    plant = planted()
    massive = ss.find_massive_activations(ss.record(plant.model, input_ids=IDS))
    return ss.trace_origin(ss.trace(plant.model, input_ids=IDS, at=massive))


@pytest.fixture(scope="module")
def summary() -> pd.DataFrame:
    rows = [
        {"condition": name, "sample": sample, "loss": loss + sample, "words": 10, "errors": wrong}
        for name, loss, wrong in (("before", 1.0, 1), ("no $head$", 3.0, 4), ("control", 1.5, 1))
        for sample in range(4)
    ]
    table = pd.DataFrame(rows)
    for name in ("kl", "sink_rate", "largest_sink_rate", "sinks", "intermediate_sinks"):
        table[name] = float("nan")
    table["largest_ratio"] = table["massive"] = float("nan")
    table.attrs = {"subject": "fake"}
    return effects(table)


def words(axes) -> str:
    texts = [axes.get_title("left"), *(text.get_text() for text in axes.texts)]
    return " ".join(" ".join(texts).split())


def test_birth_stacks_what_was_added(origin) -> None:
    _, given = plt.subplots()
    axes = ss.plots.birth(origin, token=9, ax=given)
    assert axes is given
    assert "born in layer 1" in words(axes)
    assert "layer 1 (paper: 2), its MLP makes 100%" in words(axes)
    own = origin.ledger[(origin.ledger["token"] == 9)]
    heights = sorted(bar.get_height() for bar in axes.patches if bar.get_height() > 1000)
    assert heights == pytest.approx([own["mlp_out"].max()])
    line = next(line for line in axes.lines if line.get_label() == "value after")
    assert line.get_ydata() == pytest.approx(own["resid_post"].to_numpy())
    assert {text.get_text() for text in axes.get_legend().get_texts()} >= {"MLP adds"}


def test_neurons_names_the_first(origin) -> None:
    axes = ss.plots.neurons(origin)
    assert axes.get_yticklabels()[0].get_text() == "neuron 11"
    assert axes.patches[0].get_width() == pytest.approx(1, abs=1e-3)
    assert "elsewhere" in words(axes)


def test_a_value_that_was_not_traced(origin) -> None:
    for draw in (ss.plots.birth, ss.plots.neurons):
        with pytest.raises(InputError, match="no such value"):
            draw(origin, token=3)


def test_effects_shows_each_condition_and_its_interval(summary) -> None:
    axes = ss.plots.effects(summary, metric="loss", controls=("control",))
    assert [label.get_text() for label in axes.get_yticklabels()] == [r"no \$head\$", "control"]
    dots = [line for line in axes.lines if line.get_marker() in "oD"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx([4.5, 3.0])
    assert [dot.get_marker() for dot in dots] == ["o", "D"]
    assert "Loss under interventions" in words(axes)
    axes.figure.canvas.draw()


def test_word_error_rates_are_of_all_words(summary) -> None:
    rows = summary.set_index(["condition", "metric"])
    assert rows.loc[("no $head$", "wer"), ["before", "after"]].tolist() == pytest.approx([0.1, 0.4])
    assert rows.loc[("no $head$", "wer"), ["low", "high"]].tolist() == pytest.approx([0.3, 0.3])
    assert "no $head$: loss 2.50 to 4.50" in describe(summary)


def test_another_table_or_metric(summary) -> None:
    with pytest.raises(InputError, match="another one"):
        ss.plots.effects(pd.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="holds no 'kl'"):
        ss.plots.effects(summary, metric="kl")
    with pytest.raises(InputError, match="no condition 'before'"):
        effects(pd.DataFrame({"condition": ["x"], "sample": [0]}))


def test_births_in_words(origin) -> None:
    assert describe(origin.births) == (
        "Of 2 values (token and feature), born: 2 in layer 1 by the MLP. Leading neurons: 11."
    )
