"""A run folder is whole, says what was found, and its page is safe and needs nothing else."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from tests.fake_records import fake_av_record, record_from, uniform_map

mpl.use("Agg")

import matplotlib.pyplot as plt

from sinkscope import reports
from sinkscope.analysis import find_sinks, sink_summary
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge
from sinkscope.reports import Thresholds, refuse_existing, write_run
from sinkscope.reports.cells import cell
from sinkscope.reports.tables import MEANING, run_tables
from sinkscope.reports.words import answers, findings

EVIL = "<script>alert('&x')</script>"


@pytest.fixture(scope="module")
def record() -> Record:
    """One clip whose model, clip and a token's label try to break the page."""
    made = fake_av_record(60, keep=("pattern",))
    layout, clip = made.layouts[0], made.clips[0]
    assert clip is not None
    labels = [EVIL if label == "</audio>" else label for label in layout.labels]
    clip = replace(clip, name=f"clip {EVIL}", text=EVIL, notes=[f"note {EVIL}"])
    said = {**made.provenance, "subject": f"model {EVIL}"}
    return Record(made.dataset, (replace(layout, labels=tuple(labels)),), said, (clip,))


@pytest.fixture(scope="module")
def run(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(
        tmp_path_factory.mktemp("runs") / "deep" / "base",
        record,
        run={"seed": 7, "loss": float("nan")},
    )


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text()


class Seen(HTMLParser):
    """Tags, links and pictures of a page; fails on a tag that is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        said = dict(attrs)
        self.sources += [said["src"] or ""] if "src" in said else []
        self.links += [said["href"] or ""] if "href" in said else []
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_folder_holds_everything(run: Path, record: Record) -> None:
    assert {path.name for path in run.iterdir()} == {
        "run.json",
        "record",
        "tables",
        "figures",
        "report.html",
    }
    assert {path.stem for path in (run / "tables").iterdir()} == set(MEANING)
    assert {path.stem for path in (run / "figures").iterdir()} == {
        "attention_map",
        "bos_cosine",
        "layer_magnitudes",
        "magnitudes",
        "magnitudes_3d",
        "segment_flow",
        "sink_rate",
        "sinks_over_time",
    }
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in (run / "figures").iterdir())
    assert not list(run.parent.glob(".*"))
    assert not plt.get_fignums()


def test_tables_are_the_analysis(run: Path, record: Record) -> None:
    read = pd.read_csv(run / "tables" / "sinks.csv")
    made = find_sinks(record)
    assert read["label"].tolist() == made["label"].tolist()
    np.testing.assert_allclose(read["alpha"], made["alpha"])
    assert len(pd.read_csv(run / "tables" / "sink_summary.csv")) == len(sink_summary(record)) == 2


def test_the_record_opens_again(run: Path, record: Record) -> None:
    again = Record.open(run / "record")
    np.testing.assert_array_equal(again["segment_sum"], record["segment_sum"])


def test_run_json_says_what_was_asked(run: Path) -> None:
    text = (run / "run.json").read_text()
    said = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert said["subject"].startswith("model ")
    assert said["thresholds"]["threshold"] == 0.3
    assert said["massive_ratio"] == 50
    assert said["seed"] == 7
    assert said["samples"][0]["bos_present"] is True
    assert said["loss"] is None
    assert said["findings"]
    assert {"dtype", "device", "made", "sinkscope", "layers", "padding_side"} <= set(said)


def test_the_page_needs_no_other_file_but_its_tables(page: str, run: Path) -> None:
    seen = Seen(page)
    assert len(seen.sources) == 8
    assert all(source.startswith("data:image/png;base64,") for source in seen.sources)
    assert all((run / link).is_file() for link in seen.links)
    assert not re.search(r"https?://|@import|url\(", page)


def test_texts_of_models_and_files_are_escaped(page: str) -> None:
    assert "script" not in Seen(page).tags
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(") >= 6


def test_the_page_says_first_what_was_found(page: str) -> None:
    words = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S)
    order = [
        words.index("Is BOS a sink?"),
        words.index("3 features on 3 tokens"),
        words.index("Attention sinks in layers 2 to 5"),
        words.index("Who attends to whom"),
        words.index("What was run"),
    ]
    assert order == sorted(order)
    assert "counted from 0" in words
    assert "0.3" in words
    assert "50 × the layer" in words
    assert "present" in words


def test_long_tables_are_cut_and_linked(page: str) -> None:
    assert "The first 200 of 360 rows." in page
    rows = page[page.index(">bos_similarity<") :]
    assert rows[: rows.index("</table>")].count("<tr>") == 201


@pytest.fixture
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports.run, "run_figures", lambda *args: [])


@pytest.mark.usefixtures("_without_figures")
def test_an_older_run_is_replaced_only_on_request(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = quiet_record()
    write_run(folder, small)
    (folder / "mark").touch()
    with pytest.raises(InputError, match="older run"):
        write_run(folder, small)
    assert (folder / "mark").exists()
    write_run(folder, small, overwrite=True)
    assert not (folder / "mark").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_no_run_is_never_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    refuse_existing(home)
    (home / "thesis.tex").touch()
    with pytest.raises(InputError, match="no run"):
        refuse_existing(home, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        refuse_existing(home / "thesis.tex", overwrite=True)


@pytest.mark.usefixtures("_without_figures")
@pytest.mark.parametrize("older", [True, False])
def test_a_failure_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    folder = tmp_path / "run"
    if older:
        folder.mkdir()
        (folder / "run.json").write_text("{}")

    def broken(*args: object, **more: object) -> str:
        raise RuntimeError("disk full")

    monkeypatch.setattr(reports.run, "render", broken)
    with pytest.raises(RuntimeError, match="disk full"):
        write_run(folder, quiet_record(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == (["run"] if older else [])
    if older:
        assert (folder / "run.json").read_text() == "{}"


def quiet_record(*, layers: int = 1) -> Record:
    """A text without BOS in a model that attends evenly: nothing to be found."""
    layout = TokenLayout.of_text([f"w{i}" for i in range(14)], has_bos=False)
    states = np.random.default_rng(0).normal(size=(layers, 14, 16))
    pattern = np.broadcast_to(uniform_map(14), (layers, 2, 14, 14))
    return record_from(pattern, states, layout, massive_ratio=None, prepend_bos=False)


def test_nothing_found_is_said(tmp_path: Path) -> None:
    record = quiet_record()
    page = (write_run(tmp_path / "run", record) / "report.html").read_text()
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for sentence in ("There is no BOS", "None found", "No attention sink found", "1000 × the"):
        assert sentence in words
    assert 'class="answer found"' not in page
    assert not (tmp_path / "run" / "figures" / "sinks_over_time.png").exists()
    assert not (tmp_path / "run" / "tables" / "detector_agreement.csv").exists()
    Seen(page)


def test_answers_follow_the_thresholds(record: Record) -> None:
    strict = Thresholds(threshold=0.9, min_heads=1.0, ratio=10_000, cosine=0.9999)
    said = answers(record, run_tables(record, strict), strict)
    assert [one.found for one in said] == [False] * 4
    assert "threshold 0.9" in said[0].detail
    assert "10000 ×" in said[2].detail
    usual = answers(record, run_tables(record, Thresholds()), Thresholds())
    assert [one.found for one in usual] == [True] * 4
    assert [one.answer for one in usual] == [
        "Yes",
        "1 token",
        "3 features on 3 tokens",
        "2 tokens",
    ]
    assert any("0.9" in sentence for sentence in findings(record, strict))


def test_several_samples_are_counted() -> None:
    both = merge([fake_av_record(60, keep=()), fake_av_record(70, keep=(), bos=False)])
    bos, others, massive, _ = answers(both, run_tables(both, Thresholds()), Thresholds())
    assert "in 1 of 2 samples" in bos.detail
    assert others.answer == "2 tokens"
    assert massive.answer == "3 features on 5 tokens"


def test_cells_are_short_and_plain() -> None:
    assert cell(np.float64(1234.5)) == ("1234", True)
    assert cell(pd.NA) == ("–", False)
    assert cell(np.int64(3)) == ("3", True)
    assert cell(False) == ("no", False)
    assert cell(float("inf")) == ("inf", True)
