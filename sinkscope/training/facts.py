"""What a training run notes of where it runs, and what must not change while it is stopped.

Loads no torch.
"""

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError

__all__ = ["commit_of_package", "facts_of_run", "now", "refuse_changed"]

ORIGINS = {
    "train": "the clips or texts of train",
    "dev": "the clips or texts of dev",
    "model": "the weights of the model",
}
"""What a run began with, in words."""

PACKAGES = ("sinkscope", "torch", "transformers", "peft", "accelerate", "numpy")


def facts_of_run(seed: int) -> dict[str, Any]:
    """The seed, the versions of the packages and the commit."""
    versions = {name: version(name) for name in PACKAGES}
    return {"seed": seed, "versions": versions, "commit": commit_of_package()}


def refuse_changed(folder: Path, told: Mapping[str, Any], origin: Mapping[str, Any]) -> None:
    """Refuse to go on with other data, another model or other packages.

    Args:
        folder: of the run, for messages.
        told: what its ``run.json`` says.
        origin: hashes of the data and the model as they are now.

    Raises:
        InputError: naming the first that changed.
    """
    for name, before in (told.get("origin") or {}).items():
        if origin.get(name) != before:
            raise InputError(
                f"{folder}: {ORIGINS.get(name, name)} changed since the run began; restore "
                "what it began with to go on, or choose another folder."
            )
    for name in ("sinkscope", "torch"):
        before = (told.get("versions") or {}).get(name)
        if before not in (None, version(name)):
            raise InputError(
                f"{folder} holds a run of {name} {before}, and this is {version(name)}; "
                f"install {name} {before} to go on, or choose another folder."
            )


def commit_of_package() -> str | None:
    """The commit of the package, where it lies in a git checkout."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def now() -> str:
    """The time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
