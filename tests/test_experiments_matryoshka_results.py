"""Tables, figures and page of the many-rates experiment, from results that are made up here."""

import ctypes
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sinkscope.experiments import tiny_avsr
from sinkscope.experiments.decorrelation import __main__ as decorrelation
from sinkscope.experiments.decorrelation.results import NUMBERS, Sample, difference
from sinkscope.experiments.matryoshka import __main__ as command
from sinkscope.experiments.matryoshka import figures
from sinkscope.experiments.matryoshka.__main__ import arms_of
from sinkscope.experiments.matryoshka.plan import SETTINGS, SYSTEMS, Arm, Setting
from sinkscope.experiments.matryoshka.results import (
    Arms,
    combined,
    help_table,
    number_table,
    system_table,
    wer_table,
)
from sinkscope.experiments.matryoshka.running import best_rates, best_weight, folder_of
from sinkscope.experiments.tiny_encoders import Plan
from sinkscope.experiments.tiny_lm import Pretraining

UTTERANCES, WORDS, SEEDS = 40, 10, (0, 1, 2)


def rate_of(arm: Arm, setting: Setting) -> float:
    """The planted word error rate: higher at high rates, lower with the loss there alone."""
    base = {"separate": 0.3, "ms": 0.3, "ss": 0.2, "mome": 0.1}[arm.system]
    high = setting.rates == (16, 5)
    return base + 0.2 * high - (0.15 if high and arm.weight else 0.0)


@pytest.fixture
def arms() -> Arms:
    """All of them, by system."""
    every = arms_of(SEEDS, {"ms": 1e-3, "mome": 1e-3}, 1.0, list(SYSTEMS))
    return {
        system: tuple(
            [one for one in every if one.system == system and (one.weight > 0) is with_loss]
            for with_loss in (False, True)
        )
        for system in SYSTEMS
    }


@pytest.fixture
def out(tmp_path: Path, arms: Arms) -> Path:
    """A folder of results."""
    rng = np.random.default_rng(0)
    for sides in arms.values():
        for arm in (*sides[0], *sides[1]):
            for setting in SETTINGS:
                folder = folder_of(tmp_path, arm, setting)
                folder.mkdir(parents=True)
                wrong = rng.binomial(WORDS, rate_of(arm, setting), UTTERANCES)
                rows = [(WORDS, int(n), 0, 0) for n in wrong]
                (folder / "errors.json").write_text(json.dumps(rows))
                numbers = pd.DataFrame({name: rng.random(12) for name in NUMBERS})
                numbers.to_csv(folder / "numbers.csv", index=False)
                (folder / "sinks.csv").write_text("")
    return tmp_path


def test_rates_of_the_tables_are_those_of_the_files(out: Path, arms: Arms) -> None:
    table = wer_table(out, arms)
    assert len(table) == len(SYSTEMS) * len(SETTINGS)
    for row in table.to_dict("records"):
        setting = Setting(row["task"], row["audio_rate"], row["video_rate"])
        for side, own in zip(("without", "with"), arms[row["system"]], strict=True):
            counts = [
                json.loads((folder_of(out, arm, setting) / "errors.json").read_text())
                for arm in own
            ]
            right = np.array(counts)[..., 1].sum() / (len(SEEDS) * UTTERANCES * WORDS)
            assert row[side] == pytest.approx(right)
            assert row[f"{side}_low"] < right < row[f"{side}_high"]
        assert row["difference"] == pytest.approx(row["with"] - row["without"])


def test_planted_differences_are_found_with_their_sign(out: Path, arms: Arms) -> None:
    better = system_table(out, arms).groupby("system")
    assert (better["difference_high"].max()["mome"]) < 0
    assert (better["difference_high"].max()["ss"]) < 0.05
    assert better["difference"].mean()["ms"] == pytest.approx(0, abs=0.03)
    helps = help_table(out, arms).set_index(["system", "task"])
    for system in SYSTEMS:
        assert helps.loc[(system, "audiovisual"), "more_high"] < 0
        own = helps.loc[(system, "audiovisual")]
        assert own["more"] == pytest.approx(own["highest"] - own["lowest"])


