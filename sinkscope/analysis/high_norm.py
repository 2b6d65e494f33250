"""find_high_norm: tokens whose state is far longer than those of their kind. Depends on record."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from sinkscope.analysis.tables import check_number, layers_of, token_table
from sinkscope.record import Record

__all__ = ["ENTRANCE", "find_high_norm", "norm_ratio"]

ENTRANCE = "resid_pre_norm"
"""What ``Norms("resid_pre", layers=[0])`` calls the norms of what enters the first block."""


def find_high_norm(record: Record, *, ratio: float | int = 3.0) -> pd.DataFrame:
    """The tokens whose state is longer than ``ratio`` times the usual of their segment.

    Darcet et al. (arXiv 2309.16588) found that vision transformers turn a few patches of little
    content into tokens of high norm, and cut at a fixed norm; a ratio to the median does the same
    for encoders of any scale (3 is our choice).

    Args:
        record: of an encoder, a projector or an LLM.
        ratio: norm over the median norm of the same segment, sample and layer, to pass.

    Returns:
        ``TABLE_COLUMNS``, ``norm``, ``norm_ratio``, ``bos_present``: one row a token and layer, by
        the state that leaves the layer.

    Raises:
        InputError: if ``ratio`` is not above 0.
        SiteError: if the record holds no norms.

    Example:
        >>> import sinkscope as ss
        >>> heard = ss.record(ss.load("tiny-avsr").encoder("audio"), clip)      # doctest: +SKIP
        >>> ss.find_high_norm(heard)                                            # doctest: +SKIP
    """
    check_number("ratio", ratio)
    norms = record["norm"].transpose("sample", "layer", "token")
    ratios = norm_ratio(record)
    cells = np.nonzero(np.nan_to_num(ratios.values) > ratio)
    columns = {"norm": norms.values[cells], "norm_ratio": ratios.values[cells]}
    largest = float(np.nanmax(ratios.values)) if np.isfinite(ratios.values).any() else float("nan")
    attrs: dict[str, Any] = {"table": "high_norm", "ratio": ratio, "largest_ratio": largest}
    return token_table(record, cells, layers_of(norms), columns, attrs=attrs)


def norm_ratio(record: Record, name: str = "norm") -> xr.DataArray:
    """Each token's norm over the median of its segment in the same sample and layer.

    Args:
        record: what holds the norms.
        name: the variable: ``norm`` for what leaves each layer.

    Returns:
        ``sample layer token``; NaN for padding.
    """
    norms = record[name].transpose("sample", "layer", "token")
    found = np.full(norms.shape, np.nan)
    for sample, layout in enumerate(record.layouts):
        for segment in dict.fromkeys(layout.segments):
            tokens = np.flatnonzero(layout.mask(segment))
            found[sample][:, tokens] = _over_median(norms.values[sample][:, tokens])
    return norms.copy(data=found)


def _over_median(norms: Float[np.ndarray, "layer token"]) -> Float[np.ndarray, "layer token"]:
    usual = np.median(norms, axis=1, keepdims=True)
    return np.divide(norms, usual, out=np.full(norms.shape, np.nan), where=usual > 0)
