"""Golden numbers of the papers' own code, and published maps with the sink rates they must give."""

import json

import numpy as np
import pytest

from sinkscope.analysis.massive import massive_layers
from sinkscope.analysis.sinks import find_sinks, key_attention, sink_heads, sink_rate
from sinkscope.layout import TokenLayout
from tests.fake_records import record_from
from tests.shared_data import shared


def golden(name: str = "outputs.safetensors", folder: str = "E_sink_metrics") -> dict:
    from safetensors.numpy import load_file

    return load_file(shared(f"golden/{folder}/{name}"))


def percent(attentions: np.ndarray, threshold: float, axes: tuple[int, ...]) -> np.ndarray:
    """The score of Gu et al. from our two functions; axes of [sample, layer, key]."""
    return 100 * sink_rate(key_attention(attentions), threshold=threshold).mean(axes)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.5])
def test_the_sink_metric_is_the_authors(threshold: float) -> None:
    expected = golden()
    found = percent(expected["attentions"], threshold, (0, 1))
    np.testing.assert_allclose(found, expected[f"sink_metric_eps{threshold}"], atol=1e-4)


def test_the_sink_metric_per_layer_and_head() -> None:
    expected = golden()
    alpha = key_attention(expected["attentions"])
    per_layer = 100 * sink_rate(alpha).mean(0)
    np.testing.assert_allclose(per_layer, expected["sink_metric_eps0.3_per_layer"], atol=1e-4)
    per_head = 100 * (alpha > 0.3).mean(0)
    np.testing.assert_allclose(per_head, expected["sink_metric_eps0.3_per_layer_head"], atol=1e-4)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3])
def test_the_sink_metric_of_a_second_model(threshold: float) -> None:
    maps = golden(folder="C_llama_lora_small")
    maps = [maps[name] for name in sorted(maps) if name.startswith("attentions.")]
    found = percent(np.stack(maps, axis=1), threshold, (0, 1))
    np.testing.assert_allclose(found, golden()[f"setC_sink_metric_eps{threshold}"], atol=1e-4)


def test_shifting_the_keys_by_one_would_be_seen() -> None:
    expected = golden()
    shifted = np.roll(expected["attentions"], 1, axis=-1)
    found = percent(shifted, 0.3, (0, 1))
    assert np.abs(found - expected["sink_metric_eps0.3"]).max() > 10


@pytest.mark.parametrize("layer", [0, 5])
def test_recorded_maps_of_gpt2(layer: int) -> None:
    pattern = np.load(shared(f"data/recorded_attention/gpt2_small_layer{layer}.npz"))["pattern"]
    about = json.loads(shared(f"data/recorded_attention/gpt2_small_layer{layer}.json").read_text())
    wanted = about["expected"]["sink_rate_token0_epsilon0.3"]
    assert sink_rate(key_attention(pattern))[0] == pytest.approx(wanted, abs=1e-12)

    states = np.random.default_rng(0).normal(size=(1, len(about["tokens"]), 8))
    layout = TokenLayout.of_text(about["tokens"], has_bos=about["bos_prepended"])
    record = record_from(pattern[None], states, layout, first_layer=layer)
    rate = sink_rate(key_attention(record)).sel(layer=layer).values[0]
    assert rate[0] == pytest.approx(wanted, abs=1e-12)
    sinks = find_sinks(record, min_queries=3)
    assert (sinks["token"] == 0).all()
    assert len(sinks) == (0 if layer == 0 else 1)
    heads = sink_heads(record)
    assert heads.loc[heads["token"] == 0, "sink"].mean() >= wanted


def residual_states() -> np.ndarray:
    """resid_post of the golden model, [sample, layer, token, feature], from its weights."""
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = shared("golden/E_sink_metrics")
    config = json.loads((folder / "config.json").read_text())["llama_config"]
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    loaded = model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    assert not loaded.unexpected_keys
    seen: list[torch.Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(
            lambda _module, _inputs, output: seen.append(
                output if isinstance(output, torch.Tensor) else output[0]
            )
        )
    ids = torch.from_numpy(np.load(folder / "inputs.npz")["input_ids"])
    with torch.no_grad():
        model(ids)
    return torch.stack(seen, dim=1).numpy()


def test_the_three_largest_and_the_median_are_the_authors() -> None:
    expected = golden()
    states = residual_states()
    for sample, maps in enumerate(expected["attentions"]):
        length = maps.shape[-1]
        layout = TokenLayout.of_text([f"t{i}" for i in range(length)], has_bos=True)
        table = massive_layers(record_from(maps, states[sample], layout))
        wanted = expected["massive_top3_median_per_seq"][sample]
        found = table[["top1", "top2", "top3", "median"]].to_numpy().T
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-4)
        for rank in range(3):
            for what in ("token", "feature"):
                wanted_at = expected[f"massive_top3_{what.replace('feature', 'dim')}"][sample]
                at = table[f"top{rank + 1}_{what}"].to_numpy()
                np.testing.assert_array_equal(at, wanted_at[:, rank])


def test_the_sinks_of_the_golden_model() -> None:
    attentions, states = golden()["attentions"], residual_states()
    length = attentions.shape[-1]
    layout = TokenLayout.of_text([f"t{i}" for i in range(length)], has_bos=True)
    bos_layers = []
    for maps, own in zip(attentions, states, strict=True):
        sinks = find_sinks(record_from(maps, own, layout, massive_ratio=100.0))
        wanted = set()
        for layer, token in np.ndindex(len(maps), length - 7):
            columns = maps[layer, :, token:, token].sum(-1) / (length - token)
            if columns.mean() > 0.3 or (columns > 0.3).sum() >= 4:
                wanted.add((layer, token))
        assert set(zip(sinks["layer"], sinks["token"], strict=True)) == wanted
        bos = sinks[sinks["kind"] == "bos"]
        bos_layers += bos["layer"].tolist()
        peak = np.abs(own[:, 0]).max(-1) / np.median(np.abs(own), axis=(1, 2))
        assert (bos["massive"].to_numpy(bool) == (peak >= 100)[bos["layer"]]).all()
        assert bos["massive_entering"].all()
    assert set(bos_layers) == {4}
