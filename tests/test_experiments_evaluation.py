"""The tables of word errors and of cost, on the clips of the package."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sinkscope as ss
from sinkscope.experiments import cost, evaluation_tables


def test_a_table_of_word_errors(tmp_path: Path) -> None:
    rows = [f"{clip},{ss.read_clip(clip).text}" for clip in ss.bundled_clips()]
    (tmp_path / "clips.csv").write_text("path,text\n" + "\n".join(rows) + "\n")
    found = evaluation_tables.tables(
        "tiny-avsr", tmp_path / "out", corpus=None, clips=tmp_path / "clips.csv"
    )
    lines = found["clips"].splitlines()
    assert lines[0] == "| condition | audio | video | audiovisual |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        *("| clean", "| babble 10 dB", "| babble 5 dB", "| babble 0 dB", "| babble -5 dB")
    ]
    stored = json.loads((tmp_path / "out" / "clips" / "evaluation.json").read_text())
    clean = next(cell for cell in stored["table"] if cell["condition"] == "clean")
    assert lines[2].startswith(f"| clean | {clean['wer']:.1%} (")
    assert "|  |" in lines[3]  # the picture alone is not put into noise


def test_the_parts_of_the_cost_are_all_of_it() -> None:
    model = ss.load("tiny-avsr").model
    for modality in ("audio", "audiovisual"):
        found = cost.cost_of(model, ss.bundled_clips()[:1], modality, rounds=1)
        shares = [found[part] for part in cost.PARTS]
        assert sum(shares) == pytest.approx(1, abs=0.01)
        assert all(share >= 0 for share in shares)
        assert found["prefill"] > 0
        assert found["decoding"] > found["projector"]
        assert found["real_time_factor"] > 0
    assert not any(module._forward_hooks for module in model.modules())
    assert not any("prepare" in vars(module) for module in model.modules())


def test_time_goes_to_the_part_that_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = ss.load("tiny-avsr").model, ss.read_clip(ss.bundled_clips()[0])
    encoder = type(model.audio_encoder)
    for name in ("prepare", "forward"):
        monkeypatch.setattr(encoder, name, _slow(getattr(encoder, name)))
    start = time.perf_counter()
    with cost.timing(model) as spent:
        model.transcribe([clip], modality="audio", max_new_tokens=3)
    assert spent["encoder"] >= 0.6
    assert set(spent) == {"encoder", "projector", "prefill", "decoding"}
    assert sum(spent.values()) <= time.perf_counter() - start


def _slow(function: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return function(*arguments, **options)

    return slow


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "cost.json"
    cost.main(["tiny-avsr", str(ss.bundled_clips()[0]), "--rounds", "1", "-o", str(out)])
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in said[2:]] == ["| audio", "| video", "| audiovisual"]
    stored = json.loads(out.read_text())
    for cell in stored.values():
        assert 50 < cell["loaded_mib"] < cell["peak_mib"] < 4000
