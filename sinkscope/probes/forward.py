"""One forward of the decoder while it runs: what the hooks see becomes states of its samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from sinkscope.errors import InputError, SiteError
from sinkscope.probes.attention import AttentionCall
from sinkscope.probes.blocks import AttentionMap
from sinkscope.probes.crossing import crossing_map, in_place
from sinkscope.probes.formula import refuse_unlike
from sinkscope.probes.keep import Keep
from sinkscope.probes.packed import Chunks, PackedMap
from sinkscope.probes.reducer import Merger, Reducer, State
from sinkscope.probes.scratch import Scratch
from sinkscope.probes.stitching import Key, Part, Stream, at, side_by_side
from sinkscope.probes.values import Tokens

__all__ = ["Forward", "Readers"]

Readers = Mapping[tuple[str, int], Sequence[int]]
"""Numbers of the reducers that read a site of a layer."""


@dataclass(eq=False)
class Forward:
    """States of one forward; nothing reaches the streams before ``commit``.

    Attributes:
        reducers: all of the probe's.
        readers: which of them read what.
        streams: the batch's samples.
        parts: each sample's share.
        offsets: for each layer, the place in the padded sequence of its first key column.
        positions: how many positions it brings to every sample, padding included.
        grows: whether a cache may bring the samples more tokens later.
        checked: layers whose formula was checked before.
        kept: bytes that each `Keep` holds so far, by its number.
        scratch: memory for blocks of maps.
        packed: whether attention is called once for each chunk of one sequence.
        crosses: whether it is the attention of tokens to the frames before them.
        frames: how many these are, once they were seen.
    """

    reducers: Sequence[Reducer]
    readers: Readers
    streams: Sequence[Stream]
    parts: Sequence[Part]
    offsets: Sequence[int]
    positions: int
    grows: bool
    checked: set[int]
    kept: dict[int, int]
    scratch: Scratch
    packed: bool = False
    crosses: bool = False
    frames: int = 0
    chunks: dict[int, Chunks] = field(default_factory=dict)
    states: dict[tuple[int, Key], State] = field(default_factory=dict)
    references: dict[tuple[int, str, int], Tensor] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)

    @torch.no_grad()
    def see_states(self, site: str, layer: int, tensor: Tensor) -> None:
        """A site of the residual stream or the MLP: ``sample token feature``."""
        self._mark(site, layer)
        self._refuse_other(tensor.shape[0], tensor.shape[1], f"site {site!r} of layer {layer}")
        for part, stream in self._shares():
            values = at(part.rows, tensor[part.sample].detach(), 0)
            self._reduce_tokens(site, layer, values, part, stream)

    @torch.no_grad()
    def see_attention(self, layer: int, call: AttentionCall) -> None:
        """What entered and left the attention function of a layer."""
        asked = [site for site in ("q", "k", "v", "z", "pattern") if (site, layer) in self.readers]
        chunks = self._chunks(layer) if self.packed else None
        if chunks is not None and not chunks.add(call):
            return
        if chunks is None:
            positions = call.query.shape[2] + (call.key.shape[2] if self.crosses else 0)
            self._refuse_other(call.query.shape[0], positions, f"attention of layer {layer}")
        for site in asked:
            self._mark(site, layer)
        whole = call if chunks is None or asked == ["pattern"] else chunks.whole()
        with torch.autocast(call.query.device.type, enabled=False):
            for part, stream in self._shares():
                for site in asked:
                    if site == "pattern":
                        self._reduce_map(layer, self._map(layer, call, part), part)
                    else:
                        values = _entering(site, whole, part, self.offsets[layer])
                        self._reduce_tokens(site, layer, values, part, stream)
        self.checked.add(layer)
        if chunks is not None:
            chunks.calls.clear()

    def commit(self) -> None:
        """Add what was seen to the streams.

        Raises:
            SiteError: if something that was asked for was not seen.
        """
        for chunks in self.chunks.values():
            chunks.refuse_rest()
        missing = sorted(set(self.readers) - self.seen)
        if missing:
            site, layer = missing[0]
            raise SiteError(
                f"Site {site!r} of layer {layer} was not seen in a whole forward "
                f"({len(missing)} of {len(self.readers)} were not); the model does not run this "
                "module, or not through transformers' attention interface."
            )
        for (sample, key), state in self.states.items():
            stream = self.streams[sample]
            if not self.grows:
                stream.results[key] = state
            elif key in stream.states:
                merged = self.reducers[key[0]].merge([stream.states[key], state])
                stream.states[key] = merged
            else:
                stream.states[key] = state
        for (sample, site, layer), reference in self.references.items():
            self.streams[sample].references[site, layer] = reference

    def _mark(self, site: str, layer: int) -> None:
        if (site, layer) in self.seen:
            raise SiteError(
                f"Site {site!r} of layer {layer} was seen twice in one forward: the model runs a "
                "block more than once, and one number a layer cannot say what it does."
            )
        self.seen.add((site, layer))

    def _refuse_other(self, samples: int, positions: int, what: str) -> None:
        """Refuse a tensor that is not of the samples and positions that the layouts cover."""
        if (samples, positions) != (len(self.streams), self.positions):
            raise InputError(
                f"The {what} has {samples} samples of {positions} positions, the layouts cover "
                f"{len(self.streams)} of {self.positions}; give layouts of this forward."
            )

    def _shares(self) -> Iterator[tuple[Part, Stream]]:
        """The samples that this forward brings tokens to."""
        return (
            (part, stream)
            for part, stream in zip(self.parts, self.streams, strict=True)
            if part.count
        )

    def _reduce_tokens(
        self, site: str, layer: int, values: Tensor, part: Part, stream: Stream
    ) -> None:
        for number in self.readers[site, layer]:
            reducer = self.reducers[number]
            reference = None
            if reducer.needs_reference:
                reference = self._reference(site, layer, values, part, stream)
            self._weigh(number, layer, 4 * values.numel())
            self._store(number, layer, part, reducer.reduce(Tokens(values, part.start, reference)))

    def _chunks(self, layer: int) -> Chunks:
        """The calls of a layer so far."""
        whole = len(self.parts) == 1 and self.parts[0].count == self.positions
        if not whole:
            raise SiteError(
                f"A packed sequence is one sample without padding, but the layouts have "
                f"{len(self.parts)} samples, or padding; give one layout of the whole sequence."
            )
        return self.chunks.setdefault(layer, Chunks(self.positions, f"layer {layer}"))

    def _map(self, layer: int, call: AttentionCall, part: Part) -> AttentionMap | PackedMap:
        """One sample's map in a layer, checked against the model's own output once."""
        if self.packed:
            chunks = self.chunks[layer]
            maps = chunks.map(part.segments)
            if layer not in self.checked:
                chunks.check(maps)
            return PackedMap(maps)
        if self.crosses:
            self.frames = call.key.shape[2]
            attention, value, last = crossing_map(
                call, part, positions=self.positions, where=f"layer {layer}"
            )
        else:
            attention, value = attention_map(call, part, self.offsets[layer])
            last = at(part.rows, call.unedited[part.sample], 0)[-1]
        if layer not in self.checked:
            refuse_unlike(attention, value, last, where=f"layer {layer}", trains=call.drops)
        return attention

    def _reduce_map(self, layer: int, attention: AttentionMap | PackedMap, part: Part) -> None:
        numbers = self.readers["pattern", layer]
        for number in numbers:
            rows = attention.length if self.crosses else attention.n_queries
            size = rows * attention.length * (4 * attention.n_heads + 1)
            self._weigh(number, layer, size)
        mergers = {
            number: Merger(self.reducers[number].rules(), backwards=True) for number in numbers
        }
        for rows in attention.blocks(scratch=self.scratch):
            for number, merger in mergers.items():
                merger.add(self.reducers[number].reduce(rows))
        for number, merger in mergers.items():
            self._store(number, layer, part, merger.result())

    def _reference(
        self, site: str, layer: int, values: Tensor, part: Part, stream: Stream
    ) -> Tensor:
        """The state of the reference token, here or from an earlier forward."""
        here = stream.layout.reference - part.start
        if 0 <= here < part.count:
            reference = values[here]
            if self.grows:
                self.references[part.sample, site, layer] = reference.clone()
            return reference
        if (site, layer) not in stream.references:
            raise SiteError(
                f"The reference token {stream.layout.reference} of sample {part.sample} comes "
                "after the first tokens that the cache received; begin with a prefill that "
                "includes it."
            )
        return stream.references[site, layer]

    def _weigh(self, number: int, layer: int, size: int) -> None:
        """Refuse to keep more than a `Keep` allows, before its first layer is kept."""
        reducer = self.reducers[number]
        if not isinstance(reducer, Keep):
            return
        layers = self._layers(number)
        if layer == layers[0]:
            total = self.kept.get(number, 0) + size * len(layers)
            reducer.refuse(total, f"{len(layers)} layers of what was run so far")
            self.kept[number] = total

    def _layers(self, number: int) -> list[int]:
        return sorted(layer for (_, layer), numbers in self.readers.items() if number in numbers)

    def _store(self, number: int, layer: int, part: Part, state: State) -> None:
        """Hold a state until the forward is whole; at its end if no more tokens can come."""
        reducer = self.reducers[number]
        whole = state if self.grows else reducer.finish(state)
        if self.crosses:
            tokens = self.parts[part.sample].count - self.frames
            whole = in_place(whole, reducer.variables(), frames=self.frames, tokens=tokens)
        self.states[part.sample, (number, layer)] = whole


def attention_map(
    call: AttentionCall, part: Part, offset: int
) -> tuple[AttentionMap, Float[Tensor, "kv_head key feature_v"]]:
    """One sample's map in a layer, padding left out, and the values of its keys.

    Args:
        call: what entered the layer's attention function.
        part: the sample's share of the forward.
        offset: place in the padded sequence of the first key column.
    """
    columns, first_key = part.columns(offset, call.key.shape[2])
    key = at(columns, call.key[part.sample].detach(), 1)
    query = at(part.rows, call.query[part.sample].detach(), 1)
    mask = None
    if call.mask is not None and call.mask.ndim == 4:
        mask = call.mask[min(part.sample, len(call.mask) - 1)]
        mask = mask.expand(-1, call.query.shape[2], -1)
        mask = at(columns, at(part.rows, mask, 1), 2)
    attention = AttentionMap(
        rearrange(query, "(h g) q d -> h g q d", h=len(key)),
        key,
        part.segments,
        call.scaling,
        start=part.start,
        first_key=first_key,
        mask=mask,
        causal=call.causal or part.count == 1,
        window=call.window,
        softcap=call.softcap,
        sinks=None if call.sinks is None else call.sinks.detach(),
    )
    return attention, at(columns, call.value[part.sample].detach(), 1)


def _entering(
    site: str, call: AttentionCall, part: Part, offset: int
) -> Float[Tensor, "head token feature"]:
    """The new tokens' queries, keys, values or outputs."""
    if site == "q":
        return at(part.rows, call.query[part.sample].detach(), 1)
    if site == "z":
        return at(part.rows, call.output[part.sample].detach(), 0).transpose(0, 1)
    tensor = call.key if site == "k" else call.value
    columns = side_by_side(part.places[part.start :] - offset)
    return at(columns, tensor[part.sample].detach(), 1)
