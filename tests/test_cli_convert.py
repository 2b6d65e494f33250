"""``sinkscope convert`` from the shell: one line and exit code 2 where it cannot."""

from pathlib import Path

import pytest
import torch

from tests.test_avsr_convert import STACKED, released, sources  # noqa: F401
from tests.test_cli import run


def test_convert_from_the_shell(tmp_path: Path, sources) -> None:  # noqa: F811
    path = released(tmp_path / "m.pth", STACKED, {"video_encoder.mask_emb": torch.zeros(104)})
    words = ["convert", path, tmp_path / "out", "--llm", sources.llm, "--encoder", sources.encoder]
    words += ["--video-encoder", sources.video_encoder, "--lora-alpha", sources.lora_alpha]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "left out, because they play no part: video_encoder.mask_emb" in done.stdout
    assert (tmp_path / "out" / "config.json").is_file()
    again = run(*words)
    assert again.returncode == 2
    assert "exists" in again.stderr


@pytest.mark.parametrize("content", [b"no checkpoint", b""])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    done = run("convert", tmp_path / "m.pth", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no whole checkpoint" in done.stderr
    assert not (tmp_path / "out").exists()
