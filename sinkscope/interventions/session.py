"""Edits at work: hooks in place, every forward followed, what is named in it changed."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sinkscope.errors import InputError, SiteError
from sinkscope.interventions.attention_editor import AttentionEditor
from sinkscope.interventions.blocking import BlockAttention, row_of
from sinkscope.interventions.edits import Edit, View
from sinkscope.interventions.embeddings import EmbeddingEdit
from sinkscope.interventions.experts import SilenceExperts
from sinkscope.interventions.order import changing
from sinkscope.interventions.targets import Cells, Target, listed
from sinkscope.probes.attention import editing
from sinkscope.probes.stitching import Part, Stream, at
from sinkscope.probes.tracking import Step, Tracker
from sinkscope.subjects.expert_sites import expert_settings
from sinkscope.subjects.fused_experts import routed_count
from sinkscope.subjects.subject import Subject

__all__ = ["AnyEdit", "Session"]

AnyEdit = Edit | BlockAttention | EmbeddingEdit


@dataclass(eq=False)
class Session:
    """Edits of one subject's forwards.

    Attributes:
        subject: what is changed.
        edits: how, in the order in which they act.
        step: the forward that is going on.
        numbers: which sample each stream is, for tables.
        acted: numbers of the edits that have changed something.
    """

    subject: Subject
    edits: Sequence[AnyEdit]
    step: Step | None = None
    numbers: dict[Stream, int] = field(default_factory=dict)
    acted: set[int] = field(default_factory=set)
    _held: dict[tuple[int, int, Stream], dict[int, Tensor]] = field(default_factory=dict)

    def refuse_unfit(self) -> None:
        """Refuse edits of sites, layers or heads that the subject lacks, before anything runs.

        Raises:
            InputError: if there is no such layer, head or expert.
            SiteError: if there is no such site, or it cannot be changed.
        """
        self._places()
        for edit in self.edits:
            if isinstance(edit, Edit) and edit.heads is not None:
                self._heads(edit)
            if isinstance(edit, SilenceExperts):
                edit.refuse_missing(self._routed())
            if isinstance(edit, BlockAttention):
                edit.layers_in(self.subject.anatomy.n_layers)
                edit.chosen_heads(self.subject.anatomy.n_heads)

    def attach(self, stack: ExitStack) -> None:
        """Put every hook in place; the stack takes them away again."""
        self.refuse_unfit()
        anatomy = self.subject.anatomy
        places = self._places()
        self._tracker = Tracker(self.subject)
        self._tracker.attach(stack)
        stack.callback(self._forget)
        decoder: Any = anatomy.decoder
        begin = decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        stack.callback(begin.remove)
        for (site, layer), edits in places.items():
            if site != "z":
                self._hook(site, layer, edits, stack)
        self._edit_attention(places, stack)
        if self._of_embeddings():
            changing(self._embedding(), "output", self._embedded, stack)
        stack.callback(decoder.register_forward_hook(self._end).remove)

    def refuse_idle(self) -> None:
        """Refuse edits that changed nothing although forwards ran.

        Raises:
            InputError: if one named nothing that any sample had.
        """
        samples = self.numbers.values()
        for number, edit in enumerate(self.edits):
            named = any(not isinstance(edit, Target) or edit.names(sample) for sample in samples)
            if named and number not in self.acted:
                raise InputError(
                    f"{edit} changed nothing: no sample that ran had what it names; look at the "
                    "record's layouts for positions, segments and labels."
                )

    def _places(self) -> dict[tuple[str, int], list[int]]:
        """The numbers of the edits of states at each site and layer; refuses what is not there."""
        anatomy = self.subject.anatomy
        places: dict[tuple[str, int], list[int]] = {}
        for number, edit in enumerate(self.edits):
            if not isinstance(edit, Edit):
                continue
            for layer in edit.layers_in(anatomy.n_layers):
                if edit.site == "z":
                    anatomy.attention_of("z", layer)
                elif anatomy.tap(edit.site, layer).put is None:
                    raise SiteError(
                        f"{type(edit).__name__}: {edit.site!r} of a {anatomy.family} block can be "
                        "read but not changed here."
                    )
                places.setdefault((edit.site, layer), []).append(number)
        return places

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.step = None
        self.numbers = {s: number for s, number in self.numbers.items() if s.recorded}
        self._refuse_checkpointing()
        step = self._tracker.begin(module, args, kwargs)
        for stream in step.streams:
            self.numbers.setdefault(stream, len(self.numbers))
        self.step = step
        embeds = step.given.get("inputs_embeds")
        if embeds is None or not self._of_embeddings():
            return None
        return (), {**step.given, "inputs_embeds": self._embed(embeds, step)}

    def _refuse_checkpointing(self) -> None:
        """In the backward pass a checkpointed block runs again, and no forward is open then."""
        blocks = self.subject.anatomy.blocks
        checkpointed = any(
            b.training and getattr(b, "gradient_checkpointing", False) for b in blocks
        )
        if checkpointed and torch.is_grad_enabled():
            raise InputError(
                "intervene: the backward pass runs checkpointed blocks again, without their edits; "
                "turn gradient checkpointing off, or forward under torch.no_grad()."
            )

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        step, self.step = self.step, None
        if step is not None:
            self._tracker.end(step, output)

    def _forget(self) -> None:
        self.step = None
        self._held.clear()

    def _hook(self, site: str, layer: int, edits: list[int], stack: ExitStack) -> None:
        tap = self.subject.anatomy.tap(site, layer)

        def change(value: Any) -> Any:
            if self.step is None:
                return None
            tensor = tap.read(value, samples=len(self.step.streams))
            self._refuse_other(tensor, self.step, f"site {site!r} of layer {layer}")
            changed = self.changed(tensor, layer, edits)
            return None if changed is tensor else tap.write(value, changed)

        changing(tap.module, tap.where, change, stack)

    def _refuse_other(self, tensor: Tensor, step: Step, what: str) -> None:
        """Refuse states of other samples or positions than the layouts cover."""
        expected = len(step.streams), step.positions
        if tuple(tensor.shape[:2]) != expected:
            raise InputError(
                f"The {what} has {tensor.shape[0]} samples of {tensor.shape[1]} positions, the "
                f"layouts cover {expected[0]} of {expected[1]}; give layouts of this forward."
            )

    def changed(self, tensor: Tensor, layer: int, edits: Sequence[int]) -> Tensor:
        """``[sample, token, ..., feature]`` with the edits made; itself if they name nothing."""
        step, changed = self.step, None
        if step is None:
            return tensor
        for number in edits:
            for part, stream in zip(step.parts, step.streams, strict=True):
                states = tensor if changed is None else changed
                cells = self._cells(number, layer, states[part.sample], part, stream)
                if len(cells):
                    changed = tensor.clone() if changed is None else changed
                    self._change(number, layer, changed, part, stream, cells)
        return tensor if changed is None else changed

    def _cells(self, number: int, layer: int, states: Tensor, part: Part, stream: Stream) -> Cells:
        """What an edit changes of a sample in this forward; remembers what it will need later."""
        edit: Any = self.edits[number]
        for token in edit.remembers(stream.layout):
            if part.start <= token < part.start + part.count:
                held = self._held.setdefault((number, layer, stream), {})
                held[token] = states[row_of(part, token)].detach().clone()
        return _here(edit.cells(stream.layout, self.numbers[stream], layer), part)

    def _change(
        self, number: int, layer: int, tensor: Tensor, part: Part, stream: Stream, cells: Cells
    ) -> None:
        """Change the cells of one sample, in place."""
        edit: Any = self.edits[number]
        self.acted.add(number)
        states = at(part.rows, tensor[part.sample], 0)
        held = self._held.get((number, layer, stream), {})
        view = View(stream.layout, part.start, states, cells, held, self.numbers[stream])
        rows = torch.tensor([row_of(part, int(token)) for token in cells.tokens])
        index: tuple[Any, ...] = (part.sample, rows.to(tensor.device))
        if edit.heads is not None:
            index = (part.sample, rows[:, None], torch.tensor(self._heads(edit))[None])
        elif cells.features is not None:
            _refuse_features(edit, cells.features, tensor.shape[-1])
            index = (*index, torch.tensor(cells.features, device=tensor.device))
        tensor[index] = edit.new(tensor[index], view).to(tensor.dtype)

    def _routed(self) -> int:
        """How many routed experts a mixture has; the sites were looked for before."""
        anatomy = self.subject.anatomy
        settings = expert_settings(anatomy.blocks)
        if settings is not None:
            return settings.routed
        return max(routed_count(block, anatomy.row) for block in anatomy.blocks)

    def _heads(self, edit: Edit) -> list[int]:
        heads = listed(edit.heads)
        count = self.subject.anatomy.n_heads
        outside = [head for head in heads if not 0 <= head < count]
        if outside:
            raise InputError(
                f"{type(edit).__name__}: there is no head {outside[0]}; there are {count}, from 0."
            )
        return heads

    def _edit_attention(self, places: dict[tuple[str, int], list[int]], stack: ExitStack) -> None:
        anatomy = self.subject.anatomy
        hiding: dict[int, list[int]] = {}
        for number, edit in enumerate(self.edits):
            if isinstance(edit, BlockAttention):
                for layer in edit.layers_in(anatomy.n_layers):
                    hiding.setdefault(layer, []).append(number)
        layers = {*hiding, *(layer for site, layer in places if site == "z")}
        editors = {
            anatomy.attention_of("z", layer): AttentionEditor(
                self, layer, hiding.get(layer, []), places.get(("z", layer), [])
            )
            for layer in sorted(layers)
        }
        if editors and getattr(anatomy.row, "packed", False):
            raise SiteError(
                f"{self.subject.name} runs its attention chunk by chunk, where no keys can be "
                "hidden and no heads edited; edit the site attn_out or a stream."
            )
        if editors:
            stack.enter_context(editing(anatomy.attn_implementation, editors))

    def _of_embeddings(self) -> list[int]:
        return [i for i, edit in enumerate(self.edits) if isinstance(edit, EmbeddingEdit)]

    def _embedding(self) -> nn.Module:
        find = getattr(self.subject.anatomy.decoder, "get_input_embeddings", None)
        found = find() if find and self.subject.anatomy.causal else None
        if not isinstance(found, nn.Module):
            raise SiteError(f"{self.subject.name} has no embeddings of tokens to change.")
        return found

    def _embedded(self, output: Tensor) -> Tensor | None:
        """After the embedding of ids, inside a forward of the decoder."""
        return None if self.step is None else self._embed(output, self.step)

    def _embed(self, embeds: Tensor, step: Step) -> Tensor:
        for number in self._of_embeddings():
            edit: Any = self.edits[number]
            for part, stream in zip(step.parts, step.streams, strict=True):
                touched = edit.touched(stream.layout)
                if not touched or max(touched) < part.start:
                    continue
                if part.start:
                    raise InputError(f"{edit} names tokens that are generated one by one.")
                self.acted.add(number)
                embeds = embeds.clone()
                own = at(part.rows, embeds[part.sample], 0)
                new = edit.new(own, stream.layout, self._embedding())
                embeds[part.sample, part.rows] = new
        return embeds


def _here(cells: Cells, part: Part) -> Cells:
    """The cells whose tokens this forward brings."""
    here = (cells.tokens >= part.start) & (cells.tokens < part.start + part.count)
    return cells if here.all() else cells.take(np.flatnonzero(here))


def _refuse_features(edit: Edit, features: np.ndarray, width: int) -> None:
    outside = features[(features < 0) | (features >= width)]
    if len(outside):
        raise InputError(
            f"{type(edit).__name__}: there is no feature {outside[0]} at {edit.site!r}, which has "
            f"{width}."
        )
