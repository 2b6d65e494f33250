"""What a table says, in a sentence or two: also when it found nothing. Depends on pandas only."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd

from sinkscope.analysis.comparison import Comparison
from sinkscope.analysis.control_words import control_sentences
from sinkscope.analysis.words_ancestry import ANCESTRY_WRITERS
from sinkscope.analysis.words_cause import CAUSE_WRITERS
from sinkscope.analysis.words_comparison import comparison_sentences, effect_sentences
from sinkscope.analysis.words_experts import EXPERT_WRITERS
from sinkscope.analysis.words_features import FEATURE_WRITERS
from sinkscope.analysis.words_rates import RATE_WRITERS
from sinkscope.errors import InputError

__all__ = ["describe"]


def describe(table: pd.DataFrame | Comparison) -> str:
    """The findings of a table in words, with the thresholds that were used.

    Args:
        table: what ``find_sinks``, ``sink_summary``, ``find_massive_activations``, ``twins``,
            ``low_meaning``, ``sink_mechanics`` or another function of this room returned, whole
            or filtered; or what ``compare`` returned, which gives a line a finding.

    Raises:
        InputError: if the table does not say which it is.

    Examples:
        >>> table = pd.DataFrame({"token": []})
        >>> table.attrs = {"table": "twins", "cosine": 0.8, "largest_cosine": 0.31}
        >>> describe(table)
        'No twin of BOS (cosine > 0.8): the largest cosine of another token is 0.31.'
    """
    if isinstance(table, Comparison):
        return "\n".join(comparison_sentences(table))
    name = table.attrs.get("table")
    if name is None:
        raise InputError(
            "describe: the table does not say what it is (attrs hold no 'table'); give one that a "
            "function of sinkscope returned, not a copy that lost its attrs."
        )
    writer = _WRITERS.get(name)
    return writer(table) if writer else f"{name}: {_count(len(table), 'row')}."


def _sinks(table: pd.DataFrame) -> str:
    said = table.attrs
    rule = (
        f"key attention > {said['threshold']:g} over the head mean or in at least "
        f"{said['min_heads']:.0%} of the heads, {said['min_queries']} queries or more"
    )
    if table.empty:
        return f"No attention sink found ({rule}): {_closest(said)} {_bos(said)}"
    tokens = _tokens(table)
    n_bos = tokens["kind"].tolist().count("bos")
    n_other = len(tokens) - n_bos
    first, last = ("first_layer", "last_layer") if "first_layer" in table else ("layer", "layer")
    found = [
        f"BOS{_in_samples(n_bos, said)}" if n_bos else "not BOS",
        f"{_count(n_other, 'intermediate token')}{_labels(tokens)}" if n_other else "",
    ]
    return (
        f"Attention sinks in {_span(table, first, last)}: {' and '.join(filter(None, found))} "
        f"({rule}). {_bos(said)}"
    )


def _massive(table: pd.DataFrame) -> str:
    said = table.attrs
    floor = "" if said.get("floor") is None else f" and > {said['floor']:g}"
    rule = f"|x| ≥ {said['ratio_threshold']:g} × the layer's median{floor}, {said['ratio_source']}"
    if table.empty:
        return (
            f"No massive activation found ({rule}): the largest is {said['largest_ratio']:.1f} × "
            f"the median. {_bos(said)}"
        )
    features = sorted(set(table["feature"]))
    shown = ", ".join(map(str, features[:8])) + (", ..." if len(features) > 8 else "")
    tokens = len(_tokens(table))
    least = "at least " if said.get("truncated") else ""
    return (
        f"Massive activations at {least}{_count(len(features), 'feature')} ({shown}) of "
        f"{_count(tokens, 'token')}, {_span(table, 'layer', 'layer')}, "
        f"up to {table['ratio'].max():.0f} × the median ({rule}). {_bos(said)}"
    )


def _features(table: pd.DataFrame) -> str:
    several = table.loc[table["n_tokens"] > 1].drop_duplicates(["sample", "layer"])
    if several.empty:
        return "No layer has massive activations at more than one token: no sets to compare."
    same = several["same"].tolist().count(True)
    return (
        f"The massive features of a layer's tokens are the same set in {same} of "
        f"{_count(len(several), 'layer')} with several such tokens "
        f"(mean Jaccard {several['jaccard'].mean():.2f})."
    )


def _twins(table: pd.DataFrame) -> str:
    said = table.attrs
    if table.empty:
        return (
            f"No twin of BOS (cosine > {said['cosine']:g}): the largest cosine of another token is "
            f"{said['largest_cosine']:.2f}."
        )
    tokens = _tokens(table)
    n_sinks = len(_tokens(table.loc[table["is_sink"].fillna(False).astype(bool)]))
    return (
        f"{_count(len(tokens), 'twin')} of BOS (cosine > {said['cosine']:g}){_labels(tokens)}, of "
        f"which {n_sinks} draw{'s' if n_sinks == 1 else ''} enough attention to be a sink there."
    )


def _low_meaning(table: pd.DataFrame) -> str:
    elsewhere = table.attrs.get("without_descriptors", {})
    apart = ", ".join(f"{n} {segment}" for segment, n in elsewhere.items())
    told = [sentence for sentence in table["sentence"] if not sentence.startswith("Not testable")]
    told = told or ["Not testable: no audio or video token with known descriptors is a sink."]
    return " ".join(
        [*told, *([f"Sinks that are neither sound nor picture: {apart}."] * bool(apart))]
    )


def _mechanics(table: pd.DataFrame) -> str:
    """Means over heads, sinks and samples, in the layers where the tokens are sinks."""
    if table.empty:
        return "No attention sink: there is nothing to explain."
    there: Any = table.loc[table["sink_in_layer"].astype(bool)]
    rows: Any = table if there.empty else there
    means = rows[["advantage", "norm_part", "cosine_part"]].mean()
    norms = {
        "entering states": rows["residual_norm_ratio"].mean(),
        "keys": (rows["key_norm"] / rows["key_norm_others"]).mean(),
        "values": rows["value_norm_ratio"].mean(),
    }
    told = [f"{what} {ratio:.3g} ×" for what, ratio in norms.items() if ratio == ratio]  # NaN
    heads = rows[["sample", "layer", "head"]].assign(holds=rows["sink_in_head"])
    known = heads.dropna().astype(int).groupby(["sample", "layer", "head"])["holds"].max()
    held = f" {known.sum()} of the {len(known)} heads of these layers attend to one."
    return (
        f"In {_span(rows, 'layer', 'layer')} {_by_what(means.to_dict())} Norms to the median of "
        f"other tokens: {', '.join(told) or 'not recorded'}.{held if len(known) else ''}"
    )


def _by_what(parts: dict[Any, float]) -> str:
    """Whether the keys of sinks win by their direction or by their size."""
    whole, size, direction = (parts[n] for n in ("advantage", "norm_part", "cosine_part"))
    if whole != whole:  # NaN
        return "the advantage of the sinks' keys is not known: the mask is of another kind."
    numbers = (
        f"mean q·k over heads is {whole:+.3g} against other keys, {direction:+.3g} by the angle to "
        f"the queries and {size:+.3g} by the length of the key."
    )
    if whole <= 0:
        return f"the sinks' keys have no advantage: {numbers}"
    more, less = ("direction", "size") if direction >= size else ("size", "direction")
    part = min(direction, size) / whole
    how = f"by {more}, not by {less}" if part <= 0.1 else f"more by {more} than by {less}"
    how = "by direction and by size alike" if part >= 0.4 else how
    return f"the sinks' keys win {how}: {numbers}"


def _closest(said: dict[Any, Any]) -> str:
    if said.get("largest_alpha") is None:
        return "no token is seen by enough queries to be judged."
    at, rate = said["largest_alpha_at"], said["largest_sink_rate_at"]
    return (
        f"the largest head mean is {said['largest_alpha']:.2f} ({at['label']!r}, layer "
        f"{at['layer']}), the largest sink rate {said['largest_sink_rate']:.2f} "
        f"({rate['label']!r}, layer {rate['layer']})."
    )


def _bos(said: dict[Any, Any]) -> str:
    present = said["bos_present"]
    if all(present):
        return "BOS is present."
    if not any(present):
        named = sorted(set(map(repr, said.get("reference", ()))))
        which = f", {named[0]}" if len(named) == 1 else ""
        return f"There is no BOS; cosines are to the reference token{which}."
    return f"BOS is present in {sum(present)} of {_count(len(present), 'sample')}."


def _in_samples(count: int, said: dict[Any, Any]) -> str:
    return "" if said["samples"] == 1 else f" in {count} of {_count(said['samples'], 'sample')}"


def _labels(tokens: pd.DataFrame, most: int = 5) -> str:
    """The most frequent labels, in brackets."""
    others = tokens.loc[tokens["kind"] != "bos"] if "kind" in tokens else tokens
    counts = Counter(others["label"].tolist())
    shown = [f"{label!r}" + f" ×{n}" * (n > 1) for label, n in counts.most_common(most)]
    return f" ({', '.join(shown)}{', ...' if len(counts) > most else ''})"


def _tokens(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each token of a table."""
    return table.loc[~table.duplicated(["sample", "token"])]


def _span(table: pd.DataFrame, first: str, last: str) -> str:
    low, high = min(table[first].tolist()), max(table[last].tolist())
    return f"layer {low} (0-based)" if low == high else f"layers {low} to {high} (0-based)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


_WRITERS: dict[str, Callable[[pd.DataFrame], str]] = {
    "sinks": _sinks,
    "sink_summary": _sinks,
    "massive_activations": _massive,
    "massive_features": _features,
    "twins": _twins,
    "low_meaning": _low_meaning,
    **FEATURE_WRITERS,
    **CAUSE_WRITERS,
    **ANCESTRY_WRITERS,
    **EXPERT_WRITERS,
    **RATE_WRITERS,
    "sink_mechanics": _mechanics,
    "comparison_effects": effect_sentences,
    "input_controls": lambda table: " ".join(control_sentences(table)),
}
