"""Hooks that change what passes a module: those of nested blocks act in the order of their opening.

Hooks of torch alone would act either before each other or behind a probe's; so all changes of one
place share one hook, which stands in front; but behind that of a mixture of experts beside the
module, since what passes is the sum.

Example:
    >>> import torch
    >>> layer = nn.Identity()
    >>> with ExitStack() as stack:
    ...     changing(layer, "output", lambda output: output + 1, stack)
    ...     changing(layer, "output", lambda output: output * 10, stack)
    ...     layer(torch.tensor([2.0])).item()
    30.0
"""

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from torch.utils.hooks import RemovableHandle

from sinkscope.subjects.expert_sites import adding_hooks

__all__ = ["changing"]

Change = Callable[[Any], Any]
"""From what a hook is given to what it must return; None leaves it."""

Where = Literal["input", "output"]


@dataclass(eq=False)
class _Chain:
    """The changes of one place, the first opened first."""

    changes: list[Change] = field(default_factory=list)
    handle: RemovableHandle | None = None

    def run(self, value: Any) -> Any:
        changed = None
        for change in tuple(self.changes):
            new = change(value)
            if new is not None:
                value = changed = new
        return changed

    def hook(self, module: nn.Module, where: Where) -> None:
        if where == "input":
            self.handle = module.register_forward_pre_hook(
                lambda _, args, kwargs: self.run((args, kwargs)), with_kwargs=True, prepend=True
            )
        else:
            self.handle = module.register_forward_hook(
                lambda _, __, output: self.run(output), prepend=True
            )
            hooks: Any = module._forward_hooks
            for number in reversed(adding_hooks(module)):
                hooks.move_to_end(number, last=False)

    def leave(self, change: Change) -> None:
        self.changes.remove(change)
        if not self.changes and self.handle is not None:
            self.handle.remove()


_open: weakref.WeakKeyDictionary[nn.Module, dict[Where, _Chain]] = weakref.WeakKeyDictionary()


def changing(module: nn.Module, where: Where, change: Change, stack: ExitStack) -> None:
    """Change what enters or leaves a module, before any probe sees it; the stack ends it.

    Args:
        module: the module.
        where: ``"input"``: the change gets and gives ``(args, kwargs)``; or ``"output"``.
        change: called with what earlier changes left.
        stack: what ends it.
    """
    chain = _open.setdefault(module, {}).setdefault(where, _Chain())
    if not chain.changes:
        chain.hook(module, where)
    chain.changes.append(change)
    stack.callback(chain.leave, change)
