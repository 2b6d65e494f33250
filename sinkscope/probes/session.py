"""A probe at work: hooks in place, every forward opened, observed and added to its samples."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor, nn

from sinkscope.errors import InputError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.probes.attention import Watcher, watching
from sinkscope.probes.caches import Caches, length_of
from sinkscope.probes.forward import Forward
from sinkscope.probes.reducer import Reducer
from sinkscope.probes.scratch import Scratch
from sinkscope.probes.stitching import (
    Ends,
    Stream,
    decode_tokens,
    frames_attended,
    open_streams,
)
from sinkscope.record import ClipSummary
from sinkscope.subjects.anatomy import ATTENTION_SITES
from sinkscope.subjects.given import real_tokens
from sinkscope.subjects.subject import Subject

__all__ = ["Session"]


class Session:
    """Reducers at work on a subject.

    Attributes:
        subject: what is observed.
        reducers: what is made of it.
        streams: the samples of all finished forwards, in the order of their prefills.
    """

    def __init__(self, subject: Subject, reducers: Sequence[Reducer]) -> None:
        self.subject = subject
        self.reducers = tuple(reducers)
        self.streams: list[Stream] = []
        self._readers: dict[tuple[str, int], list[int]] = {}
        self._caches = Caches()
        self._announced: tuple[Sequence[TokenLayout], Sequence[ClipSummary | None]] | None = None
        self._now: Forward | None = None
        self._given: Mapping[str, Any] = {}
        self._undo: list[Callable[[], None]] = []
        self._checked: set[int] = set()
        self._kept: dict[int, int] = {}
        self._scratch = Scratch()
        self._ends = _ends(subject)
        for number, reducer in enumerate(self.reducers):
            for layer in layers_of(reducer, subject):
                self._readers.setdefault((reducer.site, layer), []).append(number)

    def attach(self, stack: ExitStack) -> None:
        """Put every hook in place; the stack takes them away again."""
        anatomy = self.subject.anatomy
        stack.callback(self._caches.release)
        stack.callback(self._abandon)
        stack.enter_context(self.subject.announcing(self.announce))
        begin = anatomy.decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        stack.callback(begin.remove)
        watchers: dict[nn.Module, Watcher] = {}
        for site, layer in self._readers:
            if site in ATTENTION_SITES:
                module = anatomy.attention_of(site, layer)
                watchers[module] = partial(self._see_attention, layer)
            else:
                stack.callback(self._hook(site, layer))
        if watchers:
            stack.enter_context(watching(anatomy.attn_implementation, watchers))
        stack.callback(anatomy.decoder.register_forward_hook(self._end).remove)

    def announce(self, layouts: Sequence[TokenLayout], clips: Sequence[ClipSummary | None]) -> None:
        """Say what the positions of the next prefill are."""
        self._announced = (layouts, clips)

    def finish(self) -> None:
        """Finish every sample: no more tokens will come."""
        for stream in self.streams:
            for key, state in stream.states.items():
                stream.results[key] = self.reducers[key[0]].finish(state)
            stream.states.clear()

    def _hook(self, site: str, layer: int) -> Callable[[], None]:
        tap = self.subject.anatomy.tap(site, layer)

        def see(value: Any) -> None:
            if self._now is not None:
                tensor = tap.read(value, samples=len(self._now.parts))
                self._now.see_states(site, layer, tensor)

        if tap.where == "input":
            handle = tap.module.register_forward_pre_hook(
                lambda _, args, kwargs: see((args, kwargs)), with_kwargs=True
            )
        else:
            handle = tap.module.register_forward_hook(lambda _, __, output: see(output))
        return handle.remove

    def _see_attention(self, layer: int, call: Any) -> None:
        if self._now is not None:
            self._now.see_attention(layer, call)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._abandon()
        given = _named(module, args, kwargs)
        if not self.subject.anatomy.causal:
            streams = self._open_frames(given)
            self._start(given, streams, streams[0].padded, cache=None, grows=False)
            return
        tokens = given.get("input_ids")
        tokens = given.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            raise InputError(f"{self.subject.name}: its decoder got no input_ids or inputs_embeds.")
        cache = given.get("past_key_values")
        held = length_of(cache)
        samples, positions = tokens.shape[:2]
        if held:
            streams = self._caches.streams(cache, length=held, samples=samples)
            self._continue(streams, given, positions)
        else:
            streams = self._open(given, real_tokens(tokens, given.get("attention_mask")))
            if cache is not None:
                self._caches.know(cache, streams)
        grows = cache is not None or self._makes_cache(given)
        self._start(given, streams, positions, cache=cache, grows=grows)

    def _start(
        self,
        given: Mapping[str, Any],
        streams: Sequence[Stream],
        positions: int,
        *,
        cache: Any,
        grows: bool,
    ) -> None:
        """Begin a forward that brings so many positions to every sample."""
        self._given = given
        self._now = Forward(
            self.reducers,
            self._readers,
            streams,
            [stream.part(i, positions) for i, stream in enumerate(streams)],
            self._offsets(cache, positions),
            positions=positions,
            grows=grows,
            checked=self._checked,
            kept=dict(self._kept),
            scratch=self._scratch,
        )

    def _open(
        self, given: Mapping[str, Any], attended: Bool[np.ndarray, "sample position"]
    ) -> list[Stream]:
        layouts, clips = self._layouts(given)
        return open_streams(layouts, clips, attended)

    def _open_frames(self, given: Mapping[str, Any]) -> list[Stream]:
        """The streams of an encoder's forward: the layouts say how many frames there are."""
        layouts, clips = self._layouts(given)
        anatomy = self.subject.anatomy
        attended = frames_attended(
            layouts, given.get(anatomy.row.mask), attends=bool(anatomy.attention)
        )
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

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        now, self._now = self._now, None
        if now is None:
            return
        now.commit()
        self._kept, self._undo = now.kept, []
        new = [stream for stream in now.streams if not stream.recorded]
        for stream in new:
            stream.recorded = True
        self.streams += new
        cache = getattr(output, "past_key_values", None)
        if new and cache is not None and self._given.get("past_key_values") is None:
            self._caches.know(cache, now.streams)

    def _abandon(self) -> None:
        """Forget a forward that did not come to its end."""
        self._now = None
        for restore in self._undo:
            restore()
        self._undo = []

    def _offsets(self, cache: Any, positions: int) -> list[int]:
        """For each layer, the place in the padded sequence of its first key column."""
        if cache is None:
            return [0] * self.subject.anatomy.n_layers
        return [
            int(cache.get_mask_sizes(positions, getattr(module, "layer_idx", layer))[1])
            for layer, module in enumerate(self.subject.anatomy.attention)
        ]

    def _makes_cache(self, given: Mapping[str, Any]) -> bool:
        asked = given.get("use_cache")
        usual = getattr(self.subject.anatomy.config, "use_cache", False)
        return bool(usual if asked is None else asked)


def layers_of(reducer: Reducer, subject: Subject) -> tuple[int, ...]:
    """The layers of a subject that a reducer reads.

    Raises:
        SiteError: if the subject lacks one.
    """
    count = subject.anatomy.n_layers
    if reducer.layers is None:
        return tuple(range(count))
    for layer in reducer.layers:
        if not 0 <= layer < count:
            raise SiteError(
                f"{subject.name} has no layer {layer}; its layers are 0 to {count - 1}."
            )
    return tuple(sorted(set(reducer.layers)))


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
