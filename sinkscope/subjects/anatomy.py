"""The anatomy of a loaded model: which module to hook for which site. Depends on the family table.

Example:
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, vocab_size=11)
    >>> anatomy = anatomy_of(LlamaForCausalLM(config))
    >>> anatomy.family, anatomy.n_layers, anatomy.d_head
    ('llama', 1, 4)
    >>> anatomy.tap("mlp_act", 0).where
    'input'
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from sinkscope.errors import SiteError
from sinkscope.glossary import SITES
from sinkscope.subjects.block_parts import attention_in, first_layer_config, part_of, query_width
from sinkscope.subjects.expert_sites import EXPERT_SITES, expert_absence, expert_tap
from sinkscope.subjects.families import families, families_table
from sinkscope.subjects.family import Family
from sinkscope.subjects.finding import find_decoder, submodule
from sinkscope.subjects.taps import (
    Tap,
    first_input,
    first_output,
    half_of_output,
    multiplied_output,
    one_stream,
    put_half,
    put_input,
    put_multiplied,
    put_output,
    put_stream,
)

__all__ = [
    "ATTENTION_SITES",
    "Anatomy",
    "Family",
    "Tap",
    "anatomy_of",
    "families",
    "families_table",
]

ATTENTION_SITES = ("q", "k", "v", "z", "pattern")
"""Sites that no hook reads: they pass through transformers' attention interface."""

