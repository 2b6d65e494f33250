"""The batches of a run over a corpus, each made from its number alone. Depends on torch and avsr.

Clips are decoded when their batch is asked for. The passes of a step are batches over the same
clips in the same noise, and what is made of the clips is made once for all of them. Where the
encoders are not trained and a cache is given, every clip is encoded alone and what was not in noise
is kept, so that a batch is the same with a full cache and an empty one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset

from sinkscope.avsr.batching import frames_of
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.evaluation.conditions import Mixer, open_mixer
from sinkscope.avsr.loading import load_clip
from sinkscope.avsr.manifest import Entry
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.passes import Pass
from sinkscope.avsr.projector import compressed_lengths
from sinkscope.avsr.streams import MODALITIES, chosen_rate, refuse_short
from sinkscope.training.config import NoiseConfig, TrainConfig
from sinkscope.training.features import FeatureCache, encode_alone, encoder_inputs
from sinkscope.training.plan import CLIP, Plan, generator
from sinkscope.training.shares import PASS, Share
from sinkscope.training.step_passes import DrawnPasses, passes_of, rates_of
from sinkscope.training.unusable import refuse_missing, refuse_textless

__all__ = ["TARGETS", "ClipBatches"]

TARGETS = "targets"
"""The entry of a batch that counts the tokens to predict."""

RESPONSE = ("transcript", "eos")


class ClipBatches(Dataset):
    """Batch number i of a run, for a `SpokenModel`.

    Args:
        model: whose encoders and tokenizer the batches are for.
        entries: the corpus; every clip has a text.
        config: of the run.
        count: times that clips are drawn in the run; each gives as many batches as a step has
            passes.

    Raises:
        InputError: a clip without text, or a choice that the model does not allow.
    """

    def __init__(
        self, model: LlamaAvsr, entries: Sequence[Entry], *, config: TrainConfig, count: int
    ) -> None:
        refuse_textless(entries)
        self._model, self._entries, self._config, self._count = model, entries, config, count
        lengths = [frames_of(entry) for entry in entries]
        self._plan = Plan(lengths, max_frames=config.batch_frames, seed=config.seed)
        self._schedule = passes_of(model.config, config)
        self._mixer = _mixer(config.noise, entries, config.seed)
        cached = config.cache is not None and not config.encoders
        self._cache = FeatureCache(str(config.cache), model) if cached else None
        self._given: tuple[int, dict[str, Any]] = (-1, {})
        for stream in model.config.streams:
            for rate in rates_of(stream, model.config, config):
                chosen_rate(stream, rate, model.config)

    def __len__(self) -> int:
        return self._count * self.passes

    @property
    def passes(self) -> int:
        """How many passes each step makes over its clips, each a batch of its own."""
        schedule = self._schedule
        return 1 if isinstance(schedule, DrawnPasses) else len(schedule.passes(0))

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The batch, with what its loss needs: ``compared``, ``targets``, ``names``, ``pass``."""
        number, place = divmod(int(number), self.passes)
        epoch, within, members = self._plan.at(number)
        if isinstance(self._schedule, DrawnPasses):
            passes = (self._schedule.drawn(epoch, within),)
        else:
            passes = self._schedule.passes(number // self._config.accumulation)
        chosen, here = [self._entries[index] for index in members], passes[place]
        wanted = dict.fromkeys(name for each in passes for name in self._streams_of(each))
        every = self._given_of(number, tuple(wanted), epoch, members)
        given = {name: every[name] for name in self._streams_of(here)}
        rates = self._rates(here)
        for name, one in given.items():
            self._refuse_short(name, chosen, one["lengths"], rates[name])
        texts = [str(entry.text) for entry in chosen]
        batch = {"streams": given, "texts": texts, "rates": rates}
        batch["names"] = [entry.name or entry.path.stem for entry in chosen]
        batch[PASS] = Share(place, len(passes), here.weight)
        return batch | self._counted(given, texts, rates)

    def _streams_of(self, one: Pass) -> tuple[str, ...]:
        joint = self._model.config.streams == ("audiovisual",)
        return ("audiovisual",) if joint else MODALITIES[one.modality]

    def _rates(self, one: Pass) -> dict[str, int]:
        """The rates of a pass, by stream."""
        rates = {"audio": one.audio_rate, "video": one.video_rate, "audiovisual": one.video_rate}
        return {name: int(rates[name] or 0) for name in self._streams_of(one)}

    def _given_of(
        self, number: int, streams: Sequence[str], epoch: int, members: Sequence[int]
    ) -> dict[str, Any]:
        """What enters the model of each stream; one for all passes over the clips."""
        if self._given[0] == number:
            return self._given[1]
        if self._cache is not None or (self.passes > 1 and not self._config.encoders):
            given = self._features(streams, epoch, members)
        else:
            clips = [self._clip(epoch, index)[0] for index in members]
            refuse_missing(clips, streams)
            given = {name: encoder_inputs(self._model, name, clips) for name in streams}
        if self.passes > 1:
            self._given = (number, given)
        return given

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
        cache = self._cache
        rows: dict[str, list[torch.Tensor]] = {stream: [] for stream in streams}
        for index in members:
            entry, noised = self._entries[index], self._noise_of(epoch, index) is not None
            found = None if noised or cache is None else cache.read(entry, streams)
            if found is None:
                clip, noised = self._clip(epoch, index)
                refuse_missing([clip], streams)
                found = {name: encode_alone(self._model, name, clip) for name in streams}
                if not noised and cache is not None:
                    cache.write(entry, found)
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
