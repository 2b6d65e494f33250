"""input_controls: do sinks and massive activations outlive a change of the input?

Depends on controls, probes and analysis. One forward for each input and control; what is kept of it
is a row of numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sinkscope.analysis.finding import find_sinks
from sinkscope.avsr.clip import Clip
from sinkscope.errors import InputError
from sinkscope.interventions.controls import CONTROLS, Control, Input, Surroundings
from sinkscope.interventions.sink_numbers import THRESHOLDS, refuse_unknown, sink_numbers
from sinkscope.probes.probe import record
from sinkscope.record import Record
from sinkscope.subjects.subject import load

__all__ = ["ORIGINAL", "input_controls"]

ORIGINAL = "original"
"""The name of the row of the unchanged input."""

_COUNTS = ("tokens", "n_sinks", "n_intermediate", "n_massive", "n_twins")
_KINDS: dict[str, Any] = {"bos_present": "boolean", **dict.fromkeys(_COUNTS, "Int64")}
_KINDS |= dict.fromkeys(("sink_rate", "largest_sink_rate", "sink_rate_elsewhere"), float)
_KINDS |= dict.fromkeys(("even_alpha", "largest_ratio", "jaccard"), float)


def input_controls(
    subject: Any,
    data: Any = None,
    *,
    input_ids: Tensor | Sequence[Any] | None = None,
    controls: Sequence[str] | Mapping[str, Control] | None = None,
    layers: Sequence[int] | None = None,
    prepend_bos: bool | None = None,
    seed: int = 0,
    **thresholds: Any,
) -> pd.DataFrame:
    """Sinks and massive activations of an input, and of what is left of it under each control.

    Sink rates fall as inputs grow: compare rows of one ``tokens``.

    Args:
        subject: a `Subject`, or anything that ``load`` takes.
        data: a clip or several, a text or several.
        input_ids: token ids of a text or of several, ``[sample][token]``, instead of data.
        controls: names of ``CONTROLS``, or rows like those there; None: all that make sense for
            clips, or for texts.
        layers: 0-based layers to record; all by default.
        prepend_bos: whether the unchanged inputs begin with BOS; None leaves it to the model.
        seed: of the draws.
        thresholds: ``threshold min_heads min_queries ratio cosine`` as in ``find_sinks``.

    Returns:
        For each input a row ``original``, then one for each control: ``sample name control reason
        tokens bos_present reference`` (the label of BOS, or of the first token); ``sink_rate`` of
        that token (mean over layers and heads of 1[alpha > threshold], 0 to 1: Gu et al., arXiv
        2410.10781), ``largest_sink_rate`` (its largest over layers), ``sink_rate_elsewhere`` (the
        largest of another token in a layer), ``even_alpha`` (what even attention would give the
        reference); ``n_sinks`` (tokens), ``n_intermediate``, ``intermediate`` (their labels);
        ``largest_ratio`` (|x| to the layer's median), ``n_massive`` (pairs of token and feature),
        ``massive_features``, ``n_twins`` (twins of BOS), ``jaccard`` (of the massive features and
        the original's; NaN where neither has any). Where a control cannot be applied, ``reason``
        says why and the numbers are missing.

    Raises:
        InputError: data that the subject cannot take, an unknown control or threshold.

    Example:
        >>> import sinkscope as ss
        >>> clip = ss.read_clip("clip.mp4")   # doctest: +SKIP
        >>> ss.input_controls("tiny-avsr", clip, controls=["silence", "no_bos"])  # doctest: +SKIP
    """
    refuse_unknown(thresholds)
    subject = load(subject)
    samples = _samples(subject, data, input_ids, prepend_bos)
    chosen = _chosen(controls, samples[0].kind)
    rows: list[dict[str, Any]] = []
    attrs: dict[str, Any] = {}
    for index, sample in enumerate(samples):
        seen = record(sample.subject, **sample.arguments(), layers=layers)
        before = sink_numbers(seen, **thresholds)
        attrs = attrs or _attrs(seen, thresholds) | {"seed": seed, "inputs": len(samples)}
        said = {"sample": index, "name": _name(sample, index)}
        rows.append(said | {"control": ORIGINAL, "reason": ""} | _beside(before, before))
        for name, control in chosen.items():
            around = Surroundings(_others(samples, index), np.random.default_rng([seed, index]))
            found, reason = _changed(control, sample, around, layers, thresholds)
            rows.append(said | {"control": name, "reason": reason} | _beside(found, before))
    words = {name: control.words for name, control in chosen.items()}
    table = pd.DataFrame(rows).astype(_KINDS)
    table.attrs = {"table": "input_controls", **attrs, "words": words}
    return table


def _changed(
    control: Control,
    sample: Input,
    around: Surroundings,
    layers: Sequence[int] | None,
    thresholds: dict[str, Any],
) -> tuple[dict[str, Any], str]:
    """The numbers of a sample under a control; or none, and why."""
    if sample.kind not in control.kinds:
        return {}, f"this control is for a {control.kinds[0]}."
    try:
        changed = control.change(sample, around)
        seen = record(changed.subject, **changed.arguments(), layers=layers)
    except InputError as error:
        return {}, str(error)
    return sink_numbers(seen, **thresholds), ""


def _beside(found: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row, with the Jaccard index of its massive features and the original's."""
    if not found:
        return dict.fromkeys(before, None) | {"jaccard": None}
    own, others = (set(numbers["massive_features"]) for numbers in (found, before))
    union = own | others
    return found | {"jaccard": len(own & others) / len(union) if union else float("nan")}


def _samples(
    subject: Any, data: Any, input_ids: Tensor | Sequence[Any] | None, prepend_bos: bool | None
) -> list[Input]:
    """One sample for each input, with the layout that it has when nothing is changed."""
    if (data is None) == (input_ids is None):
        raise InputError("input_controls: give data or input_ids, one of the two.")
    if input_ids is not None:
        given: list[dict[str, Any]] = [{"input_ids": [ids]} for ids in _lists(input_ids)]
    else:
        several = [data] if isinstance(data, Clip | str) else list(data)
        given = [{"data": one, "prepend_bos": prepend_bos} for one in several]
    if not given:
        raise InputError("input_controls: no input was given; give at least one.")
    return [_sample(subject, one) for one in given]


def _lists(ids: Tensor | Sequence[Any]) -> list[list[int]]:
    """The ids of each text; they may differ in length."""
    rows = ids.tolist() if isinstance(ids, Tensor) else [_plain(one) for one in ids]
    return [rows] if rows and isinstance(rows[0], int) else rows


def _plain(ids: Any) -> Any:
    return ids.tolist() if hasattr(ids, "tolist") else ids


def _sample(subject: Any, given: dict[str, Any]) -> Input:
    inputs = next(iter(subject.batches(**given)))
    data = given.get("data")
    if isinstance(data, Clip):
        return Input(subject, inputs.layouts[0], clip=data, prepend_bos=given.get("prepend_bos"))
    ids = tuple(inputs.kwargs["input_ids"][0].tolist())
    return Input(subject, inputs.layouts[0], ids=ids)


def _chosen(controls: Any, kind: str) -> dict[str, Control]:
    if controls is None:
        return {name: one for name, one in CONTROLS.items() if kind in one.kinds}
    if isinstance(controls, Mapping):
        return dict(controls)
    names = [controls] if isinstance(controls, str) else list(controls)
    for name in names:
        if name not in CONTROLS:
            raise InputError(f"There is no control {name!r}; use {', '.join(CONTROLS)}.")
    return {name: CONTROLS[name] for name in names}


def _others(samples: Sequence[Input], index: int) -> list[Clip]:
    """The clips of the other samples, the next one first."""
    order = [*samples[index + 1 :], *samples[:index]]
    return [one.clip for one in order if one.clip is not None]


def _name(sample: Input, index: int) -> str:
    return f"text {index}" if sample.clip is None else sample.clip.name


def _attrs(seen: Record, thresholds: dict[str, Any]) -> dict[str, Any]:
    """What was asked, of the model and of the thresholds."""
    sinks = find_sinks(seen, **thresholds).attrs
    names = ("subject", "model_hash", "ratio_threshold", "ratio_source", *THRESHOLDS)
    return {name: sinks[name] for name in names if name in sinks} | {"layers": seen.layers}
