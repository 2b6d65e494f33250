"""Hybrids and latent attention: layers without attention are named, the others' maps are right."""

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from sinkscope.probes.probe import default_reducers
from sinkscope.subjects.anatomy import anatomy_of
from sinkscope.subjects.mome import attach_mome
from tests.families import batch
from tests.test_probes_attention import check_against_full_maps
from tests.test_probes_generate import check_stitched
from tests.test_probes_outputs import check_bit_equal
from tests.test_subjects_anatomy import SAMPLES, bookkeeping, far, read_sites
from tests.text_families import HYBRIDS, LATENT, build_text

MIXED = [name for name in HYBRIDS if name != "falcon_h1"]
pytestmark = pytest.mark.filterwarnings("ignore:.*causal_conv1d.*:UserWarning")


@pytest.mark.parametrize("name", [*HYBRIDS, *LATENT])
def test_sites_close_the_bookkeeping(name: str) -> None:
    model, inputs = build_text(name), batch("left", samples=SAMPLES)
    anatomy = anatomy_of(model)
    seen, output = read_sites(model, anatomy, inputs)
    with torch.no_grad():
        plain = model(**inputs, output_hidden_states=True)
    assert torch.equal(output.logits, plain.logits)
    for layer in range(anatomy.n_layers):
        assert far(seen["resid_pre", layer], plain.hidden_states[layer]) == 0
        if layer + 1 < anatomy.n_layers:
            assert far(seen["resid_post", layer], plain.hidden_states[layer + 1]) == 0
        if name == "falcon_h1":
            made = seen["resid_mid", layer] + seen["mlp_out", layer]
            assert far(made, seen["resid_post", layer]) < 1e-5
        else:
            assert bookkeeping(seen, layer, parallel=False) < 1e-5


@pytest.mark.parametrize("name", [*HYBRIDS, *LATENT])
def test_statistics_equal_full_maps_and_logits_stay(name: str) -> None:
    model = build_text(name)
    check_against_full_maps(model, batch("left"))
    check_bit_equal(model, batch("right"), [ss.SegmentAttention(), ss.Keep("z"), ss.Norms("v")])


@pytest.mark.parametrize("name", MIXED)
def test_layers_without_attention_are_named_and_absent(name: str) -> None:
    model = build_text(name)
    anatomy = anatomy_of(model)
    record = ss.record(model, **batch(samples=1, tokens=14), keep=["pattern"])
    own, every = list(anatomy.attention_layers), list(range(anatomy.n_layers))
    assert 0 < len(own) < len(every)
    for variable in ("segment_sum", "queries", "entropy", "key_norm", "value_norm", "pattern"):
        assert record[variable]["layer"].values.tolist() == own, variable
    for variable in ("norm", "median", "bos_cosine", "attn_out_median"):
        assert record[variable]["layer"].values.tolist() == every, variable
    without = {str(layer) for layer in every} - {str(layer) for layer in own}
    assert set(record.provenance["without_attention"]) == without
    mixer = next(iter(record.provenance["without_attention"].values()))
    with pytest.raises(SiteError, match=f"{mixer}.*layers with attention are"):
        ss.record(model, **batch(samples=1), keep=[ss.Keep("pattern", layers=(int(min(without)),))])


@pytest.mark.parametrize("name", ["qwen3_next", "lfm2"])
def test_tables_and_figures_of_a_hybrid(name: str, tmp_path) -> None:
    model = build_text(name)
    own = set(anatomy_of(model).attention_layers)
    record = ss.record(model, **batch(samples=2, tokens=14), keep=["pattern"])
    record.save(tmp_path / "record")
    record = ss.Record.open(tmp_path / "record")
    assert set(ss.find_sinks(record, threshold=0.01, min_queries=1)["layer"]) == own
    assert set(ss.segment_attention(record)["layer"]) == own
    assert set(ss.sink_heads(record, threshold=0.01)["layer"]) <= own
    assert set(ss.bos_similarity(record)["layer"]) == {0, 1, 2}
    massive = ss.find_massive_activations(record, ratio=2)
    assert set(massive["layer"]) == {0, 1, 2}
    ss.plots.attention_map(record, layer=1)
    with pytest.raises((SiteError, InputError), match="layer"):
        ss.plots.attention_map(record, layer=0)


def test_chosen_layers_of_a_hybrid() -> None:
    model = build_text("qwen3_5_text")
    record = ss.record(model, **batch(samples=1), layers=[0, 1])
    assert record["segment_sum"]["layer"].values.tolist() == [1]
    assert record["norm"]["layer"].values.tolist() == [0, 1]
    record = ss.record(model, **batch(samples=1), layers=[0, 2])
    assert "segment_sum" not in record
    assert record["norm"]["layer"].values.tolist() == [0, 2]
    with pytest.raises(SiteError, match="no attention"):
        ss.record(model, **batch(samples=1), layers=[0], keep=["pattern"])


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_queries_and_values_of_latent_attention_have_other_widths(name: str) -> None:
    model = build_text(name)
    record = ss.record(model, **batch(samples=1), keep=["q", "k", "v", "z"])
    assert anatomy_of(model).d_head == 12
    widths = [record[site].shape[-1] for site in "qkvz"]
    assert widths == [12, 12, 6, 6]
    made = np.einsum(
        "slhqk,slhkd->slhqd",
        ss.record(model, **batch(samples=1), keep=["pattern"])["pattern"].values,
        record["v"].values,
    )
    assert np.abs(made - record["z"].values).max() < 1e-5


def test_scores_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(SiteError, match="no probabilities"):
        ss.record(build_text("deepseek_v3"), **batch(samples=1), keep=["router"])
    record = ss.record(build_text("deepseek_v2:groups"), **batch(samples=1), keep=["expert_gates"])
    assert "router" in record
    with pytest.raises(InputError, match="not simply choose the most probable"):
        ss.expert_usage(record)
    assert len(ss.expert_usage(ss.record(build_text("deepseek_v2"), **batch(samples=1))))


@pytest.mark.parametrize("name", ["gemma3n_text", "gemma4_text", "qwen3_next", "falcon_h1"])
def test_experts_beside_such_blocks_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"attach_mome"):
        attach_mome(build_text(name))


@pytest.mark.parametrize("name", ["qwen3_5_text", "lfm2", "deepseek_v2"])
def test_generate_is_stitched(name: str) -> None:
    model = build_text(name)
    reducers = [*default_reducers(ss.load(model)), ss.Keep("pattern"), ss.Keep("z")]
    check_stitched(model, batch("left", samples=2, tokens=9), reducers)
