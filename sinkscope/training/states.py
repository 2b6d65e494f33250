"""Hidden states by hooks, for a loss on a model that does not return them. Depends on torch.

The hooks read the outputs of the blocks while the decoder's own forward runs. Where blocks are
checkpointed they run again in the backward pass, and what that gives is not held.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor, nn

from sinkscope.errors import InputError
from sinkscope.subjects.anatomy import Tap, anatomy_of

__all__ = ["HeldStates", "hold_states"]


class HeldStates(Sequence):
    """The residual stream of the last forward: before block 0, then after every block.

    The last entry is before the final norm, unlike the last of ``output.hidden_states``.
    """

    def __init__(self, blocks: int) -> None:
        self._states: list[Tensor | None] = [None] * (blocks + 1)
        self._open = False
        self._with_gradient = False

    def begin(self) -> None:
        """A forward of the decoder begins; the states of the one before are dropped."""
        self.clear()
        self._open, self._with_gradient = True, torch.is_grad_enabled()

    def end(self) -> None:
        """It has ended: what blocks compute from now on is a repetition for the backward pass."""
        self._open = False

    def hold(self, place: int, state: Tensor) -> None:
        """Take a state of the forward that runs.

        Raises:
            InputError: the block runs without gradient inside a forward that has one.
        """
        if not self._open:
            return
        if self._with_gradient and not torch.is_grad_enabled():
            raise InputError(
                f"hold_states: block {max(place - 1, 0)} runs without gradient (reentrant "
                "checkpointing), so a loss on its states would train nothing; checkpoint with "
                "use_reentrant=False."
            )
        self._states[place] = state

    def clear(self) -> None:
        """Let go of the states, and of the graph behind them."""
        self._states = [None] * len(self._states)

    def __len__(self) -> int:
        return len(self._states)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> list[Tensor]: ...
    def __getitem__(self, place: int | slice) -> Tensor | list[Tensor]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        state = self._states[place]
        if state is None:
            raise InputError(
                "hold_states: no forward has run through the model's blocks; run it inside the "
                "with block."
            )
        return state


@contextmanager
def hold_states(model: nn.Module) -> Iterator[HeldStates]:
    """While open, the states of the model's last forward; at the end they are let go.

    Args:
        model: of a family that sinkscope knows; wrapped or part of a larger one as may be.

    Raises:
        UnknownFamilyError: the family is not known, or the model is compiled.
        InputError: in a forward whose blocks are checkpointed in a way that takes their gradients.

    Example:
        >>> with hold_states(model) as states:                            # doctest: +SKIP
        ...     loss = model(**batch).loss
        ...     loss = loss + ss.decorrelation_loss(states, mask, weight=1.0)
    """
    anatomy = anatomy_of(model)
    held = HeldStates(anatomy.n_layers)
    taps = [anatomy.tap("resid_pre", 0)]
    taps += [anatomy.tap("resid_post", layer) for layer in range(anatomy.n_layers)]
    handles = [_attach(tap, place, held) for place, tap in enumerate(taps)]
    decoder = anatomy.decoder
    handles.append(decoder.register_forward_pre_hook(lambda *_: held.begin(), prepend=True))
    handles.append(decoder.register_forward_hook(lambda *_: held.end(), always_call=True))
    try:
        yield held
    finally:
        for handle in handles:
            handle.remove()
        held.clear()


def _attach(tap: Tap, place: int, held: HeldStates) -> Any:
    def keep(value: Any) -> None:
        held.hold(place, tap.select(value))

    if tap.where == "input":
        return tap.module.register_forward_pre_hook(_on_input(keep), with_kwargs=True)
    return tap.module.register_forward_hook(_on_output(keep))


def _on_input(keep: Callable[[Any], None]) -> Callable[..., None]:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
        keep((args, kwargs))

    return hook


def _on_output(keep: Callable[[Any], None]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        keep(output)

    return hook
