"""A record as TransformerLens names it: tensors under its hook names, with its order of axes.

The mapping behaves like TransformerLens's ``ActivationCache`` where that needs no model: names or
``(name, layer)`` as keys. ``ActivationCache(dict(cache), bridge)`` makes one of it.

Example:
    >>> short_name("pattern", 3), short_name("mlp_act", 0)
    ('blocks.3.attn.hook_pattern', 'blocks.0.mlp.hook_post')
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sinkscope.errors import InputError, SiteError
from sinkscope.glossary import SITES
from sinkscope.record import Record

__all__ = ["TransformerLensCache", "short_name", "to_transformer_lens"]

_PLAIN = {"q": "blocks.{layer}.attn.hook_q", "k": "blocks.{layer}.attn.hook_k"}
_OWN: dict[str, dict[str, str]] = {
    "gpt2": _PLAIN,
    "opt": {"q": "", "k": "blocks.{layer}.attn.hook_k"},
    "jamba": {"q": "", "k": ""},
    **{name: _PLAIN | {"z": ""} for name in ("deepseek_v2", "deepseek_v3")},
    **{name: {"z": ""} for name in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")},
    **{name: {"q": "", "k": "", "v": ""} for name in ("gemma4_text", "gemma4_unified_text")},
}
"""What a family's sites are called where they are not called as usual; "" for what has no name.

GPT-2 and OPT rotate nothing. OPT's queries enter attention multiplied by its scaling, and
TransformerLens shows them before it; of Jamba's it is not known. DeepSeek's ``hook_rot_q`` and
``hook_rot_k`` are the rotated part alone, and its ``hook_z`` has other axes than its name says.
Qwen's hybrids multiply ``hook_z`` by a gate, and Gemma 4's values are shown before their norm.
"""
_HEADS_FIRST = ("deepseek_v2", "deepseek_v3")
"""Families whose queries, keys and values are ``(batch, head, pos, d_head)`` there."""
_CROSSING = ("whisper_decoder",)
_PER_HEAD = ("q", "k", "v", "z")


class TransformerLensCache(Mapping[str, Tensor]):
    """What a record kept, by TransformerLens's names.

    Attributes:
        left_out: kept sites for which TransformerLens has no name.
        n_layers: blocks of the model.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], *, n_layers: int, left_out: Sequence[str] = ()
    ) -> None:
        self._tensors = dict(tensors)
        self.n_layers = n_layers
        self.left_out = tuple(left_out)

    def __getitem__(self, key: str | tuple[str, int]) -> Tensor:
        """A tensor by its full name, or by ``(name, layer)``; a layer below 0 counts from the end.

        Raises:
            SiteError: if the record did not keep it.
        """
        name = key if isinstance(key, str) else self._named(key)
        if name not in self._tensors:
            kept = ", ".join(sorted({one.rpartition(".")[2] for one in self._tensors}))
            raise SiteError(
                f"The record kept no {key!r} ({name}); it has {kept or 'nothing'}: record again "
                "with keep=[that site]."
            )
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        return (self._named(key) if isinstance(key, tuple) else key) in self._tensors

    def __repr__(self) -> str:
        return f"TransformerLensCache({len(self)} activations of {self.n_layers} layers)"

    def stack_activation(self, name: str, layer: int = -1) -> Tensor:
        """One activation of all layers, stacked on a new first axis.

        Args:
            name: short, as in ``("resid_pre", 3)``.
            layer: up to which layer, without it; -1 for all.

        Raises:
            SiteError: if a layer was not kept.
        """
        count = self.n_layers if layer == -1 else layer
        return torch.stack([self[name, one] for one in range(count)])

    def _named(self, key: tuple[Any, ...]) -> str:
        name, layer = key[0], int(key[1])
        number = layer + self.n_layers if layer < 0 else layer
        given = short_name(name, number)
        plain = given.replace("hook_rot_", "hook_")
        return given if given in self._tensors or plain not in self._tensors else plain


