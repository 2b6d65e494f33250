"""What a corpus is heard in: clean, or noise at some signal-to-noise ratios.

The noise of an utterance depends on the seed and the utterance's number alone, and is the same
stretch at every ratio: neither order, batches, modalities nor a stop in the middle change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.noise import add_noise, babble, read_noise
from sinkscope.avsr.sound import read_sound
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.avsr.manifest import Entry

__all__ = ["BABBLE", "CLEAN", "Condition", "Mixer", "conditions_of", "open_mixer"]

BABBLE = "babble"
"""The noise that is made of the corpus's own voices."""

VOICES = 5
"""People who speak at once in babble."""

POOL = 40
"""Utterances whose voices are kept for babble."""


@dataclass(frozen=True)
class Condition:
    """Clean where ``snr`` is None.

    Attributes:
        noise: what the noise is called, ``""`` where there is none.
        snr: signal-to-noise ratio, dB.
    """

    noise: str = ""
    snr: float | int | None = None

    @property
    def name(self) -> str:
        """What a table calls it.

        >>> Condition().name, Condition("babble", -5.0).name
        ('clean', 'babble -5 dB')
        """
        return "clean" if self.snr is None else f"{self.noise} {self.snr:g} dB"


CLEAN = Condition()


def conditions_of(noise: str | Path | None, snrs: Sequence[float | int]) -> tuple[Condition, ...]:
    """Clean, then each ratio in the order given.

    Raises:
        InputError: a noise without a ratio, a ratio without a noise, one that is given twice or is
            no number.
    """
    if (noise is None) != (not snrs):
        found = "a noise without a signal-to-noise ratio" if noise else "a ratio without a noise"
        raise InputError(f"The conditions have {found}; give both, or neither.")
    if len(set(snrs)) < len(snrs) or not np.isfinite(snrs).all():
        raise InputError(
            f"The signal-to-noise ratios are {[f'{snr:g}' for snr in snrs]}; give each number of "
            "decibels once."
        )
    name = Path(noise).name if noise is not None else ""
    return (CLEAN, *(Condition(name, snr) for snr in snrs))


@dataclass(frozen=True)
class Mixer:
    """Puts utterances into noise.

    Attributes:
        seed: of all that is drawn.
        noise: a recorded noise; None for babble.
        voices: for babble, waveforms of the corpus by the number of their utterance.
    """

    seed: int
    noise: Float32[np.ndarray, " noise_samples"] | None
    voices: dict[int, np.ndarray]

    def __call__(self, clip: Clip, number: int, snr: float | int) -> Clip:
        """The clip in noise; one without sound comes back as it is.

        Args:
            clip: an utterance of the corpus.
            number: its place there.
            snr: signal-to-noise ratio, dB.

        Raises:
            InputError: the clip is silent.
        """
        if clip.waveform is None:
            return clip
        rng = np.random.default_rng([self.seed, number])
        noise = self._babble(number, rng) if self.noise is None else self.noise
        return replace(clip, waveform=add_noise(clip.waveform, noise, snr, rng=rng))

    def _babble(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Five of the other voices."""
        others = [voice for other, voice in self.voices.items() if other != number]
        chosen = rng.permutation(len(others))[:VOICES]
        return babble([others[i] for i in chosen], rng=rng)


def open_mixer(
    noise: str | Path | None, corpus: "Sequence[Entry | Clip]", *, seed: int = 0
) -> Mixer | None:
    """What adds the noise; None where there is none.

    Args:
        noise: ``"babble"`` of up to 40 of the corpus's own voices, or a media file.
        corpus: the utterances.
        seed: of all that is drawn.

    Raises:
        InputError: the file cannot be read or is silent, or the corpus has no two voices.
    """
    if noise is None:
        return None
    if noise != BABBLE:
        waveform = read_noise(noise)
        if not waveform.any():
            raise InputError(f"{noise}: every sample of this noise is 0; give one that sounds.")
        return Mixer(seed, waveform, {})
    voices: dict[int, np.ndarray] = {}
    for number in np.random.default_rng(seed).permutation(len(corpus)).tolist():
        waveform = _voice(corpus[number])
        if waveform is not None and waveform.any():
            voices[number] = waveform
        if len(voices) == POOL:
            break
    if len(voices) < 2:
        raise InputError(
            f"Babble is made of other utterances, and {len(voices)} of {len(corpus)} sound; name "
            "a noise file in its place."
        )
    return Mixer(seed, None, voices)


def _voice(utterance: "Entry | Clip") -> np.ndarray | None:
    """An utterance's samples; None where it has none, or cannot be read."""
    if isinstance(utterance, Clip):
        return utterance.waveform
    source = utterance.source
    try:
        return read_sound(source[0] if isinstance(source, tuple) else source).waveform
    except (InputError, OSError):  # counted and listed when its turn comes
        return None
