"""Records without a model: statistics computed here, in numpy, from whole maps and states.

``record_from`` is an independent, slow reference for what the probes stream: it holds every map
and every state. ``fake_av_record`` plants a clip in it that behaves like a trained audio-visual
LLM; ``PLANTED`` says what was planted where.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from sinkscope.glossary import PADDING, SEGMENTS
from sinkscope.layout import TokenLayout
from sinkscope.record import ClipSummary, Record

RATIO = 50.0


def causal(length: int, window: int | None = None) -> np.ndarray:
    """``visible[query, key]`` of a causal decoder, with a sliding window on request."""
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]
    return (distance >= 0) & (distance < (window or length))


def softmax_map(scores: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Attention weights ``[..., query, key]`` from scores, 0 where a key is not visible."""
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def uniform_map(length: int, visible: np.ndarray | None = None) -> np.ndarray:
    """Every query attends evenly to all keys that it sees."""
    visible = causal(length) if visible is None else visible
    return softmax_map(np.zeros((length, length)), visible)


def record_from(
    pattern: np.ndarray,
    states: np.ndarray,
    layout: TokenLayout,
    *,
    visible: np.ndarray | None = None,
    value_norm: np.ndarray | None = None,
    updates: np.ndarray | None = None,
    keep: Sequence[str] = (),
    massive_ratio: float | None = RATIO,
    prepend_bos: bool = True,
    clip: ClipSummary | None = None,
    first_layer: int = 0,
    subject: str = "fake-avsr",
) -> Record:
    """The default record of one sample.

    Args:
        pattern: attention weights ``[layer, head, query, key]``.
        states: resid_post ``[layer, token, feature]``.
        layout: what the tokens are.
        visible: ``[query, key]``; causal unless given.
        value_norm: ``[layer, token]``; ones unless given.
        updates: mlp_out ``[layer, token, feature]``; a tenth of the states unless given.
        keep: "pattern" or "resid_post", kept whole.
        massive_ratio: the subject's own ratio.
        prepend_bos: for the provenance.
        clip: summary of the clip.
        first_layer: number of the first layer.
        subject: name of the model.
    """
    length = pattern.shape[-1]
    visible = causal(length) if visible is None else visible
    value_norm = np.ones(states.shape[:2]) if value_norm is None else value_norm
    updates = states / 10 if updates is None else updates
    layers = list(range(first_layer, first_layer + len(states)))
    arrays = {
        **_attention(pattern, visible, layout),
        **_states(states, layout),
        **_layer_top(updates, "mlp_out"),
        **_layer_top(updates / 2, "attn_out"),
        "key_norm": (("layer", "kv_head", "token"), np.stack([value_norm * 3] * 2, 1)),
        "value_norm": (("layer", "kv_head", "token"), np.stack([value_norm, value_norm * 2], 1)),
    }
    if "pattern" in keep:
        arrays["pattern"] = (("layer", "head", "query", "key"), pattern.astype(np.float32))
    if "resid_post" in keep:
        arrays["resid_post"] = (("layer", "token", "feature"), states.astype(np.float32))
    provenance = {
        "subject": subject,
        "family": "llama",
        "model_hash": "0" * 8,
        "dtype": "float32",
        "device": "cpu",
        "massive_ratio": massive_ratio,
        "prepend_bos": prepend_bos,
        "padding_side": "none",
    }
    variables = {
        name: xr.DataArray(values[None], dims=("sample", *dims), coords={"layer": layers})
        for name, (dims, values) in arrays.items()
    }
    return Record.of(variables, [layout], provenance, clips=[clip])


