"""trace: a second forward that keeps, at a few tokens and features, what every block added.

Example:
    >>> import pandas as pd
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=12,
    ...     num_hidden_layers=2, num_attention_heads=2, vocab_size=11))
    >>> found = pd.DataFrame({"sample": [0], "token": [0], "feature": [3]})
    >>> seen = trace(model, input_ids=[[1, 4, 7]], at=found, others=1)
    >>> seen["picked_mlp_out"].dims, seen["traced_token"].values.tolist()
    (('sample', 'layer', 'place', 'feature'), [[0, 1]])
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from sinkscope.errors import InputError, SiteError
from sinkscope.probes.down_projections import DownProjections, Rows
from sinkscope.probes.pick import Pick
from sinkscope.probes.probe import Probe
from sinkscope.probes.reducers import Median, Reducer
from sinkscope.probes.trace_requests import (
    chosen_features,
    named_pairs,
    named_tokens,
    ordinary_tokens,
    refuse_layers,
)
from sinkscope.record import Record, merge
from sinkscope.subjects.subject import Subject, load

__all__ = ["trace"]

STREAM = ("resid_pre", "attn_out", "mlp_out", "resid_post")
EXPERTS = "expert_out"
INSIDE = ("mlp_gate", "mlp_up", "mlp_act")
MAX_BYTES = 2 * 2**30


def trace(
    subject: Any,
    data: Any = None,
    *,
    at: pd.DataFrame | Sequence[pd.DataFrame],
    features: Sequence[int] | None = None,
    others: int = 8,
    layers: Sequence[int] | None = None,
    max_bytes: int = MAX_BYTES,
    **given: Any,
) -> Record:
    """Run a subject again and keep what the origin of massive activations can be read from.

    Args:
        subject: a `Subject`, or anything that ``load`` takes.
        data: the clips or texts that ``at`` was found on, in the same order.
        at: a table of ``find_massive_activations``, or several tables: their tokens are traced.
        features: the features to trace; by default those of the tables.
        others: ordinary tokens of each sample that are traced for comparison.
        layers: layers whose neurons are kept; all by default. The stream is kept in all.
        max_bytes: what the neurons may take at most.
        given: ``input_ids`` and the like, as for ``record``.

    Returns:
        A record with the axis ``place`` (a traced token): ``traced_token[sample, place]`` with
        ``is_found[sample, place, feature]`` (1 where a table named it) and ``places[sample]``;
        ``picked_resid_pre``, ``picked_attn_out``, ``picked_mlp_out`` and ``picked_resid_post``
        ``[sample, layer, place, feature]`` at the traced features, and ``picked_expert_out`` where
        a mixture of experts (MoME) is beside the blocks; ``picked_mlp_gate``,
        ``picked_mlp_up`` and ``picked_mlp_act`` ``[sample, layer, place, neuron]``;
        ``down_weight[layer, feature, neuron]`` and ``down_bias[layer, feature]``; ``median`` of
        resid_post and ``resid_pre_median`` of layer 0. What a family or a layer lacks is left
        out, and ``provenance["unreadable"]`` says why, layer by layer.

    Raises:
        InputError: the tables name no tokens or features, or tokens that a sample lacks; the
            neurons would take more than ``max_bytes``; there is no such layer or feature.
        SiteError: the subject has no residual stream to follow, or one that cross-attention adds
            to.
    """
    subject = load(subject)
    if subject.anatomy.reads("cross_out"):
        raise SiteError(
            f"trace: in a block of {subject.name} cross-attention adds to the stream too, and the "
            "book of a trace knows attention and MLP alone; keep attn_out, cross_out and mlp_out."
        )
    found = [at] if isinstance(at, pd.DataFrame) else list(at)
    chosen = chosen_features(found, features, subject.anatomy.d_model)
    refuse_layers(layers, subject.anatomy.n_layers)
    plan = _Plan(subject, chosen, others, layers, max_bytes)
    if not _is_several(data):
        return _trace_one(plan, data, found, given)
    records = []
    for sample, one in enumerate(data):
        own = [table.loc[table["sample"] == sample].assign(sample=0) for table in found]
        records.append(_trace_one(plan, one, own, given))
    return merge(records)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is traced in every forward."""

    subject: Subject
    features: tuple[int, ...]
    others: int
    layers: Sequence[int] | None
    max_bytes: int

    def neuron_layers(self) -> tuple[int, ...]:
        count = self.subject.anatomy.n_layers
        wanted = range(count) if self.layers is None else sorted(set(self.layers))
        return tuple(wanted)


