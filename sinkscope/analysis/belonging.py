"""Whether a table of sinks, and encoders' records, can be of a record. Depends on record.

Tables and records carry no link to each other, so what contradicts is refused.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["check_one_forward", "check_sinks"]


def check_sinks(record: Record, sinks: pd.DataFrame) -> None:
    """Refuse sinks that are not of the record.

    Raises:
        InputError: the table is another one; it is of another model; it names a token that the
            record does not have, or by another segment or label.
    """
    if sinks.attrs.get("table") != "sinks":
        raise InputError("sink_ancestry: sinks must be what find_sinks returned for the record.")
    made, own = sinks.attrs.get("model_hash"), record.provenance.get("model_hash")
    if made and own and made != own:
        raise InputError(
            "sink_ancestry: the sinks are of another model than the record; give what find_sinks "
            "returned for it."
        )
    named = [name for name in ("segment", "label") if name in sinks]
    rows = sinks.loc[:, ["sample", "token", *named]].drop_duplicates()
    for sample, token, *words in rows.itertuples(index=False, name=None):
        found = _named(record, int(sample), int(token), named)
        if found != words:
            held = "has no such token" if found is None else f"says {', '.join(map(repr, found))}"
            raise InputError(
                f"sink_ancestry: the sinks name token {token} of sample {sample}"
                f" ({', '.join(map(repr, words))}), but the record {held}; give what find_sinks "
                "returned for it."
            )


def _named(record: Record, sample: int, token: int, names: list[str]) -> list[str] | None:
    """Segment and label of a token; None where there is none."""
    if not 0 <= sample < len(record) or not 0 <= token < len(record.layouts[sample]):
        return None
    return [getattr(record.layouts[sample], f"{name}s")[token] for name in names]


def check_one_forward(record: Record, streams: Iterable[str]) -> None:
    """Refuse samples whose sounds, pictures or films are counted anew.

    In one forward they are counted through all samples, so none is in two.

    Raises:
        InputError: if an item is in several samples.
    """
    for stream in streams:
        seen: dict[float, int] = {}
        for sample, layout in enumerate(record.layouts):
            if "item" not in layout.descriptors:
                continue
            items = layout.descriptors["item"][layout.mask(stream)]
            for item in np.unique(items[~np.isnan(items)]).tolist():
                if seen.setdefault(item, sample) != sample:
                    raise InputError(
                        f"sink_ancestry: {stream} {item:.0f} is in sample {seen[item]} and in "
                        f"sample {sample}, so the record joins several forwards, each of which "
                        "counts from 0; give the record of one forward, or use follow_sinks."
                    )
