"""A fairseq checkpoint is read, and a malicious one does nothing."""

import argparse
import os
import pickle
import struct
import sys
import tarfile
import types
import typing
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
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


def word(text: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(text.encode())) + text.encode()


def zipped(opcodes: bytes, path: Path) -> Path:
    """A file of the newer format whose pickle is written by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + opcodes + b".")
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return path


def legacy(opcodes: bytes, path: Path) -> Path:
    """The same in the older format."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    written = b"".join(pickle.dumps(part, 2) for part in head)
    path.write_bytes(written + b"\x80\x02" + opcodes + b"." + pickle.dumps([], 2))
    return path


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STUB = b"cfairseq.models\nModel\n"


def sets(**attributes: bytes) -> bytes:
    """Opcodes that set attributes of what lies on the stack."""
    pairs = b"".join(word(name) + value for name, value in attributes.items())
    return b"N}(" + pairs + b"u\x86b"


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("target", [REBUILD, STUB, b"c__builtin__\nobject\n)R"])
def test_nothing_but_stubs_is_changed(tmp_path: Path, write: Any, target: bytes) -> None:
    path = write(target + sets(__defaults__=b"K\x01\x85"), tmp_path / "model.pt")
    before = torch._utils._rebuild_tensor_v2.__defaults__  # pyright: ignore
    with pytest.raises(CheckpointError, match="the pickle changes"):
        read_fairseq_checkpoint(path)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before  # pyright: ignore


@pytest.mark.parametrize("before", [b"", sets(dump_patches=b"\x88")])
@pytest.mark.parametrize("target", [REBUILD, STUB])
def test_no_source_file_is_compared_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: bytes, before: bytes
) -> None:
    """The older format's reader writes a patch file where a class's source has changed."""
    monkeypatch.chdir(tmp_path)
    outer = b"0(" + word("module") + b"h\x01" + word("file.py") + word("text") + b"tQ"
    path = legacy(target + before + b"q\x01" + outer, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"asks for an outer module|changes"):
        read_fairseq_checkpoint(path)
    assert [found.name for found in tmp_path.iterdir()] == ["model.pt"]


def test_a_module_that_is_there_is_not_called(tmp_path: Path, strange: Any) -> None:
    """A stubbed name is never looked up, even where its module can be imported."""
    marker, path = tmp_path / "ran", tmp_path / "model.pt"

    def deed(*_: Any) -> dict:
        marker.touch()
        return {}

    class Loud:
        def __setstate__(self, state: Any) -> None:
            marker.touch()

    place = strange["fairseq.dataclass.constants"]
    for name, thing in {"deed": deed, "Loud": Loud}.items():
        thing.__module__, thing.__qualname__ = place.__name__, name
        setattr(place, name, thing)
    cfg = {"model": {"a": Calls(deed, "x"), "b": with_state(Loud, volume=11)}}
    torch.save({"model": STATE, "cfg": cfg}, path)
    marker.unlink(missing_ok=True)
    assert read_fairseq_checkpoint(path).cfg == {"model": {"a": "x", "b": {"volume": 11}}}
    assert not marker.exists()


def test_what_real_checkpoints_hold_besides(tmp_path: Path) -> None:
    """Numbers of numpy, bytes, empty namespaces, subscripted types, old protocols."""
    content = {
        "model": STATE,
        "cfg": {"model": MODEL, "common": argparse.Namespace(), "path": Path("a", "b")},
        "extra_state": {
            "loss": np.float64(1.5),
            "picture": np.arange(3),
            "bytes": b"\x00\xff",
            "typed": typing.Dict[str, int],  # noqa: UP006
            "device": torch.device("cpu"),
            "size": torch.Size([2]),
        },
    }
    for protocol in (2, 4):
        path = tmp_path / f"{protocol}.pt"
        torch.save(content, path, pickle_protocol=protocol)
        found = read_fairseq_checkpoint(path)
        assert found.cfg["model"] == MODEL
        assert found.cfg["common"] == {}
        assert found.cfg["path"] == ["a", "b"]


def test_strange_contents_give_one_sentence(tmp_path: Path) -> None:
    circle: dict[str, Any] = {}
    circle["model"] = circle
    shadow = OrderedDict(a=torch.ones(1))
    shadow.values = 3  # pyright: ignore[reportAttributeAccessIssue]
    wide: list[Any] = [1]
    for _ in range(60):
        wide = [wide, wide]
    held = {
        "circle": ({"model": STATE, "cfg": circle}, "recursion"),
        "names": ({"model": {1: torch.ones(1)}}, "no 'model' with tensors"),
        "numbers": ({"model": {"a": 1.0}}, "no 'model' with tensors"),
        "nothing": ({"a\nb" * 100: 1}, "no 'model' with tensors"),
    }
    path = tmp_path / "model.pt"
    for content, said in held.values():
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=said) as caught:
            read_fairseq_checkpoint(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    for cfg in (torch.ones(3), 7, [1]):
        torch.save({"model": shadow, "cfg": cfg}, path)
        found = read_fairseq_checkpoint(path)
        assert found.cfg == {"model": {}}
        assert list(found.state) == ["a"]
    torch.save({"model": STATE, "cfg": {"model": wide}}, path)
    assert len(read_fairseq_checkpoint(path).cfg["model"]) == 2


def test_the_environment_may_forbid_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": STATE}, tmp_path / "model.pt")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match="unset it"):
        read_fairseq_checkpoint(tmp_path / "model.pt")


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
        archive.writestr("script/version", "3\n")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_fairseq_checkpoint(tmp_path / "script.pt")
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        archive.add(tmp_path / "other.pt", "storages")
    with pytest.raises(CheckpointError, match="tar archive"):
        read_fairseq_checkpoint(tmp_path / "old.pt")
