"""Mixtures of experts beside the blocks of any family that the anatomy table has."""

from torch import nn

from sinkscope.avsr.mome import MomeSettings, Places, attach_experts
from sinkscope.errors import InputError
from sinkscope.subjects.anatomy import anatomy_of
from sinkscope.subjects.family import Family

__all__ = ["attach_mome"]


def attach_mome(llm: nn.Module, settings: MomeSettings | None = None) -> nn.Module:
    """Put a mixture of experts (MoME, arXiv 2510.04136) beside every block, and freeze the rest.

    With the default ``up_init`` the model's outputs do not change, to the bit, until it is trained.
    The mixtures are the submodules ``mome`` of the blocks, so they are saved with the model.

    Args:
        llm: of a family that sinkscope knows; changed in place.
        settings: None for MoME-23/4 beside the attention.

    Returns:
        The model that was given.

    Raises:
        UnknownFamilyError: the family is not known.
        InputError: it has mixtures already, or its blocks are no plain sums of two parts.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> llm = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=12, vocab_size=11,
        ...     num_hidden_layers=1, num_attention_heads=2))
        >>> attach_mome(llm).model.layers[0].mome.router
        Linear(in_features=8, out_features=23, bias=False)
    """
    settings = settings or MomeSettings()
    anatomy = anatomy_of(llm)
    if anatomy.row.also or anatomy.row.mixer:
        raise InputError(
            f"attach_mome: a {anatomy.family} block is more than attention and MLP added one after "
            "the other, so it is not known where experts could stand beside them; take another LLM."
        )
    places = _places(anatomy.row, settings.placement, parallel=anatomy.parallel)
    times = getattr(anatomy.blocks[0], anatomy.row.multiplier) if anatomy.row.multiplier else 1
    if settings.placement == "layer":
        times = 1
    return attach_experts(
        llm,
        settings,
        blocks=anatomy.blocks,
        hidden_size=anatomy.d_model,
        places=Places(places.normalised, places.residual, places.output, times),
    )


def _places(row: Family, placement: str, *, parallel: bool) -> Places:
    """Where the experts of a family read and add; a parallel block's parts read one stream."""
    if placement == "layer":
        return Places(row.attention, "", "")
    if placement == "attention":
        return Places(row.attention, "", row.attn_out)
    inside = row.down.rpartition(".")[0] or "fc1"
    return Places(inside, "" if parallel else row.resid_mid, row.mlp_out)
