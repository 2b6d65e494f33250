"""TokenLayout: what every token of a sample is. Depends on the glossary and numpy.

Example:
    >>> layout = TokenLayout.of_text(["<s>", "a", "b"], has_bos=True)
    >>> layout.segments, layout.reference
    (('bos', 'text', 'text'), 0)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from sinkscope.errors import InputError
from sinkscope.glossary import BOS, PADDING, SEGMENTS

__all__ = ["TokenLayout"]


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Segment, label and seconds of every token of one sample.

    Attributes:
        segments: the role of each token, a word of ``glossary.SEGMENTS``.
        labels: a printable label of each token.
        seconds: start and end of the input that each token covers; NaN where it has none.
        reference: the token whose direction the others are compared with: BOS where there is one,
            otherwise the first token that is not padding (or one that the caller names).
        descriptors: what audio and video tokens are, one value a token: ``loudness_db``,
            ``silence``, ``motion``, ``phoneme``; arrays of floats (NaN where unknown) or of
            texts ("" where unknown).

    Raises:
        InputError: if lengths disagree, a segment is unknown, or the reference is out of range.
    """

    segments: tuple[str, ...]
    labels: tuple[str, ...]
    seconds: Float[np.ndarray, "token 2"]
    reference: int
    descriptors: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        length = len(self.segments)
        columns = {"labels": len(self.labels), "seconds": len(self.seconds)}
        columns |= {name: len(values) for name, values in self.descriptors.items()}
        for name, found in columns.items():
            if found != length:
                raise InputError(
                    f"TokenLayout: {name} has {found} entries, not {length}; give one a token."
                )
        unknown = sorted(set(self.segments) - set(SEGMENTS))
        if unknown:
            raise InputError(
                f"TokenLayout: unknown segment {unknown[0]!r}; use one of {', '.join(SEGMENTS)}."
            )
        if not 0 <= self.reference < length:
            raise InputError(
                f"TokenLayout: reference token {self.reference} is outside 0 to {length - 1}."
            )

    @classmethod
    def of(
        cls,
        segments: Sequence[str],
        labels: Sequence[str],
        *,
        seconds: Float[np.ndarray, "token 2"] | None = None,
        reference: int | None = None,
        descriptors: Mapping[str, np.ndarray] | None = None,
    ) -> "TokenLayout":
        """A layout with the usual defaults: no seconds, and BOS or the first token as reference."""
        return cls(
            tuple(segments),
            tuple(labels),
            np.full((len(segments), 2), np.nan) if seconds is None else np.asarray(seconds, float),
            _default_reference(segments) if reference is None else reference,
            dict(descriptors or {}),
        )

    @classmethod
    def of_text(cls, labels: Sequence[str], *, has_bos: bool) -> "TokenLayout":
        """The layout of plain text; with ``has_bos`` its first token is BOS."""
        segments = ["text"] * len(labels)
        if has_bos and segments:
            segments[0] = BOS
        return cls.of(segments, labels)

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def has_bos(self) -> bool:
        """Whether the reference token is a BOS."""
        return self.segments[self.reference] == BOS

    @property
    def is_real(self) -> Bool[np.ndarray, " token"]:
        """True where a token is not padding."""
        return np.array([segment != PADDING for segment in self.segments], bool)

    @property
    def segment_index(self) -> np.ndarray:
        """Each token's place on the ``segment`` axis, shape (token,)."""
        return np.array([SEGMENTS.index(segment) for segment in self.segments], np.int64)

    def mask(self, *segments: str) -> Bool[np.ndarray, " token"]:
        """True where a token belongs to one of ``segments``."""
        return np.isin(np.array(self.segments, object), segments)

    def take(self, tokens: Sequence[int] | np.ndarray) -> "TokenLayout":
        """The layout of the chosen tokens, in that order; the reference must be among them."""
        index = np.asarray(tokens, dtype=np.int64)
        kept = np.flatnonzero(index == self.reference)
        if not len(kept):
            raise InputError(
                f"TokenLayout.take: the reference token {self.reference} was left out."
            )
        return TokenLayout(
            tuple(self.segments[i] for i in index),
            tuple(self.labels[i] for i in index),
            self.seconds[index],
            int(kept[0]),
            {name: values[index] for name, values in self.descriptors.items()},
        )

    def without_padding(self) -> "TokenLayout":
        """The layout of the tokens that are not padding."""
        real = self.is_real
        return self if real.all() else self.take(np.flatnonzero(real))

    def extend(self, segment: str, labels: Sequence[str]) -> "TokenLayout":
        """The layout with more tokens of one segment at its end (a response that grows)."""
        more = len(labels)
        blank = {
            name: np.concatenate([values, _blank(values, more)])
            for name, values in self.descriptors.items()
        }
        return TokenLayout(
            (*self.segments, *[segment] * more),
            (*self.labels, *labels),
            np.concatenate([self.seconds, np.full((more, 2), np.nan)]),
            self.reference,
            blank,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists for JSON, with null for NaN."""
        return {
            "segments": list(self.segments),
            "labels": list(self.labels),
            "seconds": _to_list(self.seconds),
            "reference": self.reference,
            "descriptors": {name: _to_list(values) for name, values in self.descriptors.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TokenLayout":
        """The layout that ``to_dict`` wrote."""
        return cls(
            tuple(content["segments"]),
            tuple(content["labels"]),
            np.array(content["seconds"], dtype=float).reshape(-1, 2),
            int(content["reference"]),
            {name: _from_list(values) for name, values in content["descriptors"].items()},
        )


def _default_reference(segments: Sequence[str]) -> int:
    if BOS in segments:
        return list(segments).index(BOS)
    return next((i for i, segment in enumerate(segments) if segment != PADDING), 0)


def _blank(values: np.ndarray, count: int) -> np.ndarray:
    if values.dtype.kind in "USO":
        return np.full(count, "", values.dtype)
    return np.full(count, np.nan)


def _to_list(values: np.ndarray) -> list[Any]:
    if values.dtype.kind != "f":
        return values.tolist()
    plain = values.astype(object)
    plain[np.isnan(values)] = None
    return plain.tolist()


def _from_list(values: list[Any]) -> np.ndarray:
    if values and all(isinstance(value, str) for value in values):
        return np.array(values, str)
    return np.array(values, dtype=float)
