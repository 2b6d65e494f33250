"""What an evaluation depends on, checked before anything is decoded."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sinkscope.avsr.batching import MAX_FRAMES
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, Modality
from sinkscope.avsr.decoding import Decoding, checked_modality, modalities_of
from sinkscope.avsr.evaluation.cases import Case, Rates, pairs_of_modality, pairs_of_model
from sinkscope.avsr.evaluation.conditions import BABBLE, conditions_of
from sinkscope.avsr.manifest import Entry
from sinkscope.avsr.streams import MODALITIES
from sinkscope.errors import InputError

__all__ = ["Running", "Settings", "Utterance", "cases_of", "facts_of", "path_of"]

Utterance = Entry | Clip
"""A row of a manifest, which is read when its turn comes, or a clip."""


@dataclass(frozen=True)
class Settings:
    """What is evaluated, and how.

    Attributes:
        modalities: lines of the table; None for the widest that the model takes.
        noise: ``"babble"`` of the corpus's own voices, or a media file; None for clean only.
        snrs: signal-to-noise ratios, dB; the clean condition always comes first.
        decoding: the search.
        rates: pairs of an audio rate and a video rate at which everything is read, one after the
            other, or ``"all"`` pairs of the model's own; sound alone is read at every audio rate
            once, the picture alone at every video rate. None is the rates of ``decoding``.
        seed: of the noise and the bootstrap; the search has its own.
    """

    modalities: Sequence[str] | None = None
    noise: str | Path | None = None
    snrs: Sequence[float | int] = ()
    decoding: Decoding = field(default_factory=Decoding)
    rates: Rates | None = None
    seed: int = 0


@dataclass(frozen=True)
class Running:
    """What changes no result.

    Attributes:
        batch_frames: picture frames (1/25 s) of a batch, padding counted.
        workers: processes that read clips ahead; 0 reads in this one.
        progress: told how many of the utterances in a modality and condition are done now.
    """

    batch_frames: int = MAX_FRAMES
    workers: int = 0
    progress: Callable[[int], None] = lambda _: None


def cases_of(config: AvsrConfig, settings: Settings) -> list[Case]:
    """What is read, at which rates and in which conditions, in the table's order.

    Noise is added where sound is heard.

    Raises:
        InputError: a modality, a condition or a rate is impossible.
    """
    asked = modalities_of(config)[-1:] if settings.modalities is None else settings.modalities
    modalities: list[Modality] = list(
        dict.fromkeys(checked_modality(config, name) for name in asked)
    )
    noise = None if settings.noise is None else str(settings.noise)
    conditions = conditions_of(noise, settings.snrs)
    pairs = _pairs(config, settings)
    return [
        Case(modality, condition, pair)
        for modality in modalities
        for pair in pairs_of_modality(modality, pairs, config)
        for condition in conditions
        if condition.snr is None or "audio" in MODALITIES[modality]
    ]


def _pairs(config: AvsrConfig, settings: Settings) -> list[tuple[int, int]] | None:
    search = settings.decoding
    if settings.rates is not None and (search.audio_rate or search.video_rate):
        raise InputError(
            "The settings have pairs of rates, and one audio or video rate beside them; give one "
            "or the other."
        )
    return pairs_of_model(settings.rates, config)


def facts_of(
    config: AvsrConfig, corpus: Sequence[Utterance], settings: Settings, about: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the results depend on, ready for JSON; refuses what is impossible."""
    if not corpus:
        raise InputError("The corpus is empty; give at least one clip.")
    search = asdict(settings.decoding)
    if settings.rates is not None:
        search = {name: one for name, one in search.items() if not name.endswith("_rate")}
    noise = None if settings.noise is None else str(settings.noise)
    return {
        "modalities": list(dict.fromkeys(case.modality for case in cases_of(config, settings))),
        "noise": noise,
        "noise_hash": _noise_hash(noise),
        "snrs": [float(snr) for snr in settings.snrs],
        **{"search_seed" if name == "seed" else name: value for name, value in search.items()},
        **_rates(config, settings),
        "seed": settings.seed,
        "utterances": len(corpus),
        "corpus_hash": _corpus_hash(corpus),
        "model_hash": about.get("model_hash"),
        "dtype": about.get("dtype"),
    }


def _rates(config: AvsrConfig, settings: Settings) -> dict[str, Any]:
    pairs = _pairs(config, settings)
    if pairs is not None:
        return {"rates": [list(pair) for pair in pairs]}
    return {f"{name}_rate": rate for name, rate in settings.decoding.rates(config).items()}


def _noise_hash(noise: str | None) -> str | None:
    if noise is None or noise == BABBLE:
        return None
    if not Path(noise).is_file():
        raise InputError(f"{noise}: there is no such noise file; check the path.")
    return hashlib.blake2b(Path(noise).read_bytes(), digest_size=8).hexdigest()


def _corpus_hash(corpus: Sequence[Utterance]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for utterance in corpus:
        digest.update(f"{path_of(utterance)}\t{utterance.text}\n".encode())
    return digest.hexdigest()


def path_of(utterance: Utterance) -> str:
    """Where an utterance comes from, its picture of a pair; "" for a clip without a file."""
    if isinstance(utterance, Clip):
        return "" if utterance.path is None else str(utterance.path)
    return str(utterance.path)
