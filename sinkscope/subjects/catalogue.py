"""What can be studied, from the tables themselves: for ``sinkscope models`` and the README.

Example:
    >>> families_in_words("gpt_neox").partition(": ")[0]
    'gpt_neox'
"""

from sinkscope.errors import UnknownFamilyError
from sinkscope.glossary import SITES
from sinkscope.subjects.encoder_rows import EncoderRow, encoder_rows
from sinkscope.subjects.families import families, family
from sinkscope.subjects.family import Family
from sinkscope.subjects.multimodal.registry import composites
from sinkscope.subjects.multimodal.table import Composite

__all__ = [
    "encoders_of",
    "encoders_table",
    "families_in_words",
    "missing_sites",
    "multimodal_table",
    "unlisted",
]

_ATTENTION = ("q", "k", "v", "z", "pattern")
_EXPERTS = ("router", "expert_gates", "expert_out")


def missing_sites(row: Family) -> dict[str, str]:
    """The sites that no block of a family has, each with the reason.

    Example:
        >>> missing_sites(family("gpt2"))["mlp_gate"]
        'its MLP has no gate'
    """
    missing: dict[str, str] = {}
    if row.sites is not None:
        why = row.also or "its blocks are built otherwise"
        own = [*row.sites, *_ATTENTION, *_EXPERTS]
        missing |= {site: f"it {why}" if row.also else why for site in SITES if site not in own}
    if not row.cross_out:
        missing["cross_out"] = "it has no cross-attention"
    if row.parallel is True:
        missing["resid_mid"] = "attention and MLP read the same stream"
    if row.gate is None:
        missing |= dict.fromkeys(("mlp_gate", "mlp_up"), "its MLP has no gate")
    if row.experts is None:
        missing |= dict.fromkeys(_EXPERTS, "it has no mixture of experts")
    else:
        fused = row.experts.module.startswith(row.mlp_out)
        if fused:
            inside = ("mlp_gate", "mlp_up", "mlp_act")
            missing |= dict.fromkeys(inside, "experts are computed in fused parameters")
        if not row.experts.probabilities:
            missing["router"] = "the scores of its router are no probabilities"
        if not row.experts.adds:
            missing["expert_out"] = "what its experts make is normalised before it is added"
    if isinstance(row, EncoderRow) and not row.maps:
        missing |= dict.fromkeys(_ATTENTION, row.maps_why or "it has no attention")
    return {site: missing[site] for site in SITES if site in missing}


def families_in_words(name: str) -> str:
    """One family: the sites that it has, and why it lacks the others.

    Args:
        name: the ``model_type`` of a language model or of a multimodal model (of Qwen's Omni
            models also without ``_thinker``), or the name of an encoder's row.

    Raises:
        UnknownFamilyError: if there is no such row.
    """
    multimodal = composites()
    for known in (name, f"{name}_thinker"):
        if known in multimodal:
            return _composite_in_words(multimodal[known])
    encoders = {row.model_type: row for row in encoder_rows().values()}
    if name in families():
        return _in_words(family(name))
    if name in encoders:
        return _in_words(encoders[name])
    raise UnknownFamilyError(
        f"There is no family {name!r}; `sinkscope models` lists them, and "
        "sinkscope.register_family describes another."
    )


def multimodal_table() -> str:
    """The multimodal families as a Markdown table, for the README."""
    head = "| family | `model_type` | reads | encoders alone | to know |\n|---|---|---|---|---|"
    rows = [
        f"| {row.title} | {row.model_type} | {', '.join(row.streams)} | "
        f"{', '.join(encoders_of(row)) or 'none'} | {row.notes} |"
        for row in composites().values()
        if row.layout is None
    ]
    return "\n".join([head, *rows])


def encoders_table() -> str:
    """The encoders as a Markdown table, for the README."""
    head = "| class | reads | sites missing |\n|---|---|---|"
    rows = [
        f"| {name} | {row.reads} | {', '.join(f'`{site}`' for site in _lacking(row)) or 'none'} |"
        for (_, name), row in sorted(encoder_rows().items(), key=lambda item: item[0])
    ]
    return "\n".join([head, *rows])


def unlisted() -> list[str]:
    """The multimodal families of the installed transformers that no row describes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    listed = composites()
    parts = {f"{name}_thinker" for name in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES}
    known = set(listed) | {name.removesuffix("_thinker") for name in parts & set(listed)}
    return sorted(set(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES) - known)


def encoders_of(row: Composite) -> list[str]:
    """The streams of a multimodal family whose encoders can be studied alone."""
    return [name for name, stream in row.streams.items() if stream.frames is not None]


def _lacking(row: EncoderRow) -> list[str]:
    """What an encoder lacks beside experts and cross-attention, which none has."""
    return [site for site in missing_sites(row) if site not in (*_EXPERTS, "cross_out")]


def _in_words(row: Family) -> str:
    missing = missing_sites(row)
    has = [site for site in SITES if site not in missing]
    lines = [f"{row.model_type}: {', '.join(has)}"]
    reasons = dict.fromkeys(missing.values())
    for reason in reasons:
        sites = [site for site, why in missing.items() if why == reason]
        lines.append(f"  not {', '.join(sites)}: {reason}")
    if row.mixer:
        lines.append(f"  blocks with {row.mixer} have no attention: q, k, v, z, pattern skip them")
    if row.also and row.sites is None:
        lines.append(f"  beside what attention and MLP add, a block {row.also}")
    return "\n".join(lines)


def _composite_in_words(row: Composite) -> str:
    lines = [f"{row.model_type}: {row.title}; the sites are those of the LLM inside"]
    lines.append(f"  reads text, {', '.join(row.streams) or 'and what its layout function says'}")
    alone = encoders_of(row)
    lines.append(f"  encoders that can be studied alone: {', '.join(alone) or 'none'}")
    if row.notes:
        lines.append(f"  to know: {row.notes}")
    return "\n".join(lines)
