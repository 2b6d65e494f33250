"""Probes on a model of which the papers' own code measured sinks and massive activations."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import sinkscope as ss
from tests.shared_data import shared


@pytest.fixture(scope="module")
def golden():
    folder = shared("golden/E_sink_metrics")
    config = json.loads((folder / "config.json").read_text())["llama_config"]
    theta = config.pop("rope_theta")
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    ids = torch.from_numpy(np.load(folder / "inputs.npz")["input_ids"])
    record = ss.record(model, input_ids=ids, keep=["pattern"])
    return record, load_file(folder / "outputs.safetensors")


def test_maps(golden) -> None:
    record, outputs = golden
    assert np.abs(record["pattern"].values - outputs["attentions"].numpy()).max() < 1e-5


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.5])
def test_sink_metric(golden, threshold: float) -> None:
    """The share of samples, layers and heads in which a key is a sink, in percent; exact."""
    record, outputs = golden
    alpha = record["segment_sum"].sum("segment") / record["queries"].sum("segment")
    rate = 100 * (alpha > threshold).mean(("sample", "layer", "head"))
    assert np.allclose(rate, outputs[f"sink_metric_eps{threshold}"], atol=1e-4)


def test_massive_activations_and_medians(golden) -> None:
    record, outputs = golden
    expected = outputs["massive_top3_median_per_seq"].numpy()
    per_layer = np.abs(record["top_value"].values).reshape(5, 5, -1)
    top = -np.sort(-per_layer, axis=-1)[..., :3]
    assert np.allclose(top, expected[:, :3].transpose(0, 2, 1), rtol=1e-4)
    assert np.allclose(record["median"], expected[:, 3], rtol=1e-4)
    features = record["top_feature"].values
    for sample, layer, rank in np.ndindex(5, 5, 3):
        token = int(outputs["massive_top3_token"][sample, layer, rank])
        assert outputs["massive_top3_dim"][sample, layer, rank] in features[sample, layer, token]


def test_norms(golden) -> None:
    record, outputs = golden
    for site, name in [("hidden", "norm"), ("key", "key_norm"), ("value", "value_norm")]:
        norms = record[name].mean(
            [axis for axis in ("sample", "kv_head") if axis in record[name].dims]
        )
        expected = outputs[f"{site}_norm_mean"].numpy()
        if site == "hidden":  # theirs begins with the embeddings and ends behind the final norm
            norms, expected = norms[:-1], expected[1:-1]
        assert np.allclose(norms, expected, rtol=1e-4), name