def _trace_one(
    plan: _Plan, data: Any, found: Sequence[pd.DataFrame], given: Mapping[str, Any]
) -> Record:
    """One forward; the places are the tokens that any of its samples has traced."""
    subject = plan.subject
    batch = list(subject.batches(data, **given))
    layouts = [layout.without_padding() for inputs in batch for layout in inputs.layouts]
    named = [named_tokens(found, sample, layout) for sample, layout in enumerate(layouts)]
    traced = sorted(
        set().union(
            *named,
            *(
                ordinary_tokens(plan.others, n, layout)
                for n, layout in zip(named, layouts, strict=True)
            ),
        )
    )
    projections = DownProjections(subject.anatomy, plan.features, plan.neuron_layers())
    reducers = _reducers(plan, tuple(traced))
    with ExitStack() as stack:
        projections.attach(stack)
        recording = stack.enter_context(Probe(subject, reducers))
        recording.run(data, **given)
    rows, unreadable = projections.read()
    return _with_places(recording.record, traced, found, plan, rows, unreadable)


def _reducers(plan: _Plan, tokens: tuple[int, ...]) -> list[Reducer]:
    anatomy = plan.subject.anatomy
    added = tuple(i for i in range(anatomy.n_layers) if not anatomy.absence("expert_out", i))
    reducers: list[Reducer] = [
        *(Pick(site, tokens=tokens, features=plan.features) for site in STREAM),
        *(Pick(EXPERTS, tokens=tokens, features=plan.features, layers=added) for _ in added[:1]),
        Median("resid_post"),
        Median("resid_pre", layers=(0,)),
    ]
    size = 0
    for site in INSIDE:
        layers = tuple(i for i in plan.neuron_layers() if not anatomy.absence(site, i))
        if layers:
            reducers.append(Pick(site, tokens=tokens, layers=layers))
            size += 4 * len(layers) * len(tokens) * _width(plan.subject)
    if size > plan.max_bytes:
        raise InputError(
            f"trace: the neurons of {len(tokens)} tokens would take {size / 2**30:.1f} GiB, more "
            f"than the limit of {plan.max_bytes / 2**30:.1f} GiB; name fewer layers or tokens, "
            "or raise max_bytes."
        )
    return reducers


def _width(subject: Subject) -> int:
    """Neurons of an MLP, about: for an estimate of memory."""
    config: Any = subject.anatomy.config
    names = ("intermediate_size", "ffn_dim", "n_inner", "encoder_ffn_dim")
    found = next((v for name in names if (v := getattr(config, name, None))), None)
    if isinstance(found, list | tuple):
        found = max(found)
    return int(found or 4 * subject.anatomy.d_model)


def _with_places(
    record: Record,
    traced: Sequence[int],
    found: Sequence[pd.DataFrame],
    plan: _Plan,
    rows: Mapping[int, Rows],
    unreadable: Mapping[int, str],
) -> Record:
    """The record with what its places and features are, and the rows of the down projections."""
    features = list(plan.features)
    variables = {name: record[name] for name in record if name != "length"}
    for name in (f"picked_{site}" for site in (*STREAM, EXPERTS)):
        if name in variables:
            variables[name] = variables[name].assign_coords(feature=features)
    lengths = [len(layout) for layout in record.layouts]
    token = np.zeros((len(lengths), len(traced)), np.int64)
    is_found = np.zeros((*token.shape, len(features)), np.int64)
    for sample, length in enumerate(lengths):
        inside = [place for place, one in enumerate(traced) if one < length]
        token[sample, inside] = np.array(traced)[inside]
        pairs = named_pairs(found, sample, features)
        for place, one in enumerate(traced):
            is_found[sample, place] = [(one, feature) in pairs for feature in features]
    variables["traced_token"] = xr.DataArray(token, dims=("sample", "place"))
    variables["is_found"] = xr.DataArray(
        is_found, dims=("sample", "place", "feature"), coords={"feature": features}
    )
    counts = [sum(one < length for one in traced) for length in lengths]
    variables["places"] = xr.DataArray(np.array(counts, np.int64), dims=("sample",))
    variables |= _weights(rows, features)
    provenance = {
        **record.provenance,
        "traced_features": features,
        "unreadable": {str(layer): why for layer, why in unreadable.items()},
    }
    provenance.pop("schema_version", None)
    return Record.of(variables, record.layouts, provenance, clips=record.clips)


def _weights(rows: Mapping[int, Rows], features: list[int]) -> dict[str, xr.DataArray]:
    if not rows:
        return {}
    layers = sorted(rows)
    widest = max(rows[layer].weight.shape[1] for layer in layers)
    weight = torch.zeros(len(layers), len(features), widest)
    for place, layer in enumerate(layers):
        weight[place, :, : rows[layer].weight.shape[1]] = rows[layer].weight
    bias = torch.stack([rows[layer].bias for layer in layers])
    coords = {"layer": layers, "feature": features}
    return {
        "down_weight": xr.DataArray(
            weight.numpy(), dims=("layer", "feature", "neuron"), coords=coords
        ),
        "down_bias": xr.DataArray(bias.numpy(), dims=("layer", "feature"), coords=coords),
    }


def _is_several(data: Any) -> bool:
    return isinstance(data, list | tuple)
