"""The sizes of an AV-HuBERT, and what a published state dict tells of them. No torch.

Sources: arXiv 2201.02184; the configuration ``large_vox_iter5``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sinkscope.errors import CheckpointError

__all__ = ["AvHubertConfig", "config_from_fairseq", "infer_config"]

HEAD_WIDTH = 64
"""Features of a head in both published sizes."""


@dataclass(frozen=True)
class AvHubertConfig:
    """Sizes of an AV-HuBERT; the defaults are those of Large.

    Attributes:
        layers: transformer layers.
        width: features of a frame.
        ffn: units of a layer's feed-forward net.
        heads: attention heads.
        norm_first: whether layers normalise their input (Large) or the sum they make (Base).
        audio_features: filterbank features of a frame: 26 bands, 4 frames stacked.
        positions: kernel of the convolution that tells positions apart.
        position_groups: its groups.
        lora_rank: rank of the LoRA branches on q and v; None where there are none.
        lora_scale: what their update is multiplied by.
    """

    layers: int = 24
    width: int = 1024
    ffn: int = 4096
    heads: int = 16
    norm_first: bool = True
    audio_features: int = 104
    positions: int = 128
    position_groups: int = 16
    lora_rank: int | None = None
    lora_scale: float | int = 2.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise CheckpointError(
                f"AV-HuBERT: a width of {self.width} does not divide into {self.heads} heads; "
                "give the number of heads of the checkpoint's configuration."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AvHubertConfig":
        """Reads what `to_dict` wrote.

        Raises:
            CheckpointError: an unknown field.
        """
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise CheckpointError(
                f"AV-HuBERT's configuration has unknown fields ({', '.join(unknown)}); remove them."
            )
        return cls(**values)


def config_from_fairseq(cfg: Mapping[str, Any]) -> AvHubertConfig:
    """The configuration in a published checkpoint's ``cfg``.

    Args:
        cfg: the ``model`` part of it, with fairseq's field names.

    Raises:
        CheckpointError: a field is missing, or one asks for a variant that is not built here.
    """
    names = {
        "layers": "encoder_layers",
        "width": "encoder_embed_dim",
        "ffn": "encoder_ffn_embed_dim",
        "heads": "encoder_attention_heads",
        "norm_first": "layer_norm_first",
        "audio_features": "audio_feat_dim",
        "positions": "conv_pos",
        "position_groups": "conv_pos_groups",
    }
    missing = sorted(set(names.values()) - cfg.keys())
    if missing:
        raise CheckpointError(
            f"The checkpoint's configuration lacks {', '.join(missing)}; is it AV-HuBERT's?"
        )
    wanted = {
        "modality_fuse": "concat",
        "resnet_relu_type": "prelu",
        "sub_encoder_layers": 0,
        "activation_fn": "gelu",
    }
    for name, value in wanted.items():
        if cfg.get(name, value) != value:
            raise CheckpointError(
                f"The checkpoint's configuration has {name} = {cfg[name]!r}; only {value!r}, which "
                "the published models have, is built here."
            )
    return AvHubertConfig(**{ours: cfg[theirs] for ours, theirs in names.items()})


def infer_config(
    state: Mapping[str, Any], *, norm_first: bool, heads: int | None = None
) -> AvHubertConfig:
    """What the shapes of a published state dict tell; the two arguments are what they don't.

    Args:
        state: tensors (or anything with a shape) by published names.
        norm_first: see `AvHubertConfig`; True for Large, False for Base.
        heads: attention heads; None for width / 64, as published.

    Raises:
        CheckpointError: the names are not those of an AV-HuBERT.
    """
    needed = ("post_extract_proj.weight", "encoder.layers.0.fc1.weight", "encoder.pos_conv.0.bias")
    missing = [name for name in needed if name not in state]
    if missing:
        raise CheckpointError(
            f"These weights are no AV-HuBERT's: {', '.join(missing)} is missing; name the "
            "encoder's checkpoint."
        )
    width = int(state["post_extract_proj.weight"].shape[0])
    audio = state.get("feature_extractor_audio.proj.weight")
    kernel = _kernel(state)
    down = state.get("encoder.layers.0.self_attn.lora_down_Q.weight")
    own = [name.split(".")[2] for name in state if name.startswith("encoder.layers.")]
    return AvHubertConfig(
        layers=1 + max(map(int, own)),
        width=width,
        ffn=int(state["encoder.layers.0.fc1.weight"].shape[0]),
        heads=heads or width // HEAD_WIDTH,
        norm_first=norm_first,
        audio_features=104 if audio is None else int(audio.shape[1]),
        positions=int(kernel[2]),
        position_groups=width // int(kernel[1]),
        lora_rank=None if down is None else int(down.shape[0]),
    )


def _kernel(state: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of the positional convolution's kernel, folded or not."""
    names = ("weight_v", "weight", "parametrizations.weight.original1")
    found = [state[key] for name in names if (key := f"encoder.pos_conv.0.{name}") in state]
    if not found:
        raise CheckpointError(
            "These weights are no AV-HuBERT's: encoder.pos_conv.0.weight_v is missing; name the "
            "encoder's checkpoint."
        )
    return tuple(found[0].shape)
