"""A probe at work: hooks in place, every forward opened, observed and added to its samples."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn

from sinkscope.errors import SiteError
from sinkscope.probes.attention import Watcher, watching
from sinkscope.probes.forward import Forward
from sinkscope.probes.reducer import Reducer
from sinkscope.probes.scratch import Scratch
from sinkscope.probes.stitching import Stream
from sinkscope.probes.tracking import Step, Tracker
from sinkscope.subjects.anatomy import ATTENTION_SITES
from sinkscope.subjects.subject import Subject

__all__ = ["Session", "layers_of"]


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
        self._tracker = Tracker(subject)
        self._step: Step | None = None
        self._now: Forward | None = None
        self._checked: set[int] = set()
        self._kept: dict[int, int] = {}
        self._scratch = Scratch()
        for number, reducer in enumerate(self.reducers):
            for layer in layers_of(reducer, subject):
                self._readers.setdefault((reducer.site, layer), []).append(number)

    def attach(self, stack: ExitStack) -> None:
        """Put every hook in place; the stack takes them away again."""
        anatomy = self.subject.anatomy
        self._tracker.attach(stack)
        stack.callback(self._abandon)
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
        self._now = None
        self._step = step = self._tracker.begin(module, args, kwargs)
        self._now = Forward(
            self.reducers,
            self._readers,
            step.streams,
            step.parts,
            step.offsets,
            positions=step.positions,
            grows=step.grows,
            checked=self._checked,
            kept=dict(self._kept),
            scratch=self._scratch,
            packed=getattr(self.subject.anatomy.row, "packed", False),
            crosses=getattr(self.subject.anatomy, "crosses", False),
        )

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        now, self._now = self._now, None
        if now is None or self._step is None:
            return
        now.commit()
        self._kept = now.kept
        self.streams += self._tracker.end(self._step, output)

    def _abandon(self) -> None:
        self._now = None


def layers_of(reducer: Reducer, subject: Subject) -> tuple[int, ...]:
    """The layers of a subject that a reducer reads; by default those that have its site.

    Raises:
        SiteError: if the subject lacks one.
    """
    count = subject.anatomy.n_layers
    if reducer.layers is None:
        return subject.anatomy.layers_of(reducer.site)
    for layer in reducer.layers:
        if not 0 <= layer < count:
            raise SiteError(
                f"{subject.name} has no layer {layer}; its layers are 0 to {count - 1}."
            )
    return tuple(sorted(set(reducer.layers)))
