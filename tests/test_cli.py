"""The command line as a user meets it: a process, its files, its one-line errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import sinkscope as ss
from tests.shared_data import shared

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def run(*words: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from sinkscope.cli import main; main()", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=300
    )


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "base"
    done = run("scan", "tiny-avsr", *ss.bundled_clips()[:2], "-o", folder, "--layers", "0-2")
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return folder


def test_scan_writes_a_whole_run(scanned: Path) -> None:
    said = json.loads((scanned / "run.json").read_text())
    assert said["subject"] == "tiny-avsr"
    assert said["layers"] == [0, 1, 2]
    assert len(said["samples"]) == 2
    record = ss.Record.open(scanned / "record")
    assert record.layers == [0, 1, 2]
    assert len(record) == 2
    for table in ("sinks", "massive_activations", "bos_similarity", "segment_attention"):
        assert (scanned / "tables" / f"{table}.csv").stat().st_size > 0
    assert list((scanned / "figures").glob("*.png"))
    page = (scanned / "report.html").read_text()
    assert "<html" in page
    assert 'src="http' not in page


def test_a_run_is_not_overwritten_unasked(scanned: Path) -> None:
    again = run("scan", "tiny-avsr", ss.bundled_clips()[0], "-o", scanned)
    assert again.returncode == 2
    assert "older run" in again.stderr
    assert ss.Record.open(scanned / "record").layers == [0, 1, 2]


def test_heatmap_draws_one_picture(tmp_path: Path) -> None:
    out = tmp_path / "maps" / "map.png"
    done = run("heatmap", "tiny-avsr", ss.bundled_clips()[0], "--layer", 1, "--head", 0, "-o", out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    text = run("heatmap", "tiny-avsr", "bin blue at f two now", "--layer", 1, "-o", out)
    assert text.returncode == 0, text.stderr


def test_transcribe_says_what_is_said() -> None:
    done = run("transcribe", "tiny-avsr", *ss.bundled_clips()[:2])
    assert done.returncode == 0, done.stderr
    assert "word error rate" in done.stdout
    assert len(done.stdout.splitlines()) >= 3


def test_models_are_listed() -> None:
    done = run("models")
    assert done.returncode == 0
    for name in ("tiny-avsr", "llama", "gpt_oss"):
        assert name in done.stdout


def test_scan_with_controls(tmp_path: Path) -> None:
    clips, folder = ss.bundled_clips()[:2], tmp_path / "run"
    done = run("scan", "tiny-avsr", *clips, "-o", folder, "--controls", "--layers", "1-3")
    assert done.returncode == 0, done.stderr
    assert "Input controls" in done.stdout
    assert "Without BOS: sink rate" in done.stdout
    rows = (folder / "tables" / "input_controls.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 8  # each clip as it is, and under seven controls
    assert "<h2>Input controls</h2>" in (folder / "report.html").read_text()
    assert json.loads((folder / "run.json").read_text())["input_controls"]


def test_grid_goes_end_to_end(tmp_path: Path) -> None:
    clips = sorted(shared("data/grid").glob("*.mpg"))[:2]
    done = run("scan", "tiny-avsr", *clips, "-o", tmp_path / "grid")
    assert done.returncode == 0, done.stderr
    said = run("transcribe", "tiny-avsr", *clips)
    assert said.returncode == 0, said.stderr
    assert all(clip.stem in said.stdout for clip in clips)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scan", "no-such-model", "some text", "-o", "run"], "no-such-model"),
        (["scan", "tiny-avsr", "missing.mp4", "-o", "run"], "missing.mp4: there is no such file"),
        (["scan", "tiny-avsr", "text", "-o", "run", "--layers", "x"], "--layers: 'x' is no layer"),
        (["scan", "tiny-avsr", "text", "-o", "run", "--threshold", "2"], "threshold"),
        (["scan", "tiny-avsr", "bin blue", "-o", "run", "--layers", "99"], "99"),
        (["heatmap", "tiny-avsr", "text", "--layer", "1", "-o", "map.doc"], "map.doc"),
        (["heatmap", "tiny-avsr", "bin blue", "--layer", "77", "-o", "map.png"], "77"),
        (["transcribe", "tiny-avsr", "some text"], "not the text"),
        (["scan", "tiny-avsr"], "Missing"),
        (["scan", "tiny-avsr", "bin", "-o", "run", "--explain", "--layers", "1"], "all layers"),
        (["ablate", "tiny-avsr", "bin blue", "-o", "run", "--neuron", "94"], "write LAYER:NUMBER"),
        (["ablate", "tiny-avsr", "bin blue", "-o", "run", "--mlp", "9"], "no layer 9"),
        (["ablate", "tiny-avsr", "bin blue", "-o", "run", "--head", "1:77"], "no head 77"),
        (["scn"], "No such command"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(words, message, tmp_path: Path) -> None:
    done = run(*words, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_debug_shows_where_it_happened(tmp_path: Path) -> None:
    done = run("scan", "tiny-avsr", "missing.mp4", "-o", "run", "--debug", folder=tmp_path)
    assert "Traceback" in done.stderr


def test_scan_explains_and_the_page_tells_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run("scan", "tiny-avsr", *ss.bundled_clips()[:2], "-o", folder, "--explain")
    assert done.returncode == 0, done.stderr
    assert "Where they come from and what they do" in done.stdout
    assert "neuron 94 of layer 0" in done.stdout
    names = ("births", "neurons", "causal_tests", "effects", "effects_by_clip", "sink_mechanics")
    assert all((folder / "tables" / f"{name}.csv").stat().st_size > 100 for name in names)
    pictures = ("birth", "neurons", "sink_mechanics", "effects_loss", "effects_wer")
    assert all((folder / "figures" / f"{name}.png").stat().st_size > 5000 for name in pictures)
    page = (folder / "report.html").read_text()
    assert "Who writes it" in page
    assert "&lt;/audio&gt;" in page
    assert "</audio>" not in page
    assert json.loads((folder / "run.json").read_text())["explanation"]


def test_ablate_measures_each_option(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    places = ("--neuron", "0:94", "--head", "1:0", "--feature", "0:47", "--hide", "</audio>")
    done = run("ablate", "tiny-avsr", *ss.bundled_clips()[:2], *places, "-o", folder)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "tables" / "effects.csv").set_index(["condition", "metric"])
    conditions = ["no head 1:0", "no neuron 0:94", "feature 0:47 at 0", "hidden </audio>"]
    assert set(table.index.get_level_values(0)) == {"before", *conditions}
    assert table.loc[("no neuron 0:94", "massive"), "after"] == 0
    assert table.loc[("hidden </audio>", "intermediate_sinks"), "after"] == 0
    assert (folder / "figures" / "effects_loss.png").exists()
    assert "no neuron 0:94" in done.stdout


def test_help_explains_every_command() -> None:
    for command in ("demo", "scan", "heatmap", "transcribe", "evaluate", "ablate", "models"):
        done = run(command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout
