"""explain on audio-visual models with mixtures of experts, one of which writes BOS's features."""

import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.adapting import adapted
from sinkscope.avsr.mome import MomeSettings

NEURON = 94
"""It writes the massive activations of the bundled model, in layer 0."""


@lru_cache
def clip() -> Any:
    return ss.read_clip(ss.bundled_clips()[0])


def expert_in_place_of_the_neuron(placement: str) -> Any:
    """At BOS, the shared expert of layer 0 writes what the silenced neuron would have written."""
    torch.manual_seed(0)
    settings = MomeSettings(placement=placement, routed=6, top_k=2, up_init="normal")
    model = adapted(ss.load("tiny-avsr").model, mome=settings).eval()
    block = model.llm.model.layers[0]
    entering: list[torch.Tensor] = []
    handle = block.mome.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    act = ss.record(model, clip(), keep=["mlp_act"])["mlp_act"].values[0, 0, 0, NEURON]
    handle.remove()
    state = entering[0].reshape(-1, entering[0].shape[-1])[0]
    with torch.no_grad():
        column = block.mlp.down_proj.weight[:, NEURON]
        block.mome.down[0, 0] = 40 * state / state.square().sum()
        block.mome.down_bias[0, 0] = -30
        block.mome.up[0, 0] = column * float(act) / 10
        column.zero_()
    return model


@pytest.mark.parametrize(
    "placement",
    ["layer", *(pytest.param(one, marks=pytest.mark.slow) for one in ("attention", "mlp"))],
)
def test_experts_that_write_are_named_and_tested(placement: str) -> None:
    model = expert_in_place_of_the_neuron(placement)
    story = ss.explain(model, clip(), transcribe=False, draws=50)
    origin = story.findings.origin
    assert origin is not None
    assert origin.ledger.attrs["relative_error"] < 1e-5
    births = story.findings.births
    bos = births.loc[births["kind"] == "bos"]
    assert len(bos)
    assert set(bos["part"]) == {"experts"}
    assert set(bos["layer"]) == {0}
    assert bos["share"].between(0.9, 1.1).all()
    assert "by the experts, which" in story.words
    tests = story.tests.set_index(["condition", "claim"])
    assert tests.loc[("silence experts", "no massive activation is left"), "yes"] == 1
    control = tests.loc[("silence other experts", "sinks and massive tokens stay")]
    assert (control["yes"], control["control"]) == (1, True)
    assert "its experts make" in _subtitle(ss.plots.birth(origin, token=0))


def _subtitle(axes: Any) -> str:
    import matplotlib.pyplot as plt

    plt.close(axes.figure)
    assert {"experts add"} <= {text.get_text() for text in axes.get_legend().get_texts()}
    return " ".join(" ".join(text.get_text() for text in axes.texts).split())


def test_the_neuron_is_not_blamed_for_what_experts_do() -> None:
    """The same model before the swap: the MLP's neuron, and no condition of experts."""
    settings = MomeSettings(placement="layer", routed=6, top_k=2)
    model = adapted(ss.load("tiny-avsr").model, mome=settings).eval()
    found = ss.find_origins(model, clip())
    assert found.origin is not None
    assert set(found.births["part"]) == {"mlp"}
    assert NEURON in found.births["neuron"].tolist()
    assert (found.births["expert_out"] == 0).all()
    assert not {"silence experts", "silence other experts"} & set(ss.standard_interventions(found))


def run(*words: object) -> str:
    """What a command prints."""
    command = [sys.executable, "-c", "from sinkscope.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return " ".join(done.stdout.split())


@pytest.mark.slow
def test_commands_tell_of_experts(tmp_path: Path) -> None:
    media = str(ss.bundled_clips()[0])
    chosen = ["--mixture", "0", "--expert", "2:17"]
    printed = run("ablate", "tiny-mome", media, *chosen, "-o", tmp_path / "a")
    assert "no experts 0: loss" in printed
    assert "no expert 2:17: loss" in printed
    printed = run("scan", "tiny-mome", media, "-o", tmp_path / "b")
    assert "Of 23 routed experts, 4 a token" in printed
