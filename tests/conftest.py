"""No test draws on a screen, and none leaves a figure behind; torchvision, where it is offered."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import matplotlib.pyplot as plt
import pytest
import torch

OPERATORS = ("nms", "qnms")
"""Of torchvision's compiled operators, those that its Python part asks for when it is imported."""

_defined: list[torch.library.Library] = []


def offer_torchvision(folder: Path) -> None:
    """Make the torchvision in a folder importable, also beside a torch that it was not built for.

    Video processors of transformers need its Python part alone.
    """
    sys.path.insert(0, str(folder))
    try:
        for compiled in folder.glob("torchvision/_C*.so"):
            torch.ops.load_library(compiled)
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _defined.append(library)


if offered := os.environ.get("SINKSCOPE_TORCHVISION"):
    offer_torchvision(Path(offered))


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")
