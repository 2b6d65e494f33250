"""Face landmarks of a clip: 68 points a frame, from a file or from a model that the user names.

The points are those of the usual 68-point scheme: 0 to 16 the jaw, 17 to 26 the brows, 27 to 35 the
nose, 36 to 47 the eyes, 48 to 67 the mouth; x to the right and y downwards in pixels of the picture
as it is shown, the middle of the first pixel at (0, 0). A frame without a face has NaN.

| file | what it holds |
|---|---|
| ``.npy`` | an array (frame, 68, 2); NaN where no face was seen |
| ``.npz`` | the same under the name ``landmarks``, or as its only array |
| ``.json`` | a list of frames, each 68 pairs or ``null``; or an object with it as ``"landmarks"`` |
| ``.pkl`` | a list of frames, each an array (68, 2) or None; nothing in it is run |
"""

import importlib
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import ArrayLike

from sinkscope.avsr.plain_pickle import read_plain_pickle
from sinkscope.errors import InputError

__all__ = ["POINTS", "LandmarkModel", "find_landmarks", "open_landmarks"]

POINTS = 68
"""Points of a face."""

LandmarkModel = Callable[[UInt8[np.ndarray, "height width"]], ArrayLike | None]
"""Given a grey picture, the (68, 2) points of the speaker's face, or None where it sees none."""

Landmarks = Float32[np.ndarray, "frame 68 2"]


def open_landmarks(
    what: str | PathLike[str] | ArrayLike | LandmarkModel,
) -> Landmarks | LandmarkModel:
    """Landmarks as an array, or the model that finds them.

    Args:
        what: a file of landmarks; an array or list (frame, 68, 2) in which missing frames are None
            or NaN; a function from a grey picture to (68, 2) points or None; or the name of such
            a function as ``"module:function"``.

    Raises:
        InputError: the file is missing, damaged, of another kind or shape, or has no face in any
            frame; there is no such function.

    Examples:
        >>> marks = open_landmarks([None, np.zeros((68, 2))])
        >>> marks.shape, np.isnan(marks[0]).all()
        ((2, 68, 2), np.True_)
    """
    if callable(what):
        return what
    if isinstance(what, str | PathLike):
        path = Path(what)
        if not path.is_file() and ":" in str(what):
            return _named(str(what))
        return _points(_read(path), f"{path}")
    return _points(what, "landmarks")


def find_landmarks(
    images: Iterable[UInt8[np.ndarray, "height width"]], model: LandmarkModel
) -> Landmarks:
    """Ask a model for the landmarks of every picture; the same picture twice is asked for once.

    Raises:
        InputError: the model answers with something that is not (68, 2) points or None, or sees no
            face at all.
    """
    found: list[Any] = []
    previous = None
    for image in images:
        found.append(found[-1] if image is previous else model(image))
        previous = image
    return _points(found, "The landmark model")


def _named(name: str) -> Any:
    """A function by its name."""
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"landmarks: {name!r} is no file and no function ({error}); give a file of landmarks, "
            "or module:function."
        ) from error
    if not callable(function):
        raise InputError(f"landmarks: {name!r} is no function but a {type(function).__name__}.")
    return function


def _read(path: Path) -> Any:
    """What a file holds, as it is."""
    readers = {".npy": _read_array, ".npz": _read_array, ".json": _read_json}
    readers[".pkl"] = read_plain_pickle
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a file of landmarks.")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: landmarks are read from {', '.join(readers)} files.")
    content = reader(path)
    if isinstance(content, dict):
        if "landmarks" not in content:
            names = ", ".join(map(str, content)) or "nothing"
            raise InputError(f"{path} holds {names}, and no 'landmarks'; rename what they are.")
        return content["landmarks"]
    return content


def _read_array(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = None if isinstance(content, np.ndarray) else dict(content)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise InputError(
            f"{path} is damaged, or holds objects in place of numbers ({_short(error)}); write an "
            "array (frame, 68, 2), with NaN for frames without a face."
        ) from error
    if arrays is None:
        return content
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({_short(error)}); write it again.") from error


def _points(frames: Any, where: str) -> Landmarks:
    """Frames as one array with NaN where there is no face; refuses all else."""
    if not isinstance(frames, Sequence | np.ndarray) or isinstance(frames, str | bytes):
        raise InputError(
            f"{where}: found a {type(frames).__name__}; give one row of 68 points a frame."
        )
    marks = np.full((len(frames), POINTS, 2), np.nan, np.float32)
    for number, frame in enumerate(frames):
        if frame is not None:
            marks[number] = _frame(frame, f"{where}, frame {number}")
    marks[~np.isfinite(marks).all(axis=(1, 2))] = np.nan
    if np.isnan(marks).all():
        raise InputError(
            f"{where}: no frame of {len(marks)} has a face; use crop='fixed' or 'none'."
        )
    return marks


def _frame(points: Any, where: str) -> Float32[np.ndarray, "68 2"]:
    try:
        array = np.asarray(points, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: the points are no numbers ({_short(error)}).") from error
    if array.shape not in ((POINTS, 2), (POINTS, 3)):
        raise InputError(f"{where}: found {array.shape} numbers; give {POINTS} points of x and y.")
    return array[:, :2]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
