"""Word errors of a run on its development clips: at the end, and while it trains.

Depends on torch and avsr.
"""

from typing import Any

from transformers import TrainerCallback

from sinkscope.avsr.decoding import Decoding
from sinkscope.avsr.evaluation import Running, Settings, evaluate
from sinkscope.avsr.manifest import Entry
from sinkscope.errors import InputError
from sinkscope.subjects.running import evaluating
from sinkscope.training.callbacks import undisturbed
from sinkscope.training.config import TrainConfig
from sinkscope.training.spoken import SpokenModel
from sinkscope.training.trainer import SinkTrainer

__all__ = ["LogErrors", "dev_errors"]


def dev_errors(model: SpokenModel, entries: list[Entry], config: TrainConfig) -> dict[str, Any]:
    """Word errors on dev; where they cannot be had, why: the model is trained all the same."""
    if not entries:
        return {"dev": None}
    try:
        return {"dev": _word_errors(model, entries, config)}
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
            rates = _word_errors(self._trainer.model, self._entries, self._config)
        should_log = control.should_log
        self._trainer.log({f"dev_wer_{name}": one["wer"] for name, one in rates.items()})
        control.should_log = should_log


def _word_errors(model: Any, entries: list[Entry], config: TrainConfig) -> dict[str, Any]:
    """Word errors by modality, at the first rate of each stream."""
    audio, video = (
        rates[0] if rates else None for rates in (config.audio_rates, config.video_rates)
    )
    settings = Settings(config.modalities, decoding=Decoding(audio_rate=audio, video_rate=video))
    with evaluating(model):
        found = evaluate(
            model.model,
            entries,
            settings=settings,
            running=Running(batch_frames=config.batch_frames),
        )
    return {cell.modality: cell.to_dict() for cell in found.table}
