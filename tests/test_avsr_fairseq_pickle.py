"""A fairseq checkpoint is read, and a malicious one does nothing."""

import argparse
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from sinkscope.avsr.avhubert.config import AvHubertConfig, config_from_fairseq
from sinkscope.avsr.fairseq_pickle import read_fairseq_checkpoint
from sinkscope.errors import CheckpointError

STATE = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(2, dtype=torch.bfloat16))
MODEL = {
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
    "layer_norm_first": True,
    "audio_feat_dim": 104,
    "conv_pos": 128,
    "conv_pos_groups": 16,
}


@pytest.fixture
def strange() -> Any:
    """Classes of modules that are gone when the file is read, as fairseq's are."""
    modules: dict[str, Any] = {}
    for place, kind in {
        "omegaconf.dictconfig": "DictConfig",
        "omegaconf.nodes": "AnyNode",
        "fairseq.logging.meters": "AverageMeter",
        "fairseq.dataclass.constants": "Choice",
    }.items():
        parts = place.split(".")
        for name in (".".join(parts[:i]) for i in range(1, len(parts) + 1)):
            modules.setdefault(name, types.ModuleType(name))
        setattr(modules[place], kind, type(kind, (), {"__module__": place}))
    sys.modules.update(modules)
    yield modules
    for name in modules:
        sys.modules.pop(name, None)


def with_state(kind: type, **state: Any) -> Any:
    made = kind()
    made.__dict__.update(state)
    return made


def omega(modules: dict[str, Any], values: dict[str, Any]) -> Any:
    node = modules["omegaconf.nodes"].AnyNode
    content = {
        key: omega(modules, value) if isinstance(value, dict) else with_state(node, _val=value)
        for key, value in values.items()
    }
    config = modules["omegaconf.dictconfig"].DictConfig
    return with_state(config, _content=content, _metadata={"object_type": dict})


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_and_configuration(tmp_path: Path, strange: Any, zipped: bool) -> None:
    path = tmp_path / "model.pt"
    meter = with_state(strange["fairseq.logging.meters"].AverageMeter, sum=1.0)
    content = {
        "model": STATE,
        "cfg": omega(strange, {"model": MODEL, "task": {"labels": ["km"]}}),
        "args": None,
        "extra_state": {"metrics": OrderedDict(loss=meter)},
        "task_state": {"dictionaries": [meter]},
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for name in strange:
        sys.modules.pop(name)
    found = read_fairseq_checkpoint(path)
    assert found.state.keys() == STATE.keys()
    for name, value in STATE.items():
        assert torch.equal(found.state[name], value)
        assert found.state[name].dtype == value.dtype
    assert found.cfg == {"model": MODEL, "task": {"labels": ["km"]}}
    assert config_from_fairseq(found.cfg["model"]) == AvHubertConfig()


def test_older_files_have_args(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": STATE, "args": argparse.Namespace(**MODEL)}, path)
    assert read_fairseq_checkpoint(path).cfg == {"model": MODEL}


class Calls:
    """A pickle of this calls a function when it is read."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def attacks(marker: Path) -> dict[str, Any]:
    command = f"touch {marker}"
    return {
        "system": Calls(os.system, command),
        "eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(marker)!r}, 'w')"),
        "open": Calls(open, str(marker), "w"),
        "getattr": Calls(getattr, "text", "upper"),
        "import": Calls(__import__, "antigravity"),
        "load": Calls(torch.load, str(marker)),
        "bytes": Calls(torch.storage._load_from_bytes, b""),  # pyright: ignore[reportAttributeAccessIssue]
        "hub": Calls(torch.hub.load, "a/b", "c"),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["model", "cfg", "top"])
@pytest.mark.parametrize("name", sorted(attacks(Path("x"))))
def test_a_malicious_pickle_does_nothing(
    tmp_path: Path, name: str, place: str, zipped: bool
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    attack = attacks(marker)[name]
    content: Any = {"model": {"a": torch.ones(1)}, "cfg": {}}
    if place == "top":
        content = attack
    else:
        content[place] = {"nested": [attack]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="could run any code") as caught:
        read_fairseq_checkpoint(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)


def test_stubs_run_nothing(tmp_path: Path, strange: Any) -> None:
    """Neither what builds a stub nor the state that it is given is called."""
    marker, path = tmp_path / "ran", tmp_path / "model.pt"

    class Loud(strange["fairseq.dataclass.constants"].Choice):
        def __reduce__(self) -> Any:
            return (strange["fairseq.dataclass.constants"].Choice, ("value",), {"__class__": int})

        def __setstate__(self, state: Any) -> None:
            marker.touch()

    torch.save({"model": STATE, "cfg": {"model": {"sim": Loud()}}}, path)
    for name in strange:
        sys.modules.pop(name)
    found = read_fairseq_checkpoint(path)
    assert not marker.exists()
    assert found.cfg == {"model": {"sim": {"__class__": "int"}}}


def test_what_rebuilds_tensors_stays_as_it_is(tmp_path: Path) -> None:
    """A pickle may set attributes of what it was handed; that is a copy."""
    path = tmp_path / "model.pt"
    before = torch._utils._rebuild_tensor_v2.__defaults__
    opcodes = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
        b"N}X\x0c\x00\x00\x00__defaults__(K\x01K\x02ts\x86b."
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", opcodes)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    with pytest.raises(CheckpointError):
        read_fairseq_checkpoint(path)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"model": STATE, "cfg": {"model": MODEL}}, whole)
    content = whole.read_bytes()
    files = {
        "cut.pt": content[: len(content) // 2],
        "text.pt": b"this is no checkpoint\n" * 20,
        "empty.pt": b"",
        "pickle.pt": pickle.dumps({"model": 1}),
    }
    for name, written in files.items():
        (tmp_path / name).write_bytes(written)
        with pytest.raises(CheckpointError, match=name):
            read_fairseq_checkpoint(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(CheckpointError, match=r"zip\.pt is no whole checkpoint"):
        read_fairseq_checkpoint(tmp_path / "zip.pt")
    with pytest.raises(CheckpointError, match="is no file"):
        read_fairseq_checkpoint(tmp_path / "missing.pt")


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="it holds state_dict, and no 'model'"):
        read_fairseq_checkpoint(tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="it holds list"):
        read_fairseq_checkpoint(tmp_path / "list.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_fairseq_checkpoint(tmp_path / "script.pt")
