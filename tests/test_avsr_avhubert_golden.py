"""AV-HuBERT against every number that the authors' own code gave, inside and at the end."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from sinkscope.avsr.avhubert import AvHubert, AvHubertConfig, model, transformer
from sinkscope.avsr.avhubert.config import config_from_fairseq, infer_config
from sinkscope.avsr.avhubert.lora import merge_lora
from sinkscope.avsr.avhubert.weights import load_published
from tests.golden_resnet import resnet_weights
from tests.shared_data import shared

PLAIN, LORA = "A_avhubert_small", "B_avhubert_lora_small"
KINDS = ("lnfirst_large", "lnlast_base")
TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
CASES = {
    "video_only": ("video",),
    "audio_only": ("audio",),
    "both": ("video", "audio"),
    "both_padmask": ("video", "audio", "mask"),
    "both_output_layer1": ("video", "audio", "output_layer"),
}


@cache
def resnet() -> dict[str, Tensor]:
    return resnet_weights(shared("golden/resnet_rule.json"))


def golden(folder: str, kind: str, prefix: str = "") -> AvHubert:
    """The model with a set's weights, its sizes told by shapes and fairseq's configuration."""
    where = shared(f"golden/{folder}")
    told = json.loads((shared(f"golden/{PLAIN}") / "config.json").read_text())[kind]["cfg"]
    own = config_from_fairseq(told)
    state = load_file(where / f"weights_{prefix}{kind}.safetensors") | resnet()
    config = infer_config(state, norm_first=own.norm_first, heads=own.heads)
    assert config.to_dict() | {"lora_rank": None} == own.to_dict()
    built = AvHubert(config).eval()
    load_published(built, state, where=folder)
    return built


def outputs(folder: str, name: str) -> dict[str, Tensor]:
    return load_file(shared(f"golden/{folder}") / f"outputs_{name}.safetensors")


def inputs(folder: str = PLAIN) -> dict:
    stored = np.load(shared(f"golden/{folder}") / "inputs.npz")
    video, audio, padded = (torch.from_numpy(stored[n]) for n in ("video", "audio", "padding_mask"))
    given = {"video": video[:, 0], "audio": audio.transpose(1, 2), "mask": ~padded}
    return given | {"output_layer": 1}


def turned(values: Tensor) -> Tensor:
    return values.transpose(1, 2)


def stages(built: AvHubert) -> dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """What the sets hold: a name, the module whose output it is, how the output was stored."""
    video, encoder = built.feature_extractor_video, built.encoder
    listed: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
        "feature_extractor_audio_out": (built.feature_extractor_audio, turned),
        "feature_extractor_video_out": (video, turned),
        "fused_layer_norm_out": (built.layer_norm, torch.clone),
        "post_extract_proj_out": (built.post_extract_proj, torch.clone),
        "encoder.pos_conv_out": (encoder.pos_conv, torch.clone),
        "resnet_out": (video.resnet, turned),
        "resnet.frontend3D_crop": (video.resnet.frontend3D, lambda x: x[:1, :4, :3, :6, :6]),
    }
    for number, layer in enumerate(encoder.layers):
        listed[f"encoder.layer{number}_out"] = (layer, torch.clone)
    for number in (1, 2, 3, 4):
        stage = video.resnet.trunk.get_submodule(f"layer{number}")
        listed[f"resnet.layer{number}_spatial_mean"] = (stage, lambda x: x.mean((2, 3)))
    return listed


@contextmanager
def watched(built: AvHubert) -> Iterator[dict[str, Tensor]]:
    """What the stages give while this is open."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, stored: Callable[[Tensor], Tensor]) -> Callable[..., None]:
        return lambda _, __, out: seen.update({name: stored(out)})

    hooks = [
        module.register_forward_hook(keep(name, stored))
        for name, (module, stored) in stages(built).items()
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def everything(built: AvHubert, given: dict, cases: Iterable[str] = CASES) -> dict[str, Tensor]:
    """All values of some cases, under the names of the sets."""
    found: dict[str, Tensor] = {}
    for case in cases:
        with watched(built) as seen:
            seen["extract_finetune"] = built(**{name: given[name] for name in CASES[case]})
        found |= {f"{case}/{name}": value for name, value in seen.items()}
    return found


def distances(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """The greatest difference of each stored value; those that are not made are left out."""
    return {
        name: float((found[name] - value).abs().max())
        for name, value in wanted.items()
        if name in found
    }


def refuse_far(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in wanted.items():
        if name in found:
            torch.testing.assert_close(
                found[name].to(value.dtype), value, **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("kind", KINDS)
def test_every_value(kind: str) -> None:
    built, wanted, given = golden(PLAIN, kind), outputs(PLAIN, kind), inputs()
    found = everything(built, given)
    refuse_far(found, wanted)
    assert wanted.keys() - found.keys() == {"both_padmask/padding_mask_out"}
    built.set_attention("eager")
    refuse_far({"both_padmask/extract_finetune": built(**_padded(given))}, wanted)


def _padded(given: dict) -> dict:
    return {name: given[name] for name in CASES["both_padmask"]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_architecture_is_the_same_in_float64(kind: str) -> None:
    """What is left is the authors' own rounding, below a fifth of the tolerance."""
    given = {n: v.double() if n in ("video", "audio") else v for n, v in inputs().items()}
    found = everything(golden(PLAIN, kind).double(), given, ["video_only", "audio_only"])
    far = distances(found, outputs(PLAIN, kind))
    assert len(far) == 20
    assert max(far.values()) < 4e-5, far


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_with_lora(kind: str) -> None:
    built, wanted = golden(LORA, kind, "attached_"), outputs(LORA, f"attached_{kind}")
    assert built.config.lora_rank == 4
    given = inputs(LORA)
    found = everything(built, given)
    refuse_far(found, wanted)
    zeroed = "video_only/extract_finetune_lora_zeroed"
    assert wanted.keys() - found.keys() == {"both_padmask/padding_mask_out", zeroed}
    without = {"video_only/extract_finetune": wanted[zeroed]}
    assert distances(found, without)["video_only/extract_finetune"] > 1.0
    merged = merge_lora(built)
    assert not [name for name in merged.state_dict() if "lora" in name]
    assert merged.config.lora_rank is None
    refuse_far(everything(merged, given), wanted)


def test_every_value_without_effect() -> None:
    """The authors' own LoRA class returns before its branches: it equals the model without them."""
    plain = golden(LORA, "lnfirst_large", "attached_")
    state = {name: value for name, value in plain.state_dict().items() if "lora" not in name}
    built = AvHubert(AvHubertConfig(**plain.config.to_dict() | {"lora_rank": None})).eval()
    load_published(built, state, where=LORA)
    found = everything(built, inputs(LORA))
    wanted = outputs(LORA, "class_lora_lnfirst_large")
    refuse_far(found, wanted)
    zeroed = outputs(LORA, "attached_lnfirst_large")["video_only/extract_finetune_lora_zeroed"]
    refuse_far(found, {"video_only/extract_finetune": zeroed})
    assert len(distances(found, wanted)) == 20


@torch.no_grad()
def test_lora_merges_exactly() -> None:
    built = golden(LORA, "lnfirst_large", "attached_").double()
    audio = inputs(LORA)["audio"].double()
    before = built(audio=audio)
    after = merge_lora(built)(audio=audio)
    torch.testing.assert_close(after, before, atol=1e-12, rtol=1e-12)


Change = Callable[[AvHubert, pytest.MonkeyPatch], None]


def _swap_streams(_: AvHubert, patch: pytest.MonkeyPatch) -> None:
    fused = model._side_by_side
    patch.setattr(model, "_side_by_side", lambda heard, seen: fused(seen, heard))


def _drop_first_frame(_: AvHubert, patch: pytest.MonkeyPatch) -> None:
    def forward(own: transformer.PositionalConvolution, x: Tensor) -> Tensor:
        places = functional.conv1d(turned(x), own.weight, own.bias, padding=64, groups=own.groups)
        return turned(functional.gelu(places[:, :, 1:]))

    patch.setattr(transformer.PositionalConvolution, "forward", forward)


def _silence_for_absence(built: AvHubert, patch: pytest.MonkeyPatch) -> None:
    fused, silence = model._side_by_side, built.feature_extractor_audio

    def silent(heard: Tensor | None, seen: Tensor | None) -> Tensor:
        if heard is None and seen is not None:
            heard = silence(torch.zeros(*seen.shape[:2], built.config.audio_features))
        return fused(heard, seen)

    patch.setattr(model, "_side_by_side", silent)


def _norm_the_other_way(built: AvHubert, _: pytest.MonkeyPatch) -> None:
    for part in (built.encoder, *built.encoder.layers):
        part.norm_first = not part.norm_first


def _gain_by_channel(_: AvHubert, patch: pytest.MonkeyPatch) -> None:
    def weight(own: transformer.PositionalConvolution) -> Tensor:
        return own.weight_g * own.weight_v / own.weight_v.norm(dim=(1, 2), keepdim=True)

    patch.setattr(transformer.PositionalConvolution, "weight", property(weight))


def _approximate_gelu(_: AvHubert, patch: pytest.MonkeyPatch) -> None:
    exact = functional.gelu
    patch.setattr(functional, "gelu", lambda x: exact(x, approximate="tanh"))


def _forget_running_statistics(built: AvHubert, _: pytest.MonkeyPatch) -> None:
    for part in built.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
            part.reset_running_stats()


def _forget_mask(_: AvHubert, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transformer, "_added_to_scores", lambda *_: None)


def _scale_lora_after(built: AvHubert, _: pytest.MonkeyPatch) -> None:
    """The update is added after the head scaling."""
    for layer in built.encoder.layers:
        layer.self_attn.lora_scale /= layer.self_attn.scaling


MISTAKES: dict[Change, tuple[str, str]] = {
    _swap_streams: (PLAIN, "both/fused_layer_norm_out"),
    _drop_first_frame: (PLAIN, "audio_only/encoder.pos_conv_out"),
    _silence_for_absence: (PLAIN, "video_only/fused_layer_norm_out"),
    _norm_the_other_way: (PLAIN, "audio_only/encoder.layer0_out"),
    _gain_by_channel: (PLAIN, "audio_only/encoder.pos_conv_out"),
    _approximate_gelu: (PLAIN, "audio_only/extract_finetune"),
    _forget_running_statistics: (PLAIN, "video_only/resnet_out"),
    _forget_mask: (PLAIN, "both_padmask/extract_finetune"),
    _scale_lora_after: (LORA, "audio_only/encoder.layer0_out"),
}


@torch.no_grad()
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda change: change.__name__[1:])
def test_a_mistake_would_be_seen(mistake: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trap of the architecture moves a value beyond the tolerance."""
    folder, name = MISTAKES[mistake]
    prefix = "attached_" if folder == LORA else ""
    built, wanted = golden(folder, KINDS[0], prefix), outputs(folder, prefix + KINDS[0])
    case, stage = name.split("/")
    given = {key: value for key, value in inputs(folder).items() if key in CASES[case]}
    mistake(built, monkeypatch)
    with watched(built) as seen:
        seen["extract_finetune"] = built(**given)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(seen[stage], wanted[name], **TOLERANCE)


def test_the_rule_gives_the_weights() -> None:
    published = json.loads(shared("golden/avhubert_large_keys.json").read_text())["keys"]
    front = {name: shape for name, shape, _ in published if ".resnet." in name}
    assert {name: list(value.shape) for name, value in resnet().items()} == front
    assert sum(v.numel() for v in resnet().values() if v.is_floating_point()) > 11_170_816
