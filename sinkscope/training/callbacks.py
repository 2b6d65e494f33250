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

from sinkscope.analysis.clip_numbers import clip_numbers
from sinkscope.analysis.massive import find_massive_activations
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


LOGGED = (
    *("bos_sink_rate", "other_sink_rate", "intermediate_sinks"),
    *("twins", "largest_ratio", "mean_cos2"),
)
"""The metrics of ``compare`` that a line of a log has."""


def sink_numbers(record: Record, *, thresholds: Thresholds | None = None) -> dict[str, float]:
    """A few numbers of a record, for a line of a log: those that ``compare`` compares.

    Args:
        record: one or several samples.
        thresholds: what is a sink and a twin; None for the usual ones.

    Returns:
        The metrics of `LOGGED`, each a mean over samples; those of BOS are left out where there is
        none. See `sinkscope.analysis.clip_numbers.METRICS`.
    """
    chosen = thresholds or Thresholds()
    how = {name: value for name, value in chosen.of_sinks.items() if name in _OF_ATTENTION}
    massive = find_massive_activations(record, ratio=chosen.ratio)
    table = clip_numbers(record, sink_attention(record, **how), massive, cosine=chosen.cosine)
    means = table[list(LOGGED)].mean()
    return {str(name): float(value) for name, value in means.items() if np.isfinite(value)}


_OF_ATTENTION = ("threshold", "min_heads", "min_queries")


class SinkCallback(TrainerCallback):
    """Logs `sink_numbers` of a few held-out samples, before the first step and every N steps.

    For any Trainer of transformers. Modes, gradients, random states and hooks are as before, so
    the run's losses are those of the run without it. The numbers go to ``history``, and to the
    Trainer's own log: a `SinkTrainer` sees to that; for another Trainer say
    ``callback.log = trainer.log`` once it is made, otherwise they go to ``state.log_history``.

    Args:
        data: what the subject takes: clips, texts; or a dictionary of the arguments of
            ``ss.record``, ``{"input_ids": ids}`` for instance. A handful of samples is enough.
            For texts give the Trainer its tokenizer as ``processing_class``.
        every: steps between two looks.
        subject: what is looked at; None is the Trainer's model. Give it where the Trainer's model
            wraps the one that takes the data.
        thresholds: what is a sink and a twin.

    Raises:
        InputError: ``every`` is below 1, or (when training begins) the model is sharded.

    Example:
        >>> callback = SinkCallback(["Bin blue at F two now."], every=50)     # doctest: +SKIP
        >>> trainer = SinkTrainer(                                            # doctest: +SKIP
        ...     model, arguments, weight=1.0, callbacks=[callback],
        ...     processing_class=tokenizer,
        ... )
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