def _attention(pattern: np.ndarray, visible: np.ndarray, layout: TokenLayout) -> dict:
    n_layers, n_heads, length, _ = pattern.shape
    sums = np.zeros((n_layers, n_heads, len(SEGMENTS), length), np.float32)
    queries = np.zeros((n_layers, len(SEGMENTS), length), np.int32)
    for i, segment in enumerate(SEGMENTS):
        rows = layout.mask(segment)
        sums[:, :, i] = pattern[:, :, rows].sum(-2)
        queries[:, i] = visible[rows].sum(0)
    logs = np.log(np.where(pattern > 0, pattern, 1))
    return {
        "segment_sum": (("layer", "head", "segment", "key"), sums),
        "queries": (("layer", "segment", "key"), queries),
        "entropy": (("layer", "head", "query"), -(pattern * logs).sum(-1).astype(np.float32)),
    }


def _states(states: np.ndarray, layout: TokenLayout) -> dict:
    order = np.argsort(-np.abs(states), axis=-1, kind="stable")[..., :8]
    norms = np.linalg.norm(states, axis=-1)
    reference = states[:, layout.reference]
    dots = np.einsum("ltf,lf->lt", states, reference)
    cosine = dots / (norms * np.linalg.norm(reference, axis=-1)[:, None])
    return {
        "top_value": (("layer", "token", "rank"), np.take_along_axis(states, order, -1)),
        "top_feature": (("layer", "token", "rank"), order.astype(np.int32)),
        "median": (("layer",), _lower_median(states)),
        "norm": (("layer", "token"), norms),
        "bos_cosine": (("layer", "token"), cosine),
    }


def _layer_top(updates: np.ndarray, site: str) -> dict:
    flat = updates.reshape(len(updates), -1)
    order = np.argsort(-np.abs(flat), axis=-1, kind="stable")[:, :5]
    token, feature = np.divmod(order, updates.shape[-1])
    return {
        f"{site}_top_value": (("layer", "rank"), np.take_along_axis(flat, order, -1)),
        f"{site}_top_token": (("layer", "rank"), token.astype(np.int32)),
        f"{site}_top_feature": (("layer", "rank"), feature.astype(np.int32)),
        f"{site}_median": (("layer",), _lower_median(updates)),
    }


