"""The options that several commands share, and how their words are read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.avsr.evaluation.cases import Rates as Pairs

__all__ = [
    "AudioRate",
    "Bos",
    "Checkpoint",
    "Device",
    "Dtype",
    "Inputs",
    "Layers",
    "MinHeads",
    "MinQueries",
    "Modality",
    "Overwrite",
    "Rates",
    "Ratio",
    "Threshold",
    "VideoRate",
    "parse_layers",
    "parse_rates",
    "progress",
]

EVERY = "all"

Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT", help="A bundled model's name, a folder, or a model hub's id."
    ),
]
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Media files, a manifest (.csv or .txt), or a text in quotes."
    ),
]
Device = Annotated[str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default as stored.")]
Layers = Annotated[
    str | None, typer.Option(metavar="0-3,7", help="0-based layers to record; default all.")
]
Threshold = Annotated[
    float, typer.Option(min=0, max=1, help="Key attention above which a head holds a sink.")
]
Bos = Annotated[
    bool | None, typer.Option("--bos/--no-bos", help="With or without BOS; default as the model.")
]
Modality = Annotated[
    str | None, typer.Option(help="audio, video or audiovisual; default what the clip has.")
]
AudioRate = Annotated[
    int | None, typer.Option(min=1, help="Audio frames that one token covers; default the model's.")
]
VideoRate = Annotated[
    int | None, typer.Option(min=1, help="Video frames that one token covers; default the model's.")
]
Rates = Annotated[
    str | None,
    typer.Option(
        metavar="4:2,16:5",
        help="Pairs audio:video, one after the other; or all pairs of the model's own rates.",
    ),
]
MinHeads = Annotated[
    float, typer.Option(min=0, max=1, help="Share of heads that makes a token a sink.")
]
MinQueries = Annotated[
    int, typer.Option(min=1, help="Queries that must see a token before it can be a sink.")
]
Ratio = Annotated[
    float | None,
    typer.Option(min=1, help="|x| over the layer's median that is massive; default the model's."),
]
Overwrite = Annotated[bool, typer.Option(help="Replace an older run of that name.")]


@contextmanager
def progress(what: str) -> Iterator[Callable[[], None]]:
    """A bar that counts what is done, on a terminal; its function is to be called after each."""
    from tqdm import tqdm

    with tqdm(desc=what, unit="run", leave=False, disable=None) as bar:

        def advance() -> None:
            bar.update()

        yield advance


def parse_layers(words: str | None) -> list[int] | None:
    """The layers that ``"0-3,7"`` names; None for None.

    Raises:
        InputError: if a part is neither a number nor a range.

    Example:
        >>> parse_layers("0-2,7")
        [0, 1, 2, 7]
    """
    if words is None:
        return None
    layers: set[int] = set()
    for part in words.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(f"--layers: {part!r} is no layer; write for example 0-3,7.")
        layers.update(range(int(first), int(last if dash else first) + 1))
    return sorted(layers)


def parse_rates(words: str | None) -> "Pairs | None":
    """The pairs that ``"4:2,16:5"`` names, audio first; ``"all"`` stays.

    Raises:
        InputError: if a part is no pair.

    Example:
        >>> parse_rates("4:2,16:5")
        [(4, 2), (16, 5)]
    """
    if words is None or words == EVERY:
        return EVERY if words else None
    pairs = []
    for part in words.split(","):
        audio, colon, video = part.strip().partition(":")
        if not (colon and audio.isdecimal() and video.isdecimal()):
            raise InputError(
                f"--rates: {part!r} is no pair of rates; write audio:video, for example 4:2,16:5, "
                "or all."
            )
        pairs.append((int(audio), int(video)))
    return pairs
