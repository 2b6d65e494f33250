"""AV-HuBERT's names, sizes and traps, on random weights; refusals in words."""

import json

import pytest
import torch
from torch import nn

from sinkscope.avsr.avhubert import AvHubert, AvHubertConfig
from sinkscope.avsr.avhubert.config import config_from_fairseq, infer_config
from sinkscope.avsr.avhubert.transformer import named_as_published
from sinkscope.avsr.avhubert.weights import load_published
from sinkscope.errors import CheckpointError, InputError
from tests.shared_data import shared


def test_large_has_the_published_names_and_shapes() -> None:
    published = json.loads(shared("golden/avhubert_large_keys.json").read_text())["keys"]
    wanted = {name: tuple(shape) for name, shape, _ in published}
    with torch.device("meta"):
        model = AvHubert(AvHubertConfig())
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    apart = {"mask_emb", "label_embs_concat", "final_proj.weight", "final_proj.bias"}
    assert wanted.keys() - own.keys() == apart
    assert own == {name: shape for name, shape in wanted.items() if name not in apart}
    assert infer_config(dict(model.state_dict()), norm_first=True) == AvHubertConfig()
    with torch.device("meta"):
        adapted = AvHubert(AvHubertConfig(lora_rank=64))
    branches = [p for name, p in adapted.named_parameters() if "lora" in name]
    assert sum(p.numel() for p in branches) == 6_291_456


def test_parameters_of_large_by_part() -> None:
    with torch.device("meta"):
        model = AvHubert(AvHubertConfig())
    video, encoder = model.feature_extractor_video, model.encoder
    counts = {
        video.resnet.frontend3D: 15_872,
        video.resnet.trunk: 11_170_816,
        video.proj: 525_312,
        model.feature_extractor_audio: 107_520,
        model.layer_norm: 4_096,
        model.post_extract_proj: 2_098_176,
        encoder.pos_conv: 8_389_760,
        encoder.layers[7]: 12_596_224,
        encoder.layers: 302_309_376,
        encoder.layer_norm: 2_048,
    }
    assert {part: _count(part) for part in counts} == counts
    masking = 104
    assert _count(model) == 324_623_080 - masking


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_base_from_shapes() -> None:
    base = AvHubertConfig(layers=12, width=768, ffn=3072, heads=12, norm_first=False)
    with torch.device("meta"):
        state = AvHubert(base).state_dict()
    assert infer_config(state, norm_first=False) == base
    with pytest.raises(CheckpointError, match=r"don't tell whether .* give norm_first"):
        infer_config(state)


SMALL = AvHubertConfig(layers=2, width=32, ffn=48, heads=2, positions=8, position_groups=2)


@pytest.fixture(scope="module")
def small() -> AvHubert:
    torch.manual_seed(0)
    return AvHubert(SMALL).eval()


@pytest.mark.parametrize("frames", [1, 2, 5, 25])
def test_as_many_frames_come_out(small: AvHubert, frames: int) -> None:
    with torch.no_grad():
        assert small(audio=torch.randn(2, frames, 104)).shape == (2, frames, 32)
        assert small(video=torch.randn(1, frames, 88, 88)).shape == (1, frames, 32)


@pytest.mark.parametrize("norm_first", [True, False])
def test_padding_changes_nothing(norm_first: bool) -> None:
    torch.manual_seed(1)
    model = AvHubert(AvHubertConfig(**{**SMALL.to_dict(), "norm_first": norm_first})).eval()
    audio = torch.randn(2, 9, 104)
    mask = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    with torch.no_grad():
        together = model(audio=audio, mask=mask)
        alone = model(audio=audio[1:, :5])
        unmasked = model(audio=audio)
    torch.testing.assert_close(together[1:, :5], alone, atol=1e-5, rtol=1e-5)
    assert (unmasked[1:, :5] - alone).abs().max() > 1e-2


