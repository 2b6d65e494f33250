"""Can two records be compared token by token? Refused in a sentence where not. Depends on record.

Two records pair if they are of one architecture, of the same clips in the same order, read at the
same rates, and if every token of one is the same token at the same place in the other.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sinkscope.analysis.criteria import massive_ratio
from sinkscope.analysis.tables import bos_present
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import ClipSummary, Record

__all__ = ["clip_names", "one_ratio", "refuse_unpaired"]

_SHAPE = {
    "family": "family",
    "d_model": "width",
    "n_layers": "number of layers",
    "n_heads": "number of heads",
}
_READ = {
    "layers": "recorded layers",
    "heads": "number of recorded heads",
    "modality": "streams",
    "audio_rate": "audio rate",
    "video_rate": "video rate",
    "stream_order": "order of streams",
    "with_transcript": "having the transcript in the input",
}
_SAME_SECONDS = 1e-3

WHAT_IT_HAS = "what the clip has"
"""The modality of a subject for which none was chosen."""


def refuse_unpaired(before: Record, after: Record) -> None:
    """Refuse two records whose tokens are not the same tokens.

    Raises:
        InputError: saying what differs, where, and what to do.
    """
    _refuse_other(
        _SHAPE, _shape(before), _shape(after), "compare two checkpoints of one architecture"
    )
    _refuse_other(_READ, _read(before), _read(after), "record both alike")
    if len(before) != len(after):
        raise InputError(
            f"compare: {len(before)} clips before and {len(after)} after; record both models on "
            "the same clips."
        )
    if bos_present(before) != bos_present(after):
        raise InputError(
            f"compare: {sum(bos_present(before))} samples have a BOS before and "
            f"{sum(bos_present(after))} after; BOS alone can decide what is massive, so record "
            "both with it, or both without."
        )
    names = clip_names(before)
    for sample, (one, other) in enumerate(zip(before.clips, after.clips, strict=True)):
        if (found := _clip_differs(one, other)) is not None:
            raise InputError(
                f"compare: sample {sample} ({names[sample]}) differs in {found}; "
                + _advice(before, after)
            )
        if _picture_differs(one, other) and _seen(before.layouts[sample]):
            raise InputError(
                f"compare: sample {sample} ({names[sample]}) differs in its picture; record both "
                "models on the same clips, cropped alike."
            )
        found = _layout_differs(before.layouts[sample], after.layouts[sample])
        if found is not None:
            raise InputError(
                f"compare: in sample {sample} ({names[sample]}) {found}; compare records in which "
                "the same tokens stand at the same places (one tokenizer, prompt and clip)."
            )


def one_ratio(before: Record, after: Record, ratio: float | int | None) -> tuple[float, str]:
    """The ratio from which |x| is massive in both, and where it comes from.

    Raises:
        InputError: if none is given and the subjects carry different ones.
    """
    used, other = massive_ratio(before, ratio), massive_ratio(after, ratio)
    if used[0] != other[0]:
        raise InputError(
            f"compare: massive is |x| ≥ {used[0]:g} × the median before ({used[1]}) and "
            f"{other[0]:g} after ({other[1]}); judge both by one, with thresholds=Thresholds("
            "ratio=...) or --ratio."
        )
    return used


def clip_names(record: Record) -> list[str]:
    """A name for every sample: its clip's, or its number."""
    return [clip.name if clip else f"sample {i}" for i, clip in enumerate(record.clips)]


def _shape(record: Record) -> dict[str, Any]:
    return {name: record.provenance.get(name) for name in _SHAPE}


def _read(record: Record) -> dict[str, Any]:
    """How a record was made, without what has no effect on its tokens."""
    said = {name: record.provenance.get(name) for name in _READ}
    segments = {segment for layout in record.layouts for segment in layout.segments}
    for stream in ("audio", "video"):
        if not segments & {stream, "audiovisual"}:
            said[f"{stream}_rate"] = None
    if said["modality"] == WHAT_IT_HAS:
        said["modality"] = None
    return said | {"layers": record.layers, "heads": record["segment_sum"].sizes["head"]}


def _picture_differs(one: ClipSummary | None, other: ClipSummary | None) -> bool:
    pictures = [clip.picture if clip else "" for clip in (one, other)]
    return all(pictures) and pictures[0] != pictures[1]


def _seen(layout: TokenLayout) -> bool:
    """Whether the model saw the clip's picture."""
    return not {"video", "audiovisual"}.isdisjoint(layout.segments)


def _refuse_other(
    names: Mapping[str, str], one: Mapping[str, Any], other: Mapping[str, Any], advice: str
) -> None:
    """Refuse facts that differ; what a record does not say cannot differ."""
    for name, words in names.items():
        a, b = one.get(name), other.get(name)
        if a != b and a is not None and b is not None:
            raise InputError(
                f"compare: the two differ in their {words}, {a} before and {b} after; {advice}."
            )


def _clip_differs(one: ClipSummary | None, other: ClipSummary | None) -> str | None:
    """What of a clip is another, in words; None where nothing is."""
    if one is None or other is None:
        return None if one is other else "being of a clip: one is of a text"
    if one.text != other.text:
        return f"what is said, {one.text!r} before and {other.text!r} after"
    if abs(one.duration - other.duration) > _SAME_SECONDS:
        return f"duration, {one.duration:.3f} s before and {other.duration:.3f} s after"
    heard, then = (np.array(clip.envelope, float) for clip in (one, other))
    if heard.shape != then.shape or not np.allclose(heard, then, atol=_SAME_SECONDS):
        return "sound: the waveforms are not the same"
    if not heard.size and one.name != other.name:
        return f"name, {one.name!r} before and {other.name!r} after"
    return None


def _advice(before: Record, after: Record) -> str:
    """What to do with clips that are not the same one by one."""
    left = list(after.clips)
    for one in before.clips:
        same = next((i for i, other in enumerate(left) if _clip_differs(one, other) is None), None)
        if same is None:
            return "record both models on the same clips."
        del left[same]
    return "the clips are the same in another order: record them in one order."


def _layout_differs(one: TokenLayout, other: TokenLayout) -> str | None:
    """Where two layouts part, in words; None where they are the same."""
    if len(one) != len(other):
        return f"there are {len(one)} tokens before and {len(other)} after"
    for words in ("segments", "labels"):
        for token, (a, b) in enumerate(
            zip(getattr(one, words), getattr(other, words), strict=True)
        ):
            if a != b:
                return f"token {token} is {a!r} before and {b!r} after"
    if not np.allclose(one.seconds, other.seconds, atol=_SAME_SECONDS, equal_nan=True):
        return "tokens cover other seconds before and after"
    if one.reference != other.reference:
        return f"the reference token is {one.reference} before and {other.reference} after"
    return None
