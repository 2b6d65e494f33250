"""AV-HuBERT against the authors' own numbers, and the traps of its architecture."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sinkscope.avsr.avhubert import AvHubert, AvHubertConfig
from sinkscope.avsr.avhubert.config import config_from_fairseq, infer_config
from sinkscope.avsr.avhubert.lora import merge_lora
from sinkscope.avsr.avhubert.weights import load_published
from sinkscope.errors import CheckpointError, InputError
from tests.golden_resnet import resnet_weights
from tests.shared_data import shared

PLAIN, LORA = "A_avhubert_small", "B_avhubert_lora_small"
KINDS = ("lnfirst_large", "lnlast_base")
TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}


@cache
def resnet() -> dict[str, Tensor]:
    return resnet_weights(shared("golden/resnet_rule.json"))


def golden(folder: str, kind: str, prefix: str = "") -> tuple[AvHubert, dict[str, Tensor]]:
    """The model with a set's weights, and the outputs of the authors' code."""
    where: Path = shared(f"golden/{folder}")
    told = json.loads((shared(f"golden/{PLAIN}") / "config.json").read_text())[kind]["cfg"]
    state = load_file(where / f"weights_{prefix}{kind}.safetensors") | resnet()
    own = config_from_fairseq(told)
    config = infer_config(state, norm_first=own.norm_first, heads=own.heads)
    model = AvHubert(config).eval()
    load_published(model, state, where=folder)
    return model, load_file(where / f"outputs_{prefix}{kind}.safetensors")


def inputs(folder: str = PLAIN) -> dict[str, Tensor]:
    stored = np.load(shared(f"golden/{folder}") / "inputs.npz")
    video, audio, padded = (torch.from_numpy(stored[n]) for n in ("video", "audio", "padding_mask"))
    return {"video": video[:, 0], "audio": audio.transpose(1, 2), "mask": ~padded}


CASES = {
    "video_only": ("video",),
    "audio_only": ("audio",),
    "both": ("video", "audio"),
    "both_padmask": ("video", "audio", "mask"),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_golden_outputs(kind: str, attention: str) -> None:
    model, expected = golden(PLAIN, kind)
    model.set_attention(attention)
    given = inputs()
    with torch.no_grad():
        for case, names in CASES.items():
            found = model(**{name: given[name] for name in names})
            real = given["mask"] if "mask" in names else torch.ones_like(given["mask"])
            wanted = expected[f"{case}/extract_finetune"]
            torch.testing.assert_close(found[real], wanted[real], **TOLERANCE)
        early = model(video=given["video"], audio=given["audio"], output_layer=1)
    torch.testing.assert_close(early, expected["both_output_layer1/extract_finetune"], **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_values_inside(kind: str) -> None:
    model, expected = golden(PLAIN, kind)
    given = inputs()
    stages = {
        "feature_extractor_audio": model.feature_extractor_audio,
        "feature_extractor_video": model.feature_extractor_video,
        "fused_layer_norm": model.layer_norm,
        "post_extract_proj": model.post_extract_proj,
        "encoder.pos_conv": model.encoder.pos_conv,
        "encoder.layer0": model.encoder.layers[0],
        "encoder.layer1": model.encoder.layers[1],
        "resnet": model.feature_extractor_video.resnet,
        **{
            f"resnet.layer{i}": model.feature_extractor_video.resnet.trunk.get_submodule(
                f"layer{i}"
            )
            for i in (1, 2, 3, 4)
        },
    }
    seen: dict[str, Tensor] = {}
    for name, module in stages.items():
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    compared = 0
    for case in ("video_only", "audio_only", "both"):
        seen.clear()
        with torch.no_grad():
            model(**{name: given[name] for name in CASES[case]})
        for name, found in seen.items():
            if name.startswith("feature_extractor") or name == "resnet":
                found = found.transpose(1, 2)
            if name.startswith("resnet.layer"):
                found, name = found.mean((2, 3)), f"{name}_spatial_mean"
            else:
                name = f"{name}_out"
            if f"{case}/{name}" in expected:
                torch.testing.assert_close(found, expected[f"{case}/{name}"], **TOLERANCE)
                compared += 1
    assert compared == 24


@pytest.mark.parametrize("kind", KINDS)
def test_golden_lora(kind: str) -> None:
    model, expected = golden(LORA, kind, "attached_")
    assert model.config.lora_rank == 4
    given = inputs(LORA)
    with torch.no_grad():
        for case, names in CASES.items():
            if f"{case}/extract_finetune" not in expected:
                continue
            found = model(**{name: given[name] for name in names})
            torch.testing.assert_close(found, expected[f"{case}/extract_finetune"], **TOLERANCE)
        merged = merge_lora(model)
        assert not [name for name in merged.state_dict() if "lora" in name]
        found = merged(video=given["video"])
    torch.testing.assert_close(found, expected["video_only/extract_finetune"], **TOLERANCE)


def test_golden_lora_without_effect() -> None:
    """The authors' own LoRA class returns before its branches: it equals the model without them."""
    where = shared(f"golden/{LORA}")
    expected = load_file(where / "outputs_class_lora_lnfirst_large.safetensors")
    model, attached = golden(LORA, "lnfirst_large", "attached_")
    for layer in model.encoder.layers:
        layer.self_attn.lora_scale = 0.0
    with torch.no_grad():
        found = model(video=inputs(LORA)["video"])
    torch.testing.assert_close(found, expected["video_only/extract_finetune"], **TOLERANCE)
    zeroed = attached["video_only/extract_finetune_lora_zeroed"]
    torch.testing.assert_close(found, zeroed, **TOLERANCE)
    assert (attached["video_only/extract_finetune"] - zeroed).abs().max() > 0.01


def test_large_has_the_published_names_and_shapes() -> None:
    published = json.loads(shared("golden/avhubert_large_keys.json").read_text())["keys"]
    wanted = {name: tuple(shape) for name, shape, _ in published}
    with torch.device("meta"):
        model = AvHubert(AvHubertConfig())
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    apart = {"mask_emb", "label_embs_concat", "final_proj.weight", "final_proj.bias"}
    assert wanted.keys() - own.keys() == apart
    assert own == {name: shape for name, shape in wanted.items() if name not in apart}
    assert sum(p.numel() for p in model.parameters()) == 324_623_080 - 104
    with torch.device("meta"):
        adapted = AvHubert(AvHubertConfig(lora_rank=64))
    branches = [p for name, p in adapted.named_parameters() if "lora" in name]
    assert sum(p.numel() for p in branches) == 6_291_456


SMALL = AvHubertConfig(layers=2, width=32, ffn=48, heads=2, positions=8, position_groups=2)


@pytest.fixture(scope="module")
def small() -> AvHubert:
    torch.manual_seed(0)
    return AvHubert(SMALL).eval()


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
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


def test_clear_refusals(small: AvHubert) -> None:
    with pytest.raises(InputError, match="neither sound nor picture"):
        small()
    with pytest.raises(InputError, match="4 frames of sound and 3 of picture"):
        small(audio=torch.zeros(1, 4, 104), video=torch.zeros(1, 3, 88, 88))
    with pytest.raises(CheckpointError, match="no AV-HuBERT's"):
        infer_config({"a": torch.zeros(1)}, norm_first=True)
    with pytest.raises(CheckpointError, match="modality_fuse = 'add'"):
        config_from_fairseq(_fairseq(modality_fuse="add"))
    told = _fairseq()
    del told["layer_norm_first"]
    with pytest.raises(CheckpointError, match="lacks layer_norm_first"):
        config_from_fairseq(told)


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
