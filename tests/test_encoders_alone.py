"""Encoders of transformers that stand alone: sites close, maps equal, tokens are where they say."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.errors import InputError, UnknownFamilyError
from tests.alone_models import ALONE, IMAGE, MASKED, POST_NORM, WAVEFORM, alone, build_alone
from tests.full_maps import arriving
from tests.test_encoders_probes import closes, normed
from tests.test_probes_attention import check_sample

MAPS = (ss.SegmentAttention(), ss.RowEntropy(), ss.ArgmaxShare(), ss.PatternBins(4))
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_act", "q", "k", "v")
CASES = [*((name, False) for name in ALONE), *((name, True) for name in MASKED)]
FEWER = [case for case in CASES if case[1] or case[0] in (*IMAGE, "voxtral")]


def recorded(name: str, reducers, *, masked: bool = False) -> ss.Record:
    built = alone(name)
    with ss.probe(built.model, reducers) as probe:
        built.run(masked=masked)
    return probe.record


@pytest.mark.parametrize(("name", "masked"), CASES)
def test_statistics_equal_full_maps(name: str, masked: bool) -> None:
    built = alone(name)
    with arriving(built.model) as arrived:
        record = recorded(name, [*MAPS, "pattern"], masked=masked)
    calls = arrived[-len(built.blocks) :]
    for sample in range(2):
        length = built.real[sample] if masked else built.real[0]
        assert len(record.layouts[sample]) == length
        for layer, call in enumerate(calls):
            query = call.query[sample, :, :length].double()
            key = call.key[sample, :, :length].double()
            key = key.repeat_interleave(len(query) // len(key), 0)
            full = torch.softmax(query @ key.mT * call.options["scaling"], -1).numpy()
            seen = np.ones((length, length), bool)
            segments = record.layouts[sample].segment_index
            check_sample(record.sample(sample), layer, full, seen, segments)


@pytest.mark.parametrize(("name", "masked"), FEWER)
def test_sites_close(name: str, masked: bool) -> None:
    record, built = recorded(name, SITES, masked=masked), alone(name)
    for sample in range(2):
        one = record.sample(sample)
        for layer, block in enumerate(built.blocks):
            at = {site: one[site][0, layer].values for site in SITES}
            attended, made = at["resid_pre"] + at["attn_out"], at["resid_mid"] + at["mlp_out"]
            assert not closes(at["attn_out"], at["mlp_out"])
            if name in POST_NORM:
                attended = normed(block.layer_norm, attended)
                made = normed(block.final_layer_norm, made)
            assert closes(attended, at["resid_mid"])
            assert closes(made, at["resid_post"])
            assert closes(linear(_down(block), at["mlp_act"]), at["mlp_out"])
            if layer:
                assert closes(one["resid_post"][0, layer - 1].values, at["resid_pre"])


def _down(block) -> nn.Module:
    names = ("feed_forward.output_dense", "mlp.down_proj", "mlp.fc2", "fc2")
    for name in names:
        found = block
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise LookupError(names)


def linear(module: nn.Module, states: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(states)).numpy()


@pytest.mark.parametrize(("name", "masked"), FEWER)
def test_outputs_are_the_same_to_the_bit(name: str, masked: bool) -> None:
    built = alone(name)
    before = built.run(masked=masked)
    with ss.probe(built.model, [*ss.DEFAULT, *MAPS[2:], *SITES, "z", "pattern"]):
        during = built.run(masked=masked)
    assert torch.equal(before, during)
    assert torch.equal(before, built.run(masked=masked))


@pytest.mark.parametrize(("name", "masked"), FEWER)
def test_what_a_processor_made_can_be_recorded(name: str, masked: bool) -> None:
    """``record`` of the arguments gives what a probe of the caller's own forward gives."""
    built = alone(name)
    given = built.kwargs | (built.masked if masked else {})
    record = ss.record(built.model, given, reducers=[ss.Keep("resid_post"), *MAPS])
    own = recorded(name, [ss.Keep("resid_post"), *MAPS], masked=masked)
    for sample, (layout, other) in enumerate(zip(record.layouts, own.layouts, strict=True)):
        assert layout.to_dict() == other.to_dict()
        assert record.sample(sample).dataset.equals(own.sample(sample).dataset)


