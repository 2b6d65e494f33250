"""The bundled model: what its README says can be seen on the bundled clips."""

from pathlib import Path

import pytest

import sinkscope
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.evaluation import word_errors
from sinkscope.avsr.media import read_clip
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.experiments.tiny_evaluation import extremes, in_babble

ASSETS = Path(sinkscope.__file__).parent / "assets"


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [read_clip(path) for path in sorted((ASSETS / "clips").glob("*.mp4"))]


@pytest.fixture(scope="module")
def model() -> LlamaAvsr:
    model = LlamaAvsr.from_pretrained(ASSETS / "tiny-avsr").eval()
    model.llm.set_attn_implementation("eager")
    return model


def test_the_bundle_is_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 12e6


def test_it_understands_the_clips_and_less_in_noise(model: LlamaAvsr, clips: list[Clip]) -> None:
    texts = [clip.text or "" for clip in clips]
    clean = word_errors(texts, model.transcribe(clips, modality="audio", max_new_tokens=30))
    noisy = in_babble(clips, -5.0)
    worse = word_errors(texts, model.transcribe(noisy, modality="audio", max_new_tokens=30))
    assert clean.rate < 0.15
    assert worse.rate > 2 * clean.rate


@pytest.mark.parametrize("setting", ["audio, rate 4", "video, rate 2"])
def test_bos_is_a_sink_of_block_2_with_one_stream(
    model: LlamaAvsr, clips: list[Clip], setting: str
) -> None:
    found = extremes(model, clips, setting=setting)
    assert found["sinks"]["2 bos"] == 1.0
    assert not any(name.startswith("0 ") for name in found["sinks"])


def test_delimiters_are_twins_of_bos_and_bos_is_massive(
    model: LlamaAvsr, clips: list[Clip]
) -> None:
    found = extremes(model, clips, setting="both, rates 4 and 2")
    assert found["ratio"][0] > 90
    assert found["ratio"][-1] < 20
    assert found["twins"]["audio_close"] == found["twins"]["video_close"] == 1.0
    assert "audio" not in found["twins"]
    assert {"2 bos", "2 audio_close"} & found["sinks"].keys()
