"""The folder of a training run: what is in it, and whether a run may go on there.

``OUT/{config.yaml, run.json, log.csv, checkpoints/, tensorboard/, model/}``. Loads no torch.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope.errors import InputError
from sinkscope.training.config import TrainConfig

__all__ = ["FORMAT", "VERSION", "RunFolder", "commit_of_package"]

FORMAT, VERSION = "sinkscope-train", 1
COMPLETE = "complete"
BEGINNING = {"config.yaml", "config.yaml.part", "run.json.part"}
"""What a run that was killed in its first moment may leave."""

PACKAGES = ("sinkscope", "torch", "transformers", "peft", "accelerate", "numpy")


class RunFolder:
    """A run's folder, new or gone on with.

    Args:
        path: where.
        config: of the run.

    Raises:
        InputError: something else stands there: no run, a run of another version or another
            configuration.
    """

    def __init__(self, path: str | Path, config: TrainConfig) -> None:
        self.path = Path(path)
        self._refuse(config)
        self.path.mkdir(parents=True, exist_ok=True)
        if self.told is None:
            _replace(self.path / "config.yaml", config.to_yaml())
            self.tell({"status": "running", "began": _now(), **_facts(config)})

    @property
    def told(self) -> dict[str, Any] | None:
        """What ``run.json`` says; None where there is none."""
        file = self.path / "run.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @property
    def finished(self) -> bool:
        """Whether the run is at its end."""
        return (self.told or {}).get("status") == "finished"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """The last whole checkpoint; what a killed run left half-written is removed."""
        found = sorted(self.checkpoints.glob("checkpoint-*"), key=_step, reverse=True)
        for path in found:
            if (path / COMPLETE).is_file():
                return path
            shutil.rmtree(path)
        return None

    def mark_complete(self, step: int) -> None:
        """Say that the checkpoint of a step is whole."""
        (self.checkpoints / f"checkpoint-{step}" / COMPLETE).touch()

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Add facts to ``run.json``."""
        told = (self.told or {"format": FORMAT, "version": VERSION}) | dict(facts)
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        _replace(self.path / "run.json", text)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Add facts, and say that the run is at its end."""
        self.tell({**facts, "status": "finished", "ended": _now()})

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``log.csv`` anew: one row a step, its lines joined."""
        steps: dict[int, dict[str, Any]] = {}
        for row in rows:
            steps.setdefault(int(row["step"]), {}).update(row)
        table = pd.DataFrame([steps[step] for step in sorted(steps)])
        first = [name for name in ("step", "epoch", "loss") if name in table]
        table = table[[*first, *(name for name in table if name not in first)]]
        _replace(self.path / "log.csv", table.to_csv(index=False))

    def _refuse(self, config: TrainConfig) -> None:
        path = self.path
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; name a folder for the run.")
        if not path.is_dir() or not any(path.iterdir()):
            return
        try:
            told = self.told
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path / 'run.json'} is damaged ({error}); choose another."
            ) from error
        if told is None or told.get("format") != FORMAT:
            raise InputError(f"{path} holds files that are no training run; choose another folder.")
        if told.get("version") != VERSION:
            raise InputError(
                f"{path} holds a run of version {told.get('version')}, and this is version "
                f"{VERSION}; go on by the sinkscope that began it, or choose another folder."
            )
        changed = _changed(TrainConfig.read(path / "config.yaml"), config)
        if changed:
            raise InputError(
                f"{path} holds a run of another configuration ({changed}); choose another folder, "
                "or give the same configuration to go on."
            )


def _changed(old: TrainConfig, new: TrainConfig) -> str:
    one, other = asdict(old), asdict(new)
    return ", ".join(f"{k}: {one[k]!r}, now {other[k]!r}" for k in one if one[k] != other[k])


def _facts(config: TrainConfig) -> dict[str, Any]:
    versions = {name: version(name) for name in PACKAGES}
    return {"seed": config.seed, "versions": versions, "commit": commit_of_package()}


def commit_of_package() -> str | None:
    """The commit of the package, where it lies in a git checkout."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
