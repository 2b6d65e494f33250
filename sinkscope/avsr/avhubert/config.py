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
        for parts, number in (("heads", self.heads), ("position groups", self.position_groups)):
            if number < 1 or self.width % number:
                raise CheckpointError(
                    f"AV-HuBERT: a width of {self.width} does not divide into {number} {parts}; "
                    f"give the number of {parts} of the checkpoint's configuration."
                )

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AvHubertConfig":
        """Reads what `to_dict` wrote.

        Raises:
            CheckpointError: an unknown field, or a value of another kind.
        """
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise CheckpointError(
                f"AV-HuBERT's configuration has unknown fields ({', '.join(unknown)}); remove them."
            )
        return _made(values)


def _made(values: Mapping[str, Any]) -> AvHubertConfig:
    """The configuration, where every value is of its field's kind."""
    for name, value in values.items():
        if name == "norm_first":
            wanted, right = "true or false", isinstance(value, bool)
        elif name == "lora_scale":
            wanted, right = "a number", type(value) in (float, int)
        else:
            wanted, right = "a whole number above 0", type(value) is int and value > 0
        if not right and (name, value) != ("lora_rank", None):
            raise CheckpointError(
                f"AV-HuBERT's configuration has {name} = {value!r}; it must be {wanted}."
            )
    return AvHubertConfig(**values)


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
    return _made({ours: cfg[theirs] for ours, theirs in names.items()})


def infer_config(
    state: Mapping[str, Any], *, norm_first: bool | None = None, heads: int | None = None
) -> AvHubertConfig:
    """What the shapes of a published state dict tell; the two arguments are what they don't.

    Args:
        state: tensors (or anything with a shape) by published names.
        norm_first: see `AvHubertConfig`; True for Large, False for Base.
        heads: attention heads; None for width / 64, as published.

    Raises:
        CheckpointError: the names and shapes are not those of an AV-HuBERT, or they leave open
            what an argument must say.
    """
    width, _ = _shape(state, "post_extract_proj.weight", axes=2)
    ffn, _ = _shape(state, "encoder.layers.0.fc1.weight", axes=2)
    _, audio = _shape(state, "feature_extractor_audio.proj.weight", axes=2)
    _, inputs, positions = _shape(state, *_KERNEL, axes=3)
    rank = None
    if _DOWN in state:
        rank, _ = _shape(state, _DOWN, axes=2)
    return AvHubertConfig(
        layers=len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")}),
        width=width,
        ffn=ffn,
        heads=_heads(width) if heads is None else heads,
        norm_first=_told(norm_first, width),
        audio_features=audio,
        positions=positions,
        position_groups=width // inputs,
        lora_rank=rank,
    )


_KERNEL = tuple(
    f"encoder.pos_conv.0.{name}"
    for name in ("weight_v", "weight", "parametrizations.weight.original1")
)
_DOWN = "encoder.layers.0.self_attn.lora_down_Q.weight"


def _shape(state: Mapping[str, Any], *names: str, axes: int) -> tuple[int, ...]:
    """The shape of the first of some tensors that is there."""
    found = next((state[name] for name in names if name in state), None)
    if found is None or len(found.shape) != axes or 0 in found.shape:
        fault = "is missing" if found is None else f"has shape {tuple(found.shape)}"
        raise CheckpointError(
            f"These weights are no AV-HuBERT's: {names[0]} {fault}; name the encoder's checkpoint."
        )
    return tuple(map(int, found.shape))


def _heads(width: int) -> int:
    if width % HEAD_WIDTH:
        raise CheckpointError(
            f"The weights of this AV-HuBERT ({width} wide) don't tell its number of attention "
            "heads; give heads, as the checkpoint's configuration has it."
        )
    return width // HEAD_WIDTH


def _told(norm_first: bool | None, width: int) -> bool:
    if norm_first is None:
        raise CheckpointError(
            f"The weights of this AV-HuBERT ({width} wide) don't tell whether its layers normalise "
            "their input or their output; give norm_first: True for Large, False for Base, or what "
            "the checkpoint's configuration says of layer_norm_first."
        )
    return norm_first
