"""Pages on experts and rates are whole, hold their tables, and are safe."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest

mpl.use("Agg")

import sinkscope as ss
from sinkscope.cli.rates import write_rates_of
from sinkscope.errors import InputError
from sinkscope.record import Record
from sinkscope.reports import Thresholds, write_rates, write_run
from sinkscope.reports.experts import experts_section
from sinkscope.reports.rates import MEANING
from sinkscope.subjects.mome import attach_mome
from tests.families import tiny
from tests.planted_rates import rate_record
from tests.test_analysis_words_rates import routed

FINE, COARSE = (4, 2), (16, 5)
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def records() -> dict:
    made = {
        pair: rate_record(pair, clips=2, routing=routed, mome={"top_k": 1}, sinks=("</audio>",))
        for pair in (FINE, COARSE)
    }
    return {
        pair: Record(one.dataset, one.layouts, {**one.provenance, "subject": EVIL}, one.clips)
        for pair, one in made.items()
    }


def test_a_page_of_rates_is_whole(records: dict, tmp_path: Path) -> None:
    folder = write_rates(tmp_path / "rates", records, run={"command": "by hand"})
    tables = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert tables == set(MEANING)
    usage = pd.read_csv(folder / "tables" / "usage_across_rates.csv").set_index("segment")
    own = ss.usage_across_rates(records).set_index("segment")
    assert usage.loc["video", "layers"] == pytest.approx(own.loc["video", "layers"])
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert figures == {"sinks_by_rate", "rate_similarity", "usage_distances", "expert_usage"}
    said = json.loads((folder / "run.json").read_text())
    assert said["pairs"] == [[4, 2], [16, 5]]
    assert said["command"] == "by hand"
    assert "audio_rate" not in said
    again = Record.open(folder / "records" / "16-5")
    assert again.provenance["audio_rate"] == 16
    page = (folder / "report.html").read_text()
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    assert all(name in page for name in MEANING)
    with pytest.raises(InputError, match="older run"):
        write_rates(tmp_path / "rates", records)


def test_what_was_not_recorded_is_left_out(records: dict, tmp_path: Path) -> None:
    bare = {
        pair: Record(
            one.dataset.drop_vars(["router", "resid_post"]), one.layouts, one.provenance, one.clips
        )
        for pair, one in records.items()
    }
    folder = write_rates(tmp_path / "bare", bare, thresholds=Thresholds(threshold=0.4))
    tables = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert tables == {"sink_share", "sink_agreement", "sinks_by_rate"}
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {"sinks_by_rate"}


def test_the_section_has_words_tables_and_a_figure(records: dict) -> None:
    record = records[FINE]
    section = experts_section(record, ss.find_sinks(record))
    assert section.title == "Experts"
    assert len(section.sentences) == len(section.tables) == len(section.meaning) == 3
    assert [figure.name for figure in section.figures] == ["expert_usage"]


@pytest.fixture(scope="module")
def recorded() -> dict:
    """The bundled model with mixtures that nobody trained, one clip at two pairs of rates."""
    subject = ss.load("tiny-avsr")
    attach_mome(subject.model.llm)
    clip = ss.read_clip(ss.bundled_clips()[2])
    return ss.record_rates(subject, clip, [FINE, COARSE], layers=[0, 1])


def test_rates_are_recorded_as_asked(recorded: dict) -> None:
    assert list(recorded) == [FINE, COARSE]
    for pair, record in recorded.items():
        assert (record.provenance["audio_rate"], record.provenance["video_rate"]) == pair
        assert record.layers == [0, 1]
        assert record["router"].sizes["expert"] == 23
        assert record["router"].sizes["layer"] == 2
    counts = {pair: int(one.layouts[0].mask("audio").sum()) for pair, one in recorded.items()}
    assert counts[FINE] in range(4 * counts[COARSE], 4 * counts[COARSE] + 5)


def test_a_run_of_a_model_with_experts_tells_of_them(recorded: dict, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", recorded[COARSE])
    assert (folder / "figures" / "expert_usage.png").is_file()
    assert (folder / "tables" / "sink_experts.csv").is_file()
    said = json.loads((folder / "run.json").read_text())
    assert "23 routed experts, 4 a token" in said["experts"][0]
    assert said["mome"]["placement"] == "attention"
    assert "Which experts work" in (folder / "report.html").read_text()


BAD = [
    ([FINE, FINE], "each pair once"),
    ([], "at least two"),
    ([FINE], "at least two"),
    ([(0, 2), FINE], "give a whole number of at least 1"),
    ([FINE, (4, 2, 1)], r"\(4, 2, 1\) is no pair"),
    ([FINE, (4, 2.5)], "no whole numbers"),
    ([FINE, "16:5"], "is no pair"),
]


@pytest.mark.parametrize(("pairs", "message"), BAD, ids=str)
def test_record_rates_refuses_before_it_records(
    pairs: list, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("sinkscope.probes.rates"), "record", never)
    with pytest.raises(InputError, match=message):
        ss.record_rates("tiny-avsr", ss.read_clip(ss.bundled_clips()[0]), pairs)


def never(*_: object, **__: object) -> None:
    raise AssertionError("recorded before it was refused")


def test_a_rate_without_a_projector_is_refused_before_recording(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.import_module("sinkscope.probes.rates"), "record", never)
    subject = ss.load("tiny-avsr")
    config = replace(subject.model.config, projectors="per_rate")
    monkeypatch.setattr(subject.model, "config", config)
    with pytest.raises(InputError, match="audio_rate is 7, but this model has projectors for"):
        ss.record_rates(subject, ss.read_clip(ss.bundled_clips()[0]), [FINE, (7, 3)])


def test_a_text_model_has_no_rates() -> None:
    with pytest.raises(InputError, match="has no rates"):
        ss.record_rates(tiny("llama"), "a text", [FINE, COARSE])


def test_pairs_that_differ_in_nothing_that_is_read_are_recorded_once(tmp_path: Path) -> None:
    subject = ss.load("tiny-avsr").with_options(modality="audio")
    clips = [ss.read_clip(ss.bundled_clips()[2])]
    pairs = [(a, v) for a in (4, 16) for v in (2, 5)]
    write_rates_of(subject, clips, pairs, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "run.json").read_text())
    assert said["pairs"] == [[4, 2], [16, 2]]
    with pytest.raises(InputError, match="only one remains where audio is read"):
        write_rates_of(subject, clips, pairs[:2], tmp_path / "none")
    assert not (tmp_path / "none").exists()
    records = ss.record_rates(subject, clips, pairs[:2])
    with pytest.raises(InputError, match=r"differ only in a stream of which there is no token"):
        write_rates(tmp_path / "none", records)


def test_a_site_that_is_recorded_anyway_may_be_asked_for() -> None:
    clip = ss.read_clip(ss.bundled_clips()[2])
    once = ss.record("tiny-mome", clip, layers=[0])
    twice = ss.record("tiny-mome", clip, layers=[0], keep=["router", "resid_post", "resid_post"])
    assert twice["router"].equals(once["router"])
    assert "resid_post" in twice
