"""sink_experts: are the sink tokens of a layer sent to one expert? Depends on record."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from sinkscope.analysis.bootstrap import LEVEL
from sinkscope.analysis.routing import ALL, Routed, routed_tokens, token_mask
from sinkscope.analysis.sink_tables import sinks_of_record
from sinkscope.analysis.tables import check_whole, make_table
from sinkscope.glossary import paper_layer
from sinkscope.record import Record

__all__ = ["sink_experts"]

HEAD = ("layer", "paper_layer", "segment", "sinks", "expert", "share")
CONTROL = ("control", "control_low", "control_high", "p")
ANYWHERE = ("anywhere", "anywhere_low", "anywhere_high", "anywhere_p")


def sink_experts(
    record: Record, sinks: pd.DataFrame, *, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How many of a layer's sink tokens get the expert that most of them get.

    A share alone says little: two tokens often have an expert in common, and so do tokens of one
    segment. So as many other tokens are drawn from the same clips, layer and segment, and the share
    of *their* commonest expert is taken. BOS has no other token of its segment: the second control
    draws from all tokens of the clip that are no sinks of the layer. The same word in every clip
    (BOS, a delimiter) has much the same state, and so the same experts, sink or not.

    Args:
        record: one or several samples of a model with mixtures of experts.
        sinks: what ``find_sinks`` returned for it.
        draws: of random tokens.
        seed: of the draws.

    Returns:
        One row a layer and segment that has sinks: ``layer paper_layer segment sinks`` (tokens of
        all clips), ``expert`` (the one that most of them get), ``share`` (of them that get it);
        ``control`` (mean over draws of the same share), ``control_low control_high`` (95 % of the
        draws), ``p`` (share of draws with at least that share; NaN where a clip has too few other
        tokens of the segment); ``anywhere anywhere_low anywhere_high anywhere_p`` with tokens of
        any segment.

    Raises:
        SiteError: the record holds no router.
        InputError: the table is another one or of another record, or draws or a seed are no whole
            number.
    """
    check_whole("draws", draws, least=1)
    check_whole("seed", seed, least=0)
    routed = routed_tokens(record)
    sinks = sinks_of_record(sinks, record, where="sink_experts")
    rng = np.random.default_rng(seed)
    rows = []
    for layer, segment, cells in _groups(sinks, routed):
        place = routed.layers.index(layer)
        taken = _mask_of(sinks.loc[sinks["layer"] == layer], routed)
        chosen = routed.chosen[:, place]
        common = chosen[cells[:, 0], cells[:, 1]].sum(0)
        head = {"layer": layer, "paper_layer": paper_layer(layer), "segment": segment}
        share = float(common.max() / len(cells))
        row = head | {"sinks": len(cells), "expert": int(common.argmax()), "share": share}
        for name, where in (("control", segment), ("anywhere", ALL)):
            free = token_mask(record, where, chosen.shape[1]) & ~taken
            drawn = _commonest(chosen, free, cells[:, 0], draws, rng)
            row |= _told(name, drawn, share)
        rows.append(row)
    table = pd.DataFrame(rows, columns=[*HEAD, *CONTROL, *ANYWHERE])
    attrs = {"table": "sink_experts", "experts": routed.experts, "top_k": routed.top_k}
    return make_table(table, record, attrs | {"draws": draws, "seed": seed})


def _groups(
    sinks: pd.DataFrame, routed: Routed
) -> Iterator[tuple[int, str, Int[np.ndarray, "sink 2"]]]:
    """Sample and token of the sinks of every layer and segment that the record routes."""
    known = sinks.loc[sinks["layer"].isin(routed.layers)]
    for (layer, segment), own in known.groupby(["layer", "segment"], sort=True):
        yield int(layer), str(segment), own[["sample", "token"]].to_numpy(np.int64)


def _mask_of(sinks: pd.DataFrame, routed: Routed) -> Bool[np.ndarray, "sample token"]:
    mask = np.zeros((routed.chosen.shape[0], routed.chosen.shape[2]), bool)
    mask[sinks["sample"].to_numpy(np.int64), sinks["token"].to_numpy(np.int64)] = True
    return mask


def _commonest(
    chosen: Bool[np.ndarray, "sample token expert"],
    free: Bool[np.ndarray, "sample token"],
    samples: Int[np.ndarray, " sink"],
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " draw"] | None:
    """Share of the commonest expert among as many free tokens of each clip as it has sinks.

    None where a clip has too few.
    """
    counts = np.zeros((draws, chosen.shape[-1]))
    for sample, number in zip(*np.unique(samples, return_counts=True), strict=True):
        tokens = np.flatnonzero(free[sample])
        if len(tokens) < number:
            return None
        order = rng.random((draws, len(tokens))).argsort(-1)[:, :number]
        counts += chosen[sample][tokens[order]].sum(1)
    return counts.max(-1) / len(samples)


def _told(name: str, drawn: Float[np.ndarray, " draw"] | None, share: float) -> dict[str, float]:
    """Mean, interval and p of the draws, under a control's name."""
    keys = CONTROL if name == "control" else ANYWHERE
    if drawn is None:
        return dict.fromkeys(keys, float("nan"))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    at_least = float((1 + (drawn >= share - 1e-9).sum()) / (1 + len(drawn)))
    return dict(zip(keys, (float(drawn.mean()), float(low), float(high), at_least), strict=True))
