"""Conformers: the sites that are exact, and no others."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from tests.test_encoders_probes import closes

MEL = 46
CONFORMERS = ("granite_speech", "phi4_multimodal", "gemma3n", "gemma4")
SITES = ("resid_pre", "resid_post", "attn_out")


@cache
def conformer(name: str) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """A tiny random encoder, the arguments of a forward of two samples, and those that pad one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, kwargs, masked = _BUILDERS[name]()
        with torch.no_grad():
            for key, weight in model.named_parameters():
                small = "conv" in key or "embed" in key or "norm" in key
                weight.copy_(weight + torch.randn_like(weight) * (0.1 if small else 0.3))
        return model.eval(), kwargs, masked


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _granite_speech():
    from transformers import GraniteSpeechCTCEncoder, GraniteSpeechEncoderConfig

    config = GraniteSpeechEncoderConfig(
        input_dim=16,
        num_layers=2,
        hidden_dim=32,
        num_heads=4,
        dim_head=8,
        output_dim=12,
        context_size=7,
        max_pos_emb=9,
    )
    return GraniteSpeechCTCEncoder(config), {"hidden_states": noise(2, MEL, 16)}, {}


def _phi4_multimodal():
    from transformers import Phi4MultimodalAudioConfig, Phi4MultimodalAudioModel

    config = Phi4MultimodalAudioConfig(
        hidden_size=32,
        intermediate_size=48,
        num_blocks=2,
        num_attention_heads=4,
        input_size=16,
        ext_pw_out_channel=32,
        depthwise_separable_out_channel=32,
        nemo_conv_channels=32,
    )
    config._attn_implementation = "sdpa"
    return Phi4MultimodalAudioModel(config), {"hidden_states": noise(2, MEL, 16), "mask": None}, {}


def _gemma3n():
    from transformers import Gemma3nAudioConfig, Gemma3nAudioEncoder

    config = Gemma3nAudioConfig(
        hidden_size=32,
        input_feat_size=16,
        conf_num_hidden_layers=2,
        conf_num_attention_heads=4,
        conf_attention_chunk_size=4,
        conf_attention_context_left=5,
        sscp_conv_channel_size=(8, 4),
    )
    padding = torch.zeros(2, MEL, dtype=torch.bool)
    short = padding.clone()
    short[1, 30:] = True
    kwargs = {"audio_mel": noise(2, MEL, 16)}
    return (
        Gemma3nAudioEncoder(config),
        kwargs | {"audio_mel_mask": padding},
        {"audio_mel_mask": short},
    )


def _gemma4():
    from transformers import Gemma4AudioConfig, Gemma4AudioModel

    config = Gemma4AudioConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        attention_chunk_size=4,
        attention_context_left=5,
        subsampling_conv_channels=(16, 8),
        output_proj_dims=24,
    )
    mask = torch.ones(2, MEL, dtype=torch.bool)
    mask[1, 30:] = False
    return Gemma4AudioModel(config), {"input_features": noise(2, MEL, 16)}, {"attention_mask": mask}


_BUILDERS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any], dict[str, Any]]]] = {
    "granite_speech": _granite_speech,
    "phi4_multimodal": _phi4_multimodal,
    "gemma3n": _gemma3n,
    "gemma4": _gemma4,
}


def run(name: str, reducers, *, masked: bool = False) -> ss.Record:
    model, kwargs, mask = conformer(name)
    with ss.probe(model, reducers) as probe, torch.no_grad():
        model(**kwargs | (mask if masked else {}))
    return probe.record


@pytest.mark.parametrize("name", CONFORMERS)
def test_what_attention_adds_is_exact(name: str) -> None:
    """The stream before attention plus it is the stream after, as the block's own parts see it."""
    model, _, _ = conformer(name)
    anatomy = ss.load(model).anatomy
    assert anatomy.sites() == SITES
    before, after = [], []
    hooks = [hook for block in anatomy.blocks for hook in _note(block, name, before, after)]
    record = run(name, SITES)
    for hook in hooks:
        hook.remove()
    frames = record["attn_out"].shape[2]
    assert len(record.layouts[0]) == frames
    for layer in range(2):
        for sample in range(2):
            added = record["attn_out"][sample, layer].values
            assert closes(before[layer][sample].numpy() + added, after[layer][sample].numpy())
            if layer and name != "granite_speech":
                earlier = record["resid_post"][sample, layer - 1].values
                assert closes(earlier, record["resid_pre"][sample, layer].values)


def _note(block: Any, name: str, before: list[Tensor], after: list[Tensor]) -> list[Any]:
    """Keep what enters and what leaves a block's attention with its residual connection."""
    names = {
        "granite_speech": ("attn", "conv"),
        "phi4_multimodal": ("layer_norm_att", "conv"),
        "gemma3n": ("attention", "lconv1d"),
        "gemma4": ("feed_forward1", "lconv1d"),
    }
    source, sink = (getattr(block, part) for part in names[name])
    last = sink.register_forward_pre_hook(lambda _, args: after.append(args[0].clone()))
    if name == "gemma4":
        return [source.register_forward_hook(lambda _, __, out: before.append(out.clone())), last]
    return [source.register_forward_pre_hook(lambda _, args: before.append(args[0].clone())), last]


