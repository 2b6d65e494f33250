"""Is a table of sinks of these records? And its rows, each token once. Depends on record."""

from collections.abc import Mapping

import pandas as pd

from sinkscope.analysis.rates import Pair, rate_words
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["refuse_other_table", "sinks_at", "sinks_of_rates", "sinks_of_record"]

OF_MODEL = ("subject", "model_hash", "prepend_bos")


def refuse_other_table(table: pd.DataFrame, wanted: str, *, where: str, made_by: str = "") -> None:
    """Refuse a table that another function made.

    Args:
        table: what was given.
        wanted: its name, in its ``attrs``.
        where: what the message begins with.
        made_by: the function that makes it, where that has another name.

    Raises:
        InputError: naming the function whose table is wanted.
    """
    found = table.attrs.get("table")
    if found != wanted:
        raise InputError(
            f"{where}: the table is {found!r}; give what {made_by or wanted} returned."
        )


def sinks_at(sinks: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    """The rows of one pair of rates."""
    return sinks.loc[(sinks["audio_rate"] == pair[0]) & (sinks["video_rate"] == pair[1])]


def sinks_of_record(sinks: pd.DataFrame, record: Record, *, where: str) -> pd.DataFrame:
    """What ``find_sinks`` found in this record, each token of a layer once.

    Raises:
        InputError: the table is another one, or of another record.
    """
    refuse_other_table(sinks, "sinks", where=where, made_by="find_sinks")
    lengths = [len(layout) for layout in record.layouts]
    if _other_model(sinks, record) or sinks.attrs.get("tokens") != lengths:
        raise InputError(f"{where}: the sinks are of another record; find them in this one.")
    _refuse_other_tokens(sinks, record, where=where)
    return sinks.drop_duplicates(["sample", "layer", "token"])


def sinks_of_rates(
    sinks: pd.DataFrame, records: Mapping[Pair, Record], *, where: str
) -> pd.DataFrame:
    """What ``sinks_by_rate`` found in these records, each token once.

    Raises:
        InputError: the table is another one, or of other records or pairs.
    """
    refuse_other_table(sinks, "sinks_by_rate", where=where)
    known = [tuple(pair) for pair in sinks.attrs.get("pairs", ())]
    for pair, record in records.items():
        if pair not in known:
            raise InputError(
                f"{where}: the sinks are of the pairs {', '.join(map(rate_words, known))}, and a "
                f"record is of {rate_words(pair)}; find them with sinks_by_rate in these records."
            )
        if _other_model(sinks, record):
            raise InputError(
                f"{where}: the sinks are of another model than the records; find them in these."
            )
        _refuse_other_tokens(sinks_at(sinks, pair), record, where=f"{where}: {rate_words(pair)}")
    return sinks.drop_duplicates(["audio_rate", "video_rate", "sample", "token"])


def _other_model(sinks: pd.DataFrame, record: Record) -> bool:
    return any(sinks.attrs.get(name) != record.provenance.get(name) for name in OF_MODEL)


def _refuse_other_tokens(sinks: pd.DataFrame, record: Record, *, where: str) -> None:
    """Refuse rows whose token is not in the record, or has another segment or label there."""
    for row in sinks[["sample", "token", "segment", "label"]].drop_duplicates().to_numpy(object):
        sample, token, *named = row.tolist()
        layout = record.layouts[sample] if 0 <= sample < len(record) else None
        known = layout is not None and 0 <= token < len(layout)
        if not known or [layout.segments[token], layout.labels[token]] != named:  # pyright: ignore
            raise InputError(
                f"{where}: the sinks are of another record (sample {sample} has no token {token} "
                f"{named[1]!r}); find them in this one."
            )
