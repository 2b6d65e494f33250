"""What a token is: the descriptors of its layout as columns of a table. Depends on record."""

from typing import Any

import numpy as np
import pandas as pd

from sinkscope.record import Record

__all__ = ["DESCRIPTORS", "descriptor", "descriptor_columns"]

DESCRIPTORS = ("loudness_db", "silence", "motion", "phoneme")
"""The columns that say what an audio or video token is: decibels re full scale, silent (1) or not
(0), grey levels a frame, and the phoneme on synthetic clips."""


def descriptor(record: Record, sample: int, name: str) -> np.ndarray:
    """One descriptor of every token of a sample: floats with NaN, or texts with "", if unknown.

    Silence is unknown where the loudness is: a token without sound is not thereby silent.
    """
    layout = record.layouts[sample]
    if name == "phoneme":
        values = layout.descriptors.get(name, np.full(len(layout), "", object))
        return np.array([value if isinstance(value, str) else "" for value in values], object)
    values = layout.descriptors.get(name)
    if values is None:
        return np.full(len(layout), np.nan)
    numbers = np.asarray(values, np.float64)
    if name == "silence" and "loudness_db" in layout.descriptors:
        loudness = np.asarray(layout.descriptors["loudness_db"], np.float64)
        numbers = np.where(np.isnan(loudness), np.nan, numbers)
    return numbers


def descriptor_columns(record: Record, samples: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
    """The columns ``DESCRIPTORS`` of the given tokens."""
    columns: dict[str, Any] = {}
    for name in DESCRIPTORS:
        every = [descriptor(record, sample, name) for sample in range(len(record))]
        values = [every[s][t] for s, t in zip(samples, tokens, strict=True)]
        dtype = object if name == "phoneme" else np.float64
        columns[name] = pd.Series(values, dtype=dtype)
    return columns
