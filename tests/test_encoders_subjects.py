"""Encoders and projectors as subjects: clips in, frames with seconds, and on to the LLM."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, EncoderConfig
from sinkscope.avsr.encoders import build_encoder
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.tokens import word_tokenizer
from sinkscope.errors import InputError, SiteError, UnknownFamilyError
from sinkscope.subjects.frame_layouts import layout_of_frames

WINDOW = 100
WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "max_source_positions": WINDOW,
    "num_mel_bins": 20,
}
WAVLM = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
AVHUBERT = {"layers": 2, "width": 32, "ffn": 48, "heads": 4, "positions": 8, "position_groups": 2}
KINDS = {
    "whisper": {"whisper": WHISPER},
    "wavlm": {"wavlm": WAVLM},
    "avhubert-audio": AVHUBERT,
    "avhubert-video": AVHUBERT,
    "avhubert-both": AVHUBERT,
    "tiny-audio": {"width": 16, "depth": 2},
    "tiny-video": {"width": 16, "depth": 2},
}
EVERYTHING = ("resid_pre", "resid_post")


@cache
def model_with(audio: str, compression: str = "average") -> LlamaAvsr:
    """A tiny random audio-visual LLM with a chosen encoder of sound."""
    return built(
        audio_encoder=EncoderConfig(audio, KINDS[audio]),
        video_encoder=EncoderConfig("tiny-video", KINDS["tiny-video"]),
        compression=compression,
    )


@cache
def joint(*, single: bool) -> LlamaAvsr:
    """One with one AV-HuBERT for both streams, read together or one by one."""
    both = EncoderConfig("avhubert-both", AVHUBERT)
    return built(audiovisual_encoder=both, single_projector=single, audiovisual_rates=(2,))


def built(**settings: Any) -> LlamaAvsr:
    tokenizer = word_tokenizer(["bin", "blue", "now"])
    llm = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": len(tokenizer),
    }
    rates: Any = {"audio_rates": (3,), "video_rates": (2,)}
    config = AvsrConfig(llm, projector_width=24, projector_norm=True, **rates, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaAvsr(config, tokenizer).eval()


def a_clip(seconds: float = 1.01, seed: int = 0) -> Clip:
    noise = np.random.default_rng(seed)
    waveform = noise.normal(0, 0.1, round(seconds * 16000)).astype(np.float32)
    frames = noise.integers(0, 255, (round(seconds * 25), 96, 96)).astype(np.uint8)
    return Clip(waveform, frames, text="bin blue", path=Path(f"c{seed}.mp4"))


@cache
def kind(name: str):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_encoder(name, KINDS[name]).eval()


# -- frames and their seconds ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frame_rate", "real", "total", "stream"),
    [
        ("whisper", 50.0, 51, WINDOW, "audio"),
        ("wavlm", 50.0, 50, 50, "audio"),
        ("avhubert-audio", 25.0, 25, 25, "audio"),
        ("avhubert-video", 25.0, 25, 25, "video"),
        ("avhubert-both", 25.0, 25, 25, "audiovisual"),
        ("tiny-audio", 50.0, 50, 50, "audio"),
        ("tiny-video", 25.0, 25, 25, "video"),
    ],
)
def test_every_frame_has_its_second(name, frame_rate, real, total, stream) -> None:
    """1.01 s: Whisper hears a part of frame 50, WavLM needs 25 ms for a frame."""
    clip = a_clip()
    record = ss.record(kind(name), clip, reducers=[ss.Keep("resid_post")])
    layout = record.layouts[0]
    assert layout.segments == (stream,) * real + ("appended_silence",) * (total - real)
    assert layout.labels == tuple(f"f{i}" for i in range(total))
    edges = np.arange(total + 1) / frame_rate
    assert np.allclose(layout.seconds, np.stack([edges[:-1], edges[1:]], 1))
    assert (layout.reference, layout.has_bos) == (0, False)
    assert record.provenance["bos_present"] == [False]
    assert record.provenance["frame_rate"] == frame_rate
    assert record["resid_post"].sizes["token"] == total
    frames = kind(name)(*kind(name).prepare([clip]))
    assert frames.shape[1] == int(kind(name).prepare([clip])[1].max())


def test_descriptors_belong_to_the_frame_of_their_second() -> None:
    """A click between 0.5 and 0.52 s is frame 25's and no other's."""
    clip = a_clip()
    clip.waveform[:] = 0
    clip.waveform[8000:8320] = 0.5
    for name in ("whisper", "wavlm", "tiny-audio"):
        layout = ss.record(kind(name), clip, reducers=[ss.Norms("resid_post")]).layouts[0]
        loud = np.flatnonzero(layout.descriptors["loudness_db"] > -60)
        assert loud.tolist() == [25]
        assert layout.descriptors["silence"][-1] == 1


@pytest.mark.parametrize(
    ("samples", "sounding"), [(1, 1), (320, 1), (321, 2), (31680, 99), (32000, 100), (40000, 100)]
)
def test_a_frame_that_begins_before_the_sound_ends_is_audio(samples: int, sounding: int) -> None:
    clip = Clip(np.zeros(samples, np.float32), None)
    layout = layout_of_frames(clip, "audio", positions=WINDOW, frame_rate=50.0, appends=True)
    assert layout.segments.count("audio") == sounding
    assert layout.segments.count("appended_silence") == WINDOW - sounding
    assert layout.is_real.all()


# -- encoders of an audio-visual LLM -----------------------------------------------------------


@pytest.mark.parametrize("name", ["whisper", "wavlm", "avhubert-audio", "tiny-audio"])
def test_from_encoder_to_llm(name: str) -> None:
    """What leaves the encoder enters the projector, and what leaves that enters the LLM."""
    subject, clip = ss.load(model_with(name)), a_clip()
    encoder, projector = subject.encoder("audio"), subject.projector("audio")
    heard = ss.record(encoder, clip, keep=EVERYTHING)
    passed = ss.record(projector, clip, keep=[*EVERYTHING, "mlp_act"])
    read = ss.record(subject, clip, keep=["resid_pre"])
    where = np.flatnonzero(read.layouts[0].mask("audio"))
    entering = read["resid_pre"][0, 0].values[where]
    assert np.array_equal(passed["resid_post"][0, 0].values, entering)
    assert passed.layouts[0].labels == tuple(read.layouts[0].labels[i] for i in where)
    assert np.allclose(passed.layouts[0].seconds, read.layouts[0].seconds[where])
    frames = ss.frames_of_token(read.layouts[0], heard.layouts[0])
    assert [frames[i].tolist() for i in where] == [
        [3 * n, 3 * n + 1, 3 * n + 2] for n in range(len(where))
    ]
    with torch.no_grad():
        inner: Any = encoder.model if name == "tiny-audio" else encoder.model.model
        norm = {"whisper": "layer_norm", "tiny-audio": "norm"}.get(name)
        states = torch.from_numpy(heard["resid_post"][0, -1].values)
        if name == "avhubert-audio":
            states = inner.encoder.layer_norm(states)
        states = getattr(inner, norm)(states) if norm else states
    mean = states.numpy()[: 3 * len(where)].reshape(len(where), 3, -1).mean(1)
    assert np.allclose(passed["resid_pre"][0, 0], mean, atol=1e-5)
    if name != "tiny-audio":
        table = ss.in_encoder(ss.find_sinks(read, threshold=0.01), read, heard)
        assert len(table) > 0
        assert set(table["segment"]) == {"audio"}


@pytest.mark.parametrize(("stream", "single"), [("audio", 0), ("video", 0), ("audiovisual", 1)])
def test_one_avhubert_for_both_streams(stream: str, single: int) -> None:
    subject, clip = ss.load(joint(single=bool(single))), a_clip()
    heard = ss.record(subject.encoder(stream), clip)
    passed = ss.record(subject.projector(stream), clip, keep=["resid_post"])
    read = ss.record(subject, clip, keep=["resid_pre"])
    where = np.flatnonzero(read.layouts[0].mask(stream))
    assert np.array_equal(passed["resid_post"][0, 0].values, read["resid_pre"][0, 0].values[where])
    assert passed.layouts[0].labels == tuple(read.layouts[0].labels[i] for i in where)
    frames = ss.frames_of_token(read.layouts[0], heard.layouts[0])
    rate = 3 if stream == "audio" else 2
    assert [len(frames[i]) for i in where] == [rate] * len(where) == [rate] * (25 // rate)
    with pytest.raises(InputError, match=f"no {'video' if single else 'audiovisual'} encoder"):
        subject.encoder("video" if single else "audiovisual")


def test_both_passes_of_one_avhubert_are_seen_while_the_llm_prepares() -> None:
    subject = ss.load(joint(single=False))
    with ss.probe(subject.encoder("audio")) as probe:
        subject.model.prepare([a_clip(), a_clip(0.6, seed=1)])
    passes = [(layout.segments[0], len(layout)) for layout in probe.record.layouts]
    assert passes == [("audio", 25), ("audio", 15), ("video", 25), ("video", 15)]


@pytest.mark.parametrize("compression", ["average", "stack"])
def test_the_sites_of_a_projector_are_its_own_layers(compression: str) -> None:
    model, clip = model_with("whisper", compression=compression), a_clip()
    record = ss.record(ss.load(model).projector("audio"), clip, keep=[*EVERYTHING, "mlp_act"])
    inward, down, norm = (model.audio_projector[i] for i in (0, 2, 3))
    with torch.no_grad():
        hidden = inward(torch.from_numpy(record["resid_pre"][0, 0].values)).relu()
        assert torch.allclose(hidden, torch.from_numpy(record["mlp_act"][0, 0].values), atol=1e-6)
        out = norm(down(hidden)).numpy()
    assert np.allclose(out, record["resid_post"][0, 0], atol=1e-5)
    assert record["resid_pre"].sizes["feature"] == 32 * (3 if compression == "stack" else 1)
    assert "segment_sum" not in record
    assert "top_value" in record
    assert not ss.bos_similarity(record)["bos_present"].any()


def test_the_rate_of_the_projector_is_the_subjects() -> None:
    subject = ss.load(model_with("whisper")).with_options(audio_rate=10)
    assert len(ss.record(subject.projector("audio"), a_clip()).layouts[0]) == 5
    assert len(ss.record(subject.projector("video"), a_clip()).layouts[0]) == 12


def test_several_clips_and_a_saved_record(tmp_path) -> None:
    subject = ss.load(model_with("avhubert-audio")).encoder("audio")
    record = ss.record(subject, [a_clip(), a_clip(0.6, seed=1)], keep=["pattern"])
    assert [len(layout) for layout in record.layouts] == [25, 15]
    assert record.provenance["prepend_bos"] is False
    assert [clip.name for clip in record.clips] == ["c0", "c1"]
    again = ss.Record.open(record.save(tmp_path / "record"))
    assert again.provenance["causal"] is False
    assert np.allclose(ss.key_attention(again), ss.key_attention(record), equal_nan=True)


def test_the_encoder_can_be_watched_while_the_llm_transcribes() -> None:
    subject, clips = ss.load(model_with("avhubert-audio")), [a_clip(), a_clip(0.6, seed=1)]
    before = subject.transcribe(clips, max_new_tokens=2)
    with ss.probe(subject.encoder("audio")) as probe:
        during = subject.transcribe(clips, max_new_tokens=2)
    assert during == before
    assert [len(layout) for layout in probe.record.layouts] == [25, 15]
    assert [clip.name for clip in probe.record.clips] == ["c0", "c1"]
    alone = ss.record(subject.encoder("audio"), clips[1])
    alpha = ss.key_attention(probe.record.sample(1))
    assert np.abs(alpha.values[..., :15] - ss.key_attention(alone).values).max() < 1e-5
    assert "prepare" not in vars(subject.model.audio_encoder)


@pytest.mark.parametrize("name", ["whisper", "wavlm", "avhubert-audio", "avhubert-both"])
def test_features_are_the_same_to_the_bit_while_probed(name: str) -> None:
    encoder, clip = kind(name), a_clip()
    batch, lengths = encoder.prepare([clip])
    with torch.no_grad():
        before = encoder(batch, lengths)
        with ss.probe(encoder, [*ss.DEFAULT, "pattern", "resid_mid", "mlp_act"]):
            encoder.prepare([clip])
            during = encoder(batch, lengths)
    assert torch.equal(before, during)


# -- bare encoders, and what is refused --------------------------------------------------------


def test_a_bare_whisper_hears_what_the_model_hears() -> None:
    """Its own features, but for the normalised waveform, as transformers' extractor makes them."""
    bare, clip = kind("whisper").model, a_clip()
    layout = ss.record(bare, clip, reducers=[ss.Norms("resid_post")]).layouts[0]
    assert (layout.segments.count("audio"), len(layout)) == (51, WINDOW)
    bands, lengths = ss.load(bare).front.prepare([clip])
    assert bands.shape == (1, 20, 2 * WINDOW)
    assert lengths.tolist() == [50]


