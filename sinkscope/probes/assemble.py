"""From what reducers know of each sample to a Record: labelled arrays, padded to the longest."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.probes.reducer import Reducer
from sinkscope.probes.stitching import Stream
from sinkscope.record import Record

__all__ = ["assemble", "refuse_doubles"]


def assemble(
    streams: Sequence[Stream],
    reducers: Sequence[Reducer],
    layers: Sequence[Sequence[int]],
    provenance: Mapping[str, Any],
) -> Record:
    """The record of finished samples.

    Args:
        streams: the samples; all that they know is in their ``results``.
        reducers: what made it.
        layers: those that each reducer read.
        provenance: how it came about; what only the samples show is added.
    """
    variables: dict[str, xr.DataArray] = {}
    for number, reducer in enumerate(reducers):
        for name, axes in reducer.variables().items():
            values = [
                [stream.results[number, layer][name] for layer in layers[number]]
                for stream in streams
            ]
            variables[name] = xr.DataArray(
                _padded(values),
                dims=("sample", "layer", *axes),
                coords={"layer": list(layers[number])},
                attrs=_remembered(name, provenance),
            )
    layouts = [stream.layout for stream in streams]
    return Record.of(
        variables,
        layouts,
        dict(provenance) | _of_samples(streams, reducers),
        clips=[stream.clip for stream in streams],
    )


def refuse_doubles(reducers: Sequence[Reducer]) -> None:
    """Refuse two reducers that would write one variable.

    Raises:
        InputError: if there are such.
    """
    writers: dict[str, Reducer] = {}
    for reducer in reducers:
        for name in reducer.variables():
            if name in writers:
                raise InputError(
                    f"{writers[name]} and {reducer} would both write {name!r}; "
                    "use one, with the layers of both."
                )
            writers[name] = reducer


def _remembered(name: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a kept map must say of itself where it is used without its record."""
    both_ways = name == "pattern" and provenance.get("causal") is False
    return {"attention": "bidirectional"} if both_ways else {}


def _padded(values: Sequence[Sequence[Tensor]]) -> np.ndarray:
    """An array of (sample, layer, ...), with NaN, or 0 in whole numbers, where a sample is over."""
    flat = [value for sample in values for value in sample]
    shape = [max(sizes) for sizes in zip(*(value.shape for value in flat), strict=True)]
    whole = not flat[0].dtype.is_floating_point
    kind = _stored(flat[0].dtype)
    array = np.full((len(values), len(values[0]), *shape), 0 if whole else np.nan, kind)
    for i, sample in enumerate(values):
        for j, value in enumerate(sample):
            place = (i, j, *(slice(0, size) for size in value.shape))
            array[place] = value.detach().to("cpu").to(_torch_kind(value.dtype)).numpy()
    return array


def _torch_kind(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point else dtype


def _stored(dtype: torch.dtype) -> Any:
    return torch.empty(0, dtype=_torch_kind(dtype)).numpy().dtype


def _of_samples(streams: Sequence[Stream], reducers: Sequence[Reducer]) -> dict[str, Any]:
    """What the samples themselves say of how they were recorded."""
    sides = {_padding_side(stream) for stream in streams} - {"none"}
    return {
        "padding_side": "none" if not sides else sides.pop() if len(sides) == 1 else "both",
        "bos_present": [bool(stream.layout.has_bos) for stream in streams],
        "tokens": [len(stream.layout) for stream in streams],
        "reducers": [repr(reducer) for reducer in reducers],
    }


def _padding_side(stream: Stream) -> str:
    left = stream.places[0] > 0
    right = stream.places[-1] < stream.padded - 1
    return "both" if left and right else "left" if left else "right" if right else "none"
