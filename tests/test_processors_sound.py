"""A real clip through the real processors of models that hear windows, and of Phi-4-multimodal.

Tokenizers are made here; windows are short, so that three seconds fill several.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import sinkscope as ss
from tests.adapters import phi4_multimodal, windowed_sound
from tests.adapters.made_tokenizer import made_tokenizer
from tests.adapters.perturb import entrance, passed_over
from tests.adapters.suite import randomised
from tests.shared_data import shared

CHATML_MARKS = ("<|im_start|>", "<|im_end|>")
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'audio' %}<sound>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)
ROLE_TEMPLATE = (
    "{% for m in messages %}<|user|>{% for c in m.content %}"
    "{% if c.type == 'audio' %}SOUND{% else %}{{ c.text }}{% endif %}{% endfor %}END"
    "{% endfor %}<|assistant|>"
)
SOUND = {
    "audioflamingo3": "<sound>",
    "musicflamingo": "<sound>",
    "glmasr": "<|pad|>",
    "phi4_multimodal": "<|endoftext11|>",
}
STEP = {"audioflamingo3": 0.04, "musicflamingo": 0.04, "glmasr": 0.08, "phi4_multimodal": 0.08}
SECONDS = {"audioflamingo3": 1, "musicflamingo": 1, "glmasr": 2}
"""Seconds of a window: shorter than the clip, and a whole number of tokens."""


@cache
def clip() -> Any:
    return ss.read_clip(shared("data/grid/bbaf2n.mpg"))


@cache
def processor(name: str) -> Any:
    import transformers

    if name == "phi4_multimodal":
        pytest.importorskip("torchvision")
        tokenizer = made_tokenizer([*ROLES, "<|endoftext10|>", SOUND[name]])
        tokenizer.image_token, tokenizer.audio_token = "<|endoftext10|>", SOUND[name]
        tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<|endoftext10|>")
        tokenizer.audio_token_id = tokenizer.convert_tokens_to_ids(SOUND[name])
        return transformers.Phi4MultimodalProcessor(
            transformers.Phi4MultimodalImageProcessor(),
            transformers.Phi4MultimodalFeatureExtractor(feature_size=16),
            tokenizer,
            chat_template=ROLE_TEMPLATE.replace("SOUND", SOUND[name]).replace("END", "<|end|>"),
        )
    marks = [*CHATML_MARKS, SOUND[name], "<|sound_bos|>", "<|sound_eos|>", *ROLES]
    template = CHATML if name != "glmasr" else ROLE_TEMPLATE.replace("SOUND", SOUND[name])
    return getattr(transformers, f"{windowed_sound.CLASSES[name]}Processor")(
        transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=SECONDS[name]),
        made_tokenizer(marks),
        chat_template=template.replace("END", ""),
    )


@cache
def subject(name: str) -> Any:
    tokenizer = processor(name).tokenizer
    sound = tokenizer.convert_tokens_to_ids(SOUND[name])
    if name == "phi4_multimodal":
        made = phi4_multimodal.made(audio_id=sound, vocabulary=len(tokenizer))
    else:
        import transformers

        config = windowed_sound.config_of(name, mel=100 * SECONDS[name], vocabulary=len(tokenizer))
        config.audio_token_id = sound
        for mark in ("bos", "eos") if name == "musicflamingo" else ():
            own = tokenizer.convert_tokens_to_ids(f"<|sound_{mark}|>")
            setattr(config, f"audio_{mark}_token_id", own)
        kind = f"{windowed_sound.CLASSES[name]}ForConditionalGeneration"
        made = randomised(getattr(transformers, kind)(config))
    return ss.load(made, processor=processor(name))


@pytest.mark.parametrize("name", SOUND)
def test_the_tokens_of_a_clip_follow_each_other_to_its_end(name: str) -> None:
    (batch,) = subject(name).batches(clip())
    (layout,) = batch.layouts
    seconds = layout.seconds[layout.mask("audio")]
    step, duration = STEP[name], len(clip().waveform) / 16_000
    assert np.allclose(seconds[:, 0], step * np.arange(len(seconds)))
    assert np.allclose(seconds[:, 1] - seconds[:, 0], step)
    assert duration - 2 * step < seconds[-1, 1] < duration + step
    assert "loudness_db" in layout.descriptors


@pytest.mark.parametrize("name", SOUND)
def test_the_turns_of_the_template_are_told_apart(name: str) -> None:
    record = ss.record(subject(name), clip(), reducers=[ss.RowEntropy()])
    (layout,) = record.layouts
    said = "".join(np.array(layout.labels)[layout.mask("instruction")])
    assert said.replace("␣", " ").strip("\\n") == "Transcribe the speech."
    assert set(layout.segments) == {"delimiter", "instruction", "audio"}
    assert len(layout) == record.sample(0)["entropy"].shape[-1]


@pytest.mark.parametrize("name", SECONDS)
def test_silence_is_heard_where_the_layout_says(name: str) -> None:
    """Between 1.2 and 1.6 s there is another sound; a window of the spectrum is 25 ms long."""
    given = dict(next(subject(name).batches(clip())).kwargs)
    (layout,) = next(subject(name).batches(clip())).layouts
    other = clip().waveform.copy()
    noise = np.random.default_rng(0).normal(size=6_400).astype(np.float32)
    other[19_200:25_600] = 0.05 * noise
    changed = dict(next(subject(name).batches(replace(clip(), waveform=other))).kwargs)
    model = subject(name).model
    with passed_over(model.model.audio_tower.layers):
        moved = (entrance(model, changed) - entrance(model, given)).norm(dim=-1)[0].numpy()
    start, end = layout.seconds.T
    inside = layout.mask("audio") & (end > 1.2) & (start < 1.6)
    near = layout.mask("audio") & (end > 1.165) & (start < 1.635)
    assert moved[inside].min() > 10 * max(moved[~near].max(), 1e-6)


def test_more_sounds_than_one_are_told_apart_by_the_processor() -> None:
    name = "musicflamingo"
    wave = clip().waveform
    text = f"<|im_start|>user\n{SOUND[name]}Hi<|im_end|>"
    made = processor(name)(
        text=[text, text], audio=[wave, wave[:24_000]], sampling_rate=16_000, return_tensors="pt"
    )
    first, second = next(subject(name).batches(made)).layouts
    assert first.seconds[first.mask("audio")][-1, 1] > 2.9
    assert second.seconds[second.mask("audio")][-1, 1] == pytest.approx(1.5, abs=0.05)
    assert set(second.descriptors["item"][second.mask("audio")]) == {1}