def test_a_combination_of_two_is_their_difference() -> None:
    rng = np.random.default_rng(1)
    one, other = (
        Sample(rng.random((3, 20)), np.full(20, 2.0)),
        Sample(rng.random((3, 20)), np.full(20, 2.0)),
    )
    assert combined([(1.0, one), (-1.0, other)]) == pytest.approx(difference(one, other))
    assert combined([(1.0, one), (-1.0, one)]) == (0.0, 0.0, 0.0)


def test_arms_that_were_not_measured_are_left_out(out: Path, arms: Arms) -> None:
    (folder_of(out, arms["ss"][1][2], SETTINGS[0]) / "sinks.csv").unlink()
    table = wer_table(out, arms)
    assert len(table) == len(SYSTEMS) * len(SETTINGS) - 1
    assert set(help_table(out, arms)["system"]) == set(SYSTEMS)


def test_the_numbers_that_are_chosen() -> None:
    sweep = pd.DataFrame(
        [
            {"system": "ms", "weight": 0.0, "learning_rate": 1e-3, "mean": 0.5},
            {"system": "ms", "weight": 0.0, "learning_rate": 2e-3, "mean": 0.4},
            {"system": "mome", "weight": 0.0, "learning_rate": 1e-3, "mean": 0.3},
            {"system": "mome", "weight": 0.0, "learning_rate": 2e-3, "mean": 0.6},
            {"system": "ms", "weight": 0.1, "learning_rate": 2e-3, "mean": 0.2},
            {"system": "ms", "weight": 1.0, "learning_rate": 2e-3, "mean": 0.1},
            {"system": "mome", "weight": 0.1, "learning_rate": 1e-3, "mean": 0.2},
            {"system": "mome", "weight": 1.0, "learning_rate": 1e-3, "mean": 0.4},
        ]
    )
    assert best_rates(sweep) == {"ms": 2e-3, "mome": 1e-3}
    assert best_weight(sweep) == 0.1


def test_figures_show_every_system(out: Path, arms: Arms) -> None:
    wer, numbers = wer_table(out, arms), number_table(out, arms)
    drawn = figures.error_dots(wer)
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert [name for name in labels if "with the loss" not in name] == list(SYSTEMS.values())
    panel = drawn.axes[2]
    points = [line for line in panel.lines if line.get_marker() == "o"]
    assert len(points) == len(SYSTEMS)
    own = wer.loc[(wer["system"] == "mome") & (wer["task"] == "audiovisual"), "without"]
    assert any(np.allclose(line.get_ydata(), own) for line in points)
    assert len(figures.help_dots(wer).axes) == len(SYSTEMS)
    assert len([axes for axes in figures.number_dots(numbers).axes if axes.has_data()]) == 7


@pytest.mark.slow
def test_the_whole_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        ctypes.CDLL("libespeak-ng.so.1")
    except OSError:
        pytest.skip("espeak-ng's library is not installed (Debian: libespeak-ng1)")
    monkeypatch.setattr(tiny_avsr, "SIZES", {"dev": 40, "test": 20, "train": 100})
    monkeypatch.setattr(decorrelation, "Plan", lambda stream: Plan(stream, steps=3, batch=4))
    monkeypatch.setattr(decorrelation, "Pretraining", lambda seed: Pretraining(steps=4, seed=seed))
    report = tmp_path / "report"
    sizes = {"hearing": 2, "steps": 2, "batch": 2, "looked-at": 2, "sweep": 2, "longer": 3}
    arguments = [str(tmp_path / "out"), "--report", str(report), "--seeds", "0"]
    arguments += [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    command.main(arguments)
    page = (report / "README.md").read_text()
    assert "{" not in page
    assert "| MoME |" in page
    assert len(pd.read_csv(report / "wer.csv")) == len(SYSTEMS) * len(SETTINGS)
    assert len(pd.read_csv(report / "longer.csv")) == 2 * len(SETTINGS)
    assert set(pd.read_csv(report / "experts_usage.csv")["side"]) == {
        "untrained",
        "without",
        "with",
    }
    for name in ("wer", "help", "numbers", "experts"):
        assert (report / f"{name}.png").stat().st_size > 10_000
    first = (report / "wer.csv").read_text()
    command.main(arguments)
    assert (report / "wer.csv").read_text() == first
