"""sink_mechanics: how a head comes to attend to a sink, and what the sink carries.

Depends on record; numpy, pandas and xarray only. Two published views side by side: the key-bias
view of Gu et al. (arXiv 2410.10781), ``q·k = |q| |k| cos``, and the marks of Guo et al. (arXiv
2410.13835), an attention sink, a drained value and a peak of the residual state.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from sinkscope.analysis.advantage import KeysSeen, key_advantage, key_directions
from sinkscope.analysis.carried import carried_columns, head_columns
from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.tables import check_number, is_token, layers_of, token_table
from sinkscope.analysis.visibility import visible_keys
from sinkscope.errors import InputError, SiteError
from sinkscope.glossary import BOS
from sinkscope.record import Record

__all__ = ["sink_mechanics"]

_AXES = ("sample", "layer", "token")
_ADVANTAGE = (
    "query_norm",
    "logit",
    "logit_others",
    "advantage",
    "norm_part",
    "cosine_part",
    "cosine",
    "cosine_others",
    "query_alignment",
    "key_to_query",
)
_KEYS = ("key_norm", "key_norm_others", "key_to_keys", "key_to_keys_others")


def sink_mechanics(
    record: Record,
    sinks: pd.DataFrame | None = None,
    *,
    layers: Sequence[int] | None = None,
    everywhere: bool = False,
    dormant: float | int = 0.5,
) -> pd.DataFrame:
    """Why every head attends to a sink as it does: one row a sample, layer, sink token and head.

    A sink is compared with the other tokens: those that are a sink in no layer. Of ``q·k`` the
    means are taken over the queries that see the sink and another token; every such query counts
    alike. They are those of queries and keys as they enter attention, after rotary embedding and
    norms, without the model's scaling, soft cap or learned sinks. Memory is linear in the tokens.

    Args:
        record: of ``record(..., keep=["q", "k"])``.
        sinks: what ``find_sinks`` returned; its default thresholds if left out. Any table with
            ``sample``, ``layer`` and ``token`` will do, such as that of ``twins``.
        layers: 0-based layers; all of those whose queries and keys were kept if left out.
        everywhere: whether a token that is a sink in one layer is followed through all of them;
            else only the layers in which it is one.
        dormant: key attention above which a head is called dormant, as in ``sink_heads``.

    Returns:
        ``TABLE_COLUMNS``, then ``kind`` ("bos" or "intermediate"), ``head``, ``kv_head``,
        ``sink_in_layer`` and ``sink_in_head`` (whether the head's key attention there passes the
        threshold), ``alpha`` (key attention of the head), ``queries`` (compared).

        Of the product: ``logit`` and ``logit_others`` (mean q·k), their difference ``advantage``,
        which is ``norm_part`` + ``cosine_part`` (:func:`key_advantage`): what the length of the
        sink's key gives, and what its direction gives. ``query_norm`` (mean), ``key_norm``,
        ``key_norm_others`` (median), ``cosine`` and ``cosine_others`` (mean of q to k).

        Of directions: ``query_alignment`` (length of the mean of the queries' directions, 1 where
        all are one) and ``key_to_query`` (cosine of the sink's key to that mean): their product is
        ``cosine``. ``key_to_keys`` (cosine of the sink's key to the mean direction of the other
        keys) and ``key_to_keys_others`` (that of another key, median).

        Of what the sink carries, to the median of the other tokens: ``value_norm_ratio`` (of the
        head's own key-value head) and ``residual_norm_ratio`` (of the state that enters the
        layer).
        Of the head: ``entropy_share`` (mean over queries, see :func:`entropy_share`),
        ``argmax_share`` (share of the queries that see the sink and attend to it most: Kaul et
        al., arXiv 2410.17174) and ``dormant`` (whether its largest key attention, to any token, is
        above ``dormant``). Then ``bos_present``. NaN or missing is what the record does not hold:
        the state entering layer 0, ``argmax_share`` without ``ArgmaxShare()``; and means over
        queries where the mask is neither causal, nor a sliding window, nor none.

    Raises:
        SiteError: if queries and keys were not kept, or nothing says which keys a query sees.
        InputError: if a layer was not kept, or the table does not fit the record.
    """
    check_number("dormant", dormant, up_to=1.0)
    held = _kept_layers(record)
    chosen = held if layers is None else _chosen(layers, held)
    found = find_sinks(record) if sinks is None else _fitting(sinks, record)
    sample, place, token = _cells(found, chosen, everywhere=everywhere)
    heads = record["q"].sizes["head"]
    measured = _measured(record, found, chosen, (sample, place, token))
    cells = tuple(np.repeat(axis, heads) for axis in (sample, place, token))
    head = np.tile(np.arange(heads), len(sample))
    kv_head = head // (heads // record["k"].sizes["kv_head"])
    others = _others(record, found)
    columns = {
        **_what(record, found, cells, np.array(chosen, np.int64)),
        "head": head,
        "kv_head": kv_head,
        **head_columns(record, chosen, (*cells, head), found.attrs, dormant=dormant),
        **measured,
        **carried_columns(record, chosen, (*cells, kv_head), others),
    }
    thresholds = ("threshold", "min_heads", "min_queries")
    attrs = {
        "table": "sink_mechanics",
        **{name: found.attrs[name] for name in thresholds if name in found.attrs},
        "everywhere": everywhere,
        "dormant": dormant,
        "kept_layers": chosen,
    }
    return token_table(record, cells, chosen, {n: columns[n] for n in _ORDER}, attrs=attrs)


_ORDER = (
    *("kind", "head", "kv_head", "sink_in_layer", "sink_in_head", "alpha", "queries"),
    *("logit", "logit_others", "advantage", "norm_part", "cosine_part"),
    *("query_norm", "key_norm", "key_norm_others", "cosine", "cosine_others"),
    *("query_alignment", "key_to_query", "key_to_keys", "key_to_keys_others"),
    *("value_norm_ratio", "residual_norm_ratio", "entropy_share", "argmax_share", "dormant"),
)


def _kept_layers(record: Record) -> list[int]:
    missing = [site for site in ("q", "k") if site not in record]
    if missing:
        raise SiteError(
            f"sink_mechanics: the record holds no {' and no '.join(missing)}; record again with "
            'keep=["q", "k"].'
        )
    keys = set(layers_of(record["k"]))
    return [layer for layer in layers_of(record["q"]) if layer in keys]


def _chosen(layers: Sequence[int], held: list[int]) -> list[int]:
    unknown = sorted(set(layers) - set(held))
    if unknown:
        raise InputError(
            f"sink_mechanics: q and k of layer {unknown[0]} were not kept; choose among "
            f"{', '.join(map(str, held)) or 'none'}."
        )
    return sorted(set(layers))


def _fitting(sinks: pd.DataFrame, record: Record) -> pd.DataFrame:
    missing = [name for name in _AXES if name not in sinks]
    if missing:
        raise InputError(
            f"sink_mechanics: the table has no {', '.join(missing)}; give what find_sinks returned."
        )
    real = is_token(record)
    for sample, token in sinks[["sample", "token"]].drop_duplicates().to_numpy().tolist():
        if not (0 <= sample < len(real) and 0 <= token < real.shape[1] and real[sample, token]):
            raise InputError(
                f"sink_mechanics: the record has no token {token} in a sample {sample}; give the "
                "sinks that find_sinks found in this record."
            )
    return sinks


def _cells(
    sinks: pd.DataFrame, layers: list[int], *, everywhere: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample, layer position and token of every sink, in this order."""
    rows = sinks[list(_AXES)].drop_duplicates().to_numpy(np.int64)
    if everywhere:
        tokens = sorted({(sample, token) for sample, _, token in rows.tolist()})
        found = [(s, place, t) for s, t in tokens for place in range(len(layers))]
    else:
        place = {layer: position for position, layer in enumerate(layers)}
        found = [(s, place[layer], t) for s, layer, t in rows.tolist() if layer in place]
    sample, position, token = np.array(sorted(found), np.int64).reshape(-1, 3).T
    return sample, position, token


def _others(record: Record, sinks: pd.DataFrame) -> np.ndarray:
    """The tokens that are a sink in no layer, shape (sample, token)."""
    others = is_token(record)
    others[sinks["sample"].to_numpy(np.int64), sinks["token"].to_numpy(np.int64)] = False
    return others


def _what(
    record: Record, sinks: pd.DataFrame, cells: tuple[np.ndarray, ...], layers: np.ndarray
) -> dict[str, Any]:
    sample, place, token = cells
    segments = [record.layouts[s].segments[t] for s, t in zip(sample, token, strict=True)]
    kinds = ["bos" if segment == BOS else "intermediate" for segment in segments]
    rows = zip(sample.tolist(), layers[place].tolist(), token.tolist(), strict=True)
    listed = set(map(tuple, sinks[list(_AXES)].to_numpy(np.int64).tolist()))
    return {
        "kind": pd.Series(kinds, dtype=object),
        "sink_in_layer": np.array([row in listed for row in rows], bool),
    }


def _measured(
    record: Record, sinks: pd.DataFrame, layers: list[int], cells: tuple[np.ndarray, ...]
) -> dict[str, np.ndarray]:
    """What queries and keys tell of every sink in every head, the heads of a sink together."""
    sample, place, token = cells
    heads = record["q"].sizes["head"]
    columns = {
        name: np.full((len(sample), heads), np.nan) for name in ("queries", *_ADVANTAGE, *_KEYS)
    }
    seen = visible_keys(record).reindex(layer=layers).transpose("sample", "layer", "query").values
    others, real = _others(record, sinks), is_token(record)
    for s, p in dict.fromkeys(zip(sample.tolist(), place.tolist(), strict=True)):
        here = np.flatnonzero((sample == s) & (place == p))
        tokens = np.flatnonzero(real[s])
        at, among = np.searchsorted(tokens, token[here]), others[s, tokens]
        queries = _states(record, "q", (s, layers[p]), tokens)
        keys = _states(record, "k", (s, layers[p]), tokens)
        rows = key_directions(keys, sinks=at, others=among)
        rows = {name: np.repeat(row, heads // len(keys), axis=1) for name, row in rows.items()}
        runs = KeysSeen.of(seen[s, p, tokens])
        if runs is not None:
            rows |= key_advantage(queries, keys, seen=runs, sinks=at, others=among)
        for name, values in rows.items():
            columns[name][here] = values
    return {name: values.reshape(-1) for name, values in columns.items()}


def _states(
    record: Record, site: str, where: tuple[int, int], tokens: np.ndarray
) -> Float[np.ndarray, "head token feature"]:
    """Queries or keys of one sample and layer in float64."""
    sample, layer = where
    held = record[site].isel(sample=sample).sel(layer=layer)
    axis = "head" if site == "q" else "kv_head"
    return held.transpose(axis, "token", "feature").values[:, tokens].astype(np.float64)
