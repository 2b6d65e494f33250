"""The folder of a training run: what is in it, and whether a run may go on there.

``OUT/{config.yaml, run.json, log.csv, lock, checkpoints/, tensorboard/, model/}``. Loads no torch.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope.errors import InputError
from sinkscope.training.config import TrainConfig
from sinkscope.training.facts import facts_of_run, now, refuse_changed
from sinkscope.training.held import held

__all__ = ["FORMAT", "VERSION", "RunFolder"]

FORMAT, VERSION = "sinkscope-train", 1
COMPLETE = "complete"
LOCK = "lock"
BEGINNING = {LOCK, "config.yaml", "config.yaml.part", "run.json.part"}
"""What a run that was killed in its first moment may leave."""


class RunFolder:
    """A run's folder, new or gone on with.

    Until its first whole checkpoint a run may begin again with other settings.

    Args:
        path: where.
        config: of the run.

    Raises:
        InputError: something else stands there: no run, a run of another version or another
            configuration.
    """

    def __init__(self, path: str | Path, config: TrainConfig) -> None:
        self.path = Path(path)
        self._config = config
        self._refuse()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the folder, and write down what is run in it; what ends the run is written, too.

        Raises:
            InputError: another process runs in the folder.
        """
        facts = facts_of_run(self._config.seed)
        self.path.mkdir(parents=True, exist_ok=True)
        with held(self.path / LOCK):
            self._refuse()
            if not self.has_begun:
                self._begin(facts)
            try:
                yield
            except Exception as error:
                self.tell({"status": "stopped", "why": " ".join(str(error).split())})
                raise

    @property
    def told(self) -> dict[str, Any] | None:
        """What ``run.json`` says; None where there is none.

        Raises:
            InputError: it is damaged.
        """
        file = self.path / "run.json"
        if not file.is_file():
            return None
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{file} is damaged ({error}); choose another folder.") from error
        if isinstance(told, dict):
            return told
        raise InputError(f"{file} holds a list or a number and no run; choose another folder.")

    @property
    def finished(self) -> bool:
        """Whether the run is at its end, and its model there."""
        return (self.told or {}).get("status") == "finished" and (self.path / "model").is_dir()

    @property
    def has_begun(self) -> bool:
        """Whether there is something to go on from."""
        return self.finished or any((path / COMPLETE).is_file() for path in self._checkpoints())

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """The last whole checkpoint; what a killed run left half-written is removed.

        Raises:
            InputError: a file of it is not as it was written.
        """
        for path in self._checkpoints():
            if (path / COMPLETE).is_file():
                _refuse_damaged(path)
                return path
            shutil.rmtree(path)
        return None

    def mark_complete(self, step: int) -> None:
        """Say that the checkpoint of a step is whole, and how long its files are; two are kept."""
        folder = self.checkpoints / f"checkpoint-{step}"
        sizes = {one.name: one.stat().st_size for one in sorted(folder.iterdir()) if one.is_file()}
        _replace(folder / COMPLETE, json.dumps(sizes))
        for older in self._checkpoints()[2:]:
            shutil.rmtree(older)

    def start(self, origin: Mapping[str, Any]) -> None:
        """Say that the run goes on, and from what it began.

        Args:
            origin: what must not change while it is stopped: hashes of the data and the model.

        Raises:
            InputError: the run began with others, or with other versions of the packages.
        """
        told = self.told or {}
        if self.has_begun:
            refuse_changed(self.path, told, origin)
        self.tell({"status": "running", "origin": dict(origin)})

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Add facts to ``run.json``."""
        told = (self.told or {"format": FORMAT, "version": VERSION}) | dict(facts)
        if told.get("status") != "stopped":
            told.pop("why", None)
        self._write(told)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Add facts, and say that the run is at its end."""
        self.tell({**facts, "status": "finished", "ended": now()})

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``log.csv`` anew: one row a step, its lines joined.

        The Trainer's ``epoch`` is left out: it counts the whole run as one.
        """
        steps: dict[int, dict[str, Any]] = {}
        for row in rows:
            steps.setdefault(int(row["step"]), {}).update(row)
        table = pd.DataFrame([steps[step] for step in sorted(steps)])
        table = table.drop(columns="epoch", errors="ignore")
        first = [name for name in ("step", "loss") if name in table]
        table = table[[*first, *sorted(set(table) - set(first))]]
        _replace(self.path / "log.csv", table.to_csv(index=False))

    def _checkpoints(self) -> list[Path]:
        """What the Trainer wrote, the last first; folders of other names are no concern."""
        found = [one for one in self.checkpoints.glob("checkpoint-*") if one.is_dir()]
        numbered = [one for one in found if one.name.removeprefix("checkpoint-").isdecimal()]
        return sorted(numbered, key=lambda one: int(one.name.rpartition("-")[2]), reverse=True)

    def _write(self, told: Mapping[str, Any]) -> None:
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        _replace(self.path / "run.json", text)

    def _begin(self, facts: Mapping[str, Any]) -> None:
        """Write the settings anew; nothing of an earlier beginning is kept."""
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        (self.path / "log.csv").unlink(missing_ok=True)
        _replace(self.path / "config.yaml", self._config.to_yaml())
        about = {"format": FORMAT, "version": VERSION, "status": "running", "began": now()}
        self._write(about | dict(facts))

    def _refuse(self) -> None:
        path = self.path
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; name a folder for the run.")
        if not path.is_dir() or _is_beginning(path):
            return
        told = self.told
        if told is None or told.get("format") != FORMAT:
            raise InputError(f"{path} holds files that are no training run; choose another folder.")
        if told.get("version") != VERSION:
            raise InputError(
                f"{path} holds a run of version {told.get('version')}, and this is version "
                f"{VERSION}; go on by the sinkscope that began it, or choose another folder."
            )
        if not self.has_begun:
            return
        changed = _changed(TrainConfig.read(path / "config.yaml"), self._config)
        if changed:
            raise InputError(
                f"{path} holds a run of another configuration ({changed}); choose another folder, "
                "or give the same configuration to go on."
            )


def _is_beginning(folder: Path) -> bool:
    """Whether a folder is empty, or holds what a run leaves that is killed in its first moment."""
    if not {path.name for path in folder.iterdir()} <= BEGINNING:
        return False
    file = folder / "config.yaml"
    try:
        return not file.exists() or TrainConfig.read(file).to_yaml() == file.read_text("utf-8")
    except InputError:
        return False  # a file of the user's own


def _refuse_damaged(checkpoint: Path) -> None:
    """Refuse a checkpoint with files that are missing or of another length."""
    text = (checkpoint / COMPLETE).read_text(encoding="utf-8")
    for name, size in (json.loads(text) if text else {}).items():
        file = checkpoint / name
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            raise InputError(
                f"{file} is damaged ({found} bytes of {size}); remove {checkpoint} to go on from "
                "the checkpoint before it."
            )


def _changed(old: TrainConfig, new: TrainConfig) -> str:
    one, other = asdict(old), asdict(new)
    return ", ".join(f"{k}: {one[k]!r}, now {other[k]!r}" for k in one if one[k] != other[k])


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