_GATED = ("mlp_gate", "mlp_up")
_INSIDE_MLP = (*_GATED, "mlp_act")


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Where everything is in one loaded model.

    Attributes:
        family: ``config.model_type`` of the decoder.
        n_layers: number of blocks.
        n_heads: query heads.
        n_kv_heads: key-value heads; of the first block where blocks differ (Gemma 4).
        d_model: features of the residual stream.
        d_head: features of a head's queries; likewise.
        decoder: the module whose forward receives ``input_ids`` or ``inputs_embeds``,
            ``attention_mask``, ``position_ids`` and ``past_key_values``; of an encoder, the module
            that runs the blocks.
        blocks: the blocks in order.
        attention: for each block, the module that is handed to the attention interface, or None
            where another mixer stands in its place; empty where no block has attention.
        row: the family's row of the table.
    """

    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    decoder: nn.Module
    blocks: tuple[nn.Module, ...]
    attention: tuple[nn.Module | None, ...]
    row: Family

    @property
    def config(self) -> Any:
        """The decoder's configuration, or None where it has none."""
        return getattr(self.decoder, "config", None)

    @property
    def attn_implementation(self) -> str:
        """The attention function now in use: "eager" or a key of ``ALL_ATTENTION_FUNCTIONS``.

        "none" where the blocks have no attention.
        """
        first = next((module for module in self.attention if module is not None), None)
        if first is None:
            return "none"
        own = getattr(first, "implementation", None)
        if own is not None:
            return str(own)
        config: Any = getattr(first, "config", None) or self.config
        return config._attn_implementation or "eager"

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The layers that have attention: all of them but in hybrids."""
        return tuple(i for i, module in enumerate(self.attention) if module is not None)

    def mixer(self, layer: int) -> nn.Module | None:
        """What stands in the place of attention in a layer that has none; None where it has."""
        if not self.attention or self.attention[layer] is not None or self.row.mixer is None:
            return None
        return submodule(self.blocks[layer], self.row.mixer)

    @property
    def causal(self) -> bool:
        """Whether a query sees the keys up to itself only, as in a decoder."""
        return self.row.causal

    def reads(self, site: str) -> bool:
        """Whether the model's blocks have a site at all; `tap` says what a layer lacks."""
        if site in ATTENTION_SITES:
            return bool(self.attention_layers)
        if site in EXPERT_SITES:
            return any(self._has(site, block) for block in self.blocks)
        listed = self.row.sites is None or site in self.row.sites
        return listed and (site != "cross_out" or bool(self.row.cross_out))

    def layers_of(self, site: str) -> tuple[int, ...]:
        """The layers that are read where nobody names any: those that have a site.

        In hybrids some layers have no attention, and some no experts. Of every other site all
        layers are named, so that one that lacks it is an error.
        """
        chosen = range(self.n_layers)
        if site in ATTENTION_SITES:
            chosen = self.attention_layers
        if site in EXPERT_SITES:
            chosen = [i for i, block in enumerate(self.blocks) if self._has(site, block)]
        return tuple(chosen) or tuple(range(self.n_layers))

    def _has(self, site: str, block: nn.Module) -> bool:
        return not expert_absence(site, block, self.row)

    def attention_of(self, site: str, layer: int) -> nn.Module:
        """The module at whose attention a site of ``ATTENTION_SITES`` is read.

        Raises:
            SiteError: if the blocks, or this one, have no attention.
        """
        if not self.attention:
            why = getattr(self.row, "maps_why", "") or f"a {self.family} block has no attention"
            raise SiteError(
                f"{why[0].upper()}{why[1:]}, so there is no {site!r}; its sites are "
                f"{', '.join(self.sites())}."
            )
        found = self.attention[layer]
        if found is None:
            raise SiteError(
                f"Layer {layer} of this {self.family} has no attention but "
                f"{type(self.mixer(layer)).__name__}, so there is no {site!r}; the layers with "
                f"attention are {', '.join(map(str, self.attention_layers)) or 'none'}."
            )
        return found

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP of a block read the same stream."""
        field = self.row.parallel
        return bool(getattr(self.config, field)) if isinstance(field, str) else field

    def sites(self) -> tuple[str, ...]:
        """The sites that `tap` reads in every layer, in the glossary's order."""
        return tuple(
            site
            for site in SITES
            if all(not self.absence(site, layer) for layer in range(self.n_layers))
        )

    def tap(self, site: str, layer: int) -> Tap:
        """Where to read a site of the residual stream or of the MLP.

        Args:
            site: a word of ``glossary.SITES``.
            layer: 0-based index of the block.

        Raises:
            SiteError: the layer is out of range, or the family has no such site; it says why.
        """
        if not 0 <= layer < self.n_layers:
            raise SiteError(
                f"{self.family} has no layer {layer}; its layers are 0 to {self.n_layers - 1}."
            )
        reason = self.absence(site, layer)
        if reason:
            raise SiteError(f"Site {site!r} cannot be tapped in layer {layer}: {reason}.")
        return self._tap(site, self.blocks[layer])

    def absence(self, site: str, layer: int) -> str:
        """Why a site cannot be tapped in a layer; "" where it can."""
        if site not in SITES:
            return f"there is no such site; use one of {', '.join(SITES)}"
        if site in ATTENTION_SITES:
            return "it is read at the attention interface, by a probe"
        if site in EXPERT_SITES:
            return expert_absence(site, self.blocks[layer], self.row)
        if self.row.sites is not None and site not in self.row.sites:
            why = f": it {self.row.also}" if self.row.also else ""
            return f"a {self.family} block has the sites {', '.join(self.row.sites)} only{why}"
        if site == "cross_out" and not self.row.cross_out:
            return f"{self.family} has no cross-attention"
        if site == "resid_mid" and self.parallel:
            return f"attention and MLP of {self.family} read the same stream (a parallel block)"
        if site in _GATED and self.row.gate is None:
            return f"the MLP of {self.family} has no gate; mlp_act is there"
        if site in _INSIDE_MLP and submodule(self.blocks[layer], self.row.down) is None:
            return f"{self.family} computes its experts in fused parameters, which no hook can see"
        return ""

    def down_projection(self, layer: int) -> nn.Module | None:
        """The module whose input is ``mlp_act``; None where ``absence`` says why there is none."""
        absent = self.absence("mlp_act", layer)
        return None if absent else submodule(self.blocks[layer], self.row.down)

    def _tap(self, site: str, block: nn.Module) -> Tap:
        row = self.row
        if site in EXPERT_SITES:
            return expert_tap(site, block, row)
        if site in ("resid_pre", "resid_post"):
            return self._tap_stream(site, block)
        if site in ("resid_mid", "mlp_act"):
            path = row.resid_mid if site == "resid_mid" else row.down
            put = None if site == "resid_mid" else put_input
            return Tap(part_of(block, path, row), "input", first_input, path in row.flat, put)
        path = {
            "attn_out": row.attn_out if submodule(block, row.attention) else row.mixer or "",
            "mlp_gate": row.gate or "",
            "mlp_up": row.up or "",
        }.get(site, getattr(row, site, ""))
        select, put = self._output(site, block)
        return Tap(part_of(block, path, row), "output", select, path in row.flat, put)

    def _tap_stream(self, site: str, block: nn.Module) -> Tap:
        """The stream before or after a block; of several, the one that its parts read."""
        where = "input" if site == "resid_pre" else "output"
        select, put = (first_input, put_input) if where == "input" else (first_output, put_output)
        if self.row.active is None:
            return Tap(block, where, select, "" in self.row.flat, put)
        index = int(getattr(self.config, self.row.active))
        return Tap(
            block,
            where,
            partial(one_stream, select=select, index=index),
            put=partial(put_stream, select=select, put=put, index=index),
        )

    def _output(
        self, site: str, block: nn.Module
    ) -> tuple[Callable[[Any], Tensor], Callable[[Any, Tensor], Any]]:
        """How a site is read from a module's output, and written there."""
        if site in _GATED and self.row.gate == self.row.up:
            half = _GATED.index(site)
            return partial(half_of_output, half=half), partial(put_half, half=half)
        if site in ("attn_out", "mlp_out") and self.row.multiplier:
            by = getattr(block, self.row.multiplier)
            return partial(multiplied_output, by=by), partial(put_multiplied, by=by)
        return first_output, put_output


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy of a loaded model, which may be wrapped (by PEFT) or be part of a larger one.

    Raises:
        UnknownFamilyError: if the model's family is not in the table, its code is not that of
            transformers, or a field of its configuration changes a formula.
    """
    decoder, row, blocks = find_decoder(model)
    config: Any = decoder.config
    first: Any = first_layer_config(config)
    heads = int(first.num_attention_heads)
    attention = tuple(attention_in(block, row) for block in blocks)
    return Anatomy(
        family=row.model_type,
        n_layers=len(blocks),
        n_heads=heads,
        n_kv_heads=int(getattr(first, "num_key_value_heads", None) or heads),
        d_model=int(config.hidden_size),
        d_head=query_width(attention, first) or config.hidden_size // heads,
        decoder=decoder,
        blocks=tuple(blocks),
        attention=attention,
        row=row,
    )
