"""sink_ancestry: inherited from the encoder, or emerged in the LLM? Depends on record.

A sink on a sound or picture token may have its origin before the LLM: an encoder makes tokens of
high norm of its own (Darcet et al., arXiv 2309.16588). Here each sink token is followed back, by
item, seconds and patch, to the frames that it was made of.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from sinkscope.analysis.belonging import check_one_forward, check_sinks
from sinkscope.analysis.frames import frames_of_tokens
from sinkscope.analysis.high_norm import ENTRANCE, norm_ratio
from sinkscope.analysis.tables import check_number, check_whole, make_table
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record

__all__ = ["FIRST_SHOWN", "WHICH", "concluded", "judged_tokens", "sink_ancestry"]

FIRST_SHOWN = ("encoder", "projector", "llm", "attention")
"""Where a sink's high norm is first seen; ``attention`` where it never is."""

WHICH = ("sinks", "high_norm")
_COLUMNS = ["sample", "token", "segment", "label", "start", "end", "row", "column"]
_RATIOS = ["encoder_ratio", "projector_ratio", "llm_ratio"]


def sink_ancestry(
    record: Record,
    sinks: pd.DataFrame,
    encoders: Mapping[str, Record],
    *,
    which: str = "sinks",
    ratio: float | int = 3.0,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """For each sink on a token of sound or picture, where its high norm first shows.

    A state is of high norm where it passes ``ratio`` times the median of its stream (in the same
    sample and layer). The places, in order: ``encoder``: a frame that the token was made of leaves
    the encoder's last block with high norm; ``projector``: the token enters the LLM with high norm;
    ``llm``: it leaves a block of the LLM with high norm; ``attention``: none of these, so the token
    draws attention without a long state.

    Args:
        record: of the LLM, with ``norm`` and the norms of what enters it (``follow_sinks`` makes
            it).
        sinks: what ``find_sinks`` returned for it.
        encoders: for each stream (segment) a record of its encoder on the same input.
        which: ``"sinks"``; or ``"high_norm"``: the tokens that the encoder or the entrance shows,
            sinks or not, which says what becomes of them.
        ratio: norm over the median of the stream, to pass.
        draws: of as many random tokens of the same streams, the control.
        seed: of the draws.

    Returns:
        One row a token: ``sample token segment label start end row column`` (of the patch),
        ``first_sink_layer`` (missing where it is no sink), ``encoder_ratio`` (the largest of its
        frames), ``projector_ratio``, ``llm_ratio`` (the largest of the layers before the one that
        it is first a sink in, or of all),
        ``encoder_layer`` and ``llm_layer`` (where the norm is first high; missing where never),
        ``first_shown`` (a word of ``FIRST_SHOWN``), ``carried`` (of those that the encoder shows:
        whether it still is of high norm where it enters the LLM), ``bos_present``.
        ``attrs["control"]`` says, for each stream, how many sinks the encoder shows and how many
        of as many random tokens it would, with the p-value of ``draws``: where most frames are of
        high norm, every sink seems inherited.

    Raises:
        InputError: the tables or records do not belong together; the record joins several
            forwards, whose sounds or pictures cannot be told apart; a number is out of range.
        SiteError: a record holds no norms.
    """
    check_whole("draws", draws, least=1)
    check_whole("seed", seed, least=0)
    if which not in WHICH:
        raise InputError(f"sink_ancestry: which is {which!r}; choose {' or '.join(WHICH)}.")
    judged = judged_tokens(record, sinks, encoders, ratio=ratio)
    return concluded(judged, record, which=which, ratio=ratio, draws=draws, seed=seed)


def judged_tokens(
    record: Record, sinks: pd.DataFrame, encoders: Mapping[str, Record], *, ratio: float | int
) -> dict[str, pd.DataFrame]:
    """For each stream every token of it, sink or not, with what `sink_ancestry` says of it.

    Raises:
        InputError: the tables or records do not belong together.
        SiteError: a record holds no norms.
    """
    check_number("ratio", ratio)
    check_sinks(record, sinks)
    streams = [name for name in encoders if any(one.mask(name).any() for one in record.layouts)]
    if not streams:
        raise InputError(
            f"sink_ancestry: the record has no token of {', '.join(encoders) or 'any stream'}; "
            "give encoders of the streams that it has."
        )
    check_one_forward(record, streams)
    return {
        stream: _judged(_tokens_of(record, encoders[stream], stream, ratio), sinks, ratio)
        for stream in streams
    }


def concluded(
    judged: Mapping[str, pd.DataFrame],
    record: Record,
    *,
    which: str = "sinks",
    ratio: float | int = 3.0,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The table of `sink_ancestry` and its control.

    Args:
        judged: what `judged_tokens` found, of one forward or joined of several.
        record: of the LLM, with all samples.
        which: see `sink_ancestry`, as for the others.
        ratio: as was judged by.
        draws: of random tokens.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    control = {stream: _control(table, ratio, draws, rng) for stream, table in judged.items()}
    attrs = {"table": "sink_ancestry", "which": which, "ratio": ratio}
    attrs |= {"draws": draws, "seed": seed, "control": control, "streams": [*judged]}
    tables = [table.loc[_chosen(table, which, ratio)] for table in judged.values()]
    whole: pd.DataFrame = pd.concat(tables, ignore_index=True).sort_values(["sample", "token"])
    return make_table(whole.reset_index(drop=True), record, attrs)


def _tokens_of(record: Record, encoder: Record, stream: str, ratio: float) -> pd.DataFrame:
    """Every token of a stream with what its encoder, its entrance and the LLM's layers say."""
    heard, entering, leaving = norm_ratio(encoder), norm_ratio(record, ENTRANCE), norm_ratio(record)
    parts = []
    for sample, layout in enumerate(record.layouts):
        places = np.flatnonzero(layout.mask(stream))
        covers = frames_of_tokens(layout, stream, encoder.layouts, sample=sample)
        frames = _largest(heard, covers)
        part = pd.DataFrame(
            {
                "sample": sample,
                "token": places,
                "segment": stream,
                "label": [layout.labels[place] for place in places],
                "start": layout.seconds[places, 0],
                "end": layout.seconds[places, 1],
                **{axis: _patch(layout, axis)[places] for axis in ("row", "column")},
                "encoder_ratio": frames[-1],
                "encoder_layer": _first_above(frames, heard["layer"].values, ratio),
                "projector_ratio": entering.values[sample, 0, places],
            }
        )
        part["llm"] = [*leaving.values[sample][:, places].T]
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    table.attrs["layers"] = leaving["layer"].values
    if len(table) and np.isnan(table["encoder_ratio"].to_numpy(float)).all():
        raise InputError(
            f"sink_ancestry: no token of {stream} covers a frame of its encoder's record; record "
            "both on the same input."
        )
    return table


def _largest(heard: xr.DataArray, covers: list[np.ndarray]) -> Float[np.ndarray, "layer token"]:
    """In each layer of the encoder, the largest ratio among the frames of each token."""
    best = np.full((heard.sizes["layer"], len(covers[0])), np.nan)
    for sample, seen in enumerate(covers):
        own = heard.values[sample][:, : seen.shape[1]]
        values = np.where(seen[None], own[:, None], -np.inf).max(axis=-1, initial=-np.inf)
        best = np.fmax(best, np.where(np.isfinite(values), values, np.nan))
    return best


def _first_above(
    ratios: Float[np.ndarray, "layer token"], layers: np.ndarray, ratio: float
) -> pd.api.extensions.ExtensionArray:
    """The first layer with a high norm; missing where none has."""
    high = ratios > ratio
    first = [int(layers[column.argmax()]) if column.any() else None for column in high.T]
    return pd.array(first, dtype="Int64")


def _judged(table: pd.DataFrame, sinks: pd.DataFrame, ratio: float) -> pd.DataFrame:
    """The tokens with the layer that each is first a sink in, and the verdict."""
    layers = table.attrs["layers"]
    first = sinks.groupby(["sample", "token"], as_index=False).agg(
        first_sink_layer=("layer", "min")
    )
    found = table.merge(first.astype("Int64"), on=["sample", "token"], how="left")
    until = found["first_sink_layer"].fillna(layers.max() + 1).to_numpy(np.int64)
    leaving = np.array([*found.pop("llm")]).reshape(len(found), len(layers)).T
    before = np.where(layers[:, None] < until, leaving, np.nan)
    found["llm_ratio"] = np.fmax.reduce(before, axis=0)
    found["llm_layer"] = _first_above(before, layers, ratio)
    ratios = found[_RATIOS].to_numpy(float)
    verdicts = [_verdict(row, ratio) for row in ratios]
    carried = [bool(p > ratio) if e > ratio else None for e, p, _ in ratios]
    found["first_shown"] = pd.Series(verdicts, dtype=object)
    found["carried"] = pd.array(carried, dtype="boolean")
    found.attrs = {}
    order = [*_COLUMNS, "first_sink_layer", *_RATIOS, "encoder_layer", "llm_layer"]
    return found.loc[:, [*order, "first_shown", "carried"]]


def _chosen(table: pd.DataFrame, which: str, ratio: float) -> Bool[np.ndarray, " token"]:
    if which == "sinks":
        return table["first_sink_layer"].notna().to_numpy()
    ratios = table.loc[:, ["encoder_ratio", "projector_ratio"]].to_numpy(float)
    return (ratios > ratio).any(axis=1)


def _patch(layout: TokenLayout, axis: str) -> np.ndarray:
    return layout.descriptors.get(axis, np.full(len(layout), np.nan))


def _verdict(ratios: np.ndarray, ratio: float) -> str:
    """The first place whose ratio passes."""
    high = [place for place, one in zip(FIRST_SHOWN, ratios, strict=False) if one > ratio]
    return high[0] if high else FIRST_SHOWN[-1]


def _control(
    table: pd.DataFrame, ratio: float, draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """How many sinks the encoder shows, and of random tokens of the same samples."""
    high = table["encoder_ratio"].to_numpy(float) > ratio
    sink = table["first_sink_layer"].notna().to_numpy()
    samples = table["sample"].to_numpy()
    drawn = np.zeros(draws)
    for sample in np.unique(samples):
        own = samples == sample
        good, sinks = int(high[own].sum()), int(sink[own].sum())
        drawn += rng.hypergeometric(good, int(own.sum()) - good, sinks, size=draws)
    shown = int((high & sink).sum())
    return {
        "sinks": int(sink.sum()),
        "from_encoder": shown,
        "expected": float(drawn.mean()),
        "p": float((1 + (drawn >= shown).sum()) / (1 + draws)),
        "high_tokens": int(high.sum()),
        "tokens": len(table),
    }
