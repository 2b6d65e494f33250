"""espeak-ng, through its shared library: sound and the phoneme timeline of a text.

Needed to make the synthetic corpus, never to use the package. The library keeps hidden state
between calls, so every utterance is spoken by a fresh fork of a small helper process: the same
call gives the same samples, in any order, on one version of espeak-ng.

Example:
    >>> with Speaker() as speaker:                                  # doctest: +SKIP
    ...     samples, phonemes = speaker.speak(Utterance("bin blue", voice="en-us+m1"))
"""

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float32

from sinkscope.avsr.clip import Phoneme
from sinkscope.errors import InputError

__all__ = ["ESPEAK_RATE", "Speaker", "Utterance"]

ESPEAK_RATE = 22_050
"""Samples a second that espeak-ng gives."""

_LIBRARY = "libespeak-ng.so.1"
_RETRIEVAL = 1  # the library hands samples to a callback instead of a sound card
_PHONEME_EVENTS_IN_IPA = 1 | 2
_UTF8_WITH_PHONEMES = 1 | 0x100
_RATE, _PITCH, _RANGE = 1, 3, 4
_PHONEME = 7


@dataclass(frozen=True)
class Utterance:
    """What to say and how: a voice's name, words a minute, pitch and its range (0 to 99)."""

    text: str
    voice: str
    rate: int = 170
    pitch: int = 50
    pitch_range: int = 50


class Speaker:
    """A helper process that speaks; a context manager.

    Raises:
        InputError: if espeak-ng's library is not installed, or it refuses a voice.
    """

    def __enter__(self) -> "Speaker":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sinkscope.avsr.espeak"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process.wait()

    def speak(
        self, utterance: Utterance
    ) -> tuple[Float32[np.ndarray, " samples"], tuple[Phoneme, ...]]:
        """Samples in [-1, 1] at ``ESPEAK_RATE`` and the phonemes with their seconds."""
        question, answer = self._process.stdin, self._process.stdout
        if question is None or answer is None:
            raise InputError("Speaker: open it in a with block before it speaks.")
        question.write(json.dumps(asdict(utterance)).encode() + b"\n")
        question.flush()
        head = answer.readline()
        said: dict[str, Any] = json.loads(head or '{"error": "the speaking process ended"}')
        if "error" in said:
            raise InputError(
                f"espeak-ng cannot speak {utterance.text!r} as {utterance.voice!r}: "
                f"{said['error']}; on Debian install the package libespeak-ng1."
            )
        samples = np.frombuffer(answer.read(said["bytes"]), np.int16).astype(np.float32) / 32768
        return samples, tuple(Phoneme(*phoneme) for phoneme in said["phonemes"])


class _Identity(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("text", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("identity", _Identity),
    )


def _synthesize(utterance: Utterance) -> tuple[bytes, list[tuple[str, float, float]]]:
    chunks: list[bytes] = []
    starts: list[tuple[str, float]] = []

    def collect(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type:
            event = events[index]
            if event.type == _PHONEME:
                label = ctypes.string_at(ctypes.addressof(event.identity), 8).split(b"\0")[0]
                starts.append((label.decode(errors="ignore"), event.sample / ESPEAK_RATE))
            index += 1
        return 0

    library = ctypes.CDLL(_LIBRARY)
    callback = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
    )(collect)
    library.espeak_Initialize(_RETRIEVAL, 0, None, _PHONEME_EVENTS_IN_IPA)
    library.espeak_SetSynthCallback(callback)
    refused = library.espeak_SetVoiceByName(utterance.voice.encode())
    if refused or not _has_variant(library, utterance.voice):
        raise OSError("it has no such voice")
    values = (utterance.rate, utterance.pitch, utterance.pitch_range)
    for parameter, value in zip((_RATE, _PITCH, _RANGE), values, strict=True):
        library.espeak_SetParameter(parameter, value, 0)
    text = utterance.text.encode() + b"\0"
    library.espeak_Synth(text, len(text), 0, 1, 0, _UTF8_WITH_PHONEMES, None, None)
    library.espeak_Synchronize()
    sound = b"".join(chunks)
    ends = [start for _, start in starts[1:]] + [len(sound) / 2 / ESPEAK_RATE]
    spans = [
        (label, start, end)
        for (label, start), end in zip(starts, ends, strict=True)
        if label and end > start
    ]
    return sound, spans


def _has_variant(library: ctypes.CDLL, voice: str) -> bool:
    """Whether the part after ``+`` exists; the library takes its default for one that does not."""
    variant = voice.partition("+")[2]
    folder = ctypes.c_char_p()
    library.espeak_Info.restype = ctypes.c_char_p
    library.espeak_Info(ctypes.byref(folder))
    return not variant or (Path((folder.value or b"").decode()) / "voices/!v" / variant).is_file()


def _answer(line: bytes, output: BinaryIO) -> None:
    try:
        sound, phonemes = _synthesize(Utterance(**json.loads(line)))
        head, body = {"bytes": len(sound), "phonemes": phonemes}, sound
    except OSError as error:
        head, body = {"error": str(error)}, b""
    output.write(json.dumps(head).encode() + b"\n" + body)
    output.flush()


def _serve() -> None:
    """Answer each line of standard input from a fork of its own."""
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            _answer(line, sys.stdout.buffer)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    _serve()
