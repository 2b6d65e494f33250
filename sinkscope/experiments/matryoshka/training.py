"""Train a model at several settings in every step. Depends on torch.

The law of Llama-MTSK (arXiv 2503.06362): the loss of a step is the mean of the cross-entropies at
all settings, over the same utterances.
"""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import balance_loss, hold_routing
from sinkscope.errors import CheckpointError
from sinkscope.experiments.matryoshka.plan import Setting
from sinkscope.experiments.tiny_features import FeatureStore
from sinkscope.experiments.tiny_listening import lay_out, restrict, word_rate
from sinkscope.experiments.tiny_stores import Stores
from sinkscope.experiments.tiny_training import (
    NOISY,
    WHOLE,
    before_the_transcript,
    choose,
    warm_cosine,
)
from sinkscope.training.decorrelation import decorrelation_loss

__all__ = ["Recipe", "read_trained", "step_loss", "train_at"]

TRAINED = "trained.safetensors"
DEV = 80
"""Development utterances of the learning curve."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        steps: of the optimiser; all settings are in each.
        batch: whole utterances a step.
        learning_rate: its highest value.
        weight: of the decorrelation loss.
        seed: of every draw.
    """

    steps: int
    batch: int
    learning_rate: float | int
    weight: float | int
    seed: int


def train_at(
    model: LlamaAvsr,
    settings: Sequence[Setting],
    stores: Stores,
    *,
    folder: Path,
    recipe: Recipe,
) -> LlamaAvsr:
    """Train what of the model is not frozen, once; the curve and the weights go to the folder.

    Raises:
        CheckpointError: the folder was trained by another recipe or at other settings.
    """
    _refuse_other(folder, {**asdict(recipe), "settings": [one.name for one in settings]})
    if (folder / TRAINED).exists():
        return read_trained(model, folder)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)
    by_length = np.argsort([len(features["audio"]) for features in stores.train.clean])
    curve: list[dict[str, Any]] = []
    start = time.monotonic()
    model.train()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * warm_cosine(step, recipe.steps, warm=20)
        rng = np.random.default_rng([recipe.seed, step])
        chosen = choose(by_length, recipe.batch, WHOLE, rng)
        heard = stores.train.noisy if rng.random() <= NOISY else stores.train.clean
        features = [heard[i] for i in chosen]
        texts = [stores.train.texts[i] for i in chosen]
        with torch.autocast("cpu", torch.bfloat16):
            parts = step_loss(model, features, texts, settings, weight=recipe.weight)
        optimizer.zero_grad()
        sum(parts.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        if step + 1 in (recipe.steps // 2, recipe.steps):
            curve.append({"step": step + 1, **{name: part.item() for name, part in parts.items()}})
            curve[-1] |= _errors(model, stores.dev, settings)
            curve[-1]["seconds"] = round(time.monotonic() - start, 1)
    (folder / "curve.json").write_text(json.dumps(curve))
    save_file({k: p.detach().contiguous() for k, p in trained.items()}, folder / "new.safetensors")
    (folder / "new.safetensors").replace(folder / TRAINED)
    return model.eval()


def step_loss(
    model: LlamaAvsr,
    features: Sequence[dict[str, Tensor]],
    texts: Sequence[str],
    settings: Sequence[Setting],
    *,
    weight: float | int = 0.0,
) -> dict[str, Tensor]:
    """The parts of a step's loss, each the mean over the settings.

    Args:
        model: one with a projector a rate.
        features: encoder frames of the streams, an utterance each.
        texts: what is said in them.
        settings: tasks and rates, all of which are run.
        weight: of the decorrelation loss; at 0 it is left out.

    Returns:
        ``"cross_entropy"``, with a weight ``"decorrelation"``, and of a model with routed experts
        ``"balance"``, over the tokens of all settings.
    """
    experts = model.config.mome if model.config.mome and model.config.mome.routed else None
    routing = hold_routing(model.llm) if experts is not None else nullcontext([])
    sums: dict[str, list[Tensor]] = {"cross_entropy": []}
    with routing as held:
        for setting in settings:
            heard = [restrict(one, setting.task) for one in features]
            inputs = lay_out(model, heard, setting.rates, texts=list(texts))
            output = model(inputs, use_cache=False, output_hidden_states=weight > 0)
            sums["cross_entropy"].append(output.loss)
            if weight > 0:
                compared = before_the_transcript(inputs)
                term = decorrelation_loss(output.hidden_states, compared, weight=weight)
                sums.setdefault("decorrelation", []).append(term)
        parts = {name: torch.stack(values).mean() for name, values in sums.items()}
        if experts is not None:
            parts["balance"] = balance_loss(held, experts)
    return parts


def _refuse_other(folder: Path, recipe: dict[str, Any]) -> None:
    """Write the recipe of a folder, or refuse one that differs from what is written there."""
    path = folder / "recipe.json"
    if path.exists() and json.loads(path.read_text()) != recipe:
        raise CheckpointError(
            f"{folder} was trained by another recipe ({path.name} tells which); choose another "
            "folder of results, or remove it and train it again."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe, indent=1) + "\n")


def read_trained(model: LlamaAvsr, folder: Path) -> LlamaAvsr:
    """Fill an untrained model of an arm with what `train_at` wrote."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    state = load_file(folder / TRAINED)
    if state.keys() != trained:
        raise CheckpointError(f"{folder} does not fit its arm; remove it and train it again.")
    model.load_state_dict(state, strict=False)
    return model.eval()


def _errors(model: LlamaAvsr, dev: FeatureStore, settings: Sequence[Setting]) -> dict[str, float]:
    part = FeatureStore(dev.clean[:DEV], dev.noisy[:DEV], dev.texts[:DEV])
    model.eval()
    found = {
        one.name: round(word_rate(model, part, one.task, one.rates).rate, 4) for one in settings
    }
    model.train()
    return found
