"""What a row of the table of multimodal families says. Plain data and numpy, no torch.

A multimodal model (a *composite*) holds encoders and one LLM. Its processor writes a placeholder
into the text for every token that an encoder will make, and the model puts the n-th of them there.
So the n-th placeholder of a stream, counted through the samples of a batch, is the n-th of the
stream's tokens: a family only has to say what these are, in the order in which the encoder makes
them, and any way of laying them among the text (in chunks of time, a frame at a time, between time
stamps) follows from the ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout

__all__ = ["CHATML", "Composite", "Given", "Stream", "StreamTokens", "Turns", "token_id"]


@dataclass(frozen=True, eq=False)
class Given:
    """What is known of one forward.

    Attributes:
        inputs: the arguments of the composite's forward by name, without those that are None.
        config: the composite's configuration.
        processor: its processor, or None.
    """

    inputs: Mapping[str, Any]
    config: Any
    processor: Any | None = None

    def brings(self, stream: str, features: str) -> bool:
        """Whether the forward is given a stream: its features, or what its encoder made of them.

        ``generate`` runs image and video encoders before the prefill and hands over the latter.
        """
        encoded = self.inputs.get("mm_encoder_outputs") or {}
        return features in self.inputs or encoded.get(stream) is not None

    def needed(self, name: str, stream: str, *, entries: int | None = None) -> Any:
        """An argument that must come with a stream.

        Args:
            name: the argument.
            stream: what it comes with.
            entries: how many entries its first axis must have; None for any number.

        Raises:
            InputError: if the forward was not given it, or it has another number of entries.
        """
        value = self.inputs.get(name)
        if value is None:
            raise InputError(
                f"The forward has {stream} but no {name}; give both, as the model's own processor "
                "returns them."
            )
        if entries is not None and len(value) != entries:
            raise InputError(
                f"{name} has {len(value)} entries, but the forward has {entries} of {stream}; give "
                "what the model's own processor made of one conversation."
            )
        return value

    def refuse_both(self, stream: str) -> None:
        """Refuse pictures and films together, over which one encoder runs twice.

        Args:
            stream: which of them is to be recorded.

        Raises:
            InputError: if the forward brings both.
        """
        both = {"image": "pixel_values", "video": "pixel_values_videos"}
        if all(self.brings(name, features) for name, features in both.items()):
            raise InputError(
                "The encoder runs once over the images and once over the films of this forward; "
                f"give it {stream}s alone to record it."
            )


@dataclass(frozen=True, eq=False)
class StreamTokens:
    """The tokens of one stream, through all items and samples of a forward, in order.

    Attributes:
        seconds: start and end of the input that each covers; NaN where it has none.
        row: row of the patch in its picture, from the top; NaN where there is none.
        column: column of the patch, from the left.
        item: which sound, picture or film it belongs to, counted from 0.
        view: which view of its picture, where the model sees it as a whole and once more in
            detail: rows and columns are those of the view. None where there is one.
    """

    seconds: Float[np.ndarray, "token 2"]
    row: Float[np.ndarray, " token"]
    column: Float[np.ndarray, " token"]
    item: Int[np.ndarray, " token"]
    view: Float[np.ndarray, " token"] | None = None

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def of_frames(cls, counts: Sequence[int], *, step: float, first: float = 0.0) -> "StreamTokens":
        """Sounds whose tokens follow each other at a steady pace.

        Args:
            counts: the number of tokens of each sound.
            step: seconds from one token to the next.
            first: where the first token of each begins, in seconds.

        Example:
            >>> StreamTokens.of_frames([2, 1], step=0.04).seconds.tolist()
            [[0.0, 0.04], [0.04, 0.08], [0.0, 0.04]]
        """
        places = [np.arange(count) for count in counts]
        start = first + step * np.concatenate([np.zeros(0), *places])
        blank = np.full(len(start), np.nan)
        item = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
        return cls(np.stack([start, start + step], axis=1), blank, blank, item)

    @classmethod
    def of_grids(
        cls,
        grids: Sequence[tuple[int, int, int]],
        times: Sequence[Float[np.ndarray, "_ 2"]] | None = None,
    ) -> "StreamTokens":
        """Pictures or films whose tokens run frame by frame, row by row, from left to right.

        Args:
            grids: frames, rows and columns of tokens of each.
            times: start and end in seconds of each frame of tokens; None for pictures.

        Example:
            >>> tokens = StreamTokens.of_grids([(1, 2, 2)])
            >>> tokens.row.tolist(), tokens.column.tolist()
            ([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0])
        """
        parts = []
        for i, (frames, rows, columns) in enumerate(grids):
            frame, row, column = (
                axis.reshape(-1) for axis in np.indices((frames, rows, columns)).astype(np.int64)
            )
            known = np.full((frames, 2), np.nan) if times is None else np.asarray(times[i], float)
            item = np.full(len(frame), i, np.int64)
            parts.append(cls(known[frame], row.astype(float), column.astype(float), item))
        return cls.joined(parts)

    @classmethod
    def joined(cls, parts: Sequence["StreamTokens"]) -> "StreamTokens":
        """Several one after another; their items keep their numbers."""
        views = [np.full(len(part), np.nan) if part.view is None else part.view for part in parts]
        several = any(part.view is not None for part in parts)
        return cls(
            np.concatenate([np.zeros((0, 2)), *(part.seconds for part in parts)]),
            np.concatenate([np.zeros(0), *(part.row for part in parts)]),
            np.concatenate([np.zeros(0), *(part.column for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.item for part in parts)]),
            np.concatenate(views) if several else None,
        )

    def until(self, count: int) -> "StreamTokens":
        """The same, with seconds for the first ``count`` tokens only."""
        sounding = np.arange(len(self))[:, None] < count
        return replace(self, seconds=np.where(sounding, self.seconds, np.nan))

    def take(self, places: Int[np.ndarray, " place"]) -> "StreamTokens":
        """The tokens at these places, in that order."""
        view = None if self.view is None else self.view[places]
        return StreamTokens(
            self.seconds[places], self.row[places], self.column[places], self.item[places], view
        )


@dataclass(frozen=True)
class Stream:
    """One kind of input of a composite.

    Attributes:
        placeholder: the field of the configuration that holds the placeholder's id; dotted where
            it lies deeper (``"text_config.audio_token_id"``).
        features: the argument of the forward that brings the stream.
        tokens: what the placeholders of a forward stand for.
        encoder: path of the stream's encoder from the composite; "" where it has none.
        frames: what the encoder itself runs over: from the arguments of its forward by name and
            what is known of the composite's forward to one `StreamTokens` a sample; None where
            that is not known. Sound that it hears after a clip's end has no seconds.
    """

    placeholder: str
    features: str
    tokens: Callable[[Given], StreamTokens]
    encoder: str = ""
    frames: Callable[[Mapping[str, Any], Given], Sequence[StreamTokens]] | None = None


@dataclass(frozen=True)
class Turns:
    """How a chat template marks who speaks, in tokens of the vocabulary.

    Attributes:
        named: tokens after which the speaker's name follows, up to ``until``.
        until: the characters with one of which the name ends.
        closed: tokens with which it ends too.
        direct: tokens that begin a turn by themselves, with the speaker's name.
        ends: tokens that end a turn.
        late: tokens that begin the answer anew: what looked like its beginning was asked for.
    """

    named: tuple[str, ...] = ()
    until: str = "\n"
    closed: tuple[str, ...] = ()
    direct: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[str, ...] = ()
    late: tuple[str, ...] = ()


CHATML = Turns(named=("<|im_start|>",), ends=("<|im_end|>",))
"""``<|im_start|>user``, a line break, the text, ``<|im_end|>``: Qwen's and many others'."""


@dataclass(frozen=True)
class Composite:
    """One multimodal family.

    Attributes:
        model_type: ``config.model_type`` of the composite (of Qwen's Omni models, the thinker).
        title: what people call the family.
        streams: its inputs beside text: ``"audio"``, ``"image"``, ``"video"``.
        turns: how its chat template marks who speaks.
        delimiters: tokens of the vocabulary, or fields of the configuration that hold an id, that
            open and close what the encoders made.
        film: what its processor is told with a film besides, so that it samples frames instead of
            taking all; ``with_options(processing=…)`` goes before it.
        audio_in_video: whether it can lay the sound of a film between the film's frames.
        notes: what is not supported, in words, for `sinkscope models`.
        layout: in place of streams, turns and delimiters, of a registered family: from what is
            known of a forward to one layout a sample, of all positions or of the real ones.
        by_hand: why clips cannot go in by themselves and what to do instead, in words; "" where
            they can.
    """

    model_type: str
    title: str
    streams: Mapping[str, Stream]
    turns: Turns = field(default_factory=Turns)
    delimiters: tuple[str, ...] = ()
    film: Mapping[str, Any] = field(default_factory=dict)
    audio_in_video: bool = False
    notes: str = ""
    layout: Callable[[Given], Sequence[TokenLayout]] | None = None
    by_hand: str = ""


def token_id(path: str, config: Any) -> int | None:
    """The id that a (dotted) field of a configuration holds; None where there is no such field."""
    found = reduce(lambda owner, name: getattr(owner, name, None), path.split("."), config)
    return found if isinstance(found, int) else None
