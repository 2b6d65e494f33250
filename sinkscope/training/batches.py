"""The batches of a run over a corpus, each made from its number alone. Depends on torch and avsr.

Clips are decoded when their batch is asked for. Where the encoders are not trained and a cache is
given, every clip is encoded alone and what was not in noise is kept, so that a batch is the same
with a full cache and an empty one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sinkscope.avsr.batching import frames_of
from sinkscope.avsr.clip import FRAME_RATE, Clip
from sinkscope.avsr.config import Modality
from sinkscope.avsr.decoding import checked_modality, modalities_of
from sinkscope.avsr.evaluation.conditions import Mixer, open_mixer
from sinkscope.avsr.loading import load_clip
from sinkscope.avsr.manifest import Entry
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.projector import compressed_lengths
from sinkscope.avsr.streams import MODALITIES, chosen_rate, refuse_short
from sinkscope.avsr.tokens import text_ids
from sinkscope.errors import InputError
from sinkscope.training.config import NoiseConfig, TrainConfig
from sinkscope.training.features import FeatureCache, encode_alone, encoder_inputs, streams_of
from sinkscope.training.plan import BATCH, CLIP, Plan, generator

__all__ = ["TARGETS", "ClipBatches", "refuse_unusable", "trained_modalities"]

TARGETS = "targets"
"""The entry of a batch that counts the tokens to predict."""

EDGE = 4
"""Feature frames by which a header may be wrong about a clip."""

RESPONSE = ("transcript", "eos")


def trained_modalities(model: LlamaAvsr, config: TrainConfig) -> list[Modality]:
    """The modalities that a run draws from.

    Raises:
        InputError: the model does not take one.
    """
    asked = config.modalities or modalities_of(model.config)[-1:]
    return [checked_modality(model.config, one) for one in asked]


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
        InputError: a clip without text, or one that lacks a stream or is too short.
    """
    _refuse_textless(entries)
    asked = {name: one for one in trained_modalities(model, config) for name in MODALITIES[one]}
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
                max(_rates_of(stream, model, config)),
                model.encoder(stream).frame_rate,
            )
            if frames_of(entry) / FRAME_RATE * frame_rate < rate + EDGE:
                clip = load_clip(replace(entry, row=""))
                frames = encoder_inputs(model, stream, [clip])["lengths"].tolist()
                refuse_short(stream, [clip], frames, rate=rate, frame_rate=float(frame_rate))
    except InputError as error:
        raise InputError(f"{entry.row or entry.path}: {error}") from error


def _rates_of(stream: str, model: LlamaAvsr, config: TrainConfig) -> tuple[int, ...]:
    """The rates that a stream is trained at; one sequence of both counts as video."""
    asked = {"audio": config.audio_rates}.get(stream, config.video_rates)
    return asked or model.config.rates(stream)[:1]


