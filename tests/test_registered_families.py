"""A model of someone's own is described once and studied like any other; the example is run."""

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError, UnknownFamilyError
from sinkscope.subjects import families
from sinkscope.subjects.finding import find_decoder
from sinkscope.subjects.multimodal import registry
from sinkscope.subjects.multimodal.registry import composite_of, composites, drop_composite

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_own_model.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("my_own_model", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(families, "_TABLE", dict(families._TABLE))
    monkeypatch.setattr(registry, "_added", dict(registry._added))


def made(example: ModuleType) -> tuple[torch.nn.Module, dict]:
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    torch.manual_seed(0)
    model = example.Whistle(example.WhistleConfig(num_attention_heads=4, **size)).eval()
    ids = torch.tensor([[5, 6, *[example.SOUND] * 20, 7, 8]])
    return model, {"input_ids": ids, "mel": torch.randn(1, 80, 8)}


def test_the_example_runs(
    example: ModuleType,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    example.main()
    assert "'audio', 'text', 'text')" in capsys.readouterr().out


def test_its_layout_and_sites_are_its_own(example: ModuleType) -> None:
    ss.register_family("whistle", blocks="brain.layers", layout=example.layout)
    model, inputs = made(example)
    with torch.no_grad():
        plain = model(**inputs)
    sites = [ss.Keep(site) for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    with ss.probe(model, sites) as probe:
        watched = model(**inputs)
    assert torch.equal(plain, watched)
    layout = probe.record.layouts[0]
    assert layout.seconds[21].tolist() == pytest.approx([0.76, 0.80])
    parts = sum(probe.record[site] for site in ("resid_pre", "attn_out", "mlp_out"))
    assert np.abs(parts - probe.record["resid_post"]).max() < 1e-5


def test_a_layout_that_does_not_fit_is_refused(example: ModuleType) -> None:
    def short(given) -> list:
        return [layout.take(range(10)) for layout in example.layout(given)]

    ss.register_family("whistle", blocks="brain.layers", layout=short)
    model, inputs = made(example)
    with pytest.raises(InputError, match="10 entries"):
        ss.record(model, inputs)


def test_what_a_layout_function_returns_is_checked(example: ModuleType) -> None:
    unchecked = inspect.unwrap(ss.register_family)  # tests check the types of arguments besides
    with pytest.raises(InputError, match="layout is a str"):
        unchecked("whistle", blocks="brain.layers", layout="x")
    model, inputs = made(example)
    for odd, said in ((None, "a NoneType"), (["x"], "a list with a str in it")):
        ss.register_family("whistle", blocks="brain.layers", layout=lambda given, odd=odd: odd)
        with pytest.raises(InputError, match=f"'whistle' returned {said}"):
            ss.record(model, inputs)


def test_registering_again_without_a_layout_takes_it_back(example: ModuleType) -> None:
    ss.register_family("whistle", blocks="brain.layers", layout=example.layout)
    assert "whistle" in composites()
    ss.register_family("whistle", blocks="brain.layers")
    assert "whistle" not in composites()
    own = composite_of("voxtral")
    ss.register_family("voxtral", layout=example.layout)
    assert composite_of("voxtral") is not own
    drop_composite("voxtral")
    assert composite_of("voxtral") is own


def test_a_row_of_ones_own_is_not_passed_over_for_the_text_model_inside() -> None:
    from transformers import LlamaConfig, LlamaModel

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    inner = LlamaModel(LlamaConfig(num_attention_heads=2, vocab_size=20, **size))
    model = torch.nn.Module()
    model.config = SimpleNamespace(model_type="mistyped")
    model.brain = inner
    ss.register_family("mistyped", blocks="brain.layers")
    assert find_decoder(model)[1].model_type == "mistyped"
    ss.register_family("mistyped", blocks="brain.nowhere")
    with pytest.raises(UnknownFamilyError, match=r"'mistyped' but has no list of blocks"):
        find_decoder(model)
