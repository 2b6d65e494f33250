"""SinkTrainer: the Trainer of transformers with the decorrelation loss. Depends on transformers.

It steps, saves, resumes and runs on many devices as the Trainer does; a term is added to the loss,
scaled so that accumulated batches and processes give the gradient of one undivided batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from sinkscope.avsr.mome import HeldForward, MomeSettings, balance_loss, hold_routing
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.training.callbacks import SinkCallback
from sinkscope.training.compared import compared_tokens
from sinkscope.training.decorrelation import decorrelation_loss
from sinkscope.training.guard import StopAtNan, refuse_infinite
from sinkscope.training.meter import Meter
from sinkscope.training.schedule import WeightSchedule
from sinkscope.training.shares import PASS, WHOLE, Share
from sinkscope.training.states import HeldStates, hold_states

__all__ = ["COMPARED", "NAMES", "SinkTrainer"]

COMPARED = "compared"
"""The entry of a batch that says which tokens are compared with BOS."""

NAMES = "names"
"""The entry of a batch that names its samples, for messages."""

ComparedTokens = Tensor | TokenLayout | Sequence[TokenLayout]


class SinkTrainer(Trainer):
    """A Trainer whose loss has the decorrelation term beside the model's own.

    Which tokens are compared with BOS comes with every batch, as its entry ``"compared"`` (a mask
    ``(sample, token)`` of True and False in a batch that is padded on the right, or the layouts),
    or from the callable. An entry
    ``"names"`` tells the samples' names, for messages. The model sees neither. The logs have
    ``cross_entropy`` and ``decorrelation`` (as it is added, so times its weight) apart. In
    evaluation the loss is the model's own.

    A step may be made of several passes over the same samples, each a batch of its own with an
    entry ``"pass"``. The step's loss is then the mean over the passes of weight times
    cross-entropy, plus the mean of the passes' own terms: every pass counts alike, however many
    tokens it compares.

    A loss or a gradient that is not finite ends the run before the optimiser steps, so that the
    last checkpoint is a good one.

    Args:
        model: of a family that sinkscope knows, plain, with PEFT, or inside a larger module.
        args: as the Trainer takes them; without ``torch_compile``.
        weight: of the term; a schedule changes it with the share of the steps. At 0 nothing is
            computed, and the run is the Trainer's own to the bit.
        compared: from a batch to its compared tokens; None where batches carry them.
        loss: other arguments of `decorrelation_loss`: ``power``, ``layers``, ``mask_padding``,
            ``detach_bos``, ``reference``.
        balance: for a model with mixtures of experts, whose balance loss is added as the mean over
            the batches of a step and logged as ``balance``; None leaves it out.
        trainer: whatever else the Trainer takes (``train_dataset``, ``callbacks``, ...).

    Raises:
        InputError: a compiled model, or several devices in one process (DataParallel).

    Example:
        >>> trainer = SinkTrainer(                                        # doctest: +SKIP
        ...     model, arguments, train_dataset=data, data_collator=with_compared, weight=10.0
        ... )
        >>> trainer.train()                                               # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments | None = None,
        *,
        weight: float | int | WeightSchedule,
        compared: Callable[[Mapping[str, Any]], ComparedTokens] | None = None,
        loss: Mapping[str, Any] | None = None,
        balance: MomeSettings | None = None,
        **trainer: Any,
    ) -> None:
        self.weight = weight if isinstance(weight, WeightSchedule) else WeightSchedule(weight)
        self.compared = compared
        self.decorrelation = dict(loss or {})
        self.balance = balance
        super().__init__(model, args, **trainer)
        _refuse(self.args)
        self.add_callback(StopAtNan(self))
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, SinkCallback):
                callback.log = self.log
        self._meter = Meter()
        self._counts: Tensor | None = None
        self.names_of_step: list[str] = []

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of a step; also counts their compared tokens, in all processes."""
        found = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = found[0]
        self._counts = None
        if self._weight() > 0 and batches:
            self._counts = self._total(self._counts_of(batches), device)
        names = [name for batch in batches for name in batch.get(NAMES, ())]
        self.names_of_step = list(dict.fromkeys(names))
        return found

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's loss, and the term while it trains; see `Trainer.compute_loss`."""
        inputs = dict(inputs)
        weight = self._weight() if model.training else 0.0
        compared = self._compared_of(inputs) if weight > 0 else None
        names, share = inputs.pop(NAMES, None), inputs.pop(PASS, WHOLE)
        inputs.pop(COMPARED, None)
        items = num_items_in_batch
        with self._watched(model, weight) as (states, routing):
            scaled = {"num_items_in_batch": items}
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **scaled)
            if not model.training:
                return (loss, outputs) if return_outputs else loss
            parts = {"cross_entropy": loss * share.weight}
            if states is not None:
                parts["decorrelation"] = self._term(states, compared, weight, items, share)
            if routing is not None:
                parts["balance"] = self._balance(routing, items)
        step, folder = self.state.global_step, self.args.output_dir
        refuse_infinite(parts, step=step, names=names, folder=folder)
        self._meter.add(parts, batches=self._parts(), scaled=self._is_scaled(items))
        loss = sum(value.to(loss) for value in parts.values())
        return (loss, outputs) if return_outputs else loss

    @contextmanager
    def _watched(
        self, model: nn.Module, weight: float
    ) -> Iterator[tuple[HeldStates | None, list[HeldForward] | None]]:
        """The states and the routing of the forward that runs inside, where they are needed."""
        decoder = self.decoder_of(self.accelerator.unwrap_model(model))
        with ExitStack() as stack:
            states = stack.enter_context(hold_states(decoder)) if weight > 0 else None
            balanced = self.balance is not None and model.training
            routing = stack.enter_context(hold_routing(decoder)) if balanced else None
            yield states, routing

    def decoder_of(self, model: nn.Module) -> nn.Module:
        """The part of the model whose states are compared; override it where several could be."""
        return model

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss to what the Trainer logs of a training step."""
        if "loss" in logs:
            for name, value in self._meter.read().items():
                mean = self.accelerator.reduce(value.to(self.args.device), "mean")
                logs[name] = float(mean)  # pyright: ignore[reportArgumentType]
        super().log(logs, start_time)

    def _weight(self) -> float:
        steps = max(1, self.state.max_steps)
        return self.weight.at(min(self.state.global_step, steps), steps=steps)

    def _compared_of(self, inputs: Mapping[str, Any]) -> Any:
        return self.compared(inputs) if self.compared is not None else inputs.get(COMPARED)

    def _count(self, inputs: Mapping[str, Any]) -> int:
        """How many tokens of a batch are compared."""
        compared = self._compared_of(inputs)
        if compared is None:
            raise InputError(
                f"SinkTrainer: the batch has no entry {COMPARED!r} (it has "
                f"{', '.join(map(str, inputs))}); let the data set or collator give a mask of the "
                "tokens that are compared with BOS, or give compared= a function of the batch."
            )
        _refuse_left_padding(inputs.get("attention_mask"), compared)
        padding = self.decorrelation.get("mask_padding", True)
        return count_compared(compared, mask_padding=padding)

    def _counts_of(self, batches: Sequence[Mapping[str, Any]]) -> list[float]:
        """How many tokens each pass of a step compares."""
        shares = [batch.get(PASS, WHOLE) for batch in batches]
        counts = [0.0] * shares[0].of
        for batch, share in zip(batches, shares, strict=True):
            counts[share.number] += self._count(batch)
        return counts

    def _total(self, counts: Sequence[float], device: Any) -> Tensor:
        """The sums over processes."""
        own = torch.tensor(counts, device=device)
        return self.accelerator.reduce(own, "sum")  # pyright: ignore[reportReturnType]

    def _term(
        self, states: HeldStates, compared: Any, weight: float, items: Any, share: Share
    ) -> Tensor:
        """The term, scaled so that what the Trainer does next makes it the whole step's mean."""
        count = self._counts
        if count is not None:  # the mean over the passes, each the mean over its own tokens
            count = count[share.number].clamp(min=1) * share.of
        term = decorrelation_loss(
            states, compared, weight=weight, count=count, **self.decorrelation
        )
        if count is None:
            return term
        term = term * self.accelerator.num_processes  # gradients are averaged over processes
        return term if self._is_scaled(items) else term * self._parts()

    def _balance(self, routing: list[HeldForward], items: Any) -> Tensor:
        """The balance loss of a batch, scaled likewise to the mean over the step's batches."""
        assert self.balance is not None
        loss = balance_loss(routing, self.balance)
        return loss / self._parts() if self._is_scaled(items) else loss

    def _is_scaled(self, items: Any) -> bool:
        """Whether the Trainer takes the loss as it is; else it divides by the number of batches."""
        told = self.loss_is_scaled_for_ga
        if told is not None:
            return bool(told)
        own = self.model_accepts_loss_kwargs and items is not None
        return own or self.compute_loss_func is not None

    def _parts(self) -> int:
        return int(self.current_gradient_accumulation_steps)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns or []
        self._signature_columns = list(dict.fromkeys([*columns, COMPARED, NAMES, PASS]))


