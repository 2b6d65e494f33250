"""Attention sinks of two models: kept, lost, new, token by token. Depends on record."""

from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.feature_changes import STATUS, status_of
from sinkscope.analysis.tables import as_ranges, layers_of, token_table
from sinkscope.analysis.verdict import SinkAttention
from sinkscope.glossary import BOS
from sinkscope.record import Record

__all__ = ["sink_changes", "sink_tally"]


def sink_changes(record: Record, before: SinkAttention, after: SinkAttention) -> pd.DataFrame:
    """Every token that is a sink in a layer before or after, with its attention in both.

    Args:
        record: either record: the tokens are the same.
        before: verdicts on the tokens before.
        after: those after, by the same thresholds.

    Returns:
        ``TABLE_COLUMNS``, then ``status`` ("kept", "lost", "new"), ``kind`` ("bos" or
        "intermediate"), ``alpha_before alpha_after alpha_change`` (key attention, mean over
        heads), ``sink_rate_before sink_rate_after``, ``bos_present``.
    """
    was, now = before.is_sink.values, after.is_sink.values
    cells = np.nonzero(was | now)
    segments = [record.layouts[s].segments[t] for s, t in zip(cells[0], cells[2], strict=True)]
    kinds = ["bos" if segment == BOS else "intermediate" for segment in segments]
    alpha = before.alpha.values[cells], after.alpha.values[cells]
    columns = {
        "status": pd.Series(status_of(was[cells], now[cells]), dtype=object),
        "kind": pd.Series(kinds, dtype=object),
        "alpha_before": alpha[0],
        "alpha_after": alpha[1],
        "alpha_change": alpha[1] - alpha[0],
        "sink_rate_before": before.rate.values[cells],
        "sink_rate_after": after.rate.values[cells],
    }
    attrs = {"table": "sink_changes"}
    return token_table(record, cells, layers_of(before.alpha), columns, attrs=attrs)


def sink_tally(sinks: pd.DataFrame) -> pd.DataFrame:
    """How many sinks are kept, lost and new, by what they are and where.

    Over all layers a token is a sink if it is one in any, so a sink that moved to another layer is
    kept there, and lost and new in the layers.

    Args:
        sinks: what ``sink_changes`` returned.

    Returns:
        One row a kind, segment, label and layer; one a kind, segment and layer, over all labels
        (``label`` missing); and of both a last one over all layers (``layer`` missing). ``kind
        segment label layer paper_layer``, ``kept lost new`` (tokens of all clips), ``clips_before
        clips_after`` (that have any), ``alpha_before alpha_after`` (mean over these tokens; over
        layers of each token's largest), ``layers_before layers_after`` (0-based, as texts, in the
        rows over all layers). BOS comes first, whole segments before their labels, then the most
        frequent.
    """
    by_token = [_over_layers(token) for _, token in sinks.groupby(["sample", "token"], sort=False)]
    over = pd.DataFrame(by_token, columns=[*sinks.columns, "layers_before", "layers_after"])
    rows = [
        {name: group[name].iloc[0] for name in keys} | _counts(group)
        for table, more in ((sinks, ["layer"]), (over, []))
        for keys in ([*_WHAT, *more], [*_WHAT[:2], *more])
        for _, group in table.groupby(keys, sort=False)
    ]
    tally = pd.DataFrame(rows, columns=_COLUMNS)
    tally["layer"] = tally["layer"].astype("Int64")
    tally["paper_layer"] = tally["layer"] + 1
    groups = tally.groupby(_WHAT, dropna=False)[list(STATUS)]
    order = {
        "of_bos": tally["kind"] != "bos",
        "of_label": tally["label"].notna(),
        "count": -groups.transform("sum").sum(axis=1),
    }
    names = [*order, "segment", "label", "layer"]
    tally = tally.assign(**order)
    tally = tally.sort_values(names, kind="stable", na_position="last", ignore_index=True)
    tally = tally.loc[:, _COLUMNS]
    tally.attrs = {**sinks.attrs, "table": "sink_tally"}
    return tally


_WHAT = ["kind", "segment", "label"]
_COLUMNS = [
    *_WHAT,
    "layer",
    "paper_layer",
    *STATUS,
    "clips_before",
    "clips_after",
    "alpha_before",
    "alpha_after",
    "layers_before",
    "layers_after",
]


def _over_layers(token: pd.DataFrame) -> dict[str, Any]:
    """One token in all its layers: its largest attention, and the layers in which it is a sink."""
    was, now = (token["status"].isin(["kept", side]) for side in ("lost", "new"))
    row: dict[str, Any] = token.iloc[0].to_dict()
    row["status"] = status_of(np.array([was.any()]), np.array([now.any()]))[0]
    row |= {name: token[name].max() for name in ("alpha_before", "alpha_after")}
    row["layers_before"] = as_ranges(token.loc[was, "layer"].tolist())
    row["layers_after"] = as_ranges(token.loc[now, "layer"].tolist())
    return row


def _counts(group: pd.DataFrame) -> dict[str, Any]:
    status = group["status"]
    counts: dict[str, Any] = {name: status.tolist().count(name) for name in STATUS}
    counts["clips_before"] = group.loc[status != "new", "sample"].nunique()
    counts["clips_after"] = group.loc[status != "lost", "sample"].nunique()
    counts |= {name: group[name].mean() for name in ("alpha_before", "alpha_after")}
    if "layers_before" in group:
        for name in ("layers_before", "layers_after"):
            counts[name] = "; ".join(dict.fromkeys(text for text in group[name] if text))
    return counts
