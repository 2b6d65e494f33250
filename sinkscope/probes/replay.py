"""Reducers over what a record kept: the same numbers as if they had been there.

Example:
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from sinkscope.probes.probe import record
    >>> from sinkscope.probes.reducers import Keep, RowEntropy
    >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=12,
    ...     num_hidden_layers=2, num_attention_heads=2, vocab_size=11))
    >>> kept = record(model, input_ids=[[1, 4, 7]], reducers=[Keep("pattern")])
    >>> replay(kept, [RowEntropy()])["entropy"].shape
    (1, 2, 2, 3)
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from sinkscope.errors import SiteError
from sinkscope.probes.assemble import assemble, refuse_doubles
from sinkscope.probes.reducer import Reducer
from sinkscope.probes.stitching import Stream
from sinkscope.probes.values import Rows, Tokens
from sinkscope.record import Record

__all__ = ["replay"]


def replay(record: Record, reducers: Sequence[Reducer]) -> Record:
    """What reducers make of the sites that a record kept.

    Args:
        record: made with ``keep=`` of every site that the reducers read.
        reducers: by default each reads all layers that were kept of its site.

    Returns:
        A record of their variables, with the same layouts and provenance.

    Raises:
        SiteError: if a site or a layer was not kept, or the record is of cross-attention.
        InputError: if two reducers would write one variable.
    """
    refuse_doubles(reducers)
    if record.provenance.get("attention") == "cross":
        raise SiteError(
            "replay: a kept map of cross-attention has rows that attend to nothing, which reducers "
            "would count; record again with these reducers."
        )
    layers = [_layers(record, reducer) for reducer in reducers]
    chosen = [replace(reducer, layers=own) for reducer, own in zip(reducers, layers, strict=True)]
    streams = []
    for sample in range(len(record)):
        layout = record.layouts[sample]
        places = np.arange(len(layout))
        stream = Stream(layout, record.clips[sample], places, len(layout))
        for number, layer in _work(chosen):
            reducer = chosen[number]
            value = _value(record, sample, layer, reducer.site)
            stream.results[number, layer] = reducer.finish(reducer.reduce(value))
        streams.append(stream)
    replayed = assemble(streams, chosen, layers, record.provenance)
    kept_side = {"padding_side": record.provenance.get("padding_side", "none")}
    return replace(replayed, provenance=dict(replayed.provenance) | kept_side)


def _work(reducers: Sequence[Reducer]) -> Iterator[tuple[int, int]]:
    return (
        (number, layer) for number, reducer in enumerate(reducers) for layer in reducer.layers or ()
    )


def _layers(record: Record, reducer: Reducer) -> tuple[int, ...]:
    kept = tuple(int(layer) for layer in record[reducer.site]["layer"])
    for layer in reducer.layers or ():
        if layer not in kept:
            raise SiteError(
                f"{reducer}: layer {layer} of {reducer.site!r} was not kept; kept are {list(kept)}."
            )
    return kept if reducer.layers is None else tuple(sorted(set(reducer.layers)))


def _value(record: Record, sample: int, layer: int, site: str) -> Rows | Tokens:
    """What a reducer would have been given, from the arrays of the record."""
    layout = record.layouts[sample]
    length = len(layout)
    kept = record[site].isel(sample=sample).sel(layer=layer)
    if site != "pattern":
        values = torch.from_numpy(kept.isel(token=slice(0, length)).values.copy())
        return Tokens(values, reference=values[layout.reference] if values.ndim == 2 else None)
    inside = {"query": slice(0, length), "key": slice(0, length)}
    visible = record["visible"].isel(sample=sample).sel(layer=layer).isel(inside)
    weights = torch.from_numpy(kept.isel(inside).values.copy())
    return Rows(
        weights,
        layout.segment_index,
        length=length,
        visible=torch.from_numpy(visible.values.astype(bool)),
    )
