"""Only what was trained is kept, and put together again with the bases, or with none other."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sinkscope import assets
from sinkscope.avsr.adapters import ADAPTERS, BASES, bases_of, save_adapters
from sinkscope.avsr.checkpoint import read_weights, state_hash
from sinkscope.avsr.config import AvsrConfig, LoraSettings
from sinkscope.avsr.convert import Answers, convert
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError, InputError
from tests.golden_avsr import published_weights
from tests.released_checkpoints import (
    AVERAGED,
    DRIFTED,
    STACKED,
    answered,
    base_models,
    clip,
    half,
    released,
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return base_models(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, sources: Answers) -> Path:
    """A folder of adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    weights = published_weights(STACKED)
    path = released(folder / "m.pth", STACKED, {DRIFTED: weights[DRIFTED] + 1})
    return convert(path, folder / "small", sources, adapters_only=True).folder


def parts_of(sources: Answers) -> dict[str, str]:
    """The bases by the parts of an audio-visual model."""
    return {
        "llm": str(sources.llm),
        "audio_encoder": str(sources.encoder),
        "video_encoder": str(sources.video_encoder),
    }


def same(one: LlamaAvsr, other: LlamaAvsr) -> None:
    """Whether two models hold the same numbers in the same dtypes."""
    own, theirs = one.state_dict(), other.state_dict()
    assert own.keys() == theirs.keys()
    for name, value in own.items():
        assert value.dtype == theirs[name].dtype, name
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    ("case", "in_half", "dtype"),
    [
        (STACKED, False, torch.float32),
        (STACKED, True, torch.float32),
        (AVERAGED, True, None),
    ],
)
def test_the_whole_is_put_together_again(
    tmp_path: Path, sources: Answers, case: str, in_half: bool, dtype: torch.dtype | None
) -> None:
    """The bases are float32; a checkpoint in half precision holds them rounded."""
    weights = half(case) if in_half else published_weights(case)
    torch.save(weights | {DRIFTED: weights[DRIFTED] + 1}, tmp_path / "m.pth")
    answers = answered(sources, case)
    convert(tmp_path / "m.pth", tmp_path / "whole", answers)
    convert(tmp_path / "m.pth", tmp_path / "small", answers, adapters_only=True)
    whole = LlamaAvsr.from_pretrained(tmp_path / "whole", dtype=dtype)
    same(whole, LlamaAvsr.from_pretrained(tmp_path / "small", dtype=dtype))
    assert not (tmp_path / "small" / "model.safetensors").exists()
    size, of_whole = (
        (tmp_path / n).stat().st_size for n in (f"small/{ADAPTERS}", "whole/model.safetensors")
    )
    assert size < 0.1 * of_whole


def test_what_is_stored(small: Path) -> None:
    """Projectors, branches, the rows of the added tokens and drifted statistics; no more."""
    weights = published_weights(STACKED)
    stored = read_weights(small, name=ADAPTERS)
    rows = "llm.model.embed_tokens.weight"
    assert torch.equal(stored.pop(f"{rows}.added_rows"), weights[rows][-5:])
    assert torch.equal(stored.pop("llm.lm_head.weight.added_rows"), weights[rows][-5:])
    drifted = stored.pop(DRIFTED.replace("video_encoder.", "video_encoder.model."))
    assert torch.equal(drifted, weights[DRIFTED] + 1)
    projectors = {name for name in stored if "_projector." in name}
    branches = {name for name in stored if ".lora_" in name}
    assert len(projectors) == 8
    assert len(branches) == 4 * 4
    assert stored.keys() == projectors | branches


def copied(small: Path, folder: Path, **sources: str) -> Path:
    """The folder of adapters with bases elsewhere."""
    shutil.copytree(small, folder)
    bases = json.loads((folder / BASES).read_text())
    for base in bases:
        base["source"] = sources.get(base["part"], base["source"])
    (folder / BASES).write_text(json.dumps(bases))
    return folder


def changed(base: str, name: str, change: Any) -> None:
    """Changes a weight of a base model in its file."""
    path = Path(base)
    if path.is_dir():
        weights = load_file(path / "model.safetensors")
        weights[name] = change(weights[name])
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        return
    content = torch.load(path)
    content["model"][name] = change(content["model"][name])
    torch.save(content, path)


