"""Which streams of a clip a model reads, and at which rates."""

from collections.abc import Sequence

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, Modality
from sinkscope.avsr.lora_schemes import ties_rate
from sinkscope.avsr.rates import is_rate
from sinkscope.errors import InputError

__all__ = [
    "MODALITIES",
    "NAMES",
    "ORDER",
    "chosen_order",
    "chosen_rate",
    "chosen_streams",
    "refuse_remainder",
    "refuse_short",
]

MODALITIES = {"audio": ("audio",), "video": ("video",), "audiovisual": ("audio", "video")}
"""The streams of each modality."""

NAMES = {streams: name for name, streams in MODALITIES.items()} | {("audiovisual",): "audiovisual"}
"""The modality of some streams."""

ORDER = ("audio", "video")
"""The published order of the streams in a sample."""

_WHAT = {"audio": "sound", "video": "picture"}


def chosen_streams(clip: Clip, modality: Modality | None, config: AvsrConfig) -> tuple[str, ...]:
    """The streams that are read of a clip.

    Args:
        clip: the clip.
        modality: what was asked for; None for what the clip has and the model can take.
        config: of the model.

    Raises:
        InputError: an unknown modality, or a stream that clip or model lacks.
    """
    has = {"audio": clip.waveform is not None, "video": clip.frames is not None}
    if config.streams == ("audiovisual",):
        return _joint(clip, modality, has)
    takes = {stream: stream in config.streams for stream in has}
    if modality is None:
        found = tuple(name for name in has if has[name] and takes[name])
        if not found:
            raise InputError(f"Clip {clip.name!r} has no stream that this model can take.")
        return found
    if modality not in MODALITIES:
        raise InputError(f"modality is {modality!r}; use one of {sorted(MODALITIES)}.")
    for name in MODALITIES[modality]:
        if not takes[name]:
            raise InputError(f"This model has no {name} encoder; use another modality.")
        if not has[name]:
            raise InputError(
                f"Clip {clip.name!r} has no {_WHAT[name]}, which modality {modality!r} needs; "
                "use another modality."
            )
    return MODALITIES[modality]


def _joint(clip: Clip, modality: Modality | None, has: dict[str, bool]) -> tuple[str, ...]:
    """What a model reads that makes one sequence of sound and picture."""
    if modality not in (None, "audiovisual"):
        raise InputError(
            f"modality is {modality!r}, but this model reads sound and picture as one sequence; "
            "use 'audiovisual'."
        )
    for name, there in has.items():
        if not there:
            raise InputError(
                f"Clip {clip.name!r} has no {_WHAT[name]}, and this model reads both as one "
                "sequence; use another clip or model."
            )
    return ("audiovisual",)


def chosen_order(asked: Sequence[str] | None, config: AvsrConfig) -> tuple[str, ...]:
    """The order in which a sample's streams stand.

    Args:
        asked: ``"audio"`` and ``"video"``, the first one first; None for the published order.
        config: of the model.

    Raises:
        InputError: another name or number of names, or a model that has not both streams.
    """
    if asked is None:
        return ORDER
    if set(config.streams) != set(ORDER):
        has = "one sequence of both" if "audiovisual" in config.streams else config.streams[0]
        raise InputError(
            f"stream_order is {asked!r}, but all that this model reads is {has}; leave "
            "stream_order out."
        )
    if isinstance(asked, str) or len(asked) != len(ORDER) or set(asked) != set(ORDER):
        raise InputError(
            f"stream_order is {asked!r}; give ('audio', 'video') or ('video', 'audio')."
        )
    return tuple(asked)


def chosen_rate(stream: str, asked: int | None, config: AvsrConfig) -> int:
    """Encoder frames that become one token of a stream.

    Args:
        stream: ``"audio"`` or ``"video"``.
        asked: what was asked for; None for the model's default.
        config: of the model.

    Raises:
        InputError: no whole number of at least 1, or one for which the model has no projector or
            no LoRA branch.
    """
    trained = config.rates(stream)
    rate = trained[0] if asked is None else asked
    if not is_rate(rate):
        raise InputError(f"{stream}_rate is {rate!r}; give a whole number of at least 1.")
    per_rate = config.projectors == "per_rate"
    if (per_rate or ties_rate(config.lora, stream)) and rate not in trained:
        raise InputError(
            f"{stream}_rate is {rate}, but this model has {'projectors' if per_rate else 'LoRA'} "
            f"for {', '.join(map(str, trained))}; use one of these."
        )
    if config.compression == "stack" and not per_rate and rate != trained[0]:
        raise InputError(
            f"{stream}_rate is {rate}, but this model stacks {trained[0]} frames; use that rate."
        )
    return int(rate)


def refuse_short(
    stream: str,
    clips: Sequence[Clip],
    frames: Sequence[int],
    *,
    rate: int,
    frame_rate: float,
) -> None:
    """Refuse clips whose encoder frames do not make one token.

    Args:
        stream: ``"audio"`` or ``"video"``.
        clips: the clips.
        frames: encoder frames of each.
        rate: frames a token.
        frame_rate: frames a second.

    Raises:
        InputError: naming the first such clip.
    """
    for clip, found in zip(clips, frames, strict=True):
        if found < rate:
            raise InputError(
                f"Clip {clip.name!r} has {found / frame_rate:.2f} s of {stream}, less than one "
                f"token at {stream} rate {rate} ({rate / frame_rate:.2f} s); use a longer clip or "
                "a smaller rate."
            )


def refuse_remainder(stream: str, frames: int, *, rate: int, config: AvsrConfig) -> None:
    """Refuse video frames that do not fill their last stack, as Llama-AVSR's own code does.

    Its data set cuts videos to whole stacks beforehand, and sound loses its remainder silently.
    Omni-AVSR (arXiv 2511.07253), whose stacks have several rates, drops both remainders.

    Raises:
        InputError: if there is a remainder.
    """
    strict = config.compression == "stack" and config.projectors == "shared"
    if stream == "video" and strict and frames % rate:
        raise InputError(
            f"strict_original: {frames} video frames do not make whole stacks of {rate}, and the "
            f"original fails there; cut the clips to a multiple of {rate} frames."
        )
