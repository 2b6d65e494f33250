"""Models that hear windows of half a minute: Audio Flamingo 3, Music Flamingo, GLM-ASR, Voxtral.

Their encoders are Whisper's: two convolutions make a frame of two mel frames. Formulas read in
transformers 5.23.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int

from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.sounds import mel_step
from sinkscope.subjects.multimodal.table import (
    CHATML,
    Composite,
    Given,
    Stream,
    StreamTokens,
    Turns,
)
from sinkscope.subjects.multimodal.windows import Window, run_starts, tokens_of_windows, windows_of

__all__ = ["COMPOSITES"]

Lengths = Int[np.ndarray, " window"]
Counter = Callable[[Given, Lengths], Lengths]
"""From mel frames to tokens."""


def _mel_lengths(given: Given) -> Lengths:
    """Mel frames of each window; all of them where the family takes no mask."""
    features = given.needed("input_features", "audio")
    mask = given.inputs.get("input_features_mask")
    if mask is None:
        return np.full(len(features), features.shape[-1], np.int64)
    mask = given.needed("input_features_mask", "audio", entries=len(features))
    return mask.sum(-1).cpu().numpy().astype(np.int64)


def _halved(lengths: Lengths) -> Lengths:
    """What the second convolution, which goes in twos, makes of so many frames."""
    return (lengths - 1) // 2 + 1


def _pooled(given: Given, lengths: Lengths) -> Lengths:
    """Two frames of the encoder are averaged to one token."""
    return (_halved(lengths) - 2) // 2 + 1


def _stacked(given: Given, lengths: Lengths) -> Lengths:
    """Four frames of the encoder, side by side, make one token."""
    audio = given.config.audio_config
    if audio.intermediate_size != 4 * audio.hidden_size:
        raise InputError(
            f"{given.config.model_type}: the projector takes {audio.intermediate_size} features, "
            f"but four frames of the encoder have {4 * audio.hidden_size}; only four frames a "
            "token are known."
        )
    return _halved(lengths) // 4


def _audio(given: Given, *, counter: Counter, merged: int) -> StreamTokens:
    """The tokens of the sounds, window after window."""
    counts, windows = _windows(given, counter)
    return StreamTokens.joined(_of_windows(given, windows, counts, merged=2 * merged))


def _frames(
    called: Mapping[str, Any], given: Given, *, counter: Counter, masked: bool
) -> Sequence[StreamTokens]:
    """The encoder's frames, 20 ms each, window by window.

    Where it takes no mask it hears the padding, whose frames have no seconds.
    """
    _, windows = _windows(given, counter)
    features = given.needed("input_features", "audio")
    whole = np.full(len(windows), features.shape[-1], np.int64)
    own = _halved(_mel_lengths(given))
    if masked:
        return _of_windows(given, windows, own, merged=2)
    made = _of_windows(given, windows, _halved(whole), merged=2)
    return [tokens.until(int(count)) for tokens, count in zip(made, own, strict=True)]


def _windows(given: Given, counter: Counter) -> tuple[Lengths, list[Window]]:
    """How many tokens each window makes, and where it stands."""
    counts = counter(given, _mel_lengths(given))
    (full,) = counter(given, np.array([given.needed("input_features", "audio").shape[-1]]))
    starts = run_starts(given, "audio_token_id")
    return counts, windows_of(starts, counts.tolist(), full=int(full))


def _of_windows(
    given: Given, windows: list[Window], counts: Lengths, *, merged: int
) -> list[StreamTokens]:
    """What each window's tokens (or frames) are, of so many mel frames each."""
    step = mel_step(given)
    duration = given.needed("input_features", "audio").shape[-1] * step
    return tokens_of_windows(windows, counts.tolist(), step=merged * step, duration=duration)


def _stream(counter: Counter, merged: int, *, masked: bool) -> Stream:
    return Stream(
        "audio_token_id",
        "input_features",
        partial(_audio, counter=counter, merged=merged),
        "model.audio_tower",
        partial(_frames, counter=counter, masked=masked),
    )


_POOLED = _stream(_pooled, 2, masked=True)
_STACKED = _stream(_stacked, 4, masked=False)
_NO_END = "The tokens of a window's padding carry seconds too: the forward is not told where it is."

COMPOSITES = (
    Composite(
        "audioflamingo3",
        "Audio Flamingo 3",
        streams={"audio": _POOLED},
        turns=CHATML,
    ),
    Composite(
        "musicflamingo",
        "Music Flamingo",
        streams={"audio": _POOLED},
        turns=CHATML,
        delimiters=("audio_bos_token_id", "audio_eos_token_id"),
    ),
    Composite(
        "glmasr",
        "GLM-ASR",
        streams={"audio": _STACKED},
        turns=Turns(
            direct={"<|system|>": "system", "<|user|>": "user", "<|assistant|>": "assistant"}
        ),
        delimiters=("<|begin_of_audio|>", "<|end_of_audio|>"),
        notes="Its encoder takes no mask: it hears the padding of a window, whose frames "
        "are appended_silence.",
    ),
    Composite(
        "voxtral",
        "Voxtral",
        streams={"audio": _STACKED},
        turns=Turns(
            direct={
                "[SYSTEM_PROMPT]": "system",
                "[INST]": "user",
                "[/INST]": "assistant",
                "[TRANSCRIBE]": "assistant",
            },
            ends=("[/SYSTEM_PROMPT]", "</s>"),
            late=("[TRANSCRIBE]",),
        ),
        delimiters=("[BEGIN_AUDIO]",),
        notes=f"{_NO_END} Its processor takes no sound beside text, so clips do not go in: give "
        "what its apply_transcription_request or apply_chat_template returns.",
        by_hand="Voxtral's processor takes no sound beside text; give what its "
        "apply_transcription_request(...) or apply_chat_template(...) returns",
    ),
)