def last_number(value: Tensor) -> Tensor:
    """One number of a weight changed by its smallest step."""
    value = value.clone()
    flat = value.view(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(torch.inf))
    return value


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("llm", "model.layers.2.mlp.down_proj.weight"),
        ("audio_encoder", "encoder.layers.1.fc2.weight"),
        ("video_encoder", "feature_extractor_video.resnet.trunk.layer4.1.conv2.weight"),
    ],
)
def test_another_base_is_refused(
    tmp_path: Path, small: Path, sources: Answers, part: str, name: str
) -> None:
    """One number in one weight is another base."""
    own = Path(parts_of(sources)[part])
    (shutil.copytree if own.is_dir() else shutil.copyfile)(own, tmp_path / own.name)
    folder = copied(small, tmp_path / "small", **{part: str(tmp_path / own.name)})
    LlamaAvsr.from_pretrained(folder)
    changed(str(tmp_path / own.name), name, last_number)
    with pytest.raises(CheckpointError, match=f"was trained on another {part} than .* restore"):
        LlamaAvsr.from_pretrained(folder)


def test_a_hash_is_of_every_number_name_shape_and_dtype() -> None:
    weights = {"a": torch.zeros(100_003), "b": torch.zeros(2, 3)}
    other = weights["a"].clone()
    other[77_777] = -0.0
    hashes = {
        state_hash(found)
        for found in (
            weights,
            weights | {"a": other},
            weights | {"b": torch.zeros(3, 2)},
            weights | {"b": torch.zeros(2, 3, dtype=torch.int32)},
            {"a": weights["a"], "c": weights["b"]},
            weights | {"d": torch.zeros(0)},
        )
    }
    assert len(hashes) == 6
    assert state_hash(dict(reversed(weights.items()))) == state_hash(weights)
    turned = {"a": weights["a"], "b": torch.zeros(3, 2).T}
    assert state_hash(turned) == state_hash(weights)


def test_a_base_that_is_gone(tmp_path: Path, small: Path) -> None:
    folder = copied(small, tmp_path / "small", video_encoder=str(tmp_path / "gone.pt"))
    with pytest.raises(CheckpointError, match=f"cannot be read .* write into {BASES} where it is"):
        LlamaAvsr.from_pretrained(folder)


def test_bases_are_found_from_anywhere(
    tmp_path: Path, sources: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = released(tmp_path / "m.pth", STACKED)
    monkeypatch.chdir(Path(str(sources.llm)).parent)
    near = replace(sources, llm="llm", encoder="whisper", video_encoder="hubert.pt")
    convert(path, tmp_path / "small", near, adapters_only=True)
    monkeypatch.chdir(tmp_path)
    LlamaAvsr.from_pretrained(tmp_path / "small")


def test_bases_without_weights_are_refused(tmp_path: Path, sources: Answers) -> None:
    path = released(tmp_path / "m.pth", STACKED)
    for change in ({"video_encoder": "large"}, {"encoder": f"{sources.encoder}/config.json"}):
        with pytest.raises(InputError, match="needs the weights of every base model, and"):
            convert(path, tmp_path / "small", replace(sources, **change), adapters_only=True)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "lists no base models"),
        ("null", "lists no base models"),
        ('["llm"]', "lists no base models"),
        ('[{"part": "llm"}]', "lists no base models"),
        ('[{"part": "llm", "kind": "x", "source": "y"}]', "of kind 'x'"),
        ('[{"part": "llm", "kind": "llm", "source": "y", "dtype": "load"}]', "dtype 'load'"),
        ("[]", "adds rows to llm.lm_head.weight, which no base model has"),
    ],
)
def test_damaged_lists_of_bases(tmp_path: Path, small: Path, content: str, message: str) -> None:
    folder = copied(small, tmp_path / "small")
    (folder / BASES).write_text(content)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        LlamaAvsr.from_pretrained(folder)


def test_adapters_of_a_model_in_memory(tmp_path: Path, sources: Answers) -> None:
    convert(released(tmp_path / "m.pth", STACKED), tmp_path / "whole", sources)
    model = LlamaAvsr.from_pretrained(tmp_path / "whole")
    with torch.no_grad():
        model.audio_projector.get_parameter("0.weight").add_(1)
    save_adapters(model, tmp_path / "small", parts_of(sources))
    again = LlamaAvsr.from_pretrained(tmp_path / "small")
    same(again, model)
    with torch.no_grad():
        found, wanted = (one(one.prepare([clip()])).logits for one in (again, model))
    assert torch.equal(found, wanted)
    with pytest.raises(InputError, match="whole exists; name a folder"):
        save_adapters(model, tmp_path / "whole", parts_of(sources))
    given = parts_of(sources)
    with pytest.raises(CheckpointError, match=r"base model '.*' \(video_encoder\) cannot be read"):
        save_adapters(model, tmp_path / "none", given | {"video_encoder": str(tmp_path / "no.pt")})
    assert {file.name for file in tmp_path.iterdir()} == {"m.pth", "whole", "small"}
    with pytest.raises(InputError, match="those for audio_encoder are missing, those for no part"):
        bases_of(model.config, {k: v for k, v in given.items() if k != "audio_encoder"})
    with pytest.raises(InputError, match="those for nose too many"):
        bases_of(model.config, given | {"nose": "x"})
    with pytest.raises(
        InputError,
        match="audio_encoder of this model is of kind 'tiny', which has no published weights",
    ):
        bases_of(AvsrConfig.load(Path(assets.__file__).parent / "tiny-avsr"), given)


