"""Clips that a run cannot learn from, refused before it begins. Depends on avsr."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sinkscope.avsr.batching import frames_of
from sinkscope.avsr.clip import FRAME_RATE, Clip
from sinkscope.avsr.loading import load_clip
from sinkscope.avsr.manifest import Entry
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.streams import MODALITIES, refuse_short
from sinkscope.avsr.tokens import text_ids
from sinkscope.errors import InputError
from sinkscope.training.config import TrainConfig
from sinkscope.training.features import encoder_inputs, streams_of
from sinkscope.training.step_passes import passes_of, rates_of, trained_modalities

__all__ = ["refuse_missing", "refuse_textless", "refuse_unusable"]

EDGE = 4
"""Feature frames by which a header may be wrong about a clip."""


def refuse_unusable(
    model: LlamaAvsr, entries: Sequence[Entry], *, config: TrainConfig, learned: bool = True
) -> None:
    """Refuse, before a run begins, clips that would stop it at the step that draws them.

    Files are opened for their headers, and none is decoded but those that are about as long as one
    token.

    Args:
        model: of the run.
        entries: the clips to learn from, or those of dev.
        config: of the run.
        learned: whether they are learned from: the tokenizer must know their texts, and every rate
            must give a token.

    Raises:
        InputError: a clip without text, or one that lacks a stream or is too short; or see
            `passes_of`.
    """
    refuse_textless(entries)
    passes_of(model.config, config)
    asked = {
        name: one for one in trained_modalities(model.config, config) for name in MODALITIES[one]
    }
    for entry in entries:
        there = streams_of(entry)
        for name, modality in asked.items():
            if name not in there:
                raise InputError(
                    f"{entry.row or entry.path}: the clip has no {name}, which this run needs for "
                    f"modality {modality!r}; choose other modalities, or leave the clip out."
                )
        if learned:
            _refuse_unlearnable(model, entry, asked, config)


def _refuse_unlearnable(
    model: LlamaAvsr, entry: Entry, asked: Iterable[str], config: TrainConfig
) -> None:
    """Refuse a text that the tokenizer does not know, or a clip shorter than a token."""
    streams = ("audiovisual",) if model.config.streams == ("audiovisual",) else tuple(asked)
    try:
        text_ids(model.tokenizer, str(entry.text))
        for stream in streams:
            rate, frame_rate = (
                max(rates_of(stream, model.config, config)),
                model.encoder(stream).frame_rate,
            )
            if frames_of(entry) / FRAME_RATE * frame_rate < rate + EDGE:
                clip = load_clip(replace(entry, row=""))
                frames = encoder_inputs(model, stream, [clip])["lengths"].tolist()
                refuse_short(stream, [clip], frames, rate=rate, frame_rate=float(frame_rate))
    except InputError as error:
        raise InputError(f"{entry.row or entry.path}: {error}") from error


def refuse_textless(entries: Sequence[Entry]) -> None:
    """Refuse clips without a text.

    Raises:
        InputError: naming the first.
    """
    for entry in entries:
        if not (entry.text or "").split():
            raise InputError(
                f"{entry.row or entry.path} has no text to learn; give it one in the manifest or "
                "in a .txt beside it, or leave the clip out."
            )


def refuse_missing(clips: Sequence[Clip], streams: Sequence[str]) -> None:
    """Refuse clips without a stream that their batch's modality needs.

    Raises:
        InputError: naming the first.
    """
    for clip in clips:
        lacks = ("audio" if clip.waveform is None else "") or (
            "video" if clip.frames is None else ""
        )
        if lacks and (lacks in streams or "audiovisual" in streams):
            raise InputError(
                f"{clip.path or clip.name} has no {lacks}, which this run needs; choose other "
                "modalities, or leave the clip out."
            )