def count_compared(compared: ComparedTokens, *, mask_padding: bool = True) -> int:
    """How many tokens of a batch are compared with BOS."""
    if isinstance(compared, Tensor):
        return int(compared.sum())
    layouts = [compared] if isinstance(compared, TokenLayout) else list(compared)
    blank = torch.empty(len(layouts), len(layouts[0]) if layouts else 0, 0)
    found = compared_tokens(layouts, blank, mask_padding=mask_padding, may_be_none=True)
    return int(found.mask.sum())


def _refuse_left_padding(attention_mask: Any, compared: ComparedTokens) -> None:
    """A mask compares with position 0, which is padding in a sample that is padded on the left."""
    if not isinstance(attention_mask, Tensor) or not isinstance(compared, Tensor):
        return
    if attention_mask.ndim == 2 and not bool(attention_mask[:, 0].all()):
        raise InputError(
            "SinkTrainer: the batch is padded on the left, so position 0 of a sample is padding "
            "and no BOS; pad on the right, or give the layouts."
        )


def _refuse(args: TrainingArguments) -> None:
    if args.torch_compile:
        raise InputError(
            "SinkTrainer: torch_compile is on, and hooks in a compiled model are skipped; leave it "
            "out."
        )
    if args.n_gpu > 1:
        raise InputError(
            f"SinkTrainer: one process holds {args.n_gpu} devices (DataParallel); start one "
            "process a device with torchrun or accelerate launch."
        )
