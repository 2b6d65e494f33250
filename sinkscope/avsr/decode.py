"""Open a media file and decode one of its streams, keeping an account of what could not be decoded.

The only file that knows what a container is. ``sound.py`` and ``picture.py`` turn the decoded
frames into samples and pictures.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal

import av
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame

from sinkscope.errors import InputError

__all__ = ["Decoder", "open_media"]

Kind = Literal["audio", "video"]

MISSING_SECONDS = 0.2
"""A stream that ends this much before its own header says is reported."""

UNKNOWN_BYTES = 0x7FFFFFF0
"""Sizes above this stand in WAV headers of recordings whose length was not known yet."""

_NOUN = {"audio": "sound", "video": "picture"}


@contextmanager
def open_media(path: str | PathLike[str]) -> Iterator[InputContainer]:
    """Open a local media file for reading.

    Raises:
        InputError: nothing is there, it is a folder, it is empty, or it is not audio or video.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path.")
    if not path.is_file():
        raise InputError(f"{path} is not a file; give an audio or video file.")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes); copy or record it again.")
    try:  # no protocol but plain files: a playlist must not make a reader fetch something
        container = av.open(
            str(path), options={"protocol_whitelist": "file"}, metadata_errors="replace"
        )
    except FFmpegError as error:
        raise InputError(
            f"{path} is not a media file or is damaged beyond its header "
            f"({error.strerror}); give an audio or video file."
        ) from error
    with container:
        _refuse_other_kinds(path, container.format.name)
        yield container


def _refuse_other_kinds(path: Path, container_format: str) -> None:
    if container_format == "tty":
        raise InputError(f"{path} is a text file; give an audio or video file.")
    if container_format.endswith("_pipe") or container_format == "image2":
        raise InputError(f"{path} is a still picture; give an audio or video file.")


@dataclass
class Decoder:
    """Decodes the best stream of one kind, packet by packet, and counts what was damaged.

    Attributes:
        path: the file, for messages.
        kind: ``"audio"`` or ``"video"``.
        start: seconds of the first decoded frame on the file's clock.
        stop: seconds at which the last decoded frame ends.
        pixel_aspect: width of a pixel divided by its height; 1 where the file claims the absurd.
        damaged: packets that could not be decoded, and frames with errors concealed.
        notes: after a full pass, what the reader must know, in sentences.
    """

    path: Path
    kind: Kind
    start: float = 0.0
    stop: float = 0.0
    pixel_aspect: float = 1.0
    damaged: int = 0
    notes: list[str] = field(default_factory=list)

    def frames(self) -> Iterator[tuple[float, AudioFrame | VideoFrame]]:
        """Yield every frame that decodes and the second at which it begins.

        Without a stream of this kind nothing is yielded. Cover art is not a picture stream. Frames
        without a time stamp follow the one before; time never runs backwards.
        """
        self.damaged, self.notes = 0, []
        count, self.start, self.stop = 0, 0.0, 0.0
        with open_media(self.path) as container:
            stream = _stream(container, self.kind)
            if stream is None:
                self.notes.append(f"{self.path.name} has no {_NOUN[self.kind]}.")
                return
            aspect = float(getattr(stream, "sample_aspect_ratio", None) or 1)
            self.pixel_aspect = aspect if 0.25 < aspect < 4 else 1.0
            for count, frame in enumerate(self._decode(container, stream), 1):
                time = self.stop if frame.time is None else frame.time
                time = time if count == 1 else max(time, self.stop - 0.5 * _seconds(frame, stream))
                self.start = time if count == 1 else self.start
                self.stop = time + _seconds(frame, stream)
                yield time, frame
            self._account(count, stream)

    def _decode(
        self, container: InputContainer, stream: Stream
    ) -> Iterator[AudioFrame | VideoFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except (FFmpegError, IndexError):  # IndexError: a stream that the header did not name
                self.damaged += 1
                if self.damaged > 1000:
                    return
                continue
            if packet is None:
                return
            for frame in frames:
                if isinstance(frame, AudioFrame | VideoFrame):
                    self.damaged += frame.is_corrupt
                    yield frame

    def _account(self, count: int, stream: Stream) -> None:
        noun = _NOUN[self.kind]
        if not count:
            self.notes.append(f"{self.path.name} has a {noun} stream, but none of it decodes.")
            return
        if self.damaged:
            self.notes.append(
                f"{self.path.name} is damaged: {self.damaged} pieces of the {noun} do not decode."
            )
        announced, missing = _announced_seconds(stream), _missing_bytes(self.path)
        if missing:
            self.notes.append(
                f"{self.path.name} is cut short: its last {missing} bytes are missing."
            )
        elif announced > self.stop + MISSING_SECONDS:
            self.notes.append(
                f"{self.path.name} is cut short: its header announces {announced:.2f} s of {noun}, "
                f"{self.stop:.2f} s decode."
            )


def _stream(container: InputContainer, kind: Kind) -> Stream | None:
    streams = container.streams.audio if kind == "audio" else container.streams.video
    usable = [
        stream
        for stream in streams
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
    ]
    best = container.streams.best(kind)
    if best in usable:
        return best
    return usable[0] if usable else None


def _seconds(frame: AudioFrame | VideoFrame, stream: Stream) -> float:
    """Seconds that a frame lasts, by its samples, its own duration or the stream's rate."""
    if isinstance(frame, AudioFrame):
        return frame.samples / frame.sample_rate
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    rate = getattr(stream, "average_rate", None)
    return float(1 / rate) if rate else 0.04


def _announced_seconds(stream: Stream) -> float:
    """The stream's length by its header; 0 where the header does not say or only estimates it."""
    if stream.container.format.name in {"mp3", "aac"}:
        return 0.0
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if not stream.duration and tag:  # Matroska
        hours, minutes, seconds = map(float, tag.groups())
        return 3600 * hours + 60 * minutes + seconds
    return float((stream.duration or 0) * (stream.time_base or 0))


def _missing_bytes(path: Path) -> int:
    """How much shorter a WAV or AVI file is than its header says; 0 where it does not say."""
    with path.open("rb") as file:
        head = file.read(8)
    announced = int.from_bytes(head[4:], "little") + 8
    if not head.startswith(b"RIFF") or announced > UNKNOWN_BYTES:
        return 0
    return max(0, announced - path.stat().st_size)
