"""The one command that makes tiny-avsr, from nothing to its folder, at toy size."""

import ctypes
import json
from dataclasses import replace
from pathlib import Path

import pytest

import sinkscope as ss
from sinkscope.experiments import tiny_avsr
from sinkscope.experiments.tiny_encoders import Plan
from sinkscope.experiments.tiny_lm import Pretraining


@pytest.mark.slow
def test_the_whole_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        ctypes.CDLL("libespeak-ng.so.1")
    except OSError:
        pytest.skip("espeak-ng's library is not installed (Debian: libespeak-ng1)")
    stages = {name: replace(stage, steps=4) for name, stage in tiny_avsr.STAGES.items()}
    monkeypatch.setattr(tiny_avsr, "SIZES", {"dev": 40, "test": 20, "train": 100})
    monkeypatch.setattr(tiny_avsr, "HEARD", 100)
    monkeypatch.setattr(tiny_avsr, "LOOKED_AT", 4)
    monkeypatch.setattr(tiny_avsr, "STAGES", stages)
    monkeypatch.setattr(tiny_avsr, "Plan", lambda stream: Plan(stream, steps=3, batch=4))
    monkeypatch.setattr(tiny_avsr, "Pretraining", lambda seed: Pretraining(steps=4, seed=seed))
    folder = tiny_avsr.make_tiny_avsr(tmp_path)
    report = json.loads((folder / "training.json").read_text())
    assert len(report["word errors, test voices"]) == 14
    subject = ss.load(str(folder))
    record = ss.record(subject, ss.read_clip(ss.bundled_clips()[0]))
    assert record.layers == [0, 1, 2, 3]
    again = tiny_avsr.make_tiny_avsr(tmp_path)
    assert (again / "config.json").read_text() == (folder / "config.json").read_text()
