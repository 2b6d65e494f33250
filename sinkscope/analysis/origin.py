"""trace_origin: where massive activations are born and removed, and which neurons write them.

Depends on record. A block's output is what entered it, plus what its attention added, plus what its
MLP added, plus what a mixture of experts beside them added; so every change of a feature has an
author. What a model adds between two blocks counts with the block that it enters, by itself.

What an MLP adds to feature f at a token is
``scale * (bias[f] + sum over neurons of weight[f, n] * act[n])``, where ``scale`` is 1 but in
families that normalise or multiply it before it is added. The first massive block of Sun et al.
(arXiv 2402.17762) is the block of birth here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.criteria import massive_ratio
from sinkscope.analysis.ledger import BETWEEN, PARTS, Ledger, residual_ledger
from sinkscope.analysis.neurons import rank_neurons
from sinkscope.analysis.tables import check_number, token_table
from sinkscope.errors import SiteError
from sinkscope.glossary import BOS
from sinkscope.record import Record

__all__ = ["Origin", "trace_origin"]


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the traced activations come from.

    Attributes:
        births: one row a sample, token and feature: see ``trace_origin``.
        neurons: the neurons that write them in the block of birth, the largest share first.
        removals: the same for the block that removes them.
        ledger: what every block added, one row a sample, token, feature and layer.
        unreadable: for each layer whose neurons could not be read, why.
    """

    births: pd.DataFrame
    neurons: pd.DataFrame
    removals: pd.DataFrame
    ledger: pd.DataFrame
    unreadable: Mapping[int, str] = field(default_factory=dict)


def trace_origin(
    trace: Record,
    *,
    ratio: int | float | None = None,
    floor: int | float | None = None,
    count: int = 10,
) -> Origin:
    """For every traced token and feature: born where, by what, and removed where, by what.

    A value is born in the first block whose output holds it as massive, and removed by the block
    after the last such output; where the value stayed there and the layer's median has outgrown it,
    ``removed_by`` is "median". Where nothing is massive by the ratio, the block of birth is the one
    that moves the value most towards its largest, or the embedding, if none moves it further than
    where it stands there; ``criterion`` says which rule was used.

    Args:
        trace: what ``trace`` returned.
        ratio: as for ``find_massive_activations``.
        floor: as there.
        count: neurons to list for each.

    Returns:
        Tables. ``births``: ``TABLE_COLUMNS`` (``layer`` is the block of birth), ``kind`` ("bos" or
        "intermediate"), ``feature``, ``criterion``, ``peak`` and ``peak_layer`` (the largest
        value, signed), ``entering`` and ``leaving`` (the block of birth), ``attn_out`` and
        ``mlp_out`` (what its parts added), ``expert_out`` (where there are mixtures of experts;
        beside an attention or MLP it is contained in theirs), ``part`` ("mlp", "attention",
        "experts", "between blocks", where it is what the model adds before the block (``entering``
        contains it), or "embedding", where the value enters layer 0 with it), ``share`` (of the
        change since the block before, by that part; of an MLP or attention without the experts
        beside it), ``share_of_peak`` (of the peak, that leaves the block of birth), ``step_layer``
        (the block that adds most), ``last_layer``, ``removed_layer`` and ``removed_by`` (empty
        where it lasts to the end), ``neuron`` and ``neuron_share`` (the first of the ranking),
        ``n_half`` (neurons that explain half).
        ``neurons`` and ``removals``: ``TABLE_COLUMNS``, ``feature``, ``rank``, ``neuron``,
        ``contribution``, ``share`` (of what the MLP added without experts), ``cumulative``,
        ``weight``, ``gate``, ``up``, ``act``, and the medians over the other traced tokens
        ``gate_others``, ``up_others``, ``act_others``, with ``same_gate_sign`` (share of the
        others whose gate has the same sign).

    Raises:
        InputError: a number is out of range.
        SiteError: the record is no trace, or its blocks add something that is neither attention
            nor MLP nor experts.
    """
    check_number("count", count)
    if floor is not None:
        check_number("floor", floor)
    if "picked_resid_post" not in trace:
        raise SiteError("trace_origin: this record is no trace; make one with sinkscope.trace.")
    used, source = massive_ratio(trace, ratio)
    ledger = residual_ledger(trace)
    ledger.refuse_unexplained()
    attrs = {"ratio_threshold": used, "ratio_source": source, "floor": floor}
    table, cells = _births(trace, ledger, used, floor or 0.0, attrs)
    born = rank_neurons(trace, cells, table["layer"].to_numpy(), count=count)
    gone = table["removed_layer"].notna().to_numpy()
    removed = rank_neurons(
        trace, cells[gone], table.loc[gone, "removed_layer"].to_numpy(np.int64), count=count
    )
    unreadable = {int(k): why for k, why in trace.provenance.get("unreadable", {}).items()}
    _add_leading(table, born)
    return Origin(table, born, removed, ledger.table(), unreadable)


