"""``sinkscope evaluate`` and ``transcribe`` over several clips, as a user runs them."""

import csv
import json
from pathlib import Path

import pytest

import sinkscope as ss
from tests.test_cli import run


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three clips of the package, and two rows that are none."""
    rows = [f"{clip},{ss.read_clip(clip).text}" for clip in ss.bundled_clips()]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows += [f"{tmp_path}/broken.mp4,bin blue", f"{tmp_path}/missing.mp4,bin red"]
    path = tmp_path / "clips.csv"
    path.write_text("path,text\n" + "\n".join(rows) + "\n")
    return path


def test_a_table_over_modalities_and_noise(tmp_path: Path, manifest: Path) -> None:
    out = tmp_path / "out"
    words = ["evaluate", "tiny-avsr", manifest, "--modality", "all"]
    words += ["--noise", "babble", "--snr", 10, "--snr", 0, "-o", out]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "2 of 5 clips failed" in done.stdout
    assert "broken.mp4" in done.stdout
    assert "row 6: there is no file" in done.stdout
    found = json.loads((out / "evaluation.json").read_text())
    cells = [(cell["modality"], cell["condition"]) for cell in found["table"]]
    noises = ["clean", "babble 10 dB", "babble 0 dB"]
    assert cells == [
        *(("audio", noise) for noise in noises),
        ("video", "clean"),
        *(("audiovisual", noise) for noise in noises),
    ]
    assert all(cell["utterances"] == 3 for cell in found["table"])
    assert found["failed_clips"] == 2
    with (out / "utterances.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(cells)
    for cell in found["table"]:
        own = [
            row
            for row in rows
            if (row["modality"], row["condition"]) == (cell["modality"], cell["condition"])
        ]
        wrong = sum(
            int(row[n]) for row in own for n in ("substitutions", "deletions", "insertions")
        )
        assert cell["wer"] == pytest.approx(wrong / sum(int(row["words"]) for row in own), abs=1e-6)
        assert cell["wer_low"] <= cell["wer"] <= cell["wer_high"]


def test_a_stopped_run_goes_on(tmp_path: Path, manifest: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = ["evaluate", "tiny-avsr", manifest, "--noise", "babble", "--snr", 5]
    assert run(*words, "-o", whole).returncode == 0
    assert run(*words, "-o", stopped).returncode == 0
    rows = (stopped / "rows.jsonl").read_text().splitlines()
    (stopped / "rows.jsonl").write_text("\n".join(rows[: len(rows) // 2]) + "\n" + rows[-1][:20])
    for name in ("evaluation.json", "table.csv", "utterances.csv"):
        (stopped / name).unlink()
    again = run(*words, "-o", stopped)
    assert again.returncode == 0, again.stderr
    for name in ("evaluation.json", "table.csv", "utterances.csv"):
        assert (stopped / name).read_text() == (whole / name).read_text()
    other = run(*words, "--seed", 3, "-o", stopped)
    assert other.returncode == 2
    assert "seed" in other.stderr


def test_bad_corpora(tmp_path: Path) -> None:
    (tmp_path / "four.csv").write_text("lrs3,test/a.mp4,75,bin blue\n")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for corpus, message in (
        (tmp_path / "four.csv", "row 1: found 4 columns"),
        (tmp_path / "none.csv", "there is no such manifest"),
        (tmp_path / "broken.mp4", "None of the 1 clips could be evaluated"),
    ):
        done = run("evaluate", "tiny-avsr", corpus, "-o", tmp_path / "out")
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert message in done.stderr


def test_transcribe_goes_on_past_a_bad_clip(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    done = run("transcribe", "tiny-avsr", tmp_path / "broken.mp4", ss.bundled_clips()[0])
    assert done.returncode == 1
    assert "1 of 2 clips failed" in done.stderr
    assert "word error rate" in done.stdout
    alone = run("transcribe", "tiny-avsr", tmp_path / "broken.mp4")
    assert alone.returncode == 2
    assert len(alone.stderr.strip().splitlines()) == 1


def test_the_published_search_is_asked_for_and_its_parts_may_be_changed(tmp_path: Path) -> None:
    clip = ss.bundled_clips()[0]
    words = ["evaluate", "tiny-avsr", clip, "--original", "--beams", 2, "--max-new-tokens", 4]
    done = run(*words, "--seed", 7, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "out" / "evaluation.json").read_text())["settings"]
    names = ("num_beams", "max_new_tokens", "temperature", "seed", "search_seed")
    assert [said[name] for name in names] == [2, 4, 0.6, 7, 7]


def test_several_rates_in_one_run(tmp_path: Path, manifest: Path) -> None:
    out = tmp_path / "out"
    words = ["evaluate", "tiny-avsr", manifest, "--modality", "all", "--max-new-tokens", 4]
    done = run(*words, "--rates", "4:2,16:5", "-o", out)
    assert done.returncode == 0, done.stderr
    with (out / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    pairs = [(line["modality"], line["audio_rate"], line["video_rate"]) for line in table]
    assert pairs[:4] == [
        ("audio", "4", ""),
        ("audio", "16", ""),
        ("video", "", "2"),
        ("video", "", "5"),
    ]
    assert pairs[4:] == [("audiovisual", "4", "2"), ("audiovisual", "16", "5")]
    tokens = [float(line["tokens"]) for line in table]
    assert tokens[4] == pytest.approx(tokens[0] + tokens[2], abs=1e-5)
    assert tokens[5] == pytest.approx(tokens[1] + tokens[3], abs=1e-5)
    for word in ("rates", "tokens", "16:5"):
        assert word in done.stdout
    for bad in ("4-2", "4:2,5", "every"):
        refused = run(*words, "--rates", bad, "-o", tmp_path / "other")
        assert refused.returncode == 2
        assert "is no pair of rates; write audio:video" in refused.stderr
