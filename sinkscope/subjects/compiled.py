"""Refuses what ``torch.compile`` has made: compiled code skips hooks, or is compiled anew by them.

Then a record would miss sites, an edit would do nothing, and outputs would not be the same to the
bit with a probe and without. The module itself, before it is compiled, is as good to study.
"""

import sys
from types import FrameType

from torch import nn

from sinkscope.errors import UnknownFamilyError

__all__ = ["refuse_compiled", "refuse_compiled_call"]

_MARK = "_torchdynamo_orig_callable"
_CALLER = ("eval_frame.py", "compile_wrapper")


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a model that is compiled, or has a compiled module or forward inside.

    Raises:
        UnknownFamilyError: naming it.
    """
    for name, module in model.named_modules():
        own = vars(module)
        compiled = own.get("_compiled_call_impl") is not None or "_orig_mod" in own.get(
            "_modules", {}
        )
        if compiled or hasattr(own.get("forward"), _MARK):
            what = f"{type(model).__name__} is" if not name else f"Its module {name!r} is"
            raise UnknownFamilyError(
                f"{what} compiled, so hooks would be skipped or recompile it; "
                "hand over the model as it was before torch.compile."
            )


def refuse_compiled_call(name: str) -> None:
    """Refuse a forward that is run from inside a compiled function.

    Args:
        name: of the subject, for the message.

    Raises:
        UnknownFamilyError: if it is.
    """
    if "torch._dynamo" not in sys.modules:
        return
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == _CALLER[1] and code.co_filename.endswith(_CALLER[0]):
            raise UnknownFamilyError(
                f"{name} is run by a compiled function, so hooks would be skipped or recompile it; "
                "call the model as it was before torch.compile (generate: disable_compile=True)."
            )
        frame = frame.f_back