def _births(
    trace: Record, ledger: Ledger, ratio: float, floor: float, attrs: dict[str, object]
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of births, and ``(sample, place, feature)`` of its rows as places on the axes."""
    limits = np.maximum(ratio * trace["median"].values.astype(np.float64), floor)
    first = ratio * trace["resid_pre_median"].values[:, 0].astype(np.float64)
    cells = np.argwhere(ledger.found)
    rows, born = [], []
    for sample, place, feature in cells.tolist():
        path = ledger.path(sample, place, feature)
        row = _life(path, limits[sample], float(max(first[sample], floor)))
        born.append(row.pop("layer"))
        rows.append(row)
    tokens = trace["traced_token"].values[cells[:, 0], cells[:, 1]]
    segments = [trace.layouts[s].segments[t] for s, t in zip(cells[:, 0], tokens, strict=True)]
    columns = {
        "kind": pd.Series([BOS if s == BOS else "intermediate" for s in segments], dtype=object),
        "feature": np.array(ledger.features, np.int64)[cells[:, 2]],
        **{name: [row[name] for row in rows] for name in _columns(ledger)},
    }
    attrs = {"table": "births", **attrs}
    where = (cells[:, 0], np.array(born, np.int64), tokens)
    table = token_table(trace, where, ledger.layers, columns, attrs=attrs)
    return table.astype(_KINDS), cells


def _columns(ledger: Ledger) -> list[str]:
    """Those of the births; what experts added only where there are any."""
    return [name for name in _COLUMNS if name != "expert_out" or name in ledger.values]


_COLUMNS = (
    "criterion",
    "peak",
    "peak_layer",
    "entering",
    "leaving",
    "attn_out",
    "mlp_out",
    "expert_out",
    "part",
    "share",
    "share_of_peak",
    "step_layer",
    "last_layer",
    "removed_layer",
    "removed_by",
)

_KINDS: dict[str, Any] = {
    **dict.fromkeys(("last_layer", "removed_layer"), "Int64"),
    **dict.fromkeys(("peak_layer", "step_layer"), np.int64),
    **dict.fromkeys(("criterion", "part", "removed_by"), object),
}
"""Kinds of columns, also of those of an empty table."""


def _life(path: Mapping[str, np.ndarray], limits: np.ndarray, first: float) -> dict[str, object]:
    """One feature of one token, from its birth to its removal."""
    before, after = path["resid_pre"], path["resid_post"]
    massive = np.flatnonzero(np.abs(after) >= limits)
    peak = int(np.abs(after).argmax())
    sign = np.sign(after[peak]) or 1.0
    steps = sign * (after - _left(path))[: peak + 1]
    largest = int(steps.argmax())
    if len(massive):
        born = int(massive[0])
        embedded = born == 0 and abs(before[0]) >= first
    else:
        embedded = bool(sign * before[0] >= steps[largest])
        born = 0 if embedded else largest
    part, share = _author(path, born)
    if embedded:
        part, share = "embedding", float(before[0] / after[0]) if after[0] else np.nan
    last = int(massive[-1]) if len(massive) else None
    removed = None if last is None or last + 1 == len(after) else last + 1
    return {
        "layer": born,
        "criterion": "massive" if len(massive) else "largest step",
        "peak": after[peak],
        "peak_layer": peak,
        "entering": before[born],
        "leaving": after[born],
        "attn_out": path["attn_out"][born],
        "mlp_out": path["mlp_out"][born],
        "expert_out": path["expert_out"][born] if "expert_out" in path else np.nan,
        "part": part,
        "share": share,
        "share_of_peak": after[born] / after[peak] if after[peak] else np.nan,
        "step_layer": largest,
        "last_layer": last,
        "removed_layer": removed,
        "removed_by": None if removed is None else _remover(path, removed),
    }


def _left(path: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the block before each left: what enters, without what was added in between."""
    return path["resid_pre"] - path.get(BETWEEN, 0.0)


def _remover(path: Mapping[str, np.ndarray], layer: int) -> str:
    """Who took a value away; "median" if it is still there, more than half of it."""
    stays = abs(path["resid_post"][layer]) > 0.5 * abs(_left(path)[layer])
    return "median" if stays else _author(path, layer)[0]


def _author(path: Mapping[str, np.ndarray], layer: int) -> tuple[str, float]:
    """What did most of the change since the block before, and its share of it."""
    change = path["resid_post"][layer] - _left(path)[layer]
    added = {part: path[part][layer] for part in (*PARTS, BETWEEN) if part in path}
    part = max(added, key=lambda name: added[name] * np.sign(change))
    return part, float(added[part] / change) if change else np.nan


def _add_leading(births: pd.DataFrame, neurons: pd.DataFrame) -> None:
    """Beside each birth by an MLP, its first neuron and how many explain half."""
    place = births.columns.get_loc("bos_present")
    keys = ["sample", "token", "feature"]
    lead = neurons.loc[neurons["rank"] == 0].set_index(keys)
    half = neurons.loc[neurons["cumulative"] >= 0.5].groupby(keys)["rank"].min()
    of_mlp = births["part"] == "mlp"
    index = pd.MultiIndex.from_arrays([births[key] for key in keys])
    columns = {
        "neuron": lead["neuron"].reindex(index).astype("Int64").array,
        "neuron_share": lead["share"].reindex(index).to_numpy(),
        "n_half": (half.reindex(index) + 1).astype("Int64").array,
    }
    for offset, (name, values) in enumerate(columns.items()):
        births.insert(int(place) + offset, name, pd.Series(values, index=births.index))  # pyright: ignore[reportArgumentType]
        births.loc[~of_mlp, name] = pd.NA if name != "neuron_share" else np.nan
