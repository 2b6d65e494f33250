"""Clips in: every token of an audio-visual LLM gets its role, label, seconds and description."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.clip import Clip, Phoneme
from sinkscope.avsr.config import AvsrConfig, EncoderConfig
from sinkscope.avsr.model import LlamaAvsr, Span
from sinkscope.avsr.tokens import word_tokenizer
from sinkscope.errors import CheckpointError, InputError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.avsr import AvsrSubject
from sinkscope.subjects.clip_layouts import layout_of_spans, summarise

PROMPT = ("transcribe", "speech", "and", "video", "to", "text", ".")


def random_model() -> LlamaAvsr:
    tokenizer = word_tokenizer(["bin", "blue", "now"])
    llm = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AvsrConfig(
        llm,
        EncoderConfig("tiny-audio", {"width": 16, "depth": 1}),
        EncoderConfig("tiny-video", {"width": 16, "depth": 1}),
        audio_rates=(10, 25),
        video_rates=(5,),
        projector_width=16,
        massive_ratio=50.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaAvsr(config, tokenizer).eval()


def a_clip(seconds: float = 1.0, **changes: Any) -> Clip:
    """Half a second of silence, then noise; a mouth that moves in the second half."""
    noise = np.random.default_rng(0)
    waveform = noise.normal(0, 0.1, round(seconds * 16000)).astype(np.float32)
    waveform[:8000] = 0
    frames = np.full((round(seconds * 25), 96, 96), 100, np.uint8)
    frames[12:, 64:] += 6 * np.arange(len(frames) - 12, dtype=np.uint8)[:, None, None]
    clip = Clip(
        waveform,
        frames,
        text="bin blue now",
        path=Path("folder/two.wav"),
        phonemes=(Phoneme("b", 0.0, 0.4), Phoneme("ɪ", 0.4, 1.0)),
        notes=("made by hand",),
    )
    return replace(clip, **changes)


@pytest.fixture(scope="module")
def subject() -> AvsrSubject:
    return ss.load(random_model())


def layout_of(subject: AvsrSubject, clip: Clip, **options: Any) -> TokenLayout:
    return next(iter(subject.batches(clip, **options))).layouts[0]


def test_every_token_has_its_role_label_and_seconds(subject: AvsrSubject) -> None:
    layout = layout_of(subject, a_clip())
    audio, video = [f"a{i}" for i in range(5)], [f"v{i}" for i in range(5)]
    assert layout.labels == (
        *("<s>", "<audio>", *audio, "</audio>"),
        *("<video>", *video, "</video>", *PROMPT),
    )
    assert layout.segments == (
        *("bos", "delimiter", *["audio"] * 5, "delimiter"),
        *("delimiter", *["video"] * 5, "delimiter", *["instruction"] * 7),
    )
    expected = np.array([[0.0, 0.2], [0.2, 0.4], [0.4, 0.6], [0.6, 0.8], [0.8, 1.0]])
    assert np.allclose(layout.seconds[layout.mask("audio")], expected)
    assert np.allclose(layout.seconds[layout.mask("video")], expected)
    others = ~layout.mask("audio", "video")
    assert np.isnan(layout.seconds[others]).all()
    assert layout.has_bos


def test_tokens_are_described(subject: AvsrSubject) -> None:
    layout = layout_of(subject, a_clip())
    audio, others = layout.mask("audio"), ~layout.mask("audio", "video")
    assert layout.descriptors["silence"][audio].tolist() == [1, 1, 0, 0, 0]
    assert layout.descriptors["loudness_db"][audio][0] == -100
    assert layout.descriptors["loudness_db"][audio][-1] == pytest.approx(-20, abs=0.5)
    motion = layout.descriptors["motion"][layout.mask("video")]
    assert motion[0] == 0
    assert motion[-1] == pytest.approx(2)
    assert layout.descriptors["phoneme"][audio].tolist() == ["b", "b", "ɪ", "ɪ", "ɪ"]
    assert set(layout.descriptors["phoneme"][others]) == {""}
    for name in ("silence", "loudness_db", "motion"):
        assert np.isnan(layout.descriptors[name][others]).all()
    without = layout_of(subject, a_clip(waveform=None))
    assert np.isnan(without.descriptors["silence"]).all()
    record = TokenLayout.from_dict(layout.to_dict())
    assert record.descriptors["phoneme"].tolist() == layout.descriptors["phoneme"].tolist()


def test_options_change_the_streams_and_the_rates(subject: AvsrSubject) -> None:
    ears = subject.with_options(modality="audio", audio_rate=25)
    layout = layout_of(ears, a_clip())
    assert layout.labels[:5] == ("<s>", "<audio>", "a0", "a1", "</audio>")
    assert "video" not in layout.segments
    assert ears.with_options(modality="video").audio_rate == 25
    assert subject.modality is None, "options make another subject"
    eyes = layout_of(subject.with_options(modality="video", video_rate=12), a_clip())
    assert eyes.seconds[eyes.mask("video")].tolist() == [[0, 0.48], [0.48, 0.96]]
    deaf = layout_of(subject, a_clip(waveform=None))
    assert deaf.labels[-5:] == ("transcribe", "video", "to", "text", ".")
    assert "audio" not in deaf.segments
    assert (subject.provenance()["audio_rate"], subject.provenance()["video_rate"]) == (10, 5)
    assert ears.provenance()["modality"] == "audio"
    assert ears.provenance()["audio_rate"] == 25


def test_the_transcript_follows_on_request(subject: AvsrSubject) -> None:
    layout = layout_of(subject.with_options(with_transcript=True), a_clip())
    assert layout.labels[-4:] == ("bin", "blue", "now", "</s>")
    assert layout.segments[-4:] == ("response",) * 4
    with pytest.raises(InputError, match="two has no text"):
        layout_of(subject.with_options(with_transcript=True), a_clip(text=None))


def test_bos_is_the_callers_choice(subject: AvsrSubject) -> None:
    with_bos, without = (
        next(iter(subject.batches(a_clip(), prepend_bos=choice))) for choice in (None, False)
    )
    assert (with_bos.prepend_bos, without.prepend_bos) == (True, False)
    assert without.layouts[0].labels == with_bos.layouts[0].labels[1:]
    assert not without.layouts[0].has_bos
    assert without.layouts[0].reference == 0


def test_forward_is_the_models_own(subject: AvsrSubject) -> None:
    inputs = next(iter(subject.batches(a_clip())))
    with torch.no_grad():
        expected = subject.model(subject.model.prepare([a_clip()])).logits
    assert torch.equal(subject.forward(inputs).logits, expected)
    assert expected.shape[1] == len(inputs.layouts[0])


def test_several_clips_are_one_forward_each(subject: AvsrSubject) -> None:
    inputs = list(subject.batches([a_clip(), a_clip(0.6)]))
    assert [len(one.layouts) for one in inputs] == [1, 1]
    assert len(inputs[0].layouts[0]) > len(inputs[1].layouts[0])
    assert inputs[0].clips[0].name == "two"


def test_text_and_ids_go_to_the_language_model(subject: AvsrSubject) -> None:
    inputs = next(iter(subject.batches("bin blue")))
    assert inputs.layouts[0].labels == ("<s>", "bin", "blue")
    with torch.no_grad():
        expected = subject.model.llm(**inputs.kwargs).logits
    assert torch.equal(subject.forward(inputs).logits, expected)
    embeds = torch.zeros(1, 3, 32)
    assert next(iter(subject.batches(inputs_embeds=embeds))).layouts[0].labels[0] == "e0"


def test_wrong_input_is_refused(subject: AvsrSubject) -> None:
    with pytest.raises(InputError, match="mixes clips"):
        list(subject.batches([a_clip(), "bin"]))
    with pytest.raises(InputError, match="give clips alone"):
        list(subject.batches(a_clip(), input_ids=[1]))
    with pytest.raises(InputError, match="less than one token at audio rate 10"):
        list(subject.batches(a_clip(0.15)))
    with pytest.raises(InputError, match="no picture"):
        list(subject.with_options(modality="video").batches(a_clip(frames=None)))
    text_model = ss.load(random_model().llm)
    with pytest.raises(InputError, match="reads text"):
        list(text_model.batches(a_clip()))


def test_what_the_model_prepares_is_announced(subject: AvsrSubject) -> None:
    heard: list[tuple[Any, Any]] = []
    with subject.announcing(lambda layouts, clips: heard.append((layouts, clips))):
        subject.model.prepare([a_clip(), a_clip(0.6)], padding_side="left", modality="audio")
        list(subject.batches(a_clip()))
    (layouts, clips) = heard[0]
    assert len(heard) == 1, "batches are announced by whoever runs them"
    assert layouts[1].segments[:3] == ("padding", "padding", "bos")
    assert (layouts[1].reference, layouts[1].labels[4]) == (2, "a0")
    assert np.allclose(layouts[1].seconds[4], [0, 0.2])
    assert [clip.duration for clip in clips] == [1.0, 0.6]
    assert "prepare" not in vars(subject.model)
    subject.model.prepare([a_clip()])
    assert len(heard) == 1


def test_announcements_nest_and_end_after_an_error(subject: AvsrSubject) -> None:
    outer, inner = [], []
    with subject.announcing(lambda *_: outer.append(1)):
        with subject.announcing(lambda *_: inner.append(1)):
            subject.transcribe(a_clip(), max_new_tokens=1)
        with pytest.raises(RuntimeError, match="purpose"), subject.announcing(lambda *_: None):
            raise RuntimeError("on purpose")
        subject.transcribe(a_clip(), max_new_tokens=1)
    assert (outer, inner) == ([1, 1], [1])
    assert "prepare" not in vars(subject.model)


def test_transcribe(subject: AvsrSubject) -> None:
    said = subject.transcribe(a_clip(), max_new_tokens=3)
    assert isinstance(said, str)
    both = subject.transcribe([a_clip(), a_clip(0.6)], max_new_tokens=3)
    assert both[0] == said
    assert len(both) == 2
    ears = subject.with_options(modality="audio").transcribe(a_clip(), max_new_tokens=3)
    assert [ears] == subject.model.transcribe([a_clip()], modality="audio", max_new_tokens=3)


def test_summary_holds_an_envelope() -> None:
    clip = a_clip(1.005)
    summary = summarise(clip)
    assert (summary.name, summary.path, summary.text) == ("two", "folder/two.wav", "bin blue now")
    assert summary.notes == ["made by hand"]
    assert (len(summary.envelope), summary.envelope_rate) == (101, 100.0)
    low, high = np.array(summary.envelope).T
    assert (low[:50] == 0).all()
    part = clip.waveform[60 * 160 : 61 * 160]
    assert (low[60], high[60]) == pytest.approx((part.min(), part.max()), abs=1e-4)
    assert summarise(a_clip(waveform=None)).envelope == []


def test_spans_must_cover_every_token_once() -> None:
    real, words = np.array([True, True, True]), ["<s>", "", ""]
    spans = [Span("bos", 0, 1), Span("audio", 1, 3)]
    assert layout_of_spans(spans, words, real, a_clip()).labels == ("<s>", "a0", "a1")
    left_out = [spans[0], Span("audio", 1, 2)]
    in_two_parts = [*spans, Span("prompt", 2, 3)]
    padding_that_is_real = [spans[0], Span("padding", 1, 3)]
    for parts in (left_out, in_two_parts, padding_that_is_real):
        with pytest.raises(InputError, match="cover every token once"):
            layout_of_spans(parts, words, real, a_clip())
    with pytest.raises(InputError, match="no part 'smell'"):
        layout_of_spans([Span("smell", 0, 3)], words, real, a_clip())


def test_a_folder(subject: AvsrSubject, tmp_path: Path) -> None:
    subject.model.save_pretrained(tmp_path / "mine")
    read = ss.load(tmp_path / "mine")
    assert (read.name, read.massive_ratio) == ("mine", 50.0)
    inputs = next(iter(subject.batches(a_clip())))
    assert torch.equal(read.forward(inputs).logits, subject.forward(inputs).logits)
    assert read.provenance()["model_hash"] == subject.provenance()["model_hash"]
    half = ss.load(tmp_path / "mine", dtype="bfloat16")
    assert half.provenance()["dtype"] == "bfloat16"
    logits = half.forward(next(iter(half.batches(a_clip())))).logits
    assert logits.dtype == torch.bfloat16
    with pytest.raises(InputError, match="takes no tokenizer"):
        ss.load(tmp_path / "mine", tokenizer=subject.tokenizer)
    (tmp_path / "mine" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        ss.load(tmp_path / "mine")


def test_training_flags_are_restored(subject: AvsrSubject) -> None:
    model = random_model().train()
    model.audio_encoder.eval()
    flags = [module.training for module in model.modules()]
    trained = ss.load(model)
    output = trained.forward(next(iter(trained.batches(a_clip()))))
    trained.transcribe(a_clip(), max_new_tokens=1)
    assert not output.logits.requires_grad
    assert [module.training for module in model.modules()] == flags


def test_a_record_carries_it_all(subject: AvsrSubject) -> None:
    record = ss.record(subject, [a_clip(), a_clip(0.6)])
    assert len(record) == 2
    assert record.layouts[0].labels == layout_of(subject, a_clip()).labels
    assert record.clips[1].duration == pytest.approx(0.6)
    assert record.provenance["prepend_bos"] is True
    assert record.massive_ratio == 50.0
    with ss.probe(subject) as probe:
        subject.transcribe([a_clip(), a_clip(0.6)], max_new_tokens=2)
    layout = probe.record.layouts[1]
    assert layout.segments[: len(record.layouts[1])] == record.layouts[1].segments
    assert layout.segments[len(record.layouts[1]) :] == ("response",) * (
        len(layout) - len(record.layouts[1])
    )


def test_half_precision_leaves_the_rotary_table_and_the_encoders_alone() -> None:
    model = ss.load("tiny-avsr", dtype="bfloat16").model
    assert model.llm.dtype == torch.bfloat16
    assert model.llm.model.rotary_emb.inv_freq.dtype == torch.float32
    others = {p.dtype for n, p in model.named_parameters() if not n.startswith("llm.")}
    assert others == {torch.float32}