# -- what the tokens are -----------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGE)
def test_a_patch_has_its_row_and_column(name: str) -> None:
    """A bright patch changes the token that says it is there, and no other."""
    built = alone(name)
    pixels = built.kwargs["pixel_values"].clone()
    pixels[0, :, 8:12, 4:8] += 3
    before = recorded(name, ["resid_pre"])
    with ss.probe(built.model, ["resid_pre"]) as probe, torch.no_grad():
        built.model(pixel_values=pixels)
    moved = np.abs(probe.record["resid_pre"] - before["resid_pre"]).max("feature")[0, 0].values
    layout = probe.record.layouts[0]
    found = int(np.argmax(moved))
    assert (moved > 1e-4).sum() == 1
    assert layout.labels[found] == "r2c1"
    assert (layout.descriptors["row"][found], layout.descriptors["column"][found]) == (2, 1)
    has_class = name != "siglip"
    assert layout.segments.count("delimiter") == has_class
    assert (layout.labels[0] == "[class]") == has_class
    assert np.isnan(layout.descriptors["row"][0]) == has_class
    assert (layout.reference, layout.has_bos) == (0, False)


@pytest.mark.parametrize("name", ["pe_audio", "pe_audio_video"])
def test_a_frame_of_pe_covers_its_sound(name: str) -> None:
    """A frame of 8 samples at 48 kHz: a click moves its frame most."""
    built = build_alone(name)
    layout = recorded(name, [ss.Norms("resid_post")]).layouts[0]
    assert layout.labels[:2] == ("[class]", "f0")
    assert np.isnan(layout.seconds[0]).all()
    assert np.allclose(layout.seconds[1:, 0], np.arange(10) * 8 / 48000)
    kept: list[torch.Tensor] = []
    embedder = built.model.patch_embedder
    hook = embedder.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    for louder in (0, 50):
        sound = built.kwargs["input_values"].clone()
        sound[0, 0, 44:47] += louder
        with torch.no_grad():
            built.model(**built.kwargs | {"input_values": sound})
    hook.remove()
    found = int((kept[1] - kept[0])[0].abs().amax(-1).argmax())
    assert abs(found - 5) <= 1, "the codec's convolutions look past their own frame"


@pytest.mark.parametrize("name", WAVEFORM)
def test_frames_of_a_waveform_follow_the_strides(name: str) -> None:
    """20 samples a frame: the published models' 320 make 20 ms."""
    built = alone(name)
    layout = recorded(name, [ss.Norms("resid_post")]).layouts[0]
    assert np.allclose(layout.seconds[:, 0], np.arange(19) * 20 / 16000)
    sound = torch.zeros(1, 400)
    sound[0, 205:210] = 5
    with torch.no_grad():
        found = built.model.feature_extractor(sound) - built.model.feature_extractor(0 * sound)
    assert int(found[0].abs().amax(0).argmax()) in (8, 9, 10)


# -- clips -------------------------------------------------------------------------------------


def a_clip(seconds: float = 0.5) -> Clip:
    seeded = np.random.default_rng(0)
    waveform = seeded.normal(0, 0.1, round(seconds * 16000)).astype(np.float32)
    frames = seeded.integers(0, 255, (round(seconds * 25), 24, 36)).astype(np.uint8)
    return Clip(waveform, frames, text="bin blue")


@pytest.mark.parametrize("name", WAVEFORM)
def test_a_clip_is_heard(name: str) -> None:
    built, clip = alone(name), a_clip()
    record = ss.record(built.model, clip, keep=["resid_post"])
    sound = torch.from_numpy(clip.waveform)[None]
    sound = (sound - sound.mean()) / sound.std(correction=0)
    with torch.no_grad():
        own = built.model(sound, output_hidden_states=True)
    assert closes(record["resid_post"][0, 0].values, own.hidden_states[1][0].numpy())
    layout = record.layouts[0]
    assert set(layout.segments) == {"audio"}
    assert len(layout) == own.last_hidden_state.shape[1]
    assert np.allclose(layout.seconds[:, 1] - layout.seconds[:, 0], 20 / 16000)
    assert "loudness_db" in layout.descriptors


