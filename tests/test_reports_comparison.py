"""The folder of a comparison is whole, says what changed first, and its page is safe."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest

mpl.use("Agg")

import sinkscope as ss
from sinkscope import reports
from sinkscope.analysis.comparison import MEANING
from sinkscope.errors import InputError
from sinkscope.record import Record
from sinkscope.reports import write_comparison
from sinkscope.reports.comparison_answers import comparison_answers
from tests.compared_records import BASE, clip_record, clips_record
from tests.same_records import check_same
from tests.test_reports_run import EVIL, Seen

OTHER = replace(BASE, features=((7, 450.0), (11, 200.0)), sink="<video>", twin="")


def evil(record: Record) -> Record:
    """The record with a model, clips and a token that try to break the page."""
    said = {**record.provenance, "subject": f"model {EVIL}"}
    layouts = tuple(
        replace(one, labels=tuple(EVIL if label == "</audio>" else label for label in one.labels))
        for one in record.layouts
    )
    clips = tuple(clip and replace(clip, name=f"clip {EVIL}", text=EVIL) for clip in record.clips)
    return Record(record.dataset, layouts, said, clips)


BEFORE, AFTER = evil(clips_record()), evil(clips_record(OTHER))
TEXTS = [EVIL] * 3
WER = ss.transcript_errors(TEXTS, TEXTS, [f"{EVIL} more", EVIL, "<b>nothing"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = ss.compare(BEFORE, AFTER, wer=WER)
    to = tmp_path_factory.mktemp("runs") / "deep" / "diff"
    return write_comparison(to, BEFORE, AFTER, found, run={"command": EVIL})


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_it_is_whole(folder: Path) -> None:
    tables = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert tables == set(MEANING)
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert figures == {
        "before_after",
        "attention_changes",
        "sink_changes",
        "feature_changes",
        "cosine_changes",
    }
    check_same(Record.open(folder / "before"), BEFORE)
    check_same(Record.open(folder / "after"), AFTER)
    said = json.loads((folder / "run.json").read_text())
    assert said["schema_version"] == 1
    assert said["thresholds"]["ratio"] == 50
    assert said["command"] == EVIL
    assert len(said["samples"]) == 3
    assert any("massive features before" in sentence for sentence in said["findings"])
    assert sorted(path.name for path in folder.parent.iterdir()) == ["diff"]


def test_csv_tables_are_the_comparisons(folder: Path) -> None:
    found = ss.compare(BEFORE, AFTER, wer=WER)
    read = pd.read_csv(folder / "tables" / "effects.csv")
    assert read["metric"].tolist() == found.effects["metric"].tolist()
    assert read["change"].to_numpy() == pytest.approx(found.effects["change"].to_numpy())
    clips = pd.read_csv(folder / "tables" / "clips.csv")
    assert clips["errors_after"].tolist() == WER["errors_after"].tolist()


def test_the_page_is_safe_and_needs_nothing_else(page: str) -> None:
    seen = Seen(page)
    assert "script" not in seen.tags
    assert seen.tags.count("b") == 0
    assert len(seen.sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in seen.sources)
    assert not [link for link in seen.links if "://" in link]


def test_words_come_first(page: str) -> None:
    places = [page.index(words) for words in ("Massive features", "Of 3 massive", "<h2>Figures")]
    assert places == sorted(places)
    assert page.index("<h2>Figures") < page.index("<h2>Tables")


def test_linked_files_are_there(folder: Path, page: str) -> None:
    links = Seen(page).links
    assert links
    assert all((folder / link).is_file() for link in links)


def test_answers_say_what_changed() -> None:
    told = {one.question: one for one in comparison_answers(ss.compare(BEFORE, AFTER, wer=WER))}
    assert told["Massive features"].answer == "1 kept, 2 lost, 1 new"
    assert told["Massive features"].found
    assert told["Twins of BOS"].answer == "2 → 1"
    assert not told["Twins of BOS"].found  # three clips are too few to say so
    several = [ss.merge(4 * [record]) for record in (BEFORE, AFTER)]
    many = {one.question: one for one in comparison_answers(ss.compare(*several))}
    assert many["Twins of BOS"].answer == "2 → 1"
    assert many["Twins of BOS"].found
    assert told["Word error rate"].answer.startswith("0.0% → ")
    same = {one.question: one for one in comparison_answers(ss.compare(BEFORE, BEFORE))}
    assert not any(one.found for one in same.values())
    assert same["Massive features"].answer == "3 kept"
    assert "Word error rate" not in same


def test_nothing_is_left_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[object]:
        raise RuntimeError("no ink")

    monkeypatch.setattr(reports.comparison, "comparison_figures", broken)
    with pytest.raises(RuntimeError, match="no ink"):
        write_comparison(tmp_path / "diff", BEFORE, AFTER)
    assert not list(tmp_path.iterdir())


def test_an_older_folder_is_kept_unless_asked(tmp_path: Path) -> None:
    before = clip_record(BASE, 0)
    bare = replace(before, dataset=before.dataset.drop_vars("pattern"))
    to = write_comparison(tmp_path / "diff", bare, bare)
    assert not (to / "figures" / "before_after.png").exists()
    with pytest.raises(InputError, match="older run"):
        write_comparison(to, bare, bare)
    write_comparison(to, bare, before, overwrite=True)
    assert Record.open(to / "after").dataset.sizes["query"] == len(before.layouts[0])
    assert "pattern" in Record.open(to / "after")
