"""Qwen's Omni models with what makes them speak: the thinker is studied, whoever is called."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from tests.adapters import qwen_omni
from tests.adapters.qwen_omni import QWEN2, QWEN3, ROPE
from tests.adapters.suite import randomised

TALKER: dict[str, Any] = {
    "embedding_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 20,
    "rope_parameters": ROPE,
    "tts_codec_pad_token_id": 11,
    "tts_codec_start_token_id": 12,
    "tts_codec_end_token_id": 13,
    "tts_codec_mask_token_id": 14,
    "tts_text_start_token_id": 15,
    "tts_text_end_token_id": 16,
    "tts_text_pad_token_id": 17,
}
VOICE: dict[str, Any] = {
    "dit_config": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "emb_dim": 8,
        "num_embeds": 21,
        "mel_dim": 8,
        "enc_emb_dim": 8,
        "enc_dim": 8,
        "enc_channels": [8, 8, 8, 8, 24],
        "enc_attention_channels": 8,
        "enc_se_channels": 8,
    },
    "bigvgan_config": {
        "mel_dim": 8,
        "upsample_initial_channel": 8,
        "upsample_rates": [2],
        "upsample_kernel_sizes": [4],
    },
}


@cache
def whole(name: str) -> Any:
    """The tiny model with a talker and a voice; Qwen3-Omni's without."""
    import transformers

    thinker: Any = qwen_omni.thinker(name).config.to_dict()
    if name == QWEN3:
        config: Any = transformers.Qwen3OmniMoeConfig(
            thinker_config=thinker, enable_audio_output=False
        )
        model: Any = transformers.Qwen3OmniMoeForConditionalGeneration(config)
    else:
        ids = {key.replace("_id", "_index"): qwen_omni.IDS[key] for key in PLACEHOLDERS}
        config = transformers.Qwen2_5OmniConfig(
            thinker_config=thinker, talker_config=TALKER | ids, token2wav_config=VOICE
        )
        model = transformers.Qwen2_5OmniForConditionalGeneration(config)
        model.speaker_map["Chelsie"] = {
            "bos_token": 18,
            "cond": torch.zeros(1, 8),
            "ref_mel": torch.zeros(1, 10, 8),
        }
    return randomised(model)


PLACEHOLDERS = ("audio_token_id", "image_token_id", "video_token_id")


@pytest.mark.parametrize("name", [QWEN2, QWEN3])
def test_the_thinker_is_studied(name: str) -> None:
    model = whole(name)
    inputs = qwen_omni.inputs(name)
    subject = ss.load(model)
    assert subject.model is model.thinker
    alone = ss.record(model.thinker, inputs)
    with ss.probe(model) as probe:
        model.generate(**inputs, **TEXT_ALONE[name], thinker_max_new_tokens=2)
    for i, layout in enumerate(probe.record.layouts):
        prompt = alone.layouts[i]
        assert layout.segments[: len(prompt)] == prompt.segments
        assert set(layout.segments[len(prompt) :]) == {"response"}
        assert np.array_equal(layout.seconds[: len(prompt)], prompt.seconds, equal_nan=True)
        first, second = alone.sample(i)["norm"], probe.record.sample(i)["norm"]
        assert np.allclose(first, second[..., : len(prompt)], rtol=1e-4)


TEXT_ALONE: dict[str, dict[str, Any]] = {QWEN2: {"generation_mode": "text"}, QWEN3: {}}


def test_what_the_talker_says_is_not_recorded() -> None:
    """The talker is an LLM too, of its own words, and runs after the thinker."""
    model, inputs = whole(QWEN2), qwen_omni.inputs(QWEN2)
    heard = {key: inputs[key][:1] for key in ("input_features", "feature_attention_mask")}
    ids = torch.tensor([[5, 80, *[qwen_omni.AUDIO_ID] * 10, 81, 7]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | heard
    with ss.probe(model) as probe:
        text, wave = model.generate(
            **given,
            thinker_max_new_tokens=3,
            thinker_min_new_tokens=3,
            talker_max_new_tokens=3,
            talker_min_new_tokens=3,
            talker_do_sample=False,
            talker_eos_token_id=[13],
        )
    assert wave.numel() > 0
    (layout,) = probe.record.layouts
    assert text.shape == (1, ids.shape[1] + 3)
    assert len(layout) == ids.shape[1] + 2
    assert layout.mask("audio").sum() == 10
