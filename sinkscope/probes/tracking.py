"""Which sample and token every row of a subject's forwards is; used by whoever hooks its blocks.

A `Tracker` follows the forwards of one decoder (or encoder): each is a `Step` with the samples that
it opens or continues. What is announced of a decoder reaches all of its trackers.
"""

import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor, nn

from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.probes.caches import Caches, length_of
from sinkscope.probes.offsets import key_offsets, refuse_skipping
from sinkscope.probes.stitching import (
    Ends,
    Part,
    Stream,
    decode_tokens,
    frames_attended,
    open_streams,
)
from sinkscope.record import ClipSummary
from sinkscope.subjects.compiled import refuse_compiled, refuse_compiled_call
from sinkscope.subjects.encoder_layouts import frame_mask
from sinkscope.subjects.given import real_tokens
from sinkscope.subjects.subject import Subject

__all__ = ["Step", "Tracker", "announce"]

_open: "weakref.WeakKeyDictionary[nn.Module, list[Tracker]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Step:
    """One forward.

    Attributes:
        given: its arguments by name.
        streams: its samples.
        parts: each sample's share of it.
        offsets: for each layer, the place in the padded sequence of its first key column.
        positions: how many positions it brings to every sample, padding included.
        grows: whether a cache may bring the samples more tokens later.
    """

    given: Mapping[str, Any]
    streams: Sequence[Stream]
    parts: Sequence[Part]
    offsets: Sequence[int]
    positions: int
    grows: bool