@torch.no_grad()
def test_padding_pictures_changes_nothing(small: AvHubert) -> None:
    """Zero pictures after a clip are what the first convolution is padded with."""
    video = torch.randn(2, 6, 88, 88)
    video[1, 4:] = 0
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    together = small(video=video, mask=mask)
    torch.testing.assert_close(together[1:, :4], small(video=video[1:, :4]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_padded_is_not_read(small: AvHubert) -> None:
    """Not even where it is no number."""
    audio = torch.randn(1, 9, 104)
    mask = torch.tensor([[True] * 5 + [False] * 4])
    spoilt = audio.clone()
    spoilt[:, 5:] = torch.nan
    found = small(audio=spoilt, mask=mask)[:, :5]
    assert torch.equal(found, small(audio=audio, mask=mask)[:, :5])


@torch.no_grad()
def test_samples_stay_apart(small: AvHubert) -> None:
    video, audio = torch.randn(3, 5, 88, 88), torch.randn(3, 5, 104)
    together = small(video=video, audio=audio)
    order = torch.tensor([2, 0, 1])
    turned = small(video=video[order], audio=audio[order])
    torch.testing.assert_close(turned, together[order], atol=1e-5, rtol=1e-5)
    alone = small(video=video[1:2], audio=audio[1:2])
    torch.testing.assert_close(alone, together[1:2], atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_absent_is_not_silent(small: AvHubert) -> None:
    audio = torch.randn(1, 4, 104)
    with torch.no_grad():
        absent = small(video=torch.zeros(1, 4, 88, 88))
        silent = small(video=torch.zeros(1, 4, 88, 88), audio=torch.zeros(1, 4, 104))
        heard = small.feature_extractor_audio(audio)
        half = small.post_extract_proj(
            small.layer_norm(torch.cat([heard, torch.zeros_like(heard)], dim=-1))
        )
        assert torch.equal(small(audio=audio), small.encoder(half))
    assert (absent - silent).abs().max() > 1e-3


def test_positions_keep_their_place(small: AvHubert) -> None:
    """With an even kernel the last of the extra frames is dropped, not the first."""
    pulse = torch.zeros(1, 20, 32)
    pulse[0, 10] = 1.0
    convolution = small.encoder.pos_conv[0]
    with torch.no_grad():
        reach = (convolution(pulse) - convolution(torch.zeros_like(pulse))).abs().sum(-1)[0]
    assert torch.nonzero(reach).flatten().tolist() == list(range(7, 15))


def test_weight_norm_folds(small: AvHubert) -> None:
    audio = torch.randn(1, 6, 104)
    state = small.state_dict()
    kernel = "encoder.pos_conv.0."
    folded = {k: v for k, v in state.items() if k not in (f"{kernel}weight_g", f"{kernel}weight_v")}
    newer = dict(folded)
    folded[f"{kernel}weight"] = small.encoder.pos_conv[0].weight
    newer[f"{kernel}parametrizations.weight.original0"] = state[f"{kernel}weight_g"]
    newer[f"{kernel}parametrizations.weight.original1"] = state[f"{kernel}weight_v"]
    for other in (folded, newer):
        twin = AvHubert(infer_config(other, norm_first=True, heads=2)).eval()
        load_published(twin, other, where="folded")
        with torch.no_grad():
            torch.testing.assert_close(twin(audio=audio), small(audio=audio), atol=1e-6, rtol=1e-6)


def test_a_kernel_in_half_precision_folds_to_itself() -> None:
    kernel = torch.randn(32, 16, 8).bfloat16()
    named = named_as_published({"weight": kernel})
    gain, direction = named["weight_g"], named["weight_v"].float()
    again = gain * direction / direction.norm(dim=(0, 1), keepdim=True)
    torch.testing.assert_close(again, kernel.float(), atol=1e-6, rtol=1e-6)


def test_two_kernels_are_one_too_many(small: AvHubert) -> None:
    state, kernel = small.state_dict(), "encoder.pos_conv.0."
    for extra in ("weight", "parametrizations.weight.original1"):
        both = state | {kernel + extra: torch.zeros_like(state[kernel + "weight_v"])}
        with pytest.raises(CheckpointError, match=f"unexpected {kernel}{extra}"):
            load_published(AvHubert(SMALL), both, where="x.pt")


def test_running_statistics_are_loaded(small: AvHubert) -> None:
    name = "feature_extractor_video.resnet.trunk.layer2.0.downsample.1.running_mean"
    moved = small.state_dict() | {name: torch.full((128,), 0.25)}
    twin = AvHubert(SMALL).eval()
    load_published(twin, moved, where="x.pt")
    assert torch.equal(twin.state_dict()[name], moved[name])
    video = torch.randn(1, 2, 88, 88)
    with torch.no_grad():
        assert (twin(video=video) - small(video=video)).abs().max() > 1e-4


def test_lora_begins_without_effect() -> None:
    torch.manual_seed(2)
    model = AvHubert(AvHubertConfig(**{**SMALL.to_dict(), "lora_rank": 3})).eval()
    plain = AvHubert(SMALL).eval()
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    audio = torch.randn(1, 4, 104)
    with torch.no_grad():
        assert torch.equal(model(audio=audio), plain(audio=audio))


def test_weights_are_accounted_for(small: AvHubert) -> None:
    state = small.state_dict()
    heads = {"mask_emb": torch.zeros(104), "final_proj.bias": torch.zeros(2)}
    left_out = load_published(AvHubert(SMALL), state | heads, where="x.pt")
    assert left_out == ["final_proj.bias", "mask_emb"]
    broken = dict(state)
    del broken["layer_norm.bias"]
    broken["stranger"] = torch.zeros(1)
    broken["post_extract_proj.bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as caught:
        load_published(AvHubert(SMALL), broken, where="x.pt")
    for part in (
        "missing layer_norm.bias",
        "unexpected stranger",
        "post_extract_proj.bias is (5,)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "neither sound nor picture"),
        ({"audio": (1, 4, 104), "video": (1, 3, 88, 88)}, "4 frames of sound and 3 of picture"),
        ({"video": (1, 3, 96, 96)}, r"give \(sample, frame, 88, 88\)"),
        ({"audio": (1, 3, 26)}, r"give \(sample, frame, 104\)"),
        ({"audio": (1, 3, 104), "mask": (1, 4)}, "one value a frame"),
    ],
)
def test_streams_are_refused_in_words(small: AvHubert, given: dict, said: str) -> None:
    streams = {name: torch.zeros(shape) for name, shape in given.items()}
    if "mask" in streams:
        streams["mask"] = streams["mask"].bool()
    with pytest.raises(InputError, match=said):
        small(**streams)


@pytest.mark.parametrize("layer", [0, -1, 3])
def test_only_layers_that_are_there(small: AvHubert, layer: int) -> None:
    with pytest.raises(InputError, match=f"no layer {layer}; give 1 to 2"):
        small(audio=torch.zeros(1, 4, 104), output_layer=layer)
    with pytest.raises(InputError, match="no attention 'flash'"):
        small.set_attention("flash")


def test_configurations_are_refused_in_words(small: AvHubert) -> None:
    with pytest.raises(CheckpointError, match="no AV-HuBERT's"):
        infer_config({"a": torch.zeros(1)}, norm_first=True)
    state = small.state_dict()
    with pytest.raises(CheckpointError, match=r"32 wide\) don't tell its number of attention"):
        infer_config(state, norm_first=True)
    flat = state | {"encoder.pos_conv.0.weight_v": torch.zeros(4)}
    with pytest.raises(CheckpointError, match=r"weight_v has shape \(4,\)"):
        infer_config(flat, norm_first=True, heads=2)
    with pytest.raises(CheckpointError, match="modality_fuse = 'add'"):
        config_from_fairseq(_fairseq(modality_fuse="add"))
    with pytest.raises(CheckpointError, match=r"layers = '\$\{x\}'; it must be a whole number"):
        config_from_fairseq(_fairseq(encoder_layers="${x}"))
    with pytest.raises(CheckpointError, match="norm_first = 1; it must be true or false"):
        config_from_fairseq(_fairseq(layer_norm_first=1))
    with pytest.raises(CheckpointError, match="does not divide into 3 position groups"):
        config_from_fairseq(_fairseq(conv_pos_groups=3))
    told = _fairseq()
    del told["layer_norm_first"]
    with pytest.raises(CheckpointError, match="lacks layer_norm_first"):
        config_from_fairseq(told)
    with pytest.raises(CheckpointError, match=r"unknown fields \(depth\)"):
        AvHubertConfig.from_dict({"depth": 2})


def _fairseq(**changes: object) -> dict:
    told = {
        "encoder_layers": 24,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
        "layer_norm_first": True,
        "audio_feat_dim": 104,
        "conv_pos": 128,
        "conv_pos_groups": 16,
    }
    return told | changes


def test_fairseq_configuration() -> None:
    assert config_from_fairseq(_fairseq()) == AvHubertConfig()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision_stays_near(attention: str) -> None:
    torch.manual_seed(3)
    model = AvHubert(AvHubertConfig(**SMALL.to_dict() | {"lora_rank": 2})).eval().bfloat16()
    model.set_attention(attention)
    video, audio = torch.randn(2, 6, 88, 88).bfloat16(), torch.randn(2, 6, 104).bfloat16()
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    half = model(video=video, audio=audio, mask=mask)
    assert half.dtype == torch.bfloat16
    full = model.float()(video=video.float(), audio=audio.float(), mask=mask)
    assert (half.float() - full).abs().max() < 0.03 * full.abs().max()
