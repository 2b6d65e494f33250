"""Make the bundled many-rates model: ``python -m sinkscope.experiments.tiny_mome OUT``.

MoME (arXiv 2510.04136) beside the blocks of the bundled ``tiny-avsr``, whose encoders and language
model stay as they are: mixtures of experts and one projector a rate are trained, on all tasks and
rates in every step. ``OUT/tiny-mome`` holds these alone and refers to ``tiny-avsr`` for the rest,
of which a copy is laid beside it.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sinkscope.avsr.adapters import save_adapters
from sinkscope.avsr.adapting import adapted
from sinkscope.avsr.evaluation import word_errors
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import MomeSettings, count_experts
from sinkscope.experiments import tiny_avsr
from sinkscope.experiments.corpus import make_corpus
from sinkscope.experiments.matryoshka.plan import Setting
from sinkscope.experiments.matryoshka.training import Recipe, train_at
from sinkscope.experiments.tiny_encoders import KINDS
from sinkscope.experiments.tiny_features import FeatureStore
from sinkscope.experiments.tiny_listening import restrict, transcribe_features
from sinkscope.experiments.tiny_stores import Stores
from sinkscope.subjects.bundled import bundled
from sinkscope.training.facts import commit_of_package

__all__ = ["AUDIO", "EXPERTS", "RECIPE", "SETTINGS", "VIDEO", "make_tiny_mome"]

AUDIO, VIDEO = (4, 8, 16), (2, 5)
EXPERTS = MomeSettings(placement="layer")
SETTINGS = (
    *(Setting("audio", rate, VIDEO[0]) for rate in AUDIO),
    *(Setting("video", AUDIO[0], rate) for rate in VIDEO),
    *(Setting("audiovisual", audio, video) for audio in AUDIO for video in VIDEO),
)
"""All of them are in every step."""

RECIPE = Recipe(steps=500, batch=10, learning_rate=8e-3, weight=0.0, seed=0)
BASE = "tiny-avsr"


def make_tiny_mome(out: Path, *, recipe: Recipe = RECIPE) -> Path:
    """Train it if that is not done, and write ``OUT/tiny-mome``; returns that folder.

    Args:
        out: folder of the corpus, the features and the result.
        recipe: of the training.
    """
    made = out / "tiny-mome"
    if (made / "training.json").exists():
        return made
    make_corpus(out / "corpus", tiny_avsr.SIZES)
    folder = next(one.folder for one in bundled() if one.name == BASE)
    base = LlamaAvsr.from_pretrained(folder)
    base.llm.set_attn_implementation("eager")  # the faster one on a CPU, forward and back
    stores = Stores(
        tiny_avsr.cached_features(base, out, "train", tiny_avsr.HEARD),
        tiny_avsr.cached_features(base, out, "dev", None),
    )
    test = tiny_avsr.cached_features(base, out, "test", None)
    torch.manual_seed(recipe.seed)
    model = _with_experts(base)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    train_at(model, SETTINGS, stores, folder=out / "tiny-mome-training", recipe=recipe)
    beside = out / BASE
    if not beside.exists():
        shutil.copytree(folder, beside)
    parts = ("llm", *(f"{stream}_encoder" for stream in KINDS))
    save_adapters(model.half(), made, dict.fromkeys(parts, str(beside.resolve())))
    report = {
        "command": "python -m sinkscope.experiments.tiny_mome OUT",
        "commit": commit_of_package(),
        "recipe": asdict(recipe),
        "rates": {"audio": AUDIO, "video": VIDEO},
        "experts": asdict(EXPERTS),
        "trained parameters": sum(model.get_parameter(name).numel() for name in trained),
        "of experts": _expert_count(base),
        "curve": json.loads((out / "tiny-mome-training" / "curve.json").read_text()),
        "word errors, test voices": _errors(LlamaAvsr.from_pretrained(made), test, SETTINGS),
        "word errors of tiny-avsr": _errors(base, test, SETTINGS),
    }
    text = json.dumps(report, indent=1)
    (made / "training.json").write_text(text + "\n", encoding="utf-8")
    return made


def _with_experts(base: LlamaAvsr) -> LlamaAvsr:
    rates = {"audio_rates": AUDIO, "video_rates": VIDEO}
    model = adapted(base, projectors="per_rate", mome=EXPERTS, **rates)
    for stream in KINDS:
        getattr(model, f"{stream}_encoder").requires_grad_(False)
    return model


def _expert_count(base: LlamaAvsr) -> dict[str, int]:
    layers = int(base.config.llm["num_hidden_layers"])
    return count_experts(EXPERTS, hidden_size=base.config.hidden_size, layers=layers)._asdict()


def _errors(
    model: LlamaAvsr, store: FeatureStore, settings: Sequence[Setting]
) -> dict[str, dict[str, Any]]:
    """Word errors at every setting; a shared projector is asked for rates it may not know."""
    found = {}
    for one in settings:
        heard = [restrict(features, one.task) for features in store.clean]
        errors = word_errors(store.texts, transcribe_features(model, heard, one.rates))
        found[one.name] = {"wer": errors.rate, "interval": errors.interval}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    given = parser.parse_args(arguments)
    print(make_tiny_mome(given.out, recipe=replace(RECIPE, steps=given.steps)))


if __name__ == "__main__":
    main()
