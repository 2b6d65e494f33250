"""What enters the LLM: embeddings, and spans that say what every token is.

The layout is Llama-AVSR's (arXiv 2409.12319): ``BOS <audio> A </audio> <video> V </video> prompt
transcript EOS``, without the audio part or the video part where there is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from sinkscope.errors import InputError

__all__ = ["IGNORED", "Inputs", "Part", "Span", "assemble", "token_times"]

IGNORED = -100
"""The label of a token that is no target."""

FEATURE = -1
"""The token id of a token that is a projected feature and no entry of the vocabulary."""

_TARGETS = ("transcript", "eos")


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one role.

    Attributes:
        name: ``bos``, ``audio_open``, ``audio``, ``audio_close``, ``video_open``, ``video``,
            ``video_close``, ``audiovisual``, ``prompt``, ``transcript``, ``eos`` or ``padding``.
        start: the first token.
        stop: the token after the last.
        times: for audio and video, the seconds where each token's input begins and ends.
    """

    name: str
    start: int
    stop: int
    times: Float64[np.ndarray, "token 2"] | None = None


@dataclass(frozen=True)
class Inputs:
    """A batch for the LLM.

    Attributes:
        inputs_embeds: what the LLM reads in place of token ids.
        attention_mask: True at tokens, False at padding.
        position_ids: 0 at a sample's first token that is no padding.
        spans: for each sample, spans that cover its row from the first to the last token.
        token_ids: ids of the vocabulary; -1 at audio and video tokens, the padding's id at padding.
        labels: ids to predict, -100 elsewhere; None where no text was given.
        modality: ``"audio"``, ``"video"`` or ``"audiovisual"``; None where samples differ in it.
        rates: encoder frames a token of each stream that is read; None where samples differ in it,
            or where it was not said.
    """

    inputs_embeds: Float[Tensor, "sample token feature"]
    attention_mask: Bool[Tensor, "sample token"]
    position_ids: Int64[Tensor, "sample token"]
    spans: list[list[Span]]
    token_ids: Int64[Tensor, "sample token"]
    labels: Int64[Tensor, "sample token"] | None = None
    modality: str | None = None
    rates: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Part:
    """A piece of one sample before it is embedded: token ids, or features with their seconds.

    Attributes:
        name: as that of a `Span`.
        ids: of its tokens, where they have some.
        features: of its tokens, where they were projected.
        times: the seconds where the input of each token begins and ends.
        rate: encoder frames a token.
    """

    name: str
    ids: Sequence[int] = ()
    features: Float[Tensor, "token feature"] | None = None
    times: Float64[np.ndarray, "token 2"] | None = None
    rate: int | None = None

    def __len__(self) -> int:
        return len(self.ids) if self.features is None else len(self.features)


def token_times(
    count: int, *, rate: int, frame_rate: float | int
) -> Float64[np.ndarray, "token 2"]:
    """The seconds that each token covers, when ``rate`` encoder frames make one token.

    >>> token_times(2, rate=4, frame_rate=50).tolist()
    [[0.0, 0.08], [0.08, 0.16]]
    """
    starts = np.arange(count, dtype=np.float64)
    return np.stack([starts, starts + 1], axis=1) * (rate / frame_rate)


def assemble(
    samples: Sequence[Sequence[Part]],
    *,
    embedding: torch.nn.Embedding,
    pad_id: int,
    padding_side: Literal["left", "right"] = "right",
    strict_original: bool = False,
) -> Inputs:
    """Joins the parts of each sample, and pads the samples to one length.

    Args:
        samples: the parts of each sample, in order.
        embedding: the LLM's token embedding.
        pad_id: the token whose embedding fills the padding (it is masked).
        padding_side: where the padding goes.
        strict_original: as Llama-AVSR's own code: padding is attended to like content, and BOS is
            its own label (which is never predicted).

    Raises:
        InputError: no sample, or another padding side.
    """
    if not samples:
        raise InputError("No clip was given; give at least one.")
    if padding_side not in ("left", "right"):
        raise InputError(f"padding_side is {padding_side!r}; use 'left' or 'right'.")
    left = padding_side == "left"
    length = max(sum(map(len, parts)) for parts in samples)
    rows = [_padded(parts, length=length, pad_id=pad_id, left=left) for parts in samples]
    device = embedding.weight.device
    mask = torch.tensor([_mask(row, every=strict_original) for row in rows], device=device)
    ids = torch.tensor([_ids(row) for row in rows], device=device)
    labelled = any(part.name in _TARGETS for parts in samples for part in parts)
    return Inputs(
        inputs_embeds=torch.stack([_embed(row, embedding) for row in rows]),
        attention_mask=mask,
        position_ids=(mask.long().cumsum(dim=1) - 1).clamp(min=0),
        spans=[_spans(row) for row in rows],
        token_ids=ids,
        labels=_all_labels(rows, strict_original).to(device) if labelled else None,
        modality=_modality(samples),
        rates=_rates(samples),
    )


def _modality(samples: Sequence[Sequence[Part]]) -> str | None:
    """What every sample is made of; None where they differ."""
    found = {tuple(sorted(part.name for part in parts if _is_read(part))) for parts in samples}
    (first, *others) = found
    return None if others or not first else first[0] if len(first) == 1 else "audiovisual"


def _rates(samples: Sequence[Sequence[Part]]) -> dict[str, int] | None:
    """Frames a token of each stream; None where they differ or were not said."""
    found = {(part.name, part.rate) for parts in samples for part in parts if _is_read(part)}
    rates = {name: rate for name, rate in sorted(found, key=str) if rate is not None}
    return rates if rates and len(rates) == len(found) else None


def _is_read(part: Part) -> bool:
    return part.features is not None


def _padded(parts: Sequence[Part], *, length: int, pad_id: int, left: bool) -> list[Part]:
    missing = length - sum(map(len, parts))
    padding = [Part("padding", ids=[pad_id] * missing)] if missing else []
    return [*padding, *parts] if left else [*parts, *padding]


def _embed(row: Sequence[Part], embedding: torch.nn.Embedding) -> Tensor:
    weight = embedding.weight
    pieces = [
        embedding(torch.tensor(list(part.ids), dtype=torch.long, device=weight.device))
        if part.features is None
        else part.features.to(weight)
        for part in row
        if len(part)
    ]
    return torch.cat(pieces)


def _spans(row: Sequence[Part]) -> list[Span]:
    stops = np.cumsum([len(part) for part in row]).tolist()
    return [
        Span(part.name, stop - len(part), stop, part.times)
        for part, stop in zip(row, stops, strict=True)
        if len(part)
    ]


def _mask(row: Iterable[Part], *, every: bool) -> list[bool]:
    return [every or part.name != "padding" for part in row for _ in range(len(part))]


def _ids(row: Iterable[Part]) -> list[int]:
    pieces = [part.ids if part.features is None else [FEATURE] * len(part) for part in row]
    return [int(value) for piece in pieces for value in piece]


def _all_labels(
    rows: Iterable[Iterable[Part]], strict_original: bool
) -> Int64[Tensor, "sample token"]:
    labelled = (*_TARGETS, "bos") if strict_original else _TARGETS
    return torch.tensor([_labels(row, labelled) for row in rows])


def _labels(row: Iterable[Part], labelled: Sequence[str]) -> list[int]:
    pieces = [part.ids if part.name in labelled else [IGNORED] * len(part) for part in row]
    return [int(value) for piece in pieces for value in piece]
