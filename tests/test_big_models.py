"""Offloaded weights are recorded as they are; compiled code is refused; nothing leaves early."""

import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import sinkscope as ss
from sinkscope.errors import UnknownFamilyError
from tests.families import batch, build
from tests.same_records import check_same
from tests.test_probes_outputs import check_bit_equal

CPU = torch.device("cpu")
PLACES = {
    **{"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"},
    **{"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"},
}


def dispatched(model: nn.Module) -> Any:
    folder = tempfile.mkdtemp()
    return dispatch_model(model, PLACES, offload_dir=folder, main_device="cpu", force_hooks=True)


OFFLOADED: dict[str, Callable[[nn.Module], Any]] = {
    "cpu_offload": lambda model: cpu_offload(model, execution_device=CPU),
    "disk_offload": lambda model: disk_offload(model, tempfile.mkdtemp(), execution_device=CPU),
    "dispatch_model": dispatched,
}


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
@pytest.mark.parametrize("how", OFFLOADED)
def test_offloaded_weights(how: str, family: str) -> None:
    inputs, keep = batch("left"), ["pattern", "resid_mid", "q", "v"]
    plain = ss.record(build(family), **inputs, keep=keep)
    model = OFFLOADED[how](build(family))
    assert any(weight.is_meta for weight in model.parameters())
    record = ss.record(model, **inputs, keep=keep)
    check_same(record, plain)
    assert "offloaded" in record.provenance["device"]
    check_bit_equal(model, inputs)


def test_the_rows_of_an_offloaded_down_projection() -> None:
    import pandas as pd

    found = pd.DataFrame({"sample": [0], "token": [4], "feature": [3]})
    plain = ss.trace(build("llama"), None, at=found, **batch(samples=1))
    away = ss.trace(dispatched(build("llama")), None, at=found, **batch(samples=1))
    assert not away.provenance["unreadable"]
    assert torch.allclose(
        torch.tensor(away["down_weight"].values), torch.tensor(plain["down_weight"].values)
    )


def outer(model: Any) -> nn.Module:
    return torch.compile(model, backend="eager")  # pyright: ignore[reportReturnType]


def method(model: Any) -> nn.Module:
    model.compile(backend="eager")
    return model


def block(model: Any) -> nn.Module:
    model.model.layers[0].compile(backend="eager")
    return model


def inside(model: Any) -> nn.Module:
    model.model.layers[1].mlp = torch.compile(model.model.layers[1].mlp, backend="eager")
    return model


def forward(model: Any) -> nn.Module:
    model.model.forward = torch.compile(model.model.forward, backend="eager")
    return model


@pytest.mark.parametrize("how", [outer, method, block, inside, forward])
def test_compiled_modules_are_refused(how: Callable[[Any], nn.Module]) -> None:
    with pytest.raises(UnknownFamilyError, match=r"compiled.*before torch\.compile"):
        ss.record(how(build("llama")), **batch())


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
@pytest.mark.parametrize("warm", [False, True])
def test_a_compiled_caller_is_refused(warm: bool) -> None:
    torch._dynamo.reset()
    model, inputs = build("llama"), batch()
    compiled: Any = torch.compile(model, backend="eager")
    with torch.no_grad():
        before = compiled(**inputs).logits if warm else None
        with (
            pytest.raises(UnknownFamilyError, match=r"run by a compiled function"),
            ss.probe(model),
        ):
            compiled(**inputs)
        if warm:
            assert torch.equal(compiled(**inputs).logits, before)
    assert len(ss.record(model, **inputs)) == 3, "the model itself is as good as before"


def test_a_module_that_is_compiled_after_loading_is_refused() -> None:
    subject = ss.load(build("llama"))
    subject.model.model.layers[0].compile(backend="eager")
    with pytest.raises(UnknownFamilyError, match=r"layers\.0"):
        ss.record(subject, **batch())
    with pytest.raises(UnknownFamilyError, match=r"layers\.0"), ss.intervene(subject, []):
        pass


class Leaving(TorchFunctionMode):
    """Counts the fractions that are taken off their device, by the name of the CPU or for numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = getattr(func, "__name__", "")
        first = args[0] if args else None
        given = (*args[1:], *(kwargs or {}).values())
        to_cpu = named == "to" and any(isinstance(one, str) and one == "cpu" for one in given)
        if isinstance(first, Tensor) and first.is_floating_point():
            leaves = named in ("cpu", "numpy", "tolist", "item") or to_cpu
            self.taken += first.numel() if leaves else 0
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_statistics_stay_on_the_device_until_the_end(family: str) -> None:
    """No fraction is copied to the CPU while the forwards run; all of them are after it."""
    model, inputs = build(family), batch("left")
    with ss.probe(model, ss.DEFAULT) as probe, torch.no_grad(), Leaving() as while_running:
        model(**inputs, use_cache=False)
        model(**inputs, use_cache=True)
    assert while_running.taken == 0
    assert len(probe.record) == 6
    with Leaving() as kept, torch.no_grad():
        ss.record(model, **inputs, reducers=[ss.Keep("mlp_out")])
    assert kept.taken > 0, "or this test counts nothing"