def test_a_hub_model_is_named_with_its_commit(tmp_path: Path, sources: Answers) -> None:
    """The LLM lies in a cache as the hub's client keeps it; its branch moves on afterwards."""
    commit, later = "a" * 40, "b" * 40
    repo = tmp_path / "home" / "hub" / "models--someone--llm"
    (repo / "refs").mkdir(parents=True)
    (repo / "snapshots").mkdir()
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(str(sources.llm), repo / "snapshots" / commit)
    path = released(tmp_path / "m.pth", STACKED)
    code = f"""
from sinkscope.avsr.config import AvsrConfig, LoraSettings
from sinkscope.avsr.convert import Answers, convert
from sinkscope.avsr.model import LlamaAvsr
from pathlib import Path
answers = Answers(llm="someone/llm", encoder={sources.encoder!r},
                  video_encoder={sources.video_encoder!r}, lora_alpha=8)
convert({str(path)!r}, {str(tmp_path / "small")!r}, answers, adapters_only=True)
Path({str(repo / "refs" / "main")!r}).write_text({later!r})
LlamaAvsr.from_pretrained({str(tmp_path / "small")!r})
"""
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    bases = {entry["part"]: entry for entry in json.loads((tmp_path / "small" / BASES).read_text())}
    assert (bases["llm"]["source"], bases["llm"]["revision"]) == ("someone/llm", commit)
    assert bases["audio_encoder"]["revision"] is None


def changed_twin(folder: Path) -> LlamaAvsr:
    """A copy of a model with another language model and projector, and the same encoders."""
    twin = LlamaAvsr.from_pretrained(folder, dtype=None)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if "encoder" not in name:
                weight.mul_(1.5)
    return twin


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with a model, and a twin that refers to the model beside it."""
    shutil.copytree(Path(assets.__file__).parent / "tiny-avsr", tmp_path / "here" / "base")
    base = tmp_path / "here" / "base"
    sources = dict.fromkeys(("llm", "audio_encoder", "video_encoder"), str(base))
    save_adapters(changed_twin(base), tmp_path / "here" / "twin", sources)
    return tmp_path / "here"


def test_a_model_can_share_parts_with_another_one(pair: Path) -> None:
    twin = LlamaAvsr.from_pretrained(pair / "twin", dtype=None)
    for name, value in changed_twin(pair / "base").state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, rtol=0, atol=0)
    stored = load_file(pair / "twin" / ADAPTERS)
    assert stored
    assert not [name for name in stored if "encoder" in name]


def test_the_two_can_be_moved_together(pair: Path, tmp_path: Path) -> None:
    sources = {entry["source"] for entry in json.loads((pair / "twin" / BASES).read_text())}
    assert sources == {"../base"}
    pair.rename(tmp_path / "there")
    assert LlamaAvsr.from_pretrained(tmp_path / "there" / "twin")


def test_a_model_that_was_changed_since_is_no_base(pair: Path) -> None:
    weights = load_file(pair / "base" / "model.safetensors")
    name = next(name for name in weights if name.startswith("audio_encoder"))
    save_file(weights | {name: weights[name] + 1}, pair / "base" / "model.safetensors")
    with pytest.raises(CheckpointError, match="another audio_encoder"):
        LlamaAvsr.from_pretrained(pair / "twin")
    shutil.rmtree(pair / "base")
    with pytest.raises(CheckpointError, match="cannot be read"):
        LlamaAvsr.from_pretrained(pair / "twin")


def test_branches_on_a_base_without_them(pair: Path, tmp_path: Path) -> None:
    from sinkscope.avsr.lora import attach_lora

    model = LlamaAvsr.from_pretrained(pair / "base", dtype=None)
    settings = LoraSettings(reduction=8, alpha=16)
    attach_lora(model.llm, settings)
    model.config = replace(model.config, lora=settings)
    sources = dict.fromkeys(("llm", "audio_encoder", "video_encoder"), str(pair / "base"))
    save_adapters(model, pair / "branches", sources)
    stored = load_file(pair / "branches" / ADAPTERS)
    assert stored
    assert all("lora_" in name or "projector" in name for name in stored)
    read = LlamaAvsr.from_pretrained(pair / "branches", dtype=None).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(read[name], value, rtol=0, atol=0)


def test_a_base_that_has_bases_itself_is_refused(pair: Path) -> None:
    sources = dict.fromkeys(("llm", "audio_encoder", "video_encoder"), str(pair / "twin"))
    with pytest.raises(InputError, match="refers to base models itself"):
        save_adapters(changed_twin(pair / "base"), pair / "third", sources)
