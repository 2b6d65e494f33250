"""Tiny Qwen2-Audio and Qwen3-ASR: two samples, one with two sounds, one with one."""

from functools import cache, partial
from typing import Any

import torch
from torch import nn

from tests.adapters.qwen_omni import AUDIO, QWEN2, QWEN3, TEXT, sound_of, tokens_of
from tests.adapters.suite import Case, randomised

AUDIO_ID = 90
MARKS = {"qwen2_audio": "feature_attention_mask", "qwen3_asr": "input_features_mask"}
"""What each family calls the mask of the log-mel frames."""
LIKE = {"qwen2_audio": QWEN2, "qwen3_asr": QWEN3}
"""The other model whose tokens cover the same log-mel frames."""
SOUNDS = {"qwen2_audio": (40, 13, 22), "qwen3_asr": (230, 25, 60)}
PADDED = {"qwen2_audio": 48, "qwen3_asr": 300}


@cache
def model(name: str, processor: Any | None = None) -> nn.Module:
    """The tiny model; with a processor, of its vocabulary and half a minute long."""
    vocabulary, audio_id, longest = 97, AUDIO_ID, PADDED[name]
    if processor is not None:
        vocabulary, audio_id, longest = len(processor.tokenizer), processor.audio_token_id, 3000
    if name == "qwen2_audio":
        from transformers import Qwen2AudioForConditionalGeneration as Model

        audio = {key: value for key, value in AUDIO.items() if key != "output_dim"}
        audio |= {"max_source_positions": longest // 2}
        text, ids = TEXT, {"audio_token_index": audio_id}
    else:
        from transformers import Qwen3ASRForConditionalGeneration as Model

        own = {"downsample_hidden_size": 4, "n_window_infer": 200, "max_position_embeddings": 13}
        audio = {key: value for key, value in AUDIO.items() if key != "max_source_positions"} | own
        text, ids = TEXT | {"head_dim": 8}, {"audio_token_id": audio_id, "eos_token_id": 2}
    text = text | {"vocab_size": vocabulary}
    kind: Any = Model.config_class
    return randomised(Model(kind(text_config=text, audio_config=audio, **ids)))


def inputs(name: str) -> dict[str, Any]:
    """Two sounds and text; a sound, text and padding."""
    generator = torch.Generator().manual_seed(1)
    sounds = [[AUDIO_ID] * tokens_of(LIKE[name], mel) for mel in SOUNDS[name]]
    first = [5, 6, 80, *sounds[0], 81, 7, 80, *sounds[1], 81, 8]
    second = [9, 80, *sounds[2], 81, 7]
    ids = torch.zeros(2, len(first), dtype=torch.long)
    ids[0], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
    mel = torch.arange(PADDED[name])[None] < torch.tensor(SOUNDS[name])[:, None]
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "input_features": torch.randn(3, 8, PADDED[name], generator=generator),
        MARKS[name]: mel.long(),
    }


CASES = tuple(
    Case(name, partial(model, name), partial(inputs, name), places=(sound_of(LIKE[name]),))
    for name in LIKE
)