class ClipBatches(Dataset):
    """Batch number i of a run, for a `SpokenModel`.

    Args:
        model: whose encoders and tokenizer the batches are for.
        entries: the corpus; every clip has a text.
        config: of the run.
        count: batches of the run.

    Raises:
        InputError: a clip without text, or a choice that the model does not allow.
    """

    def __init__(
        self, model: LlamaAvsr, entries: Sequence[Entry], *, config: TrainConfig, count: int
    ) -> None:
        _refuse_textless(entries)
        self._model, self._entries, self._config, self._count = model, entries, config, count
        lengths = [frames_of(entry) for entry in entries]
        self._plan = Plan(lengths, max_frames=config.batch_frames, seed=config.seed)
        self._modalities = trained_modalities(model, config)
        self._mixer = _mixer(config.noise, entries, config.seed)
        cached = config.cache is not None and not config.encoders
        self._cache = FeatureCache(str(config.cache), model) if cached else None
        for stream in model.config.streams:
            for rate in self._rates_of(stream):
                chosen_rate(stream, rate, model.config)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The batch, with what its loss needs: ``compared``, ``targets`` and ``names``."""
        epoch, place, members = self._plan.at(int(number))
        rng = generator(self._config.seed, BATCH, epoch, place)
        modality = self._modalities[int(rng.integers(len(self._modalities)))]
        rates = {name: self._rate(name, rng) for name in self._model.config.streams}
        streams = self._streams_of(modality)
        if self._cache is not None:
            given = self._features(streams, epoch, members)
        else:
            clips = [self._clip(epoch, index)[0] for index in members]
            _refuse_missing(clips, streams)
            given = {name: encoder_inputs(self._model, name, clips) for name in streams}
        chosen = [self._entries[index] for index in members]
        for name in streams:
            self._refuse_short(name, chosen, given[name]["lengths"], rates[name])
        texts = [str(entry.text) for entry in chosen]
        batch = {"streams": given, "texts": texts, "rates": {name: rates[name] for name in streams}}
        batch["names"] = [entry.name or entry.path.stem for entry in chosen]
        return batch | self._counted(given, texts, rates)

    def _streams_of(self, modality: Modality) -> tuple[str, ...]:
        joint = self._model.config.streams == ("audiovisual",)
        return ("audiovisual",) if joint else MODALITIES[modality]

    def _rates_of(self, stream: str) -> tuple[int, ...]:
        return _rates_of(stream, self._model, self._config)

    def _rate(self, stream: str, rng: np.random.Generator) -> int:
        rates = self._rates_of(stream)
        return int(rates[int(rng.integers(len(rates)))])

    def _noise_of(self, epoch: int, index: int) -> tuple[int, float] | None:
        """Seed and ratio of a clip's noise in an epoch; None where it has none."""
        noise = self._config.noise
        if noise is None:
            return None
        rng = generator(self._config.seed, CLIP, epoch, index)
        drawn, snr, seed = (
            rng.random(),
            rng.uniform(noise.snr[0], noise.snr[1]),
            int(rng.integers(2**31)),
        )
        return (seed, float(snr)) if drawn < noise.share else None

    def _clip(self, epoch: int, index: int) -> tuple[Clip, bool]:
        """A clip as it is heard in an epoch, and whether that is in noise."""
        clip = load_clip(self._entries[index])
        noise = self._noise_of(epoch, index)
        if noise is None or self._mixer is None or clip.waveform is None:
            return clip, False
        seed, snr = noise
        return replace(self._mixer, seed=seed)(clip, index, snr), True

    def _features(
        self, streams: Sequence[str], epoch: int, members: Sequence[int]
    ) -> dict[str, dict[str, Any]]:
        """Features of every clip alone, from the cache where it has them."""
        assert self._cache is not None
        rows: dict[str, list[torch.Tensor]] = {stream: [] for stream in streams}
        for index in members:
            entry, noised = self._entries[index], self._noise_of(epoch, index) is not None
            found = None if noised else self._cache.read(entry, streams)
            if found is None:
                clip, noised = self._clip(epoch, index)
                _refuse_missing([clip], streams)
                found = {name: encode_alone(self._model, name, clip) for name in streams}
                if not noised:
                    self._cache.write(entry, found)
            for name in streams:
                rows[name].append(found[name])
        return {
            name: {
                "frames": torch.nn.utils.rnn.pad_sequence(own, batch_first=True),
                "lengths": torch.tensor([len(row) for row in own]),
            }
            for name, own in rows.items()
        }

    def _refuse_short(
        self, stream: str, entries: Sequence[Entry], lengths: torch.Tensor, rate: int
    ) -> None:
        named = [Clip(None, None, path=entry.path) for entry in entries]
        frame_rate = float(self._model.encoder(stream).frame_rate)
        refuse_short(stream, named, lengths.tolist(), rate=rate, frame_rate=frame_rate)

    def _counted(
        self, given: Mapping[str, Any], texts: Sequence[str], rates: dict[str, int]
    ) -> dict[str, Any]:
        """The tokens that are compared with BOS, and how many are to be predicted."""
        counts = {
            name: compressed_lengths(one["lengths"], rate=rates[name]).tolist()
            for name, one in given.items()
        }
        before, after = [], []
        for sample, text in enumerate(texts):
            blank = {name: torch.empty(own[sample], 0) for name, own in counts.items()}
            parts = self._model.parts(blank, rates=rates, text=text)
            said = sum(len(part) for part in parts if part.name in RESPONSE)
            before.append(sum(map(len, parts)) - said)
            after.append(said)
        length = max(a + b for a, b in zip(before, after, strict=True))
        places = torch.arange(length)
        compared = (places > 0) & (places < torch.tensor(before)[:, None])
        return {"compared": compared, TARGETS: sum(after)}


def _mixer(noise: NoiseConfig | None, entries: Sequence[Entry], seed: int) -> Mixer | None:
    return None if noise is None else open_mixer(noise.kind, entries, seed=seed)


def _refuse_textless(entries: Sequence[Entry]) -> None:
    for entry in entries:
        if not (entry.text or "").split():
            raise InputError(
                f"{entry.row or entry.path} has no text to learn; give it one in the manifest or "
                "in a .txt beside it, or leave the clip out."
            )


def _refuse_missing(clips: Sequence[Clip], streams: Sequence[str]) -> None:
    """Refuse clips without a stream that their batch's modality needs."""
    for clip in clips:
        lacks = ("audio" if clip.waveform is None else "") or (
            "video" if clip.frames is None else ""
        )
        if lacks and (lacks in streams or "audiovisual" in streams):
            raise InputError(
                f"{clip.path or clip.name} has no {lacks}, which this run needs; choose other "
                "modalities, or leave the clip out."
            )