def short_name(name: str, layer: int) -> str:
    """The full name of a short one of TransformerLens, or of a site of ours.

    Raises:
        SiteError: if neither knows it.
    """
    if name in SITES and SITES[name].transformer_lens:
        return SITES[name].transformer_lens.format(layer=layer)
    for site in SITES.values():
        if site.transformer_lens.rpartition("hook_")[2] == name:
            return site.transformer_lens.format(layer=layer)
    raise SiteError(f"TransformerLens has no activation {name!r} that a record can hold.")


def to_transformer_lens(record: Record) -> TransformerLensCache:
    """What a record kept, as a mapping with TransformerLens's names and order of axes.

    States are ``(batch, pos, d_model)``, queries, keys, values and ``z`` ``(batch, pos, head,
    d_head)`` with as many heads as the model has of them, attention maps ``(batch, head, query_pos,
    key_pos)``; all float32 on the CPU, whatever the model computed in. Queries and keys are those
    that enter attention: ``hook_rot_q`` and ``hook_rot_k``, or ``hook_q`` and ``hook_k`` in a
    family without rotary embedding and in DeepSeek's, whose bridges have the head before ``pos``.

    Args:
        record: of samples of one length, with sites that were kept.

    Returns:
        The mapping. Layers that were not kept are not in it, and what TransformerLens has no name
        for (experts, OPT's scaled queries), or names otherwise, is in ``left_out``.

    Raises:
        InputError: samples of several lengths, which a record pads and a cache cannot show; an
            encoder, or a decoder with cross-attention, whose blocks TransformerLens names
            otherwise.
        SiteError: the record kept nothing.
    """
    _refuse(record)
    kept = [site for site in SITES if site in record]
    named = [site for site in kept if _pattern(site, record)]
    if not named:
        raise SiteError(
            "to_transformer_lens: the record kept no activations; record again with keep=, such as "
            "keep=['resid_post', 'pattern']."
        )
    tensors: dict[str, Tensor] = {}
    for site in named:
        array = record[site].transpose("layer", "sample", ...)
        for layer, values in zip(array["layer"].values.tolist(), array.values, strict=True):
            name = _pattern(site, record).format(layer=layer)
            tensors[name] = _ordered(site, values, record)
    left = [site for site in kept if site not in named]
    return TransformerLensCache(tensors, n_layers=int(record.provenance["n_layers"]), left_out=left)


def _refuse(record: Record) -> None:
    lengths = sorted({len(layout) for layout in record.layouts})
    if len(lengths) > 1:
        raise InputError(
            f"to_transformer_lens: the samples have {', '.join(map(str, lengths))} tokens, and a "
            "cache has no padding; give record.sample(i), one after the other."
        )
    if record.provenance.get("causal") is not True:
        raise InputError(
            "to_transformer_lens: the record is of an encoder (or does not say what of), whose "
            "blocks TransformerLens names otherwise; give one of a language model."
        )
    if "cross_out" in record or record.provenance.get("family") in _CROSSING:
        raise InputError(
            "to_transformer_lens: the record is of a decoder with cross-attention, whose blocks "
            "TransformerLens names otherwise; give one of a language model."
        )


def _pattern(site: str, record: Record) -> str:
    """What TransformerLens calls a site of this model, with a place for the layer; "" for none."""
    own = _OWN.get(str(record.provenance.get("family")), {})
    return own.get(site, SITES[site].transformer_lens)


def _ordered(site: str, values: np.ndarray, record: Record) -> Tensor:
    """One layer's values in TransformerLens's order; a narrower layer loses its padding."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if site not in _PER_HEAD:
        return tensor
    real = ~tensor.isnan()
    heads, width = int(real.any((0, 2, 3)).sum()), int(real.any((0, 1, 2)).sum())
    tensor = tensor[:, :heads, :, :width]
    if record.provenance.get("family") in _HEADS_FIRST:
        return tensor.contiguous()
    return tensor.transpose(1, 2).contiguous()