def test_a_bare_wavlm_hears_what_the_model_hears() -> None:
    clip = a_clip()
    record = ss.record(kind("wavlm").model, clip, keep=["resid_pre"])
    with torch.no_grad():
        kind("wavlm").model(torch.from_numpy(clip.waveform)[None])
        with ss.probe(kind("wavlm").model, ["resid_pre"]) as probe:
            kind("wavlm").model(torch.from_numpy(clip.waveform)[None])
    assert np.array_equal(record["resid_pre"], probe.record["resid_pre"])
    assert record.layouts[0].labels == probe.record.layouts[0].labels


def test_what_has_no_attention_says_so() -> None:
    record = ss.record(kind("tiny-audio"), a_clip())
    assert "top_value" in record
    with pytest.raises(SiteError, match="tiny-audio block has no attention, so there is no 'patt"):
        ss.record(kind("tiny-audio"), a_clip(), keep=["pattern"])
    with pytest.raises(SiteError, match="sites resid_pre, resid_post only"):
        ss.record(kind("tiny-audio"), a_clip(), keep=["mlp_out"])
    with pytest.raises(SiteError, match="has no attention"):
        ss.find_sinks(record)


def test_sites_that_an_encoder_lacks_are_refused() -> None:
    with pytest.raises(SiteError, match="has no gate"):
        ss.record(kind("whisper"), a_clip(), keep=["mlp_gate"])
    with pytest.raises(SiteError, match="has no layer 2"):
        ss.record(kind("whisper"), a_clip(), reducers=[ss.Norms("resid_post", layers=[2])])


