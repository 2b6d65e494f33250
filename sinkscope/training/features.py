"""What enters an encoder, what leaves it, and a folder that keeps the latter. Depends on torch.

Also says, in hashes, what model and corpora a run begins with.

A kept file is named by the media file's content, the encoder's weights and the stream, so that
nothing stale is ever read.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from av.stream import Disposition
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.decode import open_media
from sinkscope.avsr.manifest import Entry
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.subjects.anatomy import anatomy_of
from sinkscope.subjects.running import model_hash

__all__ = ["FeatureCache", "encode_alone", "encoder_inputs", "origin_of", "streams_of"]

VERSION = 1


def streams_of(entry: Entry) -> set[str]:
    """``"audio"``, ``"video"`` or both, by the headers of a clip's files.

    Raises:
        InputError: a file is missing, or no media file.
    """
    sound, picture = entry.source if isinstance(entry.source, tuple) else (entry.source,) * 2
    with open_media(sound) as container:
        found = {"audio"} if container.streams.audio else set()
    with open_media(picture) as container:
        covers = Disposition.attached_pic | Disposition.timed_thumbnails
        pictures = [one for one in container.streams.video if not one.disposition & covers]
    return found | ({"video"} if pictures else set())


def encoder_inputs(model: LlamaAvsr, stream: str, clips: Sequence[Clip]) -> dict[str, Any]:
    """What enters a stream's encoder, and each clip's feature frames."""
    config = model.config
    one_of_two = config.audiovisual_encoder is not None and stream != "audiovisual"
    alone: dict[str, Any] = {"streams": (stream,)} if one_of_two else {}
    batch, lengths = model.encoder(stream).prepare(clips, **alone)
    return {"batch": batch, "lengths": lengths}


@torch.no_grad()
def encode_alone(model: LlamaAvsr, stream: str, clip: Clip) -> Tensor:
    """A clip's features ``(frame, width)``, in float32 on the CPU, in a batch of its own."""
    encoder = model.encoder(stream)
    training = encoder.training
    encoder.eval()
    try:
        given = encoder_inputs(model, stream, [clip])
        frames = model.encode(stream, given["batch"], given["lengths"])
    finally:
        encoder.train(training)
    return frames[0, : int(given["lengths"][0])].float().cpu().contiguous()


def origin_of(model: LlamaAvsr, **corpora: Sequence[Entry]) -> dict[str, str]:
    """Hashes of what a run begins with: the model's weights, and each corpus's paths and texts."""
    found = {"model": model_hash(model, anatomy_of(model.llm))}
    for name, entries in corpora.items():
        rows = json.dumps([(str(entry.path), entry.text) for entry in entries])
        found[name] = hashlib.blake2b(rows.encode(), digest_size=8).hexdigest()
    return found


class FeatureCache:
    """Features on disk.

    Args:
        folder: where; it is made.
        model: whose encoders made them.
    """

    def __init__(self, folder: str | Path, model: LlamaAvsr) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        anatomy = anatomy_of(model.llm)
        self._encoders = {
            stream: model_hash(model.encoder(stream), anatomy) for stream in model.config.streams
        }

    def read(self, entry: Entry, streams: Sequence[str]) -> dict[str, Tensor] | None:
        """A clip's features; None where a stream's are not there, or damaged."""
        found: dict[str, Tensor] = {}
        for stream in streams:
            try:
                found[stream] = load_file(self._path(entry, stream))["frames"]
            except (SafetensorError, OSError, KeyError):
                return None
        return found

    def write(self, entry: Entry, features: Mapping[str, Tensor]) -> None:
        """Keep a clip's features; a file is whole or not there."""
        for stream, frames in features.items():
            path = self._path(entry, stream)
            part = path.with_suffix(f".{os.getpid()}.part")
            save_file({"frames": frames}, part)
            part.replace(path)

    def _path(self, entry: Entry, stream: str) -> Path:
        paths = entry.source if isinstance(entry.source, tuple) else (entry.source,)
        parts = [_content(path) for path in paths]
        parts += [_content(entry.landmarks)] if entry.landmarks is not None else []
        name = "-".join([str(VERSION), stream, self._encoders[stream], *parts])
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        return self._folder / f"{digest}.safetensors"


@cache
def _content(path: Path) -> str:
    """A hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
