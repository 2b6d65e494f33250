"""``record``: default variables against numpy, padding, layers, what is kept or refused."""

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from sinkscope.glossary import SEGMENTS
from sinkscope.probes.replay import replay
from sinkscope.probes.tracking import announce
from sinkscope.subjects.subject import load
from tests.families import FAMILIES, MORE_FAMILIES, batch, build, tiny
from tests.same_records import check_same

EVERYTHING = [*ss.DEFAULT, ss.ArgmaxShare(), ss.PatternBins(4), ss.Keep("pattern")]


def hidden_states(model, inputs: dict) -> list[np.ndarray]:
    """What transformers itself says leaves every block but the last."""
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
    return [state.double().numpy() for state in states[1:-1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_statistics_against_numpy(family: str) -> None:
    model, inputs = tiny(family), batch("right")
    record = ss.record(model, **inputs, keep=["resid_post", "mlp_out", "attn_out"])
    real = inputs["attention_mask"].sum(1).tolist()
    for sample, length in enumerate(real):
        one = record.sample(sample)
        for layer, states in enumerate(hidden_states(model, inputs)):
            check_states(one, layer, states[sample, :length])
        for site in ("mlp_out", "attn_out"):
            for layer in record.layers:
                check_layer_top(one, layer, site)


def check_states(one: ss.Record, layer: int, states: np.ndarray) -> None:
    assert np.allclose(one["resid_post"][0, layer], states, atol=1e-4)
    order = np.argsort(-np.abs(states), axis=-1)[:, :8]
    assert np.array_equal(one["top_feature"][0, layer], order)
    top = np.take_along_axis(states, order, -1)
    assert np.allclose(one["top_value"][0, layer], top, rtol=1e-4)
    median = np.sort(np.abs(states).ravel())[(states.size - 1) // 2]
    assert one["median"][0, layer] == pytest.approx(median, rel=1e-4)
    norms = np.linalg.norm(states, axis=-1)
    assert np.allclose(one["norm"][0, layer], norms, rtol=1e-5)
    cosine = states @ states[0] / (norms * norms[0])
    assert np.allclose(one["bos_cosine"][0, layer], cosine, atol=1e-5)


def check_layer_top(one: ss.Record, layer: int, site: str) -> None:
    states = one[site][0, layer].values
    values, tokens, features = (
        one[f"{site}_top_{name}"][0, layer].values for name in ("value", "token", "feature")
    )
    assert np.array_equal(np.abs(values), np.sort(np.abs(states).ravel())[::-1][:5])
    assert np.array_equal(states[tokens, features], values)
    lower = np.sort(np.abs(states).ravel())[(states.size - 1) // 2]
    assert one[f"{site}_median"][0, layer] == lower


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_takes_part_in_nothing(family: str, padding: str) -> None:
    """Each sample of a padded batch says what it says alone."""
    model, inputs = tiny(family), batch(padding)
    together = ss.record(model, **inputs, reducers=EVERYTHING)
    assert together.provenance["padding_side"] == padding
    for sample in range(3):
        own = inputs["attention_mask"][sample].bool()
        alone = ss.record(model, input_ids=inputs["input_ids"][sample, own], reducers=EVERYTHING)
        assert together.layouts[sample].labels == alone.layouts[0].labels
        check_same(together.sample(sample), alone)


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_other_families_record(family: str) -> None:
    record = ss.record(tiny(family), **batch("left"), reducers=EVERYTHING)
    assert np.allclose(record["pattern"][0].sum("key"), 1, atol=1e-5)


def test_the_variables_of_a_default_record() -> None:
    record = ss.record(tiny("llama"), **batch())
    assert set(record) == {
        *("length", "segment_sum", "queries", "entropy", "top_value", "top_feature"),
        *(f"{s}_top_{n}" for s in ("mlp_out", "attn_out") for n in ("value", "token", "feature")),
        *("median", "mlp_out_median", "attn_out_median", "norm", "key_norm", "value_norm"),
        "bos_cosine",
    }
    assert record["segment_sum"].dims == ("sample", "layer", "head", "segment", "key")
    assert record["top_value"].shape == (3, 2, 12, 8)
    assert record["mlp_out_top_value"].dims == ("sample", "layer", "rank")
    assert record["key_norm"].dims == ("sample", "layer", "kv_head", "token")
    for name in ("subject", "model_hash", "dtype", "device", "versions", "padding_side", "tokens"):
        assert name in record.provenance
    assert record.provenance["prepend_bos"] == "as given"
    assert record.provenance["bos_present"] == [False] * 3


def test_a_record_survives_the_disk(tmp_path) -> None:
    record = ss.record(tiny("gemma2"), **batch("left"), reducers=EVERYTHING)
    check_same(ss.Record.open(record.save(tmp_path / "record")), record, tolerance=0)


def test_records_merge_into_the_record_of_all() -> None:
    model, ids = tiny("llama"), batch()["input_ids"]
    parts = [ss.record(model, input_ids=ids[i, : 12 - 2 * i]) for i in range(3)]
    mask = torch.arange(12)[None] < torch.tensor([[12], [10], [8]])
    together = ss.record(model, input_ids=ids * mask, attention_mask=mask.long())
    check_same(ss.merge(parts), together)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_oss"])
def test_replaying_what_was_kept(family: str) -> None:
    """Reducers over a kept record give what they gave while it was made."""
    sites = ("pattern", "resid_post", "mlp_out", "attn_out", "k", "v")
    record = ss.record(tiny(family), **batch("left"), reducers=EVERYTHING, keep=sites[1:])
    reducers = [*ss.DEFAULT, ss.ArgmaxShare(), ss.PatternBins(4)]
    again = replay(record, reducers)
    expected = ss.record(tiny(family), **batch("left"), reducers=reducers)
    check_same(again, expected)
    with pytest.raises(SiteError, match="holds no 'resid_pre'"):
        replay(record, [ss.Norms("resid_pre")])
    some = ss.record(tiny(family), **batch(), keep=[ss.Keep("resid_post", layers=[1])])
    with pytest.raises(SiteError, match="layer 0 of 'resid_post' was not kept"):
        replay(some, [ss.Norms("resid_post", layers=[0])])


def test_layers() -> None:
    model, inputs = build("llama", num_hidden_layers=4), batch()
    whole = ss.record(model, **inputs)
    some = ss.record(model, **inputs, layers=[3, 1], keep=[ss.Keep("pattern", layers=[0, 3])])
    assert some.layers == [1, 3]
    assert some["pattern"]["layer"].values.tolist() == [3]
    for name in ("segment_sum", "norm", "mlp_out_top_value"):
        assert (some[name].values == whole[name].sel(layer=[1, 3]).values).all(), name
    with pytest.raises(SiteError, match="no layer 4; its layers are 0 to 3"):
        ss.record(model, **inputs, layers=[4])
    with pytest.raises(SiteError, match="none of the layers"):
        ss.record(model, **inputs, layers=[1], keep=[ss.Keep("pattern", layers=[0])])


@pytest.mark.parametrize(
    "site", ["resid_pre", "resid_mid", "mlp_gate", "mlp_up", "mlp_act", "q", "k", "v", "z"]
)
def test_any_site_can_be_kept(site: str) -> None:
    record = ss.record(tiny("llama"), **batch("left"), keep=[site])
    assert record[site].sizes["token"] == 12
    assert record[site].dims[2:] == ss.Keep(site).variables()[site]
    assert not record[site][0].isnull().any()
    assert record[site][2, ..., 6:, :].isnull().all()


def test_kept_sites_close_the_books() -> None:
    """What is kept adds up: z times values' map, and the residual stream's bookkeeping."""
    sites = ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "pattern", "v", "z"]
    record = ss.record(tiny("llama"), **batch("left"), keep=sites)
    get = {site: record[site].fillna(0).values for site in sites}
    assert np.allclose(get["resid_pre"] + get["attn_out"], get["resid_mid"], atol=1e-4)
    assert np.allclose(get["resid_mid"] + get["mlp_out"], get["resid_post"], atol=1e-4)
    values = get["v"].repeat(2, axis=2)
    assert np.allclose(get["pattern"] @ values, get["z"], atol=1e-5)


def test_absent_sites_are_refused() -> None:
    with pytest.raises(SiteError, match="parallel block"):
        ss.record(tiny("gpt_neox"), **batch(), keep=["resid_mid"])
    with pytest.raises(SiteError, match="no gate"):
        ss.record(tiny("gpt2"), **batch(), keep=["mlp_gate"])
    with pytest.raises(SiteError, match="no site 'hidden'"):
        ss.record(tiny("gpt2"), **batch(), keep=["hidden"])


def test_more_than_the_limit_is_refused_before_it_is_kept() -> None:
    model, inputs = build("llama"), batch()
    need = 3 * 2 * 12 * 12 * (4 * 4 + 1)
    ss.record(model, **inputs, reducers=[ss.Keep("pattern", max_bytes=need)])
    with pytest.raises(SiteError, match=r"Keep\('pattern'\) would take .* for 2 layers"):
        ss.record(model, **inputs, reducers=[ss.Keep("pattern", max_bytes=need - 1)])
    one = need // 3
    with (
        ss.probe(model, [ss.Keep("pattern", max_bytes=2 * one - 1)]) as probe,
        torch.no_grad(),
    ):
        model(inputs["input_ids"][:1])
        with pytest.raises(SiteError, match="its limit"):
            model(inputs["input_ids"][:1])
    assert len(probe.record) == 1
    with pytest.raises(SiteError, match=r"Keep\('mlp_act'\)"):
        ss.record(model, **inputs, keep=[ss.Keep("mlp_act", max_bytes=1000)])


def test_a_layout_of_the_wrong_length_is_refused() -> None:
    model, inputs = tiny("llama"), batch(samples=1)
    layout = ss.TokenLayout.of_text(["a"] * 11, has_bos=False)
    with pytest.raises(InputError, match="11"):
        ss.record(model, **inputs, layout=layout)
    with ss.probe(model) as probe:
        announce(probe.subject.anatomy.decoder, [layout], [None])
        with pytest.raises(InputError, match="covers 11 positions, the forward has 12"):
            model(**inputs)
        announce(probe.subject.anatomy.decoder, [layout, layout], [None, None])
        with pytest.raises(InputError, match="2 layouts were given"):
            model(**inputs)
        model(**inputs)


def test_a_layout_that_disagrees_with_the_mask_is_refused() -> None:
    model, inputs = tiny("llama"), batch("left", samples=2)
    hidden = [ss.TokenLayout.of_text(["a"] * 12, has_bos=False)] * 2
    first = ["padding"] + ["text"] * 11
    shown = [ss.TokenLayout.of(first, [""] * 12)] * 2
    with ss.probe(model) as probe:
        announce(probe.subject.anatomy.decoder, hidden, [None, None])
        with pytest.raises(InputError, match="Sample 1: position 0 is 'text' in the layout, but"):
            model(**inputs)
        announce(probe.subject.anatomy.decoder, shown, [None, None])
        with pytest.raises(InputError, match="Sample 0: position 0 is padding in the layout, but"):
            model(**inputs)
        model(**inputs)


def test_embeddings_with_a_layout_of_their_own() -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    embeds = model.get_input_embeddings()(ids).detach()
    segments = ["text"] * 3 + ["bos"] + ["audio"] * 8
    layout = ss.TokenLayout.of(segments, list("abcdefghijkl"))
    record = ss.record(model, inputs_embeds=embeds, layout=layout)
    assert record.layouts[0].reference == 3
    assert record.provenance["bos_present"] == [True]
    assert np.allclose(record["bos_cosine"][0, :, 3], 1)
    assert not record["queries"][0, 0, SEGMENTS.index("video")].any()
    assert record["queries"][0, 0, 1].values.tolist() == [8] * 4 + list(range(8, 0, -1))
    plain = ss.record(model, input_ids=ids)
    assert np.allclose(record["segment_sum"].sum("segment"), plain["segment_sum"].sum("segment"))


def test_a_subject_is_taken_as_it_is() -> None:
    subject = load(tiny("llama"))
    assert ss.record(subject, **batch()).provenance["subject"] == subject.name


def test_own_reducers_only() -> None:
    record = ss.record(tiny("llama"), **batch(), reducers=[ss.Median("resid_pre")])
    assert set(record) == {"resid_pre_median", "length"}


def test_a_bridge_of_transformer_lens(tmp_path) -> None:
    """The bridge's model, hooked at transformers' own modules, equals the model's own record."""
    pytest.importorskip("transformer_lens")
    from tests.benchmarks.ways import bridge_of, random_llama

    model, inputs = random_llama(eager=True), batch(samples=1)
    expected = ss.record(model, **inputs, keep=["pattern"])
    record = ss.record(bridge_of(model, str(tmp_path)), **inputs, keep=["pattern"])
    check_same(record, expected)


def test_texts_with_and_without_bos() -> None:
    from tests.test_subjects_text import text_subject

    subject, texts = text_subject(), ["one two three", "two"]
    for bos in (True, False):
        record = ss.record(subject, texts, prepend_bos=bos)
        assert record.provenance["prepend_bos"] is bos
        assert record.provenance["bos_present"] == [bos, bos]
        assert record["length"].values.tolist() == [3 + bos, 1 + bos]
        assert record["bos_cosine"][1, 0, 0] == pytest.approx(1)
