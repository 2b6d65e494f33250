"""Decode many clips: batches of like length, whose composition does not change what is heard.

Greedy by default, so that the same clips give the same transcripts. Where a search draws at random
(``temperature``), every clip is decoded alone and from a seed of its own, so that neither its
neighbours nor a stop in the middle change it.

```python
heard = decode(model, clips, modality="audio", decoding=Decoding(num_beams=4))
[one.text if one.error is None else one.error for one in heard]
```
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch

from sinkscope.avsr.batching import MAX_FRAMES, bucket
from sinkscope.avsr.clip import FRAME_RATE, Clip
from sinkscope.avsr.config import AvsrConfig, Modality
from sinkscope.avsr.evaluating import evaluating
from sinkscope.avsr.generation import ORIGINAL as PUBLISHED
from sinkscope.avsr.generation import Search
from sinkscope.avsr.inputs import Span
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.streams import MODALITIES, chosen_rate, chosen_streams
from sinkscope.errors import InputError

__all__ = [
    "ORIGINAL",
    "Decoding",
    "Heard",
    "batches_of",
    "checked_modality",
    "decode",
    "decode_batch",
    "modalities_of",
]


@dataclass(frozen=True)
class Decoding(Search):
    """How transcripts are searched for, and at which rates.

    Attributes:
        audio_rate: encoder frames a token; None is the model's default.
        video_rate: the same for video.
    """

    audio_rate: int | None = None
    video_rate: int | None = None

    def rates(self, config: AvsrConfig) -> dict[str, int]:
        """The rates that a model will use, by stream.

        Raises:
            InputError: the model does not fit a rate.
        """
        return {
            stream: chosen_rate(
                stream, self.audio_rate if stream == "audio" else self.video_rate, config
            )
            for stream in config.streams
        }

    def of_clip(self, number: int) -> "Decoding":
        """The same search with a seed of the clip's own."""
        return replace(self, seed=(self.seed * 1_000_003 + number) % 2**63)


ORIGINAL = Decoding(**asdict(PUBLISHED))
"""Llama-AVSR's published search: 15 beams that draw at temperature 0.6, and 32 tokens."""


@dataclass(frozen=True)
class Heard:
    """What became of a clip.

    Attributes:
        text: the transcript.
        error: why there is none, one sentence.
        note: what the encoders did not read of the clip; None where they read it all.
        tokens: of audio and video that the LLM read; None where there is no transcript.
    """

    text: str = ""
    error: str | None = None
    note: str | None = None
    tokens: int | None = None


def modalities_of(config: AvsrConfig) -> tuple[Modality, ...]:
    """The modalities that a model takes, the narrowest first."""
    return tuple(name for name in _modalities() if _refusal(config, name) is None)


def checked_modality(config: AvsrConfig, modality: str) -> Modality:
    """A modality that the model takes.

    Raises:
        InputError: there is no such modality, or the model lacks an encoder for it.
    """
    for known in _modalities():
        if modality == known:
            refusal = _refusal(config, known)
            if refusal is None:
                return known
            raise InputError(refusal)
    raise InputError(f"The modality is {modality!r}; use one of {', '.join(MODALITIES)}.")


def _modalities() -> tuple[Modality, ...]:
    return cast("tuple[Modality, ...]", tuple(MODALITIES))


def _refusal(config: AvsrConfig, modality: Modality) -> str | None:
    """Why a model does not take a modality; None where it does."""
    complete = Clip(np.zeros(1, np.float32), np.zeros((1, 1, 1), np.uint8))
    try:
        chosen_streams(complete, modality, config)
    except InputError as error:
        return str(error)
    return None


def batches_of(clips: Sequence[Clip], *, frames: int = MAX_FRAMES) -> list[list[int]]:
    """Numbers of clips in batches, the longest first, no batch above ``frames`` with its padding.

    A clip that is longer than that makes a batch of its own.

    Raises:
        InputError: ``frames`` is below 1.

    Example:
        >>> import numpy as np
        >>> short, long = (Clip(None, np.zeros((n, 8, 8), np.uint8)) for n in (10, 30))
        >>> batches_of([short, long, short, short], frames=30)
        [[1], [0, 2, 3]]
    """
    lengths = [max(1, math.ceil(clip.duration * FRAME_RATE)) for clip in clips]
    return bucket(lengths, max_frames=frames)


