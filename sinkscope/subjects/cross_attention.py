"""Cross-attention as a subject: a decoder's tokens attend to an encoder's frames.

A sample is the frames, then the tokens: one layout, one axis. Queries are the tokens, keys the
frames; what is not asked of (frames attend to nothing here, and nothing attends to tokens) is
unseen, as a later token is in a causal map. So α, sinks, flow between segments and the map of a
record of cross-attention are read as those of any other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from sinkscope.avsr.clip import Clip
from sinkscope.errors import InputError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.frame_layouts import layout_of_frames, unknown_frames
from sinkscope.subjects.subject import Announce, ModelInputs

__all__ = ["CrossAnatomy", "CrossSubject", "cross_subject", "join_layouts"]

FRAME_RATE = 50.0
"""Frames a second of Whisper's encoder."""


@runtime_checkable
class Whole(Protocol):
    """The subject whose cross-attention it is: a ``WhisperSubject``."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> nn.Module: ...
    @property
    def anatomy(self) -> Anatomy: ...
    @property
    def tokenizer(self) -> Any | None: ...

    @property
    def batches(self) -> Callable[..., Iterator[ModelInputs]]:
        """As of any subject."""
        ...

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """As of any subject."""
        ...

    def announcing(self, announce: Announce) -> AbstractContextManager[None]:
        """As of any subject."""
        ...

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """As of any subject."""
        ...

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """As of any subject."""
        ...

    def provenance(self) -> dict[str, Any]:
        """As of any subject."""
        ...


@dataclass(frozen=True, eq=False)
class CrossAnatomy(Anatomy):
    """The anatomy of a decoder of which only the cross-attention is read."""

    crosses: bool = True

    def reads(self, site: str) -> bool:
        """Only the map: tokens and frames have states of two streams."""
        return site == "pattern"

    def attention_of(self, site: str, layer: int) -> nn.Module:
        """The module at whose attention the map is read.

        Raises:
            SiteError: for any other site.
        """
        if site != "pattern":
            raise SiteError(
                f"{site!r} of cross-attention belongs to tokens or to frames, not to both; its "
                "only site is pattern: read the decoder's own sites, or the encoder's."
            )
        found = self.attention[layer]
        if found is None:
            raise SiteError(f"Layer {layer} has no cross-attention.")
        return found


@dataclass(frozen=True, eq=False)
class CrossSubject:
    """The cross-attention of a subject; see ``Subject`` for what is not explained here.

    Attributes:
        whole: whose it is.
    """

    whole: Whole
    anatomy: Anatomy
    massive_ratio: float | None = None

    @property
    def name(self) -> str:
        """What tables and figures call it."""
        return f"{self.whole.name} cross-attention"

    @property
    def model(self) -> nn.Module:
        """The whole model, which is what runs."""
        return self.whole.model

    @property
    def tokenizer(self) -> Any | None:
        """The decoder's tokenizer, or None."""
        return self.whole.tokenizer

    def batches(self, data: Any = None, **given: Any) -> Iterator[ModelInputs]:
        """The forwards of the whole model.

        Raises:
            InputError: as of the whole; or a layout is given, which follows from clip and ids.
        """
        if given.get("layout") is not None:
            raise InputError(f"{self.name} makes its layout of frames and tokens itself.")
        several = data if isinstance(data, list | tuple) and len(data) else [data]
        for one in several:
            for inputs in self.whole.batches(one, **given):
                frames = self._frames(one, len(inputs.layouts))
                joined = [
                    join_layouts(heard, said)
                    for heard, said in zip(frames, inputs.layouts, strict=True)
                ]
                yield replace(inputs, layouts=tuple(joined))

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """Run the whole model."""
        return self.whole.forward(inputs, logits=logits)

    def announcing(self, announce: Announce) -> AbstractContextManager[None]:
        """Nothing to announce: the layout follows from what the decoder receives."""
        return self.whole.announcing(announce)

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """A printable label of each vocabulary entry."""
        return self.whole.label_tokens(ids)

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """The layouts of a forward: every frame of the encoder, then the decoder's tokens.

        Raises:
            InputError: if the decoder got no frames, or a cache holds earlier tokens.
        """
        cache = decoder_kwargs.get("past_key_values")
        if cache is not None and int(cache.get_seq_length()) > 0:
            raise InputError(
                f"{self.name} is recorded of whole forwards, but a cache holds earlier tokens; "
                "give all tokens at once, with use_cache=False."
            )
        heard = decoder_kwargs.get("encoder_hidden_states")
        if not isinstance(heard, Tensor):
            raise InputError(f"{self.name}: the decoder got no encoder_hidden_states to attend to.")
        said = self.whole.layout_of(decoder_kwargs)
        real = np.ones(heard.shape[1], bool)
        frames = unknown_frames("audio", real, frame_rate=FRAME_RATE)
        return tuple(join_layouts(frames, one) for one in said)

    def provenance(self) -> dict[str, Any]:
        """What a reader must know of the model to repeat a run."""
        own = {"subject": self.name, "attention": "cross", "causal": False}
        return self.whole.provenance() | own

    def _frames(self, data: Any, samples: int) -> tuple[TokenLayout, ...]:
        positions = int(self.anatomy.config.max_source_positions)
        if isinstance(data, Clip):
            named = layout_of_frames(
                data, "audio", positions=positions, frame_rate=FRAME_RATE, appends=True
            )
            return (named,) * samples
        real = np.ones(positions, bool)
        return (unknown_frames("audio", real, frame_rate=FRAME_RATE),) * samples


def cross_subject(whole: Whole) -> CrossSubject:
    """The cross-attention of a subject, whose blocks call it ``encoder_attn``."""
    own = whole.anatomy
    blocks: Any = own.blocks
    row = replace(own.row, causal=False, sites=(), cross_out="")
    anatomy = CrossAnatomy(
        own.family,
        own.n_layers,
        own.n_heads,
        own.n_kv_heads,
        own.d_model,
        own.d_head,
        own.decoder,
        own.blocks,
        tuple(block.encoder_attn for block in blocks),
        row,
    )
    return CrossSubject(whole, anatomy)


def join_layouts(frames: TokenLayout, tokens: TokenLayout) -> TokenLayout:
    """One layout of an encoder's frames and a decoder's tokens after them.

    Example:
        >>> frames = TokenLayout.of(["audio"] * 2, ["f0", "f1"])
        >>> joined = join_layouts(frames, TokenLayout.of(["bos", "response"], ["<s>", "a"]))
        >>> joined.segments, joined.reference
        (('audio', 'audio', 'bos', 'response'), 2)
    """
    longer = frames.extend("response", tokens.labels)
    return replace(
        longer,
        segments=(*frames.segments, *tokens.segments),
        reference=len(frames) + tokens.reference,
    )
