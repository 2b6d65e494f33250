"""Published massive features, in the public checkpoints that are on disk; else skipped.

What checks them is tested with a planted model and a small table of its own.
"""

import os
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import UnknownFamilyError
from tests.planted import BOS_ID, planted
from tests.published_checkpoints import differences, folder_of, measured_at_bos, open_checkpoint

PUBLISHED = measured_at_bos(ss.published_features())
PLANT = planted()
FEATURE, LAYER = PLANT.feature, PLANT.layer


@pytest.mark.parametrize("name", dict.fromkeys(PUBLISHED["model"]))
def test_bos_alone_shows_what_was_published(name: str) -> None:
    folder = folder_of(name)
    if folder is None:
        pytest.skip(f"{name} is in no folder of SINKSCOPE_CHECKPOINTS, nor in the cache")
    model, bos = open_checkpoint(folder)
    if bos is None:
        pytest.skip(f"{name} names no BOS")
    try:
        found = differences(model, bos, PUBLISHED.loc[PUBLISHED["model"] == name])
    except UnknownFamilyError as error:
        pytest.skip(f"{name} cannot be recorded: {error}")
    assert found == []


def test_the_models_that_are_looked_for() -> None:
    assert {"Llama-3.2-1B", "Llama-3.2-3B", "Llama-2-7b-hf", "gpt2"} <= set(PUBLISHED["model"])
    assert PUBLISHED.groupby("model")["layer"].nunique().max() == 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "Planted-1"
    PLANT.model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def opened(checkpoint: Path) -> tuple[torch.nn.Module, int]:
    model, bos = open_checkpoint(checkpoint)
    assert bos == BOS_ID
    return model, bos


@pytest.fixture(scope="module")
def size(opened: tuple[torch.nn.Module, int]) -> float:
    """The planted magnitude, by transformers' own hidden states."""
    model, bos = opened
    with torch.no_grad():
        states = model(torch.tensor([[bos]]), output_hidden_states=True).hidden_states
    return float(states[LAYER + 1][0, 0, FEATURE].abs())


def told(
    size: float, *, layer: int = LAYER, feature: int = FEATURE, std: float = 0
) -> pd.DataFrame:
    """A published table of the planted model, with rows that do not count."""
    text = StringIO(
        "model,layer,feature,magnitude,std,bos,token,mark\n"
        f"Planted-1,{layer},{feature},{size},{std},yes,BOS,measured\n"
        f"Planted-1,{layer},{feature},5.0,0.0,no,first,measured\n"
        f"Planted-1,{layer},{feature},5.0,,yes,first newline,measured\n"
        f"Planted-1,{layer},{feature},,,,,secondary\n"
    )
    rows = measured_at_bos(pd.read_csv(text))
    assert len(rows) == 1
    return rows


def test_the_planted_checkpoint_passes(opened: tuple[torch.nn.Module, int], size: float) -> None:
    assert size > 1000
    assert differences(*opened, told(size)) == []
    assert differences(*opened, told(size * 1.015)) == []


def test_what_is_not_there_is_told(opened: tuple[torch.nn.Module, int], size: float) -> None:
    def first(rows: pd.DataFrame) -> str:
        return differences(*opened, rows)[0]

    assert first(told(size * 1.03)).startswith(f"block {LAYER}, feature {FEATURE}: ")
    assert first(told(size * 0.97)).startswith(f"block {LAYER}, feature {FEATURE}: ")
    assert differences(*opened, told(size * 1.03, std=size * 0.02)) == []
    assert first(told(size, feature=FEATURE + 1)) == (
        f"block {LAYER}: the largest are [{FEATURE}], not [{FEATURE + 1}]"
    )
    assert differences(*opened, told(size, layer=LAYER - 1)) != []
    later = differences(*opened, told(size, layer=LAYER + 1))
    assert later == [f"block {LAYER} has all of them already"]


def test_another_token_fails(opened: tuple[torch.nn.Module, int], size: float) -> None:
    assert differences(opened[0], BOS_ID + 8, told(size)) != []


def test_checkpoints_are_found_by_name(checkpoint: Path, tmp_path: Path) -> None:
    roots = os.pathsep.join([str(tmp_path / "none"), str(checkpoint.parent)])
    assert folder_of("planted-1", roots, "") == checkpoint
    assert folder_of("Planted-2", roots, "") is None
    assert folder_of("Planted-1", "", str(tmp_path)) is None
    (tmp_path / "Planted-1").mkdir()
    (tmp_path / "Planted-1" / "config.json").write_text("{}")
    assert folder_of("Planted-1", str(tmp_path), "") is None  # no weights
    snapshot = tmp_path / "cache" / "models--someone--Planted-1" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(checkpoint)
    assert folder_of("Planted-1", "", str(tmp_path / "cache")) == snapshot


def test_the_folder_is_named_by_the_environment(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINKSCOPE_CHECKPOINTS", str(checkpoint.parent))
    assert folder_of("Planted-1") == checkpoint
