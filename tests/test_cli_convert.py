"""``sinkscope convert`` from the shell: one line and exit code 2 where it cannot."""

from pathlib import Path

import pytest
import torch

from sinkscope.avsr.convert import Answers
from tests.released_checkpoints import STACKED, base_models, released
from tests.test_cli import run


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return base_models(tmp_path_factory.mktemp("bases"))


def test_convert_from_the_shell(tmp_path: Path, sources: Answers) -> None:
    path = released(tmp_path / "m.pth", STACKED, {"video_encoder.mask_emb": torch.zeros(104)})
    words = ["convert", path, tmp_path / "out", "--llm", sources.llm, "--encoder", sources.encoder]
    words += ["--video-encoder", sources.video_encoder]
    asked = run(*words)
    assert asked.returncode == 2
    assert asked.stderr.strip() == (
        "sinkscope: The checkpoint does not tell everything; give --lora-alpha (the authors' "
        "alpha; its LoRA has rank 4)."
    )
    words += ["--alpha", sources.lora_alpha, "--adapters-only"]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "audio through whisper, 4 frames a token (stack)" in done.stdout
    assert "left out, because they play no part: video_encoder.mask_emb" in done.stdout
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {
        *("adapters.safetensors", "bases.json", "config.json", "tokenizer.json")
    }
    assert "Loading weights" not in done.stderr
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("content", [b"no checkpoint", b""])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    done = run("convert", tmp_path / "m.pth", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "m.pth is no" in done.stderr
    assert not (tmp_path / "out").exists()
