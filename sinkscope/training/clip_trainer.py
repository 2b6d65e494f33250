"""The trainer of a run over clips: whole batches in their order, and the files of the run.

Depends on transformers.
"""

from typing import Any

from torch import nn
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from sinkscope.training.batches import TARGETS
from sinkscope.training.guard import refuse_infinite_weights
from sinkscope.training.run_folder import RunFolder
from sinkscope.training.spoken import SpokenModel
from sinkscope.training.trainer import SinkTrainer

__all__ = ["ClipTrainer", "WriteFiles"]


class ClipTrainer(SinkTrainer):
    """A SinkTrainer whose data set gives whole batches, in their order."""

    def decoder_of(self, model: nn.Module) -> nn.Module:
        """The LLM: encoders may be decoders' kin."""
        return model.model.llm  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """As in `SinkTrainer`, with the tokens to predict counted by the data set."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [batch.pop(TARGETS) for batch in batches]
        return batches, self._total([float(sum(counts))], device)[0]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)  # pyright: ignore[reportArgumentType]


class WriteFiles(TrainerCallback):
    """Writes the log, and marks checkpoints that are whole."""

    def __init__(self, run: RunFolder, model: SpokenModel) -> None:
        self._run, self._model = run, model

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before a checkpoint: its weights are finite, and no sum of the log is left open."""
        if control.should_save:
            refuse_infinite_weights(self._model, step=state.global_step, folder=args.output_dir)
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The log so far."""
        if state.is_world_process_zero:
            self._run.write_log([row for row in state.log_history if "train_runtime" not in row])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The checkpoint is whole."""
        if state.is_world_process_zero:
            self._run.mark_complete(state.global_step)