class Tracker:
    """Follows the forwards of a subject; its owner calls `begin`, `end` and `abandon`.

    Attributes:
        subject: whose forwards they are.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._caches = Caches()
        self._announced: tuple[Sequence[TokenLayout], Sequence[ClipSummary | None]] | None = None
        self._undo: list[Callable[[], None]] = []
        self._ends = _ends(subject)

    def attach(self, stack: ExitStack) -> None:
        """Listen to announcements; the stack ends it."""
        decoder = self.subject.anatomy.decoder
        refuse_compiled(decoder)
        stack.callback(self._caches.release)
        stack.callback(self.abandon)
        listeners = _open.setdefault(decoder, [])
        listeners.append(self)
        stack.callback(listeners.remove, self)
        stack.enter_context(self.subject.announcing(self.announce))

    def announce(self, layouts: Sequence[TokenLayout], clips: Sequence[ClipSummary | None]) -> None:
        """Say what the positions of the next prefill are."""
        self._announced = (layouts, clips)

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step:
        """A forward of the decoder begins with these arguments.

        Raises:
            InputError: it has no tokens, or its samples cannot be followed.
        """
        self.abandon()
        refuse_compiled_call(self.subject.name)
        given = _named(module, args, kwargs)
        if not self.subject.anatomy.causal:
            streams = self._open_frames(given)
            return self._step(given, streams, streams[0].padded, cache=None, grows=False)
        tokens = given.get("input_ids")
        tokens = given.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            raise InputError(f"{self.subject.name}: its decoder got no input_ids or inputs_embeds.")
        cache = given.get("past_key_values")
        held = length_of(cache)
        samples, positions = tokens.shape[:2]
        refuse_skipping(self.subject.anatomy, given, positions)
        if held:
            streams = self._caches.streams(cache, length=held, samples=samples)
            self._continue(streams, given, positions)
        else:
            streams = self._open(given, real_tokens(tokens, given.get("attention_mask")))
            if cache is not None:
                self._caches.know(cache, streams)
        grows = cache is not None or self._makes_cache(given)
        return self._step(given, streams, positions, cache=cache, grows=grows)

    def end(self, step: Step, output: Any) -> list[Stream]:
        """A forward came to its end; the samples that it is the first of."""
        self._undo = []
        new = [stream for stream in step.streams if not stream.recorded]
        for stream in new:
            stream.recorded = True
        cache = getattr(output, "past_key_values", None)
        if new and cache is not None and step.given.get("past_key_values") is None:
            self._caches.know(cache, step.streams)
        return new

    def abandon(self) -> None:
        """Forget a forward that did not come to its end."""
        for restore in self._undo:
            restore()
        self._undo = []

    def _step(
        self,
        given: Mapping[str, Any],
        streams: Sequence[Stream],
        positions: int,
        *,
        cache: Any,
        grows: bool,
    ) -> Step:
        parts = [stream.part(i, positions) for i, stream in enumerate(streams)]
        offsets = key_offsets(self.subject.anatomy, cache, positions)
        return Step(given, streams, parts, offsets, positions, grows)

    def _open(
        self, given: Mapping[str, Any], attended: Bool[np.ndarray, "sample position"]
    ) -> list[Stream]:
        layouts, clips = self._layouts(given)
        return open_streams(layouts, clips, attended)

    def _open_frames(self, given: Mapping[str, Any]) -> list[Stream]:
        """The streams of an encoder's forward: the layouts say how many frames there are."""
        layouts, clips = self._layouts(given)
        anatomy = self.subject.anatomy
        masks = bool(anatomy.attention) and not getattr(anatomy, "crosses", False)
        attended = frames_attended(layouts, frame_mask(anatomy, given), attends=masks)
        return open_streams(layouts, clips, attended, causal=False)

    def _layouts(
        self, given: Mapping[str, Any]
    ) -> tuple[Sequence[TokenLayout], Sequence[ClipSummary | None]]:
        """What was announced of the forward that begins, or what its input shows."""
        announced, self._announced = self._announced, None
        return announced or (self.subject.layout_of(given), ())

    def _continue(
        self, streams: Sequence[Stream], given: Mapping[str, Any], positions: int
    ) -> None:
        """Take a decode step's positions in; undone if the step fails."""
        before = [(s, s.layout, s.places, s.padded, s.ended) for s in streams]
        self._undo = [partial(Stream.restore, *state) for state in before]
        mask, ids = given.get("attention_mask"), given.get("input_ids")
        attended = _attended(mask, len(streams), positions)
        rows = None if ids is None else ids.tolist()
        for i, real in enumerate(decode_tokens(streams, rows, attended, self._ends)):
            chosen = np.flatnonzero(real)
            labels = [f"r{streams[i].padded + place}" for place in chosen]
            if rows is not None:
                labels = self.subject.label_tokens([rows[i][place] for place in chosen])
            streams[i].grow(labels, real)

    def _makes_cache(self, given: Mapping[str, Any]) -> bool:
        asked = given.get("use_cache")
        usual = getattr(self.subject.anatomy.config, "use_cache", False)
        return bool(usual if asked is None else asked)


def announce(
    decoder: nn.Module, layouts: Sequence[TokenLayout], clips: Sequence[ClipSummary | None]
) -> None:
    """Tell every tracker of a decoder what the positions of its next prefill are."""
    for tracker in _open.get(decoder, ()):
        tracker.announce(layouts, clips)


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a forward by name."""
    if not args:
        return kwargs
    names = list(inspect.signature(module.forward).parameters)
    return dict(zip(names, args, strict=False)) | kwargs


def _attended(mask: Any, samples: int, positions: int) -> Bool[np.ndarray, "sample position"]:
    """Where a decode step's mask says that there are tokens."""
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask[:, -positions:].bool().cpu().numpy()
    return np.ones((samples, positions), dtype=bool)


def _ends(subject: Subject) -> Ends:
    """What ends a generated sample, by the model's generation settings and configuration."""
    owners = [getattr(module, "generation_config", None) for module in subject.model.modules()]
    owners = [owner for owner in owners if owner is not None]
    owners.append(subject.anatomy.config)
    end = _first(owners, "eos_token_id")
    several = end if isinstance(end, list | tuple) else [] if end is None else [end]
    return Ends(frozenset(several), _first(owners, "pad_token_id"))


def _first(owners: Sequence[Any], name: str) -> Any:
    return next((found for o in owners if (found := getattr(o, name, None)) is not None), None)
