"""Which LoRA branches work together in a pass: shared ones, one a task, one a scale.

The schemes are those of Llama-MTSK (arXiv 2503.06362: MS, SS, MSS; a scale is the rate at which a
model is run) and Omni-AVSR (arXiv 2511.07253: S, T, ST; a task is a modality). The update of a pass
is the sum of its active branches, all scaled alike. Loads no torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.avsr.config import AvsrConfig, LoraSettings

__all__ = [
    "SCALE_KEYS",
    "SCHEMES",
    "SHARED",
    "active_adapters",
    "all_adapters",
    "is_plain",
    "tasks_of",
    "ties_rate",
]

SCHEMES = {
    "MS": ("shared",),
    "SS": ("scale",),
    "MSS": ("shared", "scale"),
    "S": ("shared",),
    "T": ("task",),
    "ST": ("shared", "task"),
}
"""The kinds of branches that are active in every pass, by the scheme's published name."""

SCALE_KEYS = ("pair", "audio", "video")
"""By what a scale's branch is chosen: both rates, or the rate of one stream."""

SHARED = "default"
"""The name of the branch that is active in every pass."""

_LETTERS = {"audio": "a", "video": "v", "audiovisual": "av"}


def is_plain(settings: "LoraSettings") -> bool:
    """Whether every pass has the same branch, whatever its task and rates.

    >>> from sinkscope.avsr.config import LoraSettings
    >>> is_plain(LoraSettings(32, 4)), is_plain(LoraSettings(32, 4, scheme="ST"))
    (True, False)
    """
    return SCHEMES[settings.scheme] == ("shared",)


def active_adapters(
    settings: "LoraSettings", modality: str | None, rates: Mapping[str, int] | None
) -> tuple[str, ...]:
    """The branches that are active in a pass, in the order of `SCHEMES`.

    Args:
        settings: of the branches.
        modality: the task; None where the samples of a batch differ in it.
        rates: encoder frames a token of the streams that are read.

    Raises:
        InputError: the scheme needs one modality, or a rate, that was not told.

    >>> from sinkscope.avsr.config import LoraSettings
    >>> rates = {"audio": 4, "video": 2}
    >>> active_adapters(LoraSettings(32, 4, scheme="ST"), "audiovisual", rates)
    ('default', 'audiovisual')
    >>> active_adapters(LoraSettings(32, 4, scheme="MSS"), "audiovisual", rates)
    ('default', 'a4-v2')
    >>> active_adapters(LoraSettings(32, 4, scheme="SS", scale_key="audio"), "audiovisual", rates)
    ('a4',)
    >>> active_adapters(LoraSettings(32, 4, scheme="SS"), "audio", {"audio": 16})
    ('a16',)
    """
    if is_plain(settings):
        return (SHARED,)
    if modality is None or not rates:
        raise InputError(
            f"LoRA scheme {settings.scheme} has branches of their own for each "
            f"{' and '.join(_own(settings))}, and this batch has samples of several modalities, or "
            "does not say its modality and rates; run one modality at one pair of rates at a time."
        )
    names = {"shared": SHARED, "task": modality, "scale": _scale(settings.scale_key, rates)}
    return tuple(names[kind] for kind in SCHEMES[settings.scheme])


def all_adapters(settings: "LoraSettings", config: "AvsrConfig") -> tuple[str, ...]:
    """The branches that a model has: those of every task and every rate that it was built for.

    Args:
        settings: of the branches.
        config: of the model: its streams and their rates.

    >>> from sinkscope.avsr.config import AvsrConfig, EncoderConfig, LoraSettings
    >>> both = {"audio_encoder": EncoderConfig("whisper"), "video_encoder": EncoderConfig("x")}
    >>> config = AvsrConfig(llm={}, **both, audio_rates=(4, 16), video_rates=(2, 5))
    >>> all_adapters(LoraSettings(32, 4, scheme="ST"), config)
    ('default', 'audio', 'video', 'audiovisual')
    >>> all_adapters(LoraSettings(32, 4, scheme="SS"), config)
    ('a4', 'a16', 'v2', 'v5', 'a4-v2', 'a4-v5', 'a16-v2', 'a16-v5')
    """
    found = (
        name
        for task, streams in tasks_of(config).items()
        for rates in _combinations(streams, config)
        for name in active_adapters(settings, task, rates)
    )
    return tuple(dict.fromkeys(found))


def tasks_of(config: "AvsrConfig") -> dict[str, tuple[str, ...]]:
    """The streams that each task reads, of the tasks that a model can do."""
    streams = config.streams
    alone = {stream: (stream,) for stream in streams}
    return alone | ({"audiovisual": streams} if len(streams) > 1 else {})


def ties_rate(settings: "LoraSettings | None", stream: str) -> bool:
    """Whether a stream can only be read at rates for which there is a branch.

    Where the other stream alone chooses the branch, that holds only if this one is read alone.
    """
    if settings is None or "scale" not in SCHEMES[settings.scheme]:
        return False
    return stream == "audiovisual" or settings.scale_key in ("pair", stream)


def _own(settings: "LoraSettings") -> list[str]:
    words = {"task": "modality", "scale": "scale"}
    return [words[kind] for kind in SCHEMES[settings.scheme] if kind in words]


def _scale(key: str, rates: Mapping[str, int]) -> str:
    """The name of a scale; where the stream that chooses is not read, the other one chooses."""
    chosen = {key: rates[key]} if key in rates else rates
    ordered = sorted(chosen, key=list(_LETTERS).index)
    return "-".join(f"{_LETTERS[stream]}{chosen[stream]}" for stream in ordered)


def _combinations(streams: tuple[str, ...], config: "AvsrConfig") -> list[dict[str, int]]:
    """Every choice of rates for some streams, the last one changing fastest."""
    found: list[dict[str, int]] = [{}]
    for stream in streams:
        found = [one | {stream: rate} for one in found for rate in config.rates(stream)]
    return found