def _lower_median(states: np.ndarray) -> np.ndarray:
    flat = np.sort(np.abs(states).reshape(len(states), -1), -1)
    return flat[:, (flat.shape[-1] - 1) // 2]


@dataclass(frozen=True)
class Planted:
    """What ``fake_av_record`` planted: layers, features, and labels of the tokens."""

    massive_layers: tuple[int, ...] = (1, 2, 3, 4)
    sink_layers: tuple[int, ...] = (2, 3, 4, 5)
    features: tuple[int, ...] = (7, 29, 57)
    bos: str = "<s>"
    sink: str = "</audio>"
    twin: str = "a5"
    n_layers: int = 6
    n_heads: int = 4
    width: int = 64


PLANTED = Planted()


def av_layout(n_tokens: int = 60, *, has_bos: bool = True, padding: int = 0) -> TokenLayout:
    """BOS <audio> A </audio> <video> V </video> prompt response, with seconds and descriptors.

    Audio and video tokens cover the same time. Audio tokens 4 to 6 of every 20 are silent.
    """
    frames = (n_tokens - has_bos - 4 - 5 - 3 - padding) // 2
    rest = n_tokens - has_bos - 4 - 5 - 2 * frames - padding
    segments = ["bos"] * has_bos + ["delimiter"] + ["audio"] * frames + ["delimiter"] * 2
    segments += ["video"] * frames + ["delimiter"] + ["instruction"] * 5 + ["response"] * rest
    labels = ["<s>"] * has_bos + ["<audio>"] + [f"a{i}" for i in range(frames)] + ["</audio>"]
    labels += ["<video>"] + [f"v{i}" for i in range(frames)] + ["</video>"]
    labels += ["Transcribe", "speech", "and", "video", "."]
    labels += (["bin", "blue", "at", "f", "two"] * rest)[:rest]
    segments += [PADDING] * padding
    labels += ["<pad>"] * padding
    seconds = np.full((n_tokens, 2), np.nan)
    descriptors = {
        "loudness_db": np.full(n_tokens, np.nan),
        "silence": np.full(n_tokens, np.nan),
        "motion": np.full(n_tokens, np.nan),
        "phoneme": np.full(n_tokens, "", "U4"),
    }
    start = np.arange(frames)
    audio = np.flatnonzero(np.array(segments, object) == "audio")
    video = np.flatnonzero(np.array(segments, object) == "video")
    silent = (start % 20 >= 4) & (start % 20 < 7)
    for tokens in (audio, video):
        seconds[tokens] = np.stack([start, start + 1], -1) * 0.08
        spoken = np.array(["b", "ih", "n", "s"])[start % 4]
        descriptors["phoneme"][tokens] = np.where(silent, "sil", spoken)
    descriptors["loudness_db"][audio] = np.where(silent, -60.0, -18 - 6 * np.cos(start))
    descriptors["silence"][audio] = silent.astype(float)
    descriptors["motion"][video] = np.where(silent, 0.01, 0.2 + 0.1 * np.sin(start))
    return TokenLayout.of(segments, labels, seconds=seconds, descriptors=descriptors)


def av_clip(duration: float) -> ClipSummary:
    """A summary with the envelope of a sound that grows and fades four times a second."""
    time = np.arange(int(duration * 100)) / 100
    height = 0.6 * np.abs(np.sin(2 * np.pi * 2 * time))
    envelope = np.stack([-height, height], -1).round(4).tolist()
    return ClipSummary("fake clip", duration=duration, text="bin blue at f two", envelope=envelope)


def fake_av_arrays(
    layout: TokenLayout, *, seed: int = 0, bos: bool = True, sink: bool = True, twin: bool = True
) -> dict[str, np.ndarray]:
    """Map, states and value norms of a clip with the chosen things planted in it."""
    rng = np.random.default_rng(seed)
    spec, length = PLANTED, len(layout)
    labels = list(layout.labels)
    planted = {spec.bos: (bos, 5.5), spec.sink: (sink, 5.6), spec.twin: (twin, 0.0)}
    scores = rng.normal(0, 0.7, (spec.n_layers, spec.n_heads, length, length))
    states = rng.normal(0, 1, (spec.n_layers, length, spec.width))
    states *= np.linspace(1, 2, spec.n_layers)[:, None, None]
    value_norm = rng.uniform(0.9, 1.1, (spec.n_layers, length))
    for name, (wanted, strength) in planted.items():
        if not wanted or name not in labels:
            continue
        token = labels.index(name)
        height = strength + np.log(length / 60)
        for layer in spec.sink_layers if strength else ():
            scores[layer, :, :, token] += height
            scores[layer, -1, :, token] -= height + 1  # one head does not take part
        for layer in spec.massive_layers:
            size = (1.0 if name == spec.bos else 1.4 if strength else 0.8) * (1 + 0.05 * layer)
            states[layer, token, list(spec.features)] = size * np.array([132.0, -108.0, 78.0])
            value_norm[layer + 1, token] = 0.15 if strength else 0.9
    pattern = softmax_map(scores, causal(length))
    return {"pattern": pattern, "states": states, "value_norm": value_norm}


def fake_av_record(
    n_tokens: int = 60,
    *,
    seed: int = 0,
    keep: Sequence[str] = ("pattern", "resid_post"),
    has_bos: bool = True,
    bos: bool = True,
    sink: bool = True,
    twin: bool = True,
) -> Record:
    """A clip of ``n_tokens`` in a model of 6 layers, 4 heads and 64 features.

    BOS is a sink, ``</audio>`` an intermediate sink that shares its massive features, and the
    silent audio token ``a5`` a twin that draws no attention; each can be left out.
    """
    layout = av_layout(n_tokens, has_bos=has_bos)
    arrays = fake_av_arrays(layout, seed=seed, bos=bos, sink=sink, twin=twin)
    clip = av_clip(float(np.nanmax(layout.seconds)))
    return record_from(
        arrays["pattern"],
        arrays["states"],
        layout,
        value_norm=arrays["value_norm"],
        keep=keep,
        prepend_bos=has_bos,
        clip=clip,
    )
