"""``sinkscope train``: killed and gone on with, it ends to the bit where an unbroken run does."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sinkscope as ss
from sinkscope.avsr.lora_names import peft_name
from sinkscope.cli.train import train as command
from sinkscope.errors import InputError
from sinkscope.training.config import TrainConfig
from sinkscope.training.run import train
from tests.training_corpus import write_corpus, write_settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pin_memory.*")

ROOT = Path(__file__).parents[1]
QUIET = os.environ | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",
}
COMMAND = [sys.executable, "-c", "from sinkscope.cli import main; main()", "train"]


def started(config, out):
    return subprocess.Popen(
        [*COMMAND, str(config), "-o", str(out), "--quiet"],
        env=QUIET,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(config, out):
    process = started(config, out)
    said, wrong = process.communicate()
    return process.returncode, said, wrong


def killed(config, out, when):
    """Start a run and kill it as soon as a condition holds; it must not be at its end by then."""
    process = started(config, out)
    until = time.monotonic() + 120
    while not when(out) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "model").exists()


def logged(out):
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    config = write_settings(folder / "config.yaml", write_corpus(folder / "clips"))
    code, said, wrong = finished(config, folder / "whole")
    assert code == 0, wrong
    assert "audio 4: WER" in said
    assert "audio 8: WER" in said
    return config, folder / "whole"


def ends_the_same(unbroken, out, *, seen=True):
    config, whole = unbroken
    code, _, wrong = finished(config, out)
    assert code == 0, wrong
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (whole, out))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged(whole) == logged(out)
    ends = [json.loads((folder / "run.json").read_text())["dev"] for folder in (whole, out)]
    assert ends[0] == ends[1]


def test_killed_after_a_checkpoint(unbroken, tmp_path):
    out = tmp_path / "out"
    killed(unbroken[0], out, lambda out: (out / "checkpoints/checkpoint-6/complete").exists())
    ends_the_same(unbroken, out)


def test_killed_while_steps_have_several_passes(tmp_path):
    """With experts, projectors of each rate and the balance loss."""
    manifest = write_corpus(tmp_path / "clips")
    changes = {"passes": "all_pairs", "llm": "frozen", "lora": None, "delimiters": False}
    changes |= {"projectors": "per_rate", "mome": {"routed": 4, "top_k": 2, "bottleneck": 2}}
    changes |= {"steps": 8, "save_every": 2, "accumulation": 1, "dev": None}
    config = write_settings(tmp_path / "config.yaml", manifest, **changes)
    assert finished(config, tmp_path / "whole")[0] == 0
    out = tmp_path / "out"
    killed(config, out, lambda out: (out / "checkpoints/checkpoint-4/complete").exists())
    ends_the_same((config, tmp_path / "whole"), out)
    assert all(float(row["balance"]) > 0 for row in logged(out))


@pytest.mark.slow
@pytest.mark.parametrize(
    "when",
    [
        pytest.param(lambda out: (out / "run.json").exists(), id="at the start"),
        pytest.param(lambda out: (out / "log.csv").exists(), id="before any checkpoint"),
        pytest.param(lambda out: (out / "checkpoints/checkpoint-9").exists(), id="while it saves"),
        pytest.param(
            lambda out: (out / "checkpoints/checkpoint-30/complete").exists(), id="at the end"
        ),
    ],
)
def test_killed_at_any_moment(unbroken, tmp_path, when):
    out = tmp_path / "out"
    killed(unbroken[0], out, when)
    ends_the_same(unbroken, out)


@pytest.mark.slow
def test_killed_twice(unbroken, tmp_path):
    out = tmp_path / "out"
    for step in (3, 15):
        done = f"checkpoints/checkpoint-{step}/complete"
        killed(unbroken[0], out, lambda out, done=done: (out / done).exists())
    ends_the_same(unbroken, out)


def test_what_a_run_leaves(unbroken):
    _, out = unbroken
    names = {path.name for path in out.iterdir()}
    folders = {"checkpoints", "model", "tensorboard"}
    assert names == folders | {"config.yaml", "lock", "log.csv", "run.json"}
    assert list((out / "tensorboard").glob("events.*"))
    rows = logged(out)
    assert [int(row["step"]) for row in rows] == list(range(1, 31))
    weights = [float(row["decorrelation"] or 0) for row in rows]
    assert weights[0] == 0 < weights[-1]  # the weight rises from 0
    for row in rows[1:]:
        parts = float(row["cross_entropy"]) + float(row["decorrelation"])
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-3)
    told = json.loads((out / "run.json").read_text())
    assert told["status"] == "finished"
    assert [line["words"] for line in told["dev"].values()] == [36, 36]
    assert list(told["dev"]) == ["audio 4", "audio 8"]


def test_only_what_was_asked_for_has_changed(unbroken):
    before = ss.load("tiny-avsr", dtype="float32").model
    after = ss.load(str(unbroken[1] / "model"), dtype="float32").model
    old, new = before.state_dict(), after.state_dict()
    llm = {f"llm.{name}" for name in before.llm.state_dict()}
    named = {name: f"llm.{peft_name(name[4:])}" if name in llm else name for name in old}
    changed = {name for name in old if not torch.equal(old[name], new[named[name]])}
    assert {name.split(".")[0] for name in changed} == {"audio_projector", "llm"}
    assert {name for name in changed if name.startswith("llm")} == {"llm.model.embed_tokens.weight"}
    embeddings = "llm.model.embed_tokens.weight"
    rows = (old[embeddings] != new[embeddings]).any(1).nonzero()[:, 0].tolist()
    assert set(rows) == {before.ids[name] for name in ("audio_open", "audio_close")}
    assert any(".lora_" in name for name in new)


def test_another_configuration_or_version_is_refused(unbroken, tmp_path):
    config, out = unbroken
    other = replace(TrainConfig.read(config), seed=7)
    with pytest.raises(InputError, match=r"another configuration \(seed: 0, now 7\)"):
        train(other, out)
    told = json.loads((out / "run.json").read_text())
    for changed, words in (
        ({"version": 0}, "a run of version 0"),
        ({"format": "x"}, "no training"),
    ):
        copy = tmp_path / str(changed)
        copy.mkdir()
        (copy / "run.json").write_text(json.dumps(told | changed))
        with pytest.raises(InputError, match=words):
            train(TrainConfig.read(config), copy)


def test_rows_that_were_left_out_are_told(tmp_path, capsys):
    manifest = write_corpus(tmp_path / "clips")
    manifest.write_text(manifest.read_text() + "nowhere.wav,bin blue\n")
    config = write_settings(tmp_path / "config.yaml", manifest, steps=1)
    command(config, tmp_path / "out", quiet=True)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said[:4]] == ["train", "dev", "audio 4", "audio 8"]
    assert said[0].startswith("train: 1 of 7 rows were left out: ")
    assert "row 8: there is no file" in said[0]


def test_an_unknown_key_is_one_line_and_exit_2(unbroken, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(unbroken[0].read_text() + "lerning_rate: 1\n")
    code, _, wrong = finished(other, tmp_path / "new")
    assert code == 2
    assert wrong.count("\n") == 1
    assert "did you mean 'learning_rate'?" in wrong
    assert not (tmp_path / "new").exists()
