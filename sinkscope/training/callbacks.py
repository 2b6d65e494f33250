"""SinkCallback: watches sinks, massive activations and cosines to BOS while a model is trained.

Depends on probes, analysis and transformers. It runs the model on a few held-out samples as
``ss.record`` does, so the run itself goes on as if it had not been watched.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import TrainerCallback

from sinkscope.analysis.criteria import bos_cosine, ratio_to_median
from sinkscope.analysis.similarity import twins
from sinkscope.analysis.sinks import sink_summary
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.analysis.verdict import sink_attention
from sinkscope.errors import InputError
from sinkscope.probes.probe import record as record_samples
from sinkscope.probes.reducers import BosSimilarity, Median, SegmentAttention, TopActivations
from sinkscope.record import Record
from sinkscope.subjects.subject import load

__all__ = ["SinkCallback", "sink_numbers"]

WATCHED = (
    SegmentAttention(),
    TopActivations("resid_post", k=1),
    Median("resid_post"),
    BosSimilarity("resid_post"),
)
"""What a sample is recorded with."""


def sink_numbers(record: Record, *, thresholds: Thresholds | None = None) -> dict[str, float]:
    """A few numbers of a record, for a line of a log.

    Args:
        record: one or several samples.
        thresholds: what is a sink and a twin; None for the usual ones.

    Returns:
        ``bos_sink_rate``: share of heads that rest on BOS (or the reference token), in the layer
        where it is largest; ``other_sink_rate``: the largest of any other token; both mean over
        samples. ``largest_ratio``: of |x| to its layer's median. ``bos_cosine_squared``: mean over
        layers but the last and over the tokens that the decorrelation loss compares.
        ``intermediate_sinks`` and ``twins``: tokens a sample that are one in some layer.
    """
    chosen = thresholds or Thresholds()
    sinks = sink_summary(record, **chosen.of_sinks)
    others = sinks[sinks["token"].to_numpy() != _references(record)[sinks["sample"].to_numpy()]]
    twin = twins(record, **chosen.of_twins).drop_duplicates(["sample", "token"])
    bos, other = _sink_rates(record, chosen)
    return {
        "bos_sink_rate": bos,
        "other_sink_rate": other,
        "largest_ratio": float(np.nanmax(ratio_to_median(record).values)),
        "bos_cosine_squared": _cosine_squared(record),
        "intermediate_sinks": len(others) / len(record),
        "twins": len(twin) / len(record),
    }


class SinkCallback(TrainerCallback):
    """Logs `sink_numbers` of a few held-out samples, before the first step and every N steps.

    For any Trainer of transformers. Modes, gradients, random states and hooks are as before, so
    the run's losses are those of the run without it. The numbers go to ``history``, and to the
    Trainer's own log: a `SinkTrainer` sees to that; for another Trainer say
    ``callback.log = trainer.log`` once it is made, otherwise they go to ``state.log_history``.

    Args:
        data: what the subject takes: clips, texts; or a dictionary of the arguments of
            ``ss.record``, ``{"input_ids": ids}`` for instance. A handful of samples is enough.
        every: steps between two looks.
        subject: what is looked at; None is the Trainer's model. Give it where the Trainer's model
            wraps the one that takes the data.
        thresholds: what is a sink and a twin.

    Raises:
        InputError: ``every`` is below 1, or (when training begins) the model is sharded.

    Example:
        >>> callback = SinkCallback(["Bin blue at F two now."], every=50)     # doctest: +SKIP
        >>> trainer = SinkTrainer(model, arguments, weight=1.0, callbacks=[callback])
        ...                                                                   # doctest: +SKIP
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int = 100,
        subject: Any = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        if every < 1:
            raise InputError(f"SinkCallback: every is {every}; give 1 or more steps.")
        self.every = every
        self.thresholds = thresholds
        self.history: list[dict[str, float]] = []
        self.log: Callable[[dict[str, float]], None] | None = None
        self._data = data if isinstance(data, dict) else {"data": data}
        self._subject = subject

    def frame(self) -> pd.DataFrame:
        """The history as a table, one row a look."""
        return pd.DataFrame(self.history)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        """Make the subject; look at it where the run is new."""
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            raise InputError(
                "SinkCallback: the model is sharded over processes (FSDP, DeepSpeed), and a look "
                "from one process would wait for the others; leave the callback out."
            )
        if state.is_world_process_zero:
            tokenizer = processing_class if callable(processing_class) else None
            with undisturbed():
                watched = model if self._subject is None else self._subject
                self._loaded = _subject(watched, tokenizer)
            if state.global_step == 0:
                self._look(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look, where it is time."""
        if state.is_world_process_zero and state.global_step % self.every == 0:
            self._look(state, control)

    def _look(self, state: Any, control: Any) -> None:
        with undisturbed():
            seen = record_samples(self._loaded, **self._data, reducers=WATCHED)
            numbers = sink_numbers(seen, thresholds=self.thresholds)
        self.history.append({"step": state.global_step, **numbers})
        if self.log is None:
            state.log_history.append({**numbers, "step": state.global_step})
            return
        should_log = control.should_log  # the Trainer's own line of this step is still to come
        self.log(dict(numbers))
        control.should_log = should_log


@contextmanager
def undisturbed() -> Iterator[None]:
    """Random states are as before afterwards: Python's, numpy's, torch's of every device."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _subject(what: Any, tokenizer: Any) -> Any:
    if (
        isinstance(what, torch.nn.Module)
        and tokenizer is not None
        and not hasattr(what, "tokenizer")
    ):
        return load(what, tokenizer=tokenizer)
    return load(what)


def _references(record: Record) -> np.ndarray:
    return np.array([layout.reference for layout in record.layouts], np.int64)


def _sink_rates(record: Record, chosen: Thresholds) -> tuple[float, float]:
    """The largest sink rate over layers, of the reference and of any other token that is judged."""
    how = {name: value for name, value in chosen.of_sinks.items() if name in _OF_ATTENTION}
    found = sink_attention(record, **how)
    rate = np.where(found.judged.values, found.rate.values, 0.0)
    bos = np.arange(rate.shape[-1]) == _references(record)[:, None, None]
    return tuple(float(np.where(which, rate, 0.0).max(axis=(1, 2)).mean()) for which in (bos, ~bos))  # pyright: ignore[reportReturnType]


_OF_ATTENTION = ("threshold", "min_heads", "min_queries")


def _cosine_squared(record: Record) -> float:
    """Mean squared cosine to the reference, over all layers but the last."""
    cosine = bos_cosine(record).values[:, : max(1, record["bos_cosine"].sizes["layer"] - 1)]
    compared = np.zeros((len(record), cosine.shape[-1]), bool)
    for row, layout in zip(compared, record.layouts, strict=True):
        row[: len(layout)] = ~layout.mask("response", "padding")
        row[layout.reference] = False
    chosen = np.where(compared[:, None], np.square(cosine, dtype=np.float64), np.nan)
    return float(np.nanmean(chosen)) if compared.any() else 0.0
