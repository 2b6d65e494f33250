"""Cosine to BOS: which tokens point where BOS points. Depends on record.

Once a few shared massive features hold most of the norm, the cosine of two tokens that have them is
near 1 whatever else they hold: it is then no evidence of its own (compare it with the layer before
the features appear).
"""

import numpy as np
import pandas as pd

from sinkscope.analysis.criteria import bos_cosine
from sinkscope.analysis.tables import check_number, is_token, layers_of, references, token_table
from sinkscope.analysis.verdict import sink_attention
from sinkscope.record import Record

__all__ = ["bos_similarity", "twins"]


def bos_similarity(record: Record) -> pd.DataFrame:
    """Cosine of every token's state to that of BOS, in every layer.

    Without a BOS it is the cosine to the layout's reference token: see ``reference`` and
    ``bos_present``.

    Args:
        record: one or several samples.

    Returns:
        ``TABLE_COLUMNS``, then ``cosine`` (of resid_post, -1 to 1), ``reference`` (the token that
        it is compared with), ``is_reference``, ``bos_present``.

    Raises:
        SiteError: if the record holds no cosines.
    """
    return _table(record, np.ones((), bool), {"table": "bos_similarity"})


def twins(record: Record, *, cosine: float = 0.8, threshold: float = 0.3) -> pd.DataFrame:
    """Twins of BOS: tokens whose state points where BOS's does, in some layer.

    A twin need not be a sink; ``alpha`` and ``is_sink`` say what attention makes of it.

    Args:
        record: one or several samples.
        cosine: the cosine that must be passed, strictly.
        threshold: key attention from which a token is a sink (see ``find_sinks``).

    Returns:
        As :func:`bos_similarity`, without the reference itself, with ``alpha`` (mean over heads)
        and ``is_sink`` before ``bos_present``, both missing where attention was not recorded.

    Raises:
        InputError: if a threshold is outside its range.
    """
    check_number("cosine", cosine, above=-1.0, up_to=1.0)
    values = bos_cosine(record).values
    found = (np.nan_to_num(values, nan=-1.0) > cosine) & ~_is_reference(record, values.shape[-1])
    attrs = {"table": "twins", "cosine": cosine, "threshold": threshold}
    others = np.where(_is_reference(record, values.shape[-1]), -1.0, values)
    attrs["largest_cosine"] = float(np.nanmax(others, initial=-1.0))
    table = _table(record, found, attrs)
    alpha, is_sink = _attention(record, table, threshold)
    place = table.columns.get_loc("bos_present")
    table.insert(int(place), "alpha", alpha)  # pyright: ignore[reportArgumentType]
    table.insert(int(place) + 1, "is_sink", is_sink)  # pyright: ignore[reportArgumentType]
    return table


def _table(record: Record, chosen: np.ndarray, attrs: dict) -> pd.DataFrame:
    values = bos_cosine(record)
    tokens = is_token(record)[:, None, : values.sizes["token"]]
    cells = np.nonzero(np.broadcast_to(chosen & tokens, values.shape))
    reference = references(record)[cells[0]]
    columns = {
        "cosine": values.values[cells].astype(np.float64),
        "reference": reference,
        "is_reference": cells[2] == reference,
    }
    return token_table(record, cells, layers_of(values), columns, attrs=attrs)


def _is_reference(record: Record, length: int) -> np.ndarray:
    """Dims sample, 1, token."""
    return (references(record)[:, None] == np.arange(length))[:, None, :]


def _attention(
    record: Record, table: pd.DataFrame, threshold: float
) -> tuple[np.ndarray, pd.api.extensions.ExtensionArray]:
    """Key attention and sink verdict of the rows of a table."""
    if "segment_sum" not in record:
        missing = np.full(len(table), np.nan)
        return missing, pd.array([None] * len(table), dtype="boolean")
    found = sink_attention(record, threshold=threshold)
    layers = table["layer"].to_numpy()
    cells = (table["sample"].to_numpy(), layers, table["token"].to_numpy())
    every = list(range(int(layers.max(initial=-1)) + 1))
    alpha = found.alpha.reindex(layer=every).values[cells]
    verdict = found.is_sink.astype(np.float64).reindex(layer=every).values[cells]
    return alpha, pd.array(verdict, dtype="boolean")
