"""The ResNet weights of the golden AV-HuBERT sets, which are given by a rule and not stored."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def resnet_weights(rule: Path) -> dict[str, Tensor]:
    """The tensors by their published names, each checked by its hash, or by its sums."""
    return {entry["key"]: _tensor(entry) for entry in json.loads(rule.read_text())}


def _tensor(entry: dict) -> Tensor:
    drawn = np.random.RandomState(entry["seed"]).standard_normal(entry["shape"])
    if entry["form"] == "const":
        values = np.zeros(entry["shape"], np.int64)
    else:
        drawn = np.abs(drawn) if entry["form"] == "abs" else drawn
        values = np.asarray(entry["loc"] + entry["scale"] * drawn, np.float32)
    if hashlib.sha256(values.tobytes()).hexdigest() != entry["sha256"]:
        assert np.isclose(values.sum(dtype=np.float64), entry["sum"], rtol=1e-5)
    return torch.from_numpy(values)
