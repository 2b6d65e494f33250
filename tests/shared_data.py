"""Where golden vectors and real clips lie beside the checkout; tests skip without them."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("SINKSCOPE_SHARED", Path(__file__).parents[2] / "shared"))


def shared(relative: str) -> Path:
    """The path of a shared file or folder, or skip the calling test with a reason."""
    path = ROOT / relative
    if not path.exists():
        pytest.skip(f"{relative} is not beside this checkout (set SINKSCOPE_SHARED to its folder)")
    return path