@pytest.mark.parametrize("name", IMAGE)
def test_every_frame_of_a_clip_is_seen(name: str) -> None:
    clip = a_clip()
    clip.frames[:] = 0
    clip.frames[7, 16:24, 12:24] = 255
    built = alone(name)
    record = ss.record(built.model, clip, reducers=[ss.Keep("resid_pre")])
    assert len(record.layouts) == len(clip.frames)
    states = record["resid_pre"][:, 0].values
    moved = np.abs(states - states[0]).max(-1)
    sample, token = np.unravel_index(np.argmax(moved), moved.shape)
    layout = record.layouts[sample]
    assert (sample, layout.labels[token]) == (7, "r2c1")
    patches = layout.mask("image")
    assert np.allclose(layout.seconds[patches], [7 / 25, 8 / 25])
    assert np.isnan(layout.seconds[~patches]).all()
    assert (moved.max(1) > 1e-4).nonzero()[0].tolist() == [7]


def test_pictures_are_normalised_as_the_processor_says() -> None:
    built, clip = alone("siglip"), a_clip(0.04)
    clip.frames[:] = 51
    processor = SimpleNamespace(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.25, 0.1])
    for given, expected in ((processor, [0.2, 0.0, -1.0]), (None, [-0.6, -0.6, -0.6])):
        inputs = next(iter(ss.load(built.model, processor=given).batches(clip)))
        pixels = inputs.kwargs["pixel_values"]
        assert pixels.shape == (1, 3, 12, 12)
        assert torch.allclose(pixels[0, :, 5, 5], torch.tensor(expected), atol=1e-6)


def test_a_tensor_of_pictures_is_enough() -> None:
    built = alone("vit")
    record = ss.record(built.model, built.kwargs["pixel_values"], reducers=[ss.Norms("resid_post")])
    assert len(record.layouts) == 2


# -- what is refused ---------------------------------------------------------------------------


def test_what_is_more_than_an_encoder_is_refused() -> None:
    from transformers import CLIPConfig, CLIPModel, HubertForCTC

    hearing = alone("hubert").model
    with pytest.raises(UnknownFamilyError, match=r"hand over its \.hubert"):
        ss.load(HubertForCTC(hearing.config))
    small = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    both = CLIPModel(CLIPConfig(vision_config=small, text_config=small))
    with pytest.raises(UnknownFamilyError, match=r"hand over its \.vision_model"):
        ss.load(both)
    with pytest.raises(UnknownFamilyError, match=r"CLIPTextModel is more than an encoder"):
        ss.load(both.text_model)


def test_adapters_inside_the_blocks_are_refused() -> None:
    """With them a block adds three things to the stream, and the sites know two."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    own = alone("wav2vec2 stable").model.config.to_dict()
    model = Wav2Vec2Model(Wav2Vec2Config(**{**own, "adapter_attn_dim": 4}))
    with pytest.raises(UnknownFamilyError, match="adapter_attn_dim=4, which changes a formula"):
        ss.load(model)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"pixel_values": [1, 2]}, "a mapping without a tensor"),
        ({"pixel_values": torch.zeros(3, 12, 12)}, "give a tensor of 4 axes"),
        ("a text", "reads clips, not str"),
        (Clip(np.zeros(1600, np.float32), None), "has no frames, which this encoder reads"),
    ],
)
def test_data_that_an_image_encoder_cannot_read_are_refused(data, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ss.record(alone("clip").model, data)


def test_an_encoder_that_needs_its_processor_says_so() -> None:
    with pytest.raises(InputError, match="has no front end of its own"):
        ss.record(alone("pe_audio").model, a_clip())
    with pytest.raises(InputError, match="needs no processor"):
        ss.load(alone("hubert").model, processor=SimpleNamespace())