def decode(
    model: LlamaAvsr,
    clips: Sequence[Clip],
    *,
    modality: Modality | None = None,
    decoding: Decoding | None = None,
    batch_frames: int = MAX_FRAMES,
) -> list[Heard]:
    """What is said in each clip. A clip that cannot be decoded says so and stops nothing.

    Args:
        model: what transcribes; it runs in evaluation mode, and its training flags are restored.
        clips: the utterances.
        modality: which streams to use; None uses what each clip has and the model can take.
        decoding: the search; greedy by default.
        batch_frames: picture frames (1/25 s) of a batch, padding counted.
    """
    heard = [Heard()] * len(clips)
    for batch in batches_of(clips, frames=batch_frames):
        several = [clips[number] for number in batch]
        how = decoding or Decoding()
        found = decode_batch(model, several, modality=modality, decoding=how, numbers=batch)
        for number, one in zip(batch, found, strict=True):
            heard[number] = one
    return heard


def decode_batch(
    model: LlamaAvsr,
    clips: Sequence[Clip],
    *,
    modality: Modality | None,
    decoding: Decoding,
    numbers: Sequence[int],
) -> list[Heard]:
    """One batch of `decode`.

    Args:
        model: what transcribes.
        clips: the batch.
        modality: which streams to use.
        decoding: the search.
        numbers: a number of its own for each clip, from which it draws.
    """
    if len(clips) > 1 and decoding.temperature is None:
        together = _decode_together(model, clips, modality=modality, decoding=decoding)
        if together is not None:
            return together
    alone = partial(_decode_alone, model, modality=modality, decoding=decoding)
    return [alone(clip, number=number) for clip, number in zip(clips, numbers, strict=True)]


def _decode_together(
    model: LlamaAvsr, clips: Sequence[Clip], *, modality: Modality | None, decoding: Decoding
) -> list[Heard] | None:
    """A batch at once; None where one of its clips, or their sum, is too much.

    What the failure holds in memory is free on return, before the clips are tried one by one.
    """
    try:
        return _transcribe(model, clips, modality, decoding)
    except (InputError, torch.OutOfMemoryError):
        return None


def _decode_alone(
    model: LlamaAvsr, clip: Clip, *, modality: Modality | None, decoding: Decoding, number: int
) -> Heard:
    try:
        return _transcribe(model, [clip], modality, decoding.of_clip(number))[0]
    except InputError as error:
        return Heard(error=" ".join(str(error).split()))
    except torch.OutOfMemoryError:
        return Heard(
            error=f"Clip {clip.name!r} of {clip.duration:.1f} s does not fit into the device's "
            "memory; use fewer beams, a higher rate or a smaller dtype."
        )


def _transcribe(
    model: LlamaAvsr, clips: Sequence[Clip], modality: Modality | None, decoding: Decoding
) -> list[Heard]:
    """What is said in a batch, and how many tokens it took; raises what the model raises."""
    search = asdict(decoding)
    rates = {name: search.pop(name) for name in ("audio_rate", "video_rate")}
    with evaluating(model):
        inputs = model.prepare(list(clips), modality=modality, padding_side="left", **rates)
        ids = model.generate(inputs, **search)
    said = model.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [
        Heard(text, note=_cut(model, clip, modality), tokens=_tokens(spans))
        for clip, text, spans in zip(clips, said, inputs.spans, strict=True)
    ]


def _tokens(spans: Sequence[Span]) -> int:
    """Tokens of sound and picture in a sample."""
    return sum(span.stop - span.start for span in spans if span.name in MODALITIES)


def _cut(model: LlamaAvsr, clip: Clip, modality: Modality | None) -> str | None:
    """What the encoders leave unread at the end of a clip, as a sentence."""
    encoders = [model.encoder(one) for one in chosen_streams(clip, modality, model.config)]
    told = [sentence for encoder in encoders for sentence in encoder.truncated([clip])]
    return " ".join(dict.fromkeys(told)) or None