def test_only_clips_go_into_an_encoder() -> None:
    with pytest.raises(InputError, match="reads clips, not str"):
        ss.record(kind("whisper"), "a text")
    with pytest.raises(InputError, match="has no BOS"):
        ss.record(kind("whisper"), a_clip(), prepend_bos=True)
    with pytest.raises(InputError, match="reads clips, not list"):
        ss.record(kind("whisper"), [])
    silent = Clip(None, a_clip().frames)
    with pytest.raises(InputError, match="no sound"):
        ss.record(kind("whisper").model, silent)


def test_what_holds_no_encoder_is_refused() -> None:
    from transformers import WavLMConfig, WavLMForCTC

    whole = WavLMForCTC(WavLMConfig(**WAVLM, vocab_size=8, pad_token_id=0))
    with pytest.raises(UnknownFamilyError, match=r"hand over its \.wavlm"):
        ss.load(whole)
    assert ss.load(whole.wavlm).anatomy.family == "wavlm"
    with pytest.raises(InputError, match="no front end"):
        ss.record(kind("avhubert-audio").model, a_clip())
    with pytest.raises(InputError, match="use one of audio, video, audiovisual"):
        ss.load(model_with("whisper")).encoder("sound")
    with pytest.raises(InputError, match="no audiovisual encoder; it has one of audio and of vid"):
        ss.load(model_with("whisper")).encoder("audiovisual")


def test_provenance_tells_two_encoders_apart() -> None:
    subject = ss.load(model_with("whisper"))
    made = [subject.encoder("audio").provenance(), subject.encoder("video").provenance()]
    assert made[0]["model_hash"] != made[1]["model_hash"]
    assert (made[0]["stream"], made[0]["family"], made[0]["causal"]) == ("audio", "whisper", False)
    assert made[1]["attention_implementation"] == "none"
    assert subject.projector("audio").provenance()["encoder"] == made[0]["model_hash"]
    assert subject.provenance()["causal"] is True
