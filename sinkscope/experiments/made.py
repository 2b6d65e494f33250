"""How a report was made: command, commit, time and versions."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from sinkscope import __version__
from sinkscope.training.facts import commit_of_package

__all__ = ["made_by"]


def made_by(command: str) -> dict[str, Any]:
    """What every report's ``run.json`` begins with."""
    return {
        "command": command,
        "commit": commit_of_package(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "sinkscope": __version__,
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
