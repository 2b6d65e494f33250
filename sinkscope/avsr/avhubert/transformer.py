"""AV-HuBERT's transformer: convolutional positions, then layers that normalise first or last.

Attention goes through transformers' attention interface, so that what watches it there sees it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sinkscope.avsr.avhubert.config import AvHubertConfig

__all__ = ["Attention", "Layer", "PositionalConvolution", "Transformer", "named_as_published"]

EPS = 1e-5


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 where that is given."""
    return torch.promote_types(dtype, torch.float32)


def eager_attention_forward(
    module: nn.Module,
    query: Float[Tensor, "sample head query feature"],
    key: Float[Tensor, "sample head key feature"],
    value: Float[Tensor, "sample head key feature"],
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Plain attention: output ``(sample, query, head, feature)`` and the weights."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = functional.softmax(scores, dim=-1, dtype=wide(scores.dtype)).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class Attention(nn.Module):
    """Attention of every frame to every frame, with LoRA on queries and values where it is there.

    Attributes:
        implementation: a key of transformers' table of attention functions, or ``"eager"``.
    """

    is_causal = False

    def __init__(self, config: AvHubertConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scaling = (config.width // config.heads) ** -0.5
        self.lora_scale = config.lora_scale
        self.implementation = "sdpa"
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)
        self.has_lora = config.lora_rank is not None
        if config.lora_rank is not None:
            self.lora_down_Q = nn.Linear(config.width, config.lora_rank, bias=False)
            self.lora_up_Q = nn.Linear(config.lora_rank, config.width, bias=False)
            self.lora_down_V = nn.Linear(config.width, config.lora_rank, bias=False)
            self.lora_up_V = nn.Linear(config.lora_rank, config.width, bias=False)
            nn.init.zeros_(self.lora_down_Q.weight)
            nn.init.zeros_(self.lora_down_V.weight)

    def forward(
        self, x: Float[Tensor, "sample frame width"], mask: Tensor | None
    ) -> Float[Tensor, "sample frame width"]:
        """What each frame gathers; ``mask`` is added to the scores."""
        query, value = self.q_proj(x), self.v_proj(x)
        if self.has_lora:
            query = query + self.lora_scale * self.lora_up_Q(self.lora_down_Q(x))
            value = value + self.lora_scale * self.lora_up_V(self.lora_down_V(x))
        query, key, value = (
            rearrange(part, "s f (h d) -> s h f d", h=self.heads)
            for part in (query, self.k_proj(x), value)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get(self.implementation, eager_attention_forward)
        gathered, _ = attend(
            self, query, key, value, mask, scaling=self.scaling, dropout=0.0, is_causal=False
        )
        return self.out_proj(rearrange(gathered, "s f h d -> s f (h d)"))


class Layer(nn.Module):
    """Attention and a feed-forward net, each added to its input; normalised before or after."""

    def __init__(self, config: AvHubertConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.self_attn = Attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.width, eps=EPS)
        self.fc1 = nn.Linear(config.width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.width)
        self.final_layer_norm = nn.LayerNorm(config.width, eps=EPS)

    def forward(
        self, x: Float[Tensor, "sample frame width"], mask: Tensor | None = None
    ) -> Float[Tensor, "sample frame width"]:
        """The layer's output."""
        if self.norm_first:
            x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
            return x + self._net(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self.self_attn(x, mask))
        return self.final_layer_norm(x + self._net(x))

    def _net(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x).to(wide(x.dtype))).to(x.dtype))


class PositionalConvolution(nn.Module):
    """A weight-normed convolution over frames, whose output says where a frame stands.

    The norm has one gain for each place of the kernel, shape (1, 1, kernel), under the published
    names ``weight_g`` and ``weight_v``.
    """

    def __init__(self, config: AvHubertConfig) -> None:
        super().__init__()
        self.groups = config.position_groups
        kernel = config.positions
        shape = (config.width, config.width // self.groups, kernel)
        direction = torch.randn(shape) * (4 / (kernel * config.width)) ** 0.5
        self.weight_g = nn.Parameter(direction.norm(dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(direction)
        self.bias = nn.Parameter(torch.zeros(config.width))

    @property
    def weight(self) -> Float[Tensor, "width width_in kernel"]:
        """The kernel, folded in float32 at least."""
        dtype = wide(self.weight_v.dtype)
        gain, direction = self.weight_g.to(dtype), self.weight_v.to(dtype)
        return gain * direction / direction.norm(dim=(0, 1), keepdim=True)

    def forward(
        self, x: Float[Tensor, "sample frame width"]
    ) -> Float[Tensor, "sample frame width"]:
        """As many frames as came in: an even kernel makes one more, and the last is dropped."""
        kernel = self.weight.to(x.dtype)
        places = functional.conv1d(
            x.transpose(1, 2), kernel, self.bias, padding=kernel.shape[-1] // 2, groups=self.groups
        )
        if kernel.shape[-1] % 2 == 0:
            places = places[:, :, :-1]
        return functional.gelu(places).transpose(1, 2)


class Transformer(nn.Module):
    """Positions and layers.

    Args:
        config: the sizes.
    """

    def __init__(self, config: AvHubertConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.pos_conv = nn.Sequential(PositionalConvolution(config))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.width, eps=EPS)

    def forward(
        self,
        x: Float[Tensor, "sample frame width"],
        mask: Bool[Tensor, "sample frame"] | None = None,
        *,
        output_layer: int | None = None,
    ) -> Float[Tensor, "sample frame width"]:
        """The last layer's output, or that of layer ``output_layer`` (from 1), not normalised."""
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        x = x + self.pos_conv(x)
        if not self.norm_first:
            x = self.layer_norm(x)
        hidden = _added_to_scores(mask, x.dtype)
        for layer in self.layers[:output_layer]:
            x = layer(x, hidden)
        return self.layer_norm(x) if self.norm_first and output_layer is None else x


def _added_to_scores(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """0 for real frames, very low for padding, shape (sample, 1, frame, frame); None for none."""
    if mask is None or bool(mask.all()):
        return None
    row = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    row.masked_fill_(~mask, torch.finfo(dtype).min)
    return row[:, None, None, :].expand(-1, 1, mask.shape[1], -1)


def named_as_published(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A state dict with the published names of the positional kernel.

    Newer weight-norm names are renamed; a folded kernel is split into direction and gain, the
    gain in float32. What would take a name that is there already stays as it is.

    Args:
        state: tensors by name.
        prefix: what the kernel's names begin with.
    """
    named = dict(state)
    for theirs, ours in _NEWER.items():
        if prefix + theirs in named and prefix + ours not in named:
            named[prefix + ours] = named.pop(prefix + theirs)
    if prefix + "weight" in named and not {prefix + ours for ours in _NEWER.values()} & set(named):
        kernel = named.pop(prefix + "weight")
        gain = kernel.to(wide(kernel.dtype)).norm(dim=(0, 1), keepdim=True)
        named |= {prefix + "weight_v": kernel, prefix + "weight_g": gain}
    return named


_NEWER = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
