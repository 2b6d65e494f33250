"""Prefill and decode steps are stitched into what one forward over the whole sequence gives."""

import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.probes.stitching import Ends
from sinkscope.probes.tracking import announce
from tests.families import FAMILIES, batch, build, tiny
from tests.same_records import check_same

EVERYTHING = [
    *ss.DEFAULT,
    ss.Keep("pattern"),
    ss.Keep("resid_post"),
    ss.ArgmaxShare(),
    ss.PatternBins(4),
    *(ss.Keep(site) for site in "qkvz"),
]
NEW = 7


def generate(model, inputs: dict, **options) -> torch.Tensor:
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0} | options
    return model.generate(**inputs, **settings)


def check_stitched(model, inputs: dict, reducers: list = EVERYTHING, **options) -> None:
    """Each generated sample equals one forward over it alone, segments and all."""
    with ss.probe(model, reducers) as probe:
        made = generate(model, inputs, **options)
    fed = made[:, :-1]  # the last token that is generated never enters the model
    for sample in range(len(fed)):
        stitched = probe.record.sample(sample)
        layout = stitched.layouts[0]
        prompt = layout.segments.count("text") + layout.segments.count("bos")
        start = int((inputs.get("attention_mask", fed[:, :0] + 1)[sample] == 0).sum())
        ids = fed[sample, start : start + len(layout)]
        assert layout.labels == tuple(str(int(token)) for token in ids)
        assert prompt + start == inputs["input_ids"].shape[1]
        whole = ss.record(model, input_ids=ids, layout=layout, reducers=reducers)
        check_same(stitched, whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_is_stitched(family: str) -> None:
    """Left padding, windows shorter than the sequence, and a cache that drops old keys."""
    check_stitched(tiny(family), batch("left", samples=2, tokens=9))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gemma2"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_static_cache(family: str, padding: str) -> None:
    options = {"cache_implementation": "static", "disable_compile": True}
    check_stitched(tiny(family), batch(padding, samples=2, tokens=9), **options)


def test_eager_and_longer_than_the_bins() -> None:
    model = build("llama")
    model.set_attn_implementation("eager")
    check_stitched(model, batch("left", samples=2, tokens=9), max_new_tokens=20)


def test_samples_that_end_at_different_steps() -> None:
    """Filler after a sample's end is no part of it."""
    model, inputs = build("llama"), batch("left", samples=3, tokens=9)
    free = generate(model, inputs, eos_token_id=96)
    end = int(free[1, 9 + 2])
    steps = [row[9:].tolist().index(end) if end in row[9:].tolist() else None for row in free]
    assert steps[1] is not None
    assert len(set(steps)) > 1, "the test needs samples of different lengths"
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = 0
    with ss.probe(model, EVERYTHING) as probe:
        made = generate(model, inputs)
    for sample, step in enumerate(steps):
        layout = probe.record.layouts[sample]
        expected = NEW - 1 if step is None else min(step + 1, made.shape[1] - 9 - 1)
        assert layout.segments.count("response") == expected
        ids = made[sample, 3 * sample : 3 * sample + len(layout)]
        whole = ss.record(model, input_ids=ids, layout=layout, reducers=EVERYTHING)
        check_same(probe.record.sample(sample), whole)


def test_a_loop_of_ones_own() -> None:
    """A cache that the model makes itself, and decode steps of several tokens."""
    model = tiny("llama")
    ids = batch(samples=2, tokens=11)["input_ids"]
    with torch.no_grad(), ss.probe(model, EVERYTHING) as probe:
        cache = model(ids[:, :5]).past_key_values
        for first, last in [(5, 6), (6, 9), (9, 11)]:
            cache = model(ids[:, first:last], past_key_values=cache).past_key_values
    layouts = probe.record.layouts
    assert [layout.segments.count("response") for layout in layouts] == [6, 6]
    check_same(probe.record, ss.record(model, input_ids=ids, layout=layouts, reducers=EVERYTHING))


def test_a_second_prefill_adds_samples() -> None:
    model = build("llama", eos_token_id=None)
    with ss.probe(model) as probe:
        generate(model, batch(samples=2, tokens=6))
        generate(model, batch(samples=1, tokens=4), max_new_tokens=3)
    assert probe.record["length"].values.tolist() == [6 + NEW - 1, 6 + NEW - 1, 4 + 2]


def test_bfloat16_median_merges_exactly() -> None:
    model = build("llama").to(torch.bfloat16)
    with ss.probe(model, [ss.Median("resid_post"), ss.Keep("resid_post")]) as probe:
        generate(model, batch(samples=1, tokens=6))
    kept = torch.from_numpy(probe.record["resid_post"].values)[0]
    medians = [layer.abs().flatten().median().item() for layer in kept]
    assert probe.record["median"].values[0].tolist() == medians


def test_generated_ids_are_those_without_a_probe() -> None:
    model, inputs = tiny("gemma3_text"), batch("left")
    plain = generate(model, inputs)
    with ss.probe(model):
        assert torch.equal(generate(model, inputs), plain)


def test_beams_are_refused_and_leave_nothing_behind() -> None:
    model = build("llama")
    with pytest.raises(InputError, match="num_beams=1"), ss.probe(model):
        generate(model, batch(samples=2), num_beams=2)
    made = generate(model, batch(samples=2), num_beams=2)
    assert len(made) == 2, "without a probe beams work again"


def test_assisted_decoding_is_refused() -> None:
    model, assistant = build("llama"), build("llama", seed=1)
    with pytest.raises(InputError, match="assistant"), ss.probe(model):
        generate(model, batch(samples=1), assistant_model=assistant)


def test_a_cache_that_was_filled_elsewhere_is_refused() -> None:
    model, ids = build("llama"), batch(samples=2)["input_ids"]
    cache = model(ids).past_key_values
    with pytest.raises(InputError, match="12 tokens that this probe did not see"), ss.probe(model):
        model(ids[:, :1], past_key_values=cache)


def test_a_cache_that_changed_in_between_is_refused() -> None:
    model, ids = build("llama"), batch(samples=2)["input_ids"]
    with ss.probe(model):
        cache = model(ids).past_key_values
        with pytest.raises(InputError, match="takes tokens back"):
            cache.crop(-2)
        cache.update(*(torch.zeros(2, 2, 1, 8),) * 2, 0)
        with pytest.raises(InputError, match="holds 13 positions where the probe saw 12"):
            model(ids[:, :1], past_key_values=cache)
    cache.crop(-2)


def test_a_reference_anywhere_in_the_prefill() -> None:
    model, ids = build("llama"), batch(samples=1)["input_ids"]
    layout = ss.TokenLayout.of(["text"] * 12, [""] * 12, reference=8)
    with ss.probe(model) as probe:
        announce(probe.subject.anatomy.decoder, [layout.take(range(12))], [None])
        model(ids)
    assert probe.record.layouts[0].reference == 8
    assert probe.record["bos_cosine"][0, :, 8].values == pytest.approx(1)


def test_which_generated_ids_are_tokens() -> None:
    separate = Ends(frozenset({2}), 0)
    assert separate.real([5, 2], ended=False)[0].tolist() == [True, True]
    assert separate.real([5, 2], ended=False)[1] is True
    assert separate.real([0], ended=True)[0].tolist() == [False]
    assert separate.real([0, 7], ended=False)[0].tolist() == [True, True]
    assert separate.real([2, 0, 0], ended=False)[0].tolist() == [True, False, False]
    shared = Ends(frozenset({2}), 2)
    real, ended = shared.real([5, 2, 2, 2], ended=False)
    assert real.tolist() == [True, True, False, False]
    assert ended
    only_ends = Ends(frozenset({2, 3}), None)
    assert only_ends.real([3, 2, 2], ended=False)[0].tolist() == [True, False, False]
    assert Ends().real([0, 2], ended=False)[0].tolist() == [True, True]
