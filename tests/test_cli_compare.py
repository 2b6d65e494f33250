"""``sinkscope compare`` as a user meets it: two checkpoints, two runs, and one-line errors."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
import torch

mpl.use("Agg")

import sinkscope as ss
from sinkscope import reports
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.cli.compare import compare
from sinkscope.errors import SinkscopeError
from sinkscope.reports import write_run
from sinkscope.subjects.bundled import bundled
from tests.compared_records import BASE, clip_record, clips_record, with_clip
from tests.test_cli import run

CLIPS = [str(path) for path in ss.bundled_clips()[1:]]
NEURON = 94
"""Of layer 0: it writes tiny-avsr's massive features."""


def refused(a: object, b: object, *inputs: object, output: Path, **options: object) -> str:
    """Why the command refuses its words: one sentence."""
    with pytest.raises(SinkscopeError) as caught:
        compare(str(a), str(b), output, [str(one) for one in inputs], **options)  # pyright: ignore[reportArgumentType]
    return str(caught.value)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-avsr without the neuron that writes its massive features."""
    (base,) = [one.folder for one in bundled() if one.name == "tiny-avsr"]
    model = LlamaAvsr.from_pretrained(base)
    weights = dict(model.named_parameters())
    (name,) = [name for name in weights if "layers.0.mlp.down_proj" in name and "lora" not in name]
    with torch.no_grad():
        weights[name][:, NEURON] = 0
    folder = tmp_path_factory.mktemp("models") / "tuned"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """Finished runs of two models, of one with other thresholds, and of other clips."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports.run, "run_figures", lambda *_: [])  # they take seconds
        return _written(folder)


def _written(folder: Path) -> Sequence[Path]:
    before, other = clips_record(clips=(0, 1)), clips_record(clips=(1, 0))
    rules = ss.Thresholds(threshold=0.2)
    paths = [folder / name for name in ("a", "b", "strict", "other")]
    write_run(paths[0], before)
    write_run(paths[1], before)
    write_run(paths[2], before, thresholds=rules)
    write_run(paths[3], other)
    return paths


def test_two_checkpoints(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "diff"
    compare("tiny-avsr", str(tuned), out, CLIPS, layers="0-2")
    said = capsys.readouterr().out
    words = " ".join(said.split())
    assert "tiny-avsr (before) and tuned (after) on 2 clips" in words
    assert "Of 4 massive features before, none is kept and 4 (" in words
    assert "Word error rate: " in words
    assert said.rstrip().endswith(f"wrote {out}")
    effects = pd.read_csv(out / "tables" / "effects.csv").set_index("metric")
    assert effects.loc["massive", "before"] > 0
    assert effects.loc["massive", "after"] == 0
    assert effects.loc["wer", "clips"] == 2
    clips = pd.read_csv(out / "tables" / "clips.csv")
    assert clips["transcript_before"].str.len().min() > 10
    assert json.loads((out / "run.json").read_text())["layers"] == [0, 1, 2]
    assert ss.Record.open(out / "after").provenance["subject"] == "tuned"


def test_a_checkpoint_with_itself_and_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "bin blue at f two now and lay red in g six soon"
    compare("tiny-avsr", "tiny-avsr", tmp_path / "same", [text])
    said = " ".join(capsys.readouterr().out.split())
    assert "No number differs" in said
    assert "Word error rate" not in said


def test_two_runs(
    runs: Sequence[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports.comparison, "comparison_figures", lambda *_: [])
    compare(str(runs[0]), str(runs[1]), tmp_path / "diff")
    assert "No number differs" in " ".join(capsys.readouterr().out.split())
    said = json.loads((tmp_path / "diff" / "run.json").read_text())
    assert said["thresholds"]["threshold"] == 0.3
    strict = tmp_path / "strict"
    compare(str(runs[2]), str(runs[2]), strict)
    assert json.loads((strict / "run.json").read_text())["thresholds"]["threshold"] == 0.2
    again = tmp_path / "again"
    compare(str(runs[0]), str(runs[2]), again, threshold=0.25)
    assert json.loads((again / "run.json").read_text())["thresholds"]["threshold"] == 0.25


def test_runs_that_do_not_go_together(runs: Sequence[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    a, b, strict, other = runs
    assert "states 0.3 as its threshold" in refused(a, strict, output=out)
    assert "another order" in refused(a, other, output=out)
    assert "leave INPUT" in refused(a, b, CLIPS[0], output=out)
    assert "--layers cannot change" in refused(a, b, output=out, layers="0")
    assert "--audio-rate cannot change" in refused(a, b, output=out, audio_rate=4)
    assert "is a finished run and tiny-avsr is none" in refused("tiny-avsr", b, output=out)
    assert "so INPUT is needed" in refused("tiny-avsr", "tiny-avsr", output=out)
    assert "older run" in refused(a, b, output=a)
    assert not out.exists()


def test_a_run_of_another_version(runs: Sequence[Path], tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(runs[0], old)
    file = old / "record" / "record.json"
    said = json.loads(file.read_text())
    said["provenance"]["schema_version"] = 99
    file.write_text(json.dumps(said))
    line = refused(runs[0], old, output=tmp_path / "out")
    assert "record of schema 99" in line
    assert "record it again" in line


def test_folders_that_are_no_runs_of_a_record(runs: Sequence[Path], tmp_path: Path) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    assert "cannot be read" in refused(runs[0], broken, output=out)
    (broken / "run.json").write_text("{}")
    assert "has no record/" in refused(runs[0], broken, output=out)


def test_the_command_and_markup_in_names(tmp_path: Path) -> None:
    """The whole command: names with rich's markup are printed as they are, errors in a line."""
    record = with_clip(clip_record(BASE, 0), name="[red]clip", text="[bold]text")
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        record.save(path / "record")
        (path / "run.json").write_text(json.dumps({"thresholds": {"threshold": 0.3}}))
    done = run("compare", *paths, "-o", tmp_path / "[dim]out")
    assert done.returncode == 0, done.stderr
    assert "[dim]out" in done.stdout
    assert "BOS" in done.stdout
    again = run("compare", *paths, "-o", tmp_path / "[dim]out")
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "older run" in again.stderr


def test_what_must_not_be_overwritten(runs: Sequence[Path], tmp_path: Path) -> None:
    a, b = runs[:2]
    assert "is one of the two runs" in refused(a, b, output=a, overwrite=True)
    trained = tmp_path / "trained"
    (trained / "checkpoints").mkdir(parents=True)
    (trained / "model").mkdir()
    (trained / "run.json").write_text("{}")
    assert "training run" in refused(a, b, output=trained, overwrite=True)
    assert (trained / "model").is_dir()
    assert "is a training run; give" in refused(trained, b, output=tmp_path / "out")