def test_granite_adds_its_guess_of_the_letters_between_two_blocks() -> None:
    """After the middle block, to the stream itself: no block's site holds it."""
    model, _, _ = conformer("granite_speech")
    record = run("granite_speech", SITES)
    leaves = torch.from_numpy(record["resid_post"][0, 0].values)
    with torch.no_grad():
        guess = model.out_mid(torch.softmax(model.out(leaves), -1))
    assert closes((leaves + guess).numpy(), record["resid_pre"][0, 1].values)


@pytest.mark.parametrize("name", CONFORMERS)
def test_outputs_are_the_same_to_the_bit(name: str) -> None:
    model, kwargs, _ = conformer(name)
    with torch.no_grad():
        before = model(**kwargs)
        with ss.probe(model):
            during = model(**kwargs)
    first, second = (x if isinstance(x, Tensor) else x.last_hidden_state for x in (before, during))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("name", "frames", "step"), [("gemma3n", 12, 4), ("gemma4", 12, 4)])
def test_padding_is_left_out(name: str, frames: int, step: int) -> None:
    record = run(name, ["resid_pre"], masked=True)
    assert [len(layout) for layout in record.layouts] == [frames, 8]
    assert np.allclose(record.layouts[0].seconds[:, 0], np.arange(frames) * step / 100)
    whole = run(name, ["resid_pre"])
    assert closes(record["resid_pre"][1, 0, :7].values, whole["resid_pre"][1, 0, :7].values)


@pytest.mark.parametrize("name", ["granite_speech", "gemma3n", "gemma4"])
def test_maps_of_conformers_are_refused(name: str) -> None:
    model, _, _ = conformer(name)
    with pytest.raises(SiteError, match="Its attention adds terms of position inside"):
        ss.record(model, conformer(name)[1], reducers=[ss.Keep("pattern")])
    with pytest.raises(SiteError, match="has the sites resid_pre, attn_out, resid_post only"):
        ss.record(model, conformer(name)[1], reducers=[ss.Keep("resid_mid")])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_maps_of_phi4_equal_its_own(implementation: str) -> None:
    """Its mask adds 1 to what is near and 0 to the rest, so that every frame sees every frame."""
    from transformers.models.phi4_multimodal import modeling_phi4_multimodal as file

    model, kwargs, _ = conformer("phi4_multimodal")
    own: list[Tensor] = []
    simple = file.simple_eager_attention_forward

    def spy(*args: Any, **options: Any) -> Any:
        result = simple(*args, **options)
        own.append(result[1])
        return result

    model.config._attn_implementation = "eager"
    file.simple_eager_attention_forward = spy
    try:
        with torch.no_grad():
            model(**kwargs)
    finally:
        file.simple_eager_attention_forward = simple
    model.config._attn_implementation = implementation
    record = run("phi4_multimodal", ["pattern", ss.SegmentAttention()])
    model.config._attn_implementation = "sdpa"
    for layer in range(2):
        found = record["pattern"][:, layer].values
        assert np.abs(found - own[layer].numpy()).max() < 1e-5
    alpha = ss.key_attention(record.sample(0))
    assert np.abs(alpha.values[0] - record["pattern"][0].mean("query").values).max() < 1e-5


def test_phi4_hears_the_padding_after_a_sound() -> None:
    mask = torch.arange(46)[None] < torch.tensor([[46], [17]])
    given = {"hidden_states": noise(2, 46, 16), "mask": mask}
    record = ss.record(conformer("phi4_multimodal")[0], given)
    assert [layout.segments.count("audio") for layout in record.layouts] == [6, 3]
    assert record.layouts[1].segments[3:] == ("appended_silence",) * 3


def test_phi4_runs_over_pieces_of_long_sounds() -> None:
    encoder: Any = conformer("phi4_multimodal")[0]
    record = ss.record(encoder, {"hidden_states": noise(1, 8 * 510, 16)})
    assert [len(layout) for layout in record.layouts] == [500] * 2
    second = record.layouts[1]
    assert second.segments.count("audio") == 10
    assert np.allclose(second.seconds[0], [40.0, 40.08])
    alone = ss.record(encoder, noise(2, 46, 16))
    assert [len(layout) for layout in alone.layouts] == [6, 6]


def test_what_the_forward_needs_is_named() -> None:
    with pytest.raises(InputError, match="audio_mel_mask"):
        ss.record(conformer("gemma3n")[0], {"audio_mel": noise(2, MEL, 16)})


def test_frames_of_the_bare_glm_asr_encoder() -> None:
    from transformers import GlmAsrEncoder, GlmAsrEncoderConfig

    config = GlmAsrEncoderConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_mel_bins=16,
        max_position_embeddings=40,
    )
    encoder = GlmAsrEncoder(config).eval()
    for frames, count in ((46, 23), (45, 23)):
        record = ss.record(encoder, {"input_features": noise(2, 16, frames)}, keep=["resid_post"])
        assert [len(layout) for layout in record.layouts] == [count] * 2
        assert np.allclose(record.layouts[0].seconds[-1], [0.44, 0.46])
