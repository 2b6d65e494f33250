"""Word errors of a run on its development clips: at the end, and while it trains.

Depends on torch and avsr.
"""

from typing import Any

from transformers import TrainerCallback

from sinkscope.avsr.config import AvsrConfig
from sinkscope.avsr.evaluation import Running, Settings, evaluate
from sinkscope.avsr.evaluation.table import Cell
from sinkscope.avsr.manifest import Entry
from sinkscope.avsr.passes import name_of_pair
from sinkscope.errors import InputError
from sinkscope.subjects.running import evaluating
from sinkscope.training.callbacks import undisturbed
from sinkscope.training.config import TrainConfig
from sinkscope.training.spoken import SpokenModel
from sinkscope.training.step_passes import rates_of
from sinkscope.training.trainer import SinkTrainer

__all__ = ["LogErrors", "dev_errors"]


def dev_errors(model: SpokenModel, entries: list[Entry], config: TrainConfig) -> dict[str, Any]:
    """Word errors on dev at every pair of rates that was trained.

    Where they cannot be had, why: the model is trained all the same.
    """
    if not entries:
        return {"dev": None}
    try:
        return {"dev": _word_errors(model, entries, config, every=True)}
    except InputError as error:
        return {"dev": None, "dev_error": str(error)}


class LogErrors(TrainerCallback):
    """Logs the word error rate on dev."""

    def __init__(self, trainer: SinkTrainer, entries: list[Entry], config: TrainConfig) -> None:
        self._trainer, self._entries, self._config = trainer, entries, config

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where it is due."""
        every = self._config.evaluate_every
        if state.global_step % every or not state.is_world_process_zero:
            return
        with undisturbed():
            rates = _word_errors(
                self._trainer.model,  # pyright: ignore[reportArgumentType]
                self._entries,
                self._config,
                every=False,
            )
        should_log = control.should_log
        self._trainer.log({f"dev_wer_{name}": one["wer"] for name, one in rates.items()})
        control.should_log = should_log


def _word_errors(
    model: SpokenModel, entries: list[Entry], config: TrainConfig, *, every: bool
) -> dict[str, Any]:
    """Word errors by modality and rates; by modality alone at the first rate of each stream."""
    own = model.model
    audio, video = (rates_of(name, own.config, config) for name in ("audio", _seen(own.config)))
    pairs = [(a, v) for a in audio for v in video]
    settings = Settings(config.modalities, rates=pairs if every else pairs[:1])
    running = Running(batch_frames=config.batch_frames)
    with evaluating(model):
        found = evaluate(own, entries, settings=settings, running=running)
    several = len(pairs) > 1 and every
    return {_name(cell, several): cell.to_dict() for cell in found.table}


def _seen(config: AvsrConfig) -> str:
    """The stream that the video rates are of."""
    return "audiovisual" if config.streams == ("audiovisual",) else "video"


def _name(cell: Cell, several: bool) -> str:
    if not several or cell.pair is None:
        return cell.modality
    return f"{cell.modality} {name_of_pair(cell.pair)}"
