"""The tiny audio-visual LLM on cached features: its input, what it understands, its sinks.

Depends on torch.
"""

from typing import Literal

import torch
from torch import nn

from sinkscope.avsr.evaluation import WordErrors, word_errors
from sinkscope.avsr.inputs import Inputs
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.experiments.tiny_features import Features, FeatureStore

__all__ = ["MODALITIES", "lay_out", "restrict", "sinks_of", "transcribe_features", "word_rate"]

MODALITIES = {"audiovisual": ("audio", "video"), "audio": ("audio",), "video": ("video",)}
"""The streams of each modality."""


def restrict(features: Features, modality: str) -> Features:
    """The features of the chosen streams, in float32."""
    return {stream: features[stream].float() for stream in MODALITIES[modality]}


def lay_out(
    model: LlamaAvsr,
    features: list[Features],
    rates: tuple[int, int],
    *,
    texts: list[str] | None = None,
    padding_side: Literal["left", "right"] = "right",
) -> Inputs:
    """The language model's input from cached features, all of the same streams."""
    by_stream: dict[str, int] = {"audio": rates[0], "video": rates[1]}
    tokens: list[Features] = [{} for _ in features]
    dtype = next(model.parameters()).dtype
    for stream in features[0]:
        frames = [sample[stream] for sample in features]
        padded = nn.utils.rnn.pad_sequence(frames, batch_first=True).to(dtype)
        lengths = torch.tensor([len(row) for row in frames])
        rows, counts = model.project(stream, padded, lengths, rate=by_stream[stream])
        for sample, row, count in zip(tokens, rows, counts.tolist(), strict=True):
            sample[stream] = row[:count]
    parts = [
        model.parts(sample, rates=by_stream, text=None if texts is None else texts[number])
        for number, sample in enumerate(tokens)
    ]
    return model.assemble(parts, padding_side=padding_side)


@torch.no_grad()
def transcribe_features(
    model: LlamaAvsr, features: list[Features], rates: tuple[int, int]
) -> list[str]:
    """What the model understands, 20 samples at a time."""
    said: list[str] = []
    for start in range(0, len(features), 20):
        inputs = lay_out(model, features[start : start + 20], rates, padding_side="left")
        ids = model.generate(inputs, max_new_tokens=30)
        said += model.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return said


def word_rate(
    model: LlamaAvsr,
    store: FeatureStore,
    modality: str,
    rates: tuple[int, int],
    *,
    noisy: bool = False,
) -> WordErrors:
    """The word errors of a split in one modality at one pair of rates."""
    heard = [restrict(f, modality) for f in (store.noisy if noisy else store.clean)]
    return word_errors(store.texts, transcribe_features(model, heard, rates))


@torch.no_grad()
def sinks_of(model: LlamaAvsr, store: FeatureStore, *, samples: int = 16) -> dict:
    """Key attention of BOS, shares of heads above .3, largest ratio and twins, for a log."""
    heard = [restrict(features, "audiovisual") for features in store.clean[:samples]]
    inputs = lay_out(model, heard, (4, 2))
    output = model(inputs, use_cache=False, output_attentions=True, output_hidden_states=True)
    real = inputs.attention_mask.float()
    counts = real.flip(1).cumsum(1).flip(1)
    found: dict = {"bos": [], "heads": [], "elsewhere": [], "ratio": [], "twins": []}
    for pattern, state in zip(output.attentions, output.hidden_states[1:], strict=True):
        alpha = (pattern * real[:, None, :, None]).sum(2) / counts[:, None].clamp(min=1)
        alpha = alpha * (counts >= 8)[:, None]
        found["bos"].append([round(float(a), 2) for a in alpha[:, :, 0].mean(0)])
        found["heads"].append(round(float((alpha[:, :, 0] > 0.3).float().mean()), 2))
        shares = (alpha[:, :, 1:] > 0.3).float().mean(1)
        found["elsewhere"].append(round(float(shares.amax(1).mean()), 2))
        size = state.abs()[inputs.attention_mask]
        found["ratio"].append(round(float(size.max() / size.median())))
        cosine = nn.functional.cosine_similarity(state[:, :1], state, dim=-1)
        twins = ((cosine > 0.8) & inputs.attention_mask)[:, 1:].sum(1)
        found["twins"].append(round(float(twins.float().mean()), 1))
    return found
