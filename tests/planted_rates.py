"""Clips at several rates whose states, sinks and routing are known: coarse tokens are means."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr
from einops import reduce

from sinkscope.glossary import SEGMENTS
from sinkscope.layout import TokenLayout
from sinkscope.record import ClipSummary, Record, merge

FRAME = 0.04
WIDTH = 16
LAYERS = 2


def rate_layout(frames: int, pair: tuple[int, int]) -> TokenLayout:
    """BOS <audio> A </audio> <video> V </video> prompt, both streams of ``frames`` frames."""
    segments, labels, seconds = ["bos"], ["<s>"], [(np.nan, np.nan)]
    for stream, rate in zip(("audio", "video"), pair, strict=True):
        count, width = frames // rate, rate * FRAME
        segments += ["delimiter", *[stream] * count, "delimiter"]
        labels += [f"<{stream}>", *[f"{stream[0]}{i}" for i in range(count)], f"</{stream}>"]
        blank = (np.nan, np.nan)
        seconds += [blank, *[(i * width, (i + 1) * width) for i in range(count)], blank]
    segments += ["instruction"] * 9
    labels += [f"w{i}" for i in range(9)]
    seconds += [(np.nan, np.nan)] * 9
    return TokenLayout.of(segments, labels, seconds=np.array(seconds))


def frame_states(frames: int, seed: int) -> np.ndarray:
    """Frames that change slowly and never return: ``[frame, feature]``."""
    noise = np.random.default_rng(seed).normal(size=(frames, WIDTH))
    return np.cumsum(noise, 0)


def clip_record(
    pair: tuple[int, int],
    *,
    frames: int = 80,
    seed: int = 0,
    shift: int = 0,
    sinks: Sequence[str] = (),
    routing: Callable[[TokenLayout, int], np.ndarray] | None = None,
    mome: Mapping[str, object] | None = None,
) -> Record:
    """One clip at one pair of rates.

    Args:
        pair: (audio rate, video rate), frames a token.
        frames: of each stream.
        seed: of the frames' states; the clip's name holds it.
        shift: by how many tokens the states of both streams are moved to later places.
        sinks: labels of the tokens that draw all attention between them, in every layer.
        routing: from layout and layer to probabilities ``[token, expert]``.
        mome: what the provenance says of the experts.
    """
    layout = rate_layout(frames, pair)
    states = np.random.default_rng(99).normal(size=(len(layout), WIDTH))
    for number, (stream, rate) in enumerate(zip(("audio", "video"), pair, strict=True)):
        whole = frame_states(frames, 1000 * number + seed)[: frames // rate * rate]
        tokens = reduce(whole, "(token rate) feature -> token feature", "mean", rate=rate)
        states[layout.mask(stream)] = np.roll(tokens, shift, axis=0)
    arrays = {
        "resid_post": (("layer", "token", "feature"), np.stack([states] * LAYERS)),
        **_attention(layout, sinks),
    }
    if routing is not None:
        routed = np.stack([routing(layout, layer) for layer in range(LAYERS)])
        arrays["router"] = (("layer", "token", "expert"), routed.astype(np.float32))
    variables = {
        name: xr.DataArray(v[None], dims=("sample", *dims), coords={"layer": list(range(LAYERS))})
        for name, (dims, v) in arrays.items()
    }
    provenance = {"subject": "planted", "model_hash": "0", "prepend_bos": True}
    provenance |= {"audio_rate": pair[0], "video_rate": pair[1], "n_layers": LAYERS}
    provenance |= {"mome": dict(mome)} if mome is not None else {}
    clip = ClipSummary(f"clip {seed}", duration=frames * FRAME)
    return Record.of(variables, [layout], provenance, clips=[clip])


def rate_record(pair: tuple[int, int], *, clips: int = 3, **given: object) -> Record:
    """Several clips, as ``clip_record`` makes them, in one record."""
    return merge([clip_record(pair, seed=seed, **given) for seed in range(clips)])  # type: ignore[arg-type]


def _attention(layout: TokenLayout, sinks: Sequence[str]) -> dict:
    """Every query gives all attention to the sinks that it sees, else to all keys alike."""
    length = len(layout)
    visible = np.tril(np.ones((length, length)))
    wanted = visible * np.isin(np.array(layout.labels, object), list(sinks))
    pattern = np.where(wanted.any(1)[:, None], wanted, visible)
    pattern /= pattern.sum(1, keepdims=True)
    sums = np.zeros((LAYERS, 2, len(SEGMENTS), length), np.float32)
    queries = np.zeros((LAYERS, len(SEGMENTS), length), np.int32)
    for i, segment in enumerate(SEGMENTS):
        sums[:, :, i] = pattern[layout.mask(segment)].sum(0)
        queries[:, i] = visible[layout.mask(segment)].sum(0)
    return {
        "segment_sum": (("layer", "head", "segment", "key"), sums),
        "queries": (("layer", "segment", "key"), queries),
    }
