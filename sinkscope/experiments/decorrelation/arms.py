"""Train the arms and cells; what is there is not trained again. Depends on torch.

Everything lies in one folder: ``corpus``, ``encoders``, ``lm-SEED`` and the cached features as
`sinkscope.experiments.tiny_avsr` makes them, then a folder an arm and a cell.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.lora import attach_lora
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError
from sinkscope.experiments import tiny_avsr
from sinkscope.experiments.decorrelation.plan import LONG_ENOUGH, Arm, Cell, own, shared
from sinkscope.experiments.tiny_stores import Stores
from sinkscope.experiments.tiny_training import Schedule, fine_tune

__all__ = [
    "begin",
    "read_arm",
    "read_cell",
    "read_weights",
    "train_arm",
    "train_cell",
    "train_model",
    "with_lora",
]

LORA = LoraSettings(reduction=4, alpha=4)
"""Rank 32, updates scaled by 1."""

WEIGHTS = "trained.safetensors"


def begin(out: Path, arm: Arm) -> LlamaAvsr:
    """The untrained model of an arm: trained encoders and language model, new projectors."""
    model = tiny_avsr.join(out, seed=arm.seed, norm=arm.control == "layer norm")
    delimiters = [index for name, index in model.ids.items() if name.endswith(("open", "close"))]
    table: torch.nn.Parameter = model.llm.get_input_embeddings().weight  # pyright: ignore
    if arm.control == "mean delimiters":
        with torch.no_grad():
            table[delimiters] = table.mean(dim=0)
    if arm.control in ("frozen delimiters", "mean delimiters"):
        table.register_hook(partial(_without, rows=delimiters))
    return model


def _without(gradient: torch.Tensor, *, rows: Sequence[int]) -> torch.Tensor:
    """The gradient of an embedding table some of whose rows are frozen."""
    return gradient.index_fill(0, torch.tensor(rows), 0.0)


def with_lora(model: LlamaAvsr, *, seed: int) -> LlamaAvsr:
    """The model with LoRA branches on a frozen language model, in place."""
    torch.manual_seed(seed)
    attach_lora(model.llm, LORA)
    model.config = replace(model.config, lora=LORA)
    return model


def train_arm(out: Path, arm: Arm, stores: Stores, *, steps: int) -> LlamaAvsr:
    """The shared stage of an arm."""
    if (out / arm.name / WEIGHTS).exists():
        return read_arm(out, arm)
    return train_model(out / arm.name, begin(out, arm), stores, shared(arm, steps=steps))


def train_cell(out: Path, cell: Cell, stores: Stores, *, steps: int) -> LlamaAvsr:
    """A cell, which goes on from its arm's shared stage."""
    if (out / cell.name / WEIGHTS).exists():
        return read_cell(out, cell)
    model = read_arm(out, cell.arm.start)
    if cell.arm.scheme == "lora":
        with_lora(model, seed=cell.arm.seed)
    return train_model(out / cell.name, model, stores.longer(LONG_ENOUGH), own(cell, steps=steps))


def read_arm(out: Path, arm: Arm) -> LlamaAvsr:
    """A trained arm."""
    return read_weights(begin(out, arm), out / arm.name)


def read_cell(out: Path, cell: Cell) -> LlamaAvsr:
    """A trained cell."""
    model = begin(out, cell.arm.start)
    if cell.arm.scheme == "lora":
        with_lora(model, seed=cell.arm.seed)
    return read_weights(model, out / cell.name)


def train_model(folder: Path, model: LlamaAvsr, stores: Stores, schedule: Schedule) -> LlamaAvsr:
    """Train what is not trained yet, and write its weights and learning curve."""
    if (folder / WEIGHTS).exists():
        return read_weights(model, folder)
    model.train()
    task = tiny_avsr.windows_task(model)
    curve = fine_tune(model, stores.train, stores.dev, task, folder, schedule)
    (folder / "curve.json").write_text(json.dumps(curve))
    model.eval()
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if "encoder" not in k}
    save_file(weights, folder / "new.safetensors")
    (folder / "new.safetensors").replace(folder / WEIGHTS)
    (folder / "state.pt").unlink()
    return model


def read_weights(model: LlamaAvsr, folder: Path) -> LlamaAvsr:
    """Fill a model with the weights that `train_model` wrote."""
    missing = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    lacking = [name for name in missing.missing_keys if "encoder" not in name]
    if lacking or missing.unexpected_keys:
        raise CheckpointError(f"{folder} does not fit its arm; remove it and train it again.")
    return model.eval()
