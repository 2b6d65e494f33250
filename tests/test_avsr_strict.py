"""Batches through ``prepare``: as the authors' code makes them, and masked."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.inputs import Inputs
from sinkscope.errors import InputError
from tests.golden_avsr import Case, golden_case, golden_set
from tests.shared_data import ROOT

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
UNEQUAL = (
    "audio_stack3_bB_nondiv",
    "video_avg4_bB_nondiv",
    "av_stack_a3v1_bB_beam3",
    "avhubert_av_single_rav3_bB",
    "avhubert_av_two_a4v3_bA",
    "avhubert_audio_stack3_bB",
)
"""Cases whose two clips differ in length: every modality, both compressions."""

pytestmark = pytest.mark.skipif(not (ROOT / "golden").is_dir(), reason="no shared data")


@pytest.fixture(params=UNEQUAL)
def case(request: pytest.FixtureRequest) -> Case:
    return golden_case(request.param)


def a_clip(seconds: float, seed: int) -> Clip:
    rng = np.random.default_rng(seed)
    waveform = rng.normal(0, 0.1, round(16_000 * seconds)).astype(np.float32)
    frames = rng.integers(0, 255, (round(25 * seconds), 96, 96)).astype(np.uint8)
    return Clip(waveform, frames, path=Path(f"c{seed}.mp4"))


def _handed(case: Case, stream: str, clips: Any, **options: Any) -> Any:
    """In place of an encoder's ``prepare``: the authors' own features."""
    assert options["strict_original"]
    only = options.get("streams") or (stream,)
    return case.batch(only[0], len(clips))


def golden_inputs(case: Case, monkeypatch: pytest.MonkeyPatch, texts: list[str] | None) -> Inputs:
    """What ``prepare`` makes when its encoders are handed the authors' features."""
    told, config = case.told["modality"], case.model.config
    modality = "audiovisual" if told == "audiovisual_avhubert" else told
    streams = config.streams if modality == "audiovisual" else (modality,)
    for stream in streams:
        monkeypatch.setattr(case.model.encoder(stream), "prepare", partial(_handed, case, stream))
    clips = [a_clip(1, seed) for seed in range(len(texts) if texts else 1)]
    return case.model.prepare(clips, modality=modality, texts=texts, strict_original=True)


@torch.no_grad()
def test_prepare_makes_the_authors_batch(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = golden_inputs(case, monkeypatch, golden_set()[0]["texts"])
    wanted = {
        name: case.outputs[f"{case.name}/train/{name}"]
        for name in ("inputs_embeds", "labels", "logits", "loss_ce")
    }
    torch.testing.assert_close(inputs.inputs_embeds, wanted["inputs_embeds"], **TOLERANCE)
    assert inputs.labels is not None
    assert torch.equal(inputs.labels, wanted["labels"])
    assert inputs.attention_mask.all()
    output = case.model(inputs, use_cache=False)
    torch.testing.assert_close(output.logits, wanted["logits"], **TOLERANCE)
    torch.testing.assert_close(output.loss, wanted["loss_ce"], atol=2e-5, rtol=0)
    by_hand = functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), inputs.labels[:, 1:].flatten()
    )
    torch.testing.assert_close(by_hand, wanted["loss_ce"], atol=2e-5, rtol=0)
    shifted = functional.cross_entropy(output.logits.flatten(0, 1), inputs.labels.flatten())
    assert (shifted - wanted["loss_ce"]).abs() > 0.1


@torch.no_grad()
def test_a_clip_in_a_masked_batch_gives_what_it_gives_alone(case: Case) -> None:
    clips, texts = [a_clip(0.64, 1), a_clip(1.12, 2)], golden_set()[0]["texts"]
    told = case.told["modality"]
    modality = "audiovisual" if told == "audiovisual_avhubert" else told
    options: dict[str, Any] = {"modality": modality}
    prepare = case.model.prepare
    together = prepare(clips, texts=texts, **options)
    found = case.model(together, use_cache=False).logits
    for number, (clip, text) in enumerate(zip(clips, texts, strict=True)):
        alone = case.model(prepare([clip], texts=[text], **options), use_cache=False).logits[0]
        real = together.attention_mask[number]
        torch.testing.assert_close(found[number][real], alone, atol=1e-4, rtol=1e-4)
    left = prepare(clips, padding_side="left", **options)
    said = case.model.generate(left, max_new_tokens=6)
    one_by_one = [
        case.model.generate(prepare([clip], **options), max_new_tokens=6)[0] for clip in clips
    ]
    for row, alone in zip(said, one_by_one, strict=True):
        assert torch.equal(row[: len(alone)], alone)


@torch.no_grad()
def test_strict_original_lets_a_clip_depend_on_its_neighbours(case: Case) -> None:
    clips, texts = [a_clip(0.6, 1), a_clip(1.2, 2)], golden_set()[0]["texts"]
    told = case.told["modality"]
    options: dict[str, Any] = {
        "modality": "audiovisual" if told == "audiovisual_avhubert" else told,
        "strict_original": True,
    }
    together = case.model.prepare(clips, texts=texts, **options)
    alone = case.model.prepare(clips[:1], texts=texts[:1], **options)
    streams = ("audio", "video", "audiovisual")
    tokens = [
        [sum(s.stop - s.start for s in spans if s.name in streams) for spans in batch.spans]
        for batch in (together, alone)
    ]
    assert tokens[0][0] == tokens[0][1] > tokens[1][0]
    assert together.attention_mask.all()
    assert together.labels is not None
    assert together.labels[:, 0].tolist() == [case.model.ids["bos"]] * 2


def test_one_sequence_of_both_has_a_segment_of_its_own() -> None:
    model = golden_case("avhubert_av_single_rav3_bB").model
    layout = next(iter(ss.load(model).batches(a_clip(0.68, 1)))).layouts[0]
    assert layout.segments[:7] == ("bos", *["audiovisual"] * 5, "instruction")
    assert layout.labels[1:6] == tuple(f"av{i}" for i in range(5))
    np.testing.assert_allclose(layout.seconds[5], [0.48, 0.6])  # frames 12 to 14 of 17
    assert "delimiter" not in layout.segments
    record = ss.record(ss.load(model), a_clip(0.68, 1))
    assert "audiovisual" in set(ss.find_sinks(record, threshold=1e-6, min_queries=1).segment)
    with pytest.raises(InputError, match="as one sequence"):
        model.prepare([a_clip(0.68, 1)], modality="audio")


def test_two_passes_read_each_stream_alone() -> None:
    model = golden_case("avhubert_av_two_a4v3_bA").model
    names = ["bos", "audio_open", "audio", "audio_close", "video_open", "video", "video_close"]
    clip = a_clip(0.72, 1)
    with torch.no_grad():
        both = model.prepare([clip])
        assert [span.name for span in both.spans[0]] == [*names, "prompt"]
        audio = model.prepare([clip], modality="audio")
        video = model.prepare([clip], modality="video")
    assert [span.name for span in audio.spans[0]] == [*names[:4], "prompt"]
    assert [span.name for span in video.spans[0]] == ["bos", *names[4:], "prompt"]
    torch.testing.assert_close(both.inputs_embeds[0, 2:6], audio.inputs_embeds[0, 2:6])
    torch.testing.assert_close(both.inputs_embeds[0, 8:14], video.inputs_embeds[0, 2:8])
