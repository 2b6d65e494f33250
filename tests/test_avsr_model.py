"""The audio-visual LLM: its layout token by token, its padding, its folders and its refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, EncoderConfig, LoraSettings
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.tokens import word_tokenizer
from sinkscope.errors import CheckpointError, InputError

WORDS = ["bin", "blue", "at", "f", "two", "now"]
PROMPT = ["transcribe", "speech", "and", "video", "to", "text", "."]


def a_model(**changes: object) -> LlamaAvsr:
    tokenizer = word_tokenizer(WORDS)
    torch.manual_seed(0)
    llm = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
    }
    settings: dict = {
        "audio_encoder": EncoderConfig("tiny-audio", {"width": 16, "depth": 1}),
        "video_encoder": EncoderConfig("tiny-video", {"width": 16, "depth": 1}),
        "audio_rates": (4, 16),
        "video_rates": (2, 5),
        "projector_width": 24,
    }
    return LlamaAvsr(AvsrConfig(llm=llm, **(settings | changes)), tokenizer)


def a_clip(
    seconds: float = 1.0, *, sound: bool = True, picture: bool = True, seed: int = 0
) -> Clip:
    rng = np.random.default_rng(seed)
    waveform = rng.normal(0, 0.1, round(16_000 * seconds)).astype(np.float32)
    frames = rng.integers(0, 255, (round(25 * seconds), 96, 96)).astype(np.uint8)
    return Clip(waveform if sound else None, frames if picture else None, path=Path(f"c{seed}.mp4"))


@pytest.fixture(scope="module")
def model() -> LlamaAvsr:
    return a_model()


def names(model: LlamaAvsr, clip: Clip, **options: object) -> list[tuple[str, int]]:
    inputs = model.prepare([clip], **options)  # pyright: ignore[reportArgumentType]
    return [(span.name, span.stop - span.start) for span in inputs.spans[0]]


def test_the_layout_is_llama_avsrs(model: LlamaAvsr) -> None:
    # 50 audio frames at rate 4 are 12 tokens, 25 video frames at rate 2 are 12, the rest is dropped
    assert names(model, a_clip(), texts=["bin blue now"]) == [
        ("bos", 1),
        ("audio_open", 1),
        ("audio", 12),
        ("audio_close", 1),
        ("video_open", 1),
        ("video", 12),
        ("video_close", 1),
        ("prompt", 7),
        ("transcript", 3),
        ("eos", 1),
    ]
    heard = names(model, a_clip(), modality="audio", audio_rate=16)
    assert heard[1:4] == [("audio_open", 1), ("audio", 3), ("audio_close", 1)]
    assert heard[4:] == [("prompt", 5)]
    seen = names(model, a_clip(sound=False), video_rate=5, prepend_bos=False)
    assert seen == [("video_open", 1), ("video", 5), ("video_close", 1), ("prompt", 5)]


def test_ids_labels_and_embeddings_stand_where_the_spans_say(model: LlamaAvsr) -> None:
    inputs = model.prepare([a_clip()], texts=["bin two"])
    read = model.tokenizer.convert_ids_to_tokens(inputs.token_ids[0].clamp(min=0).tolist())
    assert (read[0], read[1], read[14]) == ("<s>", "<audio>", "</audio>")
    assert (read[15], read[28]) == ("<video>", "</video>")
    assert read[29:] == [*PROMPT, "bin", "two", "</s>"]
    features = inputs.token_ids[0] == -1
    assert features.nonzero().flatten().tolist() == [*range(2, 14), *range(16, 28)]
    assert inputs.labels is not None
    assert (inputs.labels[0, :-3] == -100).all()
    assert inputs.labels[0, -3:].tolist() == inputs.token_ids[0, -3:].tolist()
    table = model.llm.get_input_embeddings().weight
    for index in (0, 1, 14, 29, 37):
        assert torch.equal(inputs.inputs_embeds[0, index], table[inputs.token_ids[0, index]])
    assert model.prepare([a_clip()]).labels is None


def test_a_token_is_the_projected_mean_of_its_own_frames(model: LlamaAvsr) -> None:
    clip = a_clip()
    for stream, rate, first in (("audio", 4, 2), ("video", 2, 16)):
        encoder = getattr(model, f"{stream}_encoder")
        projector = getattr(model, f"{stream}_projector")
        frames = encoder(*encoder.prepare([clip]))[0]
        with torch.no_grad():
            inputs = model.prepare([clip])
            expected = projector(frames[3 * rate : 4 * rate].mean(0))
        torch.testing.assert_close(inputs.inputs_embeds[0, first + 3], expected)
        span = next(span for span in inputs.spans[0] if span.name == stream)
        assert span.times is not None
        np.testing.assert_allclose(span.times[3], [0.24, 0.32])


def test_stacked_frames_lie_side_by_side() -> None:
    model = a_model(compression="stack", audio_rates=(4,), video_rates=(2,))
    assert model.audio_projector is not None
    clip = a_clip(picture=False)
    frames = model.audio_encoder(*model.audio_encoder.prepare([clip]))[0]  # pyright: ignore
    with torch.no_grad():
        expected = model.audio_projector(frames[4:8].flatten())
        torch.testing.assert_close(model.prepare([clip]).inputs_embeds[0, 3], expected)
    with pytest.raises(InputError, match="stacks 4 frames"):
        model.prepare([clip], audio_rate=16)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_takes_part_in_nothing(model: LlamaAvsr, side: str) -> None:
    clips, texts = [a_clip(0.6, seed=1), a_clip(1.4, seed=2)], ["bin", "blue at f two"]
    both = model.prepare(clips, texts=texts, padding_side=side)  # pyright: ignore
    alone = model.prepare(clips[:1], texts=texts[:1])
    real = both.attention_mask[0]
    length = alone.inputs_embeds.shape[1]
    assert int(real.sum()) == length < len(real)
    assert both.spans[0][0 if side == "left" else -1].name == "padding"
    assert torch.equal(both.position_ids[0][real], torch.arange(length))
    assert both.labels is not None
    assert (both.labels[0][~real] == -100).all()
    with torch.no_grad():
        together, apart = model(both), model(alone)
    torch.testing.assert_close(together.logits[0][real], apart.logits[0], atol=1e-4, rtol=1e-4)


def test_the_loss_is_that_of_transcript_and_eos(model: LlamaAvsr) -> None:
    inputs = model.prepare([a_clip()], texts=["bin two"])
    with torch.no_grad():
        output = model(inputs)
    expected = functional.cross_entropy(output.logits[0, -4:-1], inputs.token_ids[0, -3:])
    torch.testing.assert_close(output.loss, expected)


def test_transcripts_of_a_batch_are_those_of_single_clips(model: LlamaAvsr) -> None:
    clips = [a_clip(0.5, seed=3), a_clip(1.2, seed=4)]
    together = model.transcribe(clips, max_new_tokens=8)
    assert together == [model.transcribe(clip, max_new_tokens=8)[0] for clip in clips]
    assert together == model.transcribe(clips, max_new_tokens=8)


def test_clips_of_different_streams_keep_to_their_own(model: LlamaAvsr) -> None:
    inputs = model.prepare([a_clip(), a_clip(sound=False)])
    assert [span.name for span in inputs.spans[1]][:2] == ["bos", "video_open"]
    assert [span.name for span in inputs.spans[0]][:2] == ["bos", "audio_open"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folder_gives_the_model_back(tmp_path: Path, dtype: torch.dtype) -> None:
    model = a_model(lora=LoraSettings(reduction=8, alpha=4), massive_ratio=50.0)
    model.save_pretrained(tmp_path, dtype=dtype)
    again = LlamaAvsr.from_pretrained(tmp_path)
    assert again.config == model.config
    assert not again.training
    for name, value in model.state_dict().items():
        assert again.state_dict()[name].dtype == value.dtype
        assert torch.equal(again.state_dict()[name], value.to(dtype).to(value.dtype)), name
    inputs = again.prepare([a_clip()], texts=["bin blue"])
    assert (
        inputs.token_ids.tolist()
        == model.prepare([a_clip()], texts=["bin blue"]).token_ids.tolist()
    )


def test_every_misfit_of_a_folder_is_listed_at_once(tmp_path: Path) -> None:
    a_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    del state["llm.lm_head.weight"]
    state["llm.extra"] = torch.zeros(2)
    state["audio_projector.0.weight"] = torch.zeros(3, 3)
    save_file(state, path)
    with pytest.raises(CheckpointError) as caught:
        LlamaAvsr.from_pretrained(tmp_path)
    message = str(caught.value)
    assert "missing llm.lm_head.weight" in message
    assert "unexpected llm.extra" in message
    assert "audio_projector.0.weight is (3, 3), not (24, 16)" in message


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        LlamaAvsr.from_pretrained(tmp_path)
    a_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
        LlamaAvsr.from_pretrained(tmp_path)
    weights.rename(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(model\.pt\)"):
        LlamaAvsr.from_pretrained(tmp_path)
    config = tmp_path / "config.json"
    values = json.loads(config.read_text())
    for change, match in (({"beams": 3}, "unknown fields"), ({"version": 9}, "model_type and")):
        config.write_text(json.dumps(values | change))
        with pytest.raises(CheckpointError, match=match):
            LlamaAvsr.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        LlamaAvsr.from_pretrained(tmp_path)


def test_unusable_clips_rates_and_texts_are_refused(model: LlamaAvsr) -> None:
    with pytest.raises(InputError, match="less than one token at audio rate 16"):
        model.prepare([a_clip(0.3, picture=False)], audio_rate=16)
    with pytest.raises(InputError, match=r"'c0' has 0\.20 s of video"):
        model.prepare([a_clip(0.2)], modality="video", video_rate=6)
    with pytest.raises(InputError, match="has no picture"):
        model.prepare([a_clip(picture=False)], modality="audiovisual")
    with pytest.raises(InputError, match="audio_rate is 0"):
        model.prepare([a_clip()], audio_rate=0)
    with pytest.raises(InputError, match="knows not every word"):
        model.prepare([a_clip()], texts=["bin elephants"])
    with pytest.raises(InputError, match="2 texts for 1 clips"):
        model.prepare([a_clip()], texts=["bin", "blue"])
    deaf = a_model(audio_encoder=None)
    assert names(deaf, a_clip())[1] == ("video_open", 1)
    with pytest.raises(InputError, match="no audio encoder"):
        deaf.prepare([a_clip()], modality="audio")
