"""A probe changes nothing: logits to the bit, hooks, attention table, training flags."""

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import sinkscope as ss
from sinkscope.errors import InputError, SinkscopeError, SiteError
from sinkscope.subjects.anatomy import anatomy_of
from tests.families import FAMILIES, PADDINGS, batch, build, tiny

EVERYTHING = [*ss.DEFAULT, ss.Keep("pattern"), ss.ArgmaxShare(), ss.PatternBins(4), ss.Keep("z")]


def hooks_of(model) -> dict:
    return {
        name: (list(module._forward_hooks), list(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }


def table() -> dict:
    return dict(ALL_ATTENTION_FUNCTIONS), dict(ALL_ATTENTION_FUNCTIONS._local_mapping)


def check_bit_equal(model, inputs: dict, reducers: tuple | list = EVERYTHING) -> None:
    hooks, functions = hooks_of(model), table()
    with torch.no_grad():
        plain = model(**inputs).logits
        with ss.probe(model, reducers) as probe:
            watched = model(**inputs).logits
        after = model(**inputs).logits
    assert torch.equal(watched, plain)
    assert torch.equal(after, plain)
    assert hooks_of(model) == hooks
    assert table() == functions
    assert len(probe.record) == len(inputs["input_ids"])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_bit_equal(family: str, padding: str) -> None:
    check_bit_equal(tiny(family), batch(padding))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_bit_equal_in_bfloat16(family: str) -> None:
    model = build(family).to(torch.bfloat16)
    for padding in ("none", "left"):
        check_bit_equal(model, batch(padding))


def test_logits_are_bit_equal_under_autocast_and_with_gradients() -> None:
    model, inputs = build("llama"), batch("right")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_bit_equal(model, inputs)
    loss = model(**inputs).logits.square().mean()
    loss.backward()
    plain = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    with ss.probe(model, EVERYTHING):
        model(**inputs).logits.square().mean().backward()
    assert all(
        torch.equal(weight.grad, grad)
        for weight, grad in zip(model.parameters(), plain, strict=True)
    )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_a_model_wrapped_by_peft() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build("llama"), LoraConfig(target_modules=["q_proj", "v_proj"]))
    check_bit_equal(model.eval(), batch("left"))


def test_nothing_is_left_after_an_exception() -> None:
    model = build("llama")
    hooks, functions = hooks_of(model), table()
    probe = ss.probe(model, EVERYTHING)
    with pytest.raises(ZeroDivisionError), probe:
        int(model(**batch()).logits.ndim) / 0
    assert hooks_of(model) == hooks
    assert table() == functions
    assert len(probe.record) == 3, "what was whole before the exception is there"


def test_nothing_is_left_when_entering_fails() -> None:
    model = build("gpt_neox")
    hooks, functions = hooks_of(model), table()
    with pytest.raises(SiteError, match="resid_mid"):
        ss.probe(model, [*ss.DEFAULT, ss.Norms("resid_mid")]).__enter__()
    assert hooks_of(model) == hooks
    assert table() == functions


def test_a_forward_that_fails_adds_nothing() -> None:
    model = build("llama")
    last = anatomy_of(model).blocks[-1]

    def fail(*_):
        raise ZeroDivisionError

    with ss.probe(model) as probe:
        model(**batch(samples=1))
        handle = last.register_forward_hook(fail)
        with pytest.raises(ZeroDivisionError):
            model(**batch(samples=2))
        handle.remove()
        model(**batch(samples=1, tokens=5))
    assert probe.record["length"].values.tolist() == [12, 5]


def test_training_flags_are_restored() -> None:
    model = build("llama").train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()]
    ss.record(model, **batch())
    assert [module.training for module in model.modules()] == before


def test_nested_probes_see_the_same() -> None:
    model, functions = tiny("llama"), table()
    outer, inner = ss.probe(model), ss.probe(model, [ss.SegmentAttention()])
    outer.__enter__()
    inner.__enter__()
    model(**batch())
    outer.__exit__(None, None, None)  # also out of order
    model(**batch())
    inner.__exit__(None, None, None)
    assert table() == functions
    assert (len(outer.record), len(inner.record)) == (3, 6)
    one, two = outer.record["segment_sum"].values, inner.record["segment_sum"].values
    assert (one == two[:3]).all()


def test_other_models_pass_through() -> None:
    watched, other = tiny("llama"), build("qwen2")
    with ss.probe(watched) as probe:
        watched(**batch(samples=1))
        other(**batch(samples=2))
    assert len(probe.record) == 1


def test_two_families_under_eager_at_once() -> None:
    """The entry for eager attention is shared; each module keeps its own family's function."""
    first, second = build("gemma2"), build("gpt_oss")
    inputs = batch()
    with torch.no_grad():
        plain = first(**inputs).logits, second(**inputs).logits
        with ss.probe(first), ss.probe(second):
            assert torch.equal(first(**inputs).logits, plain[0])
            assert torch.equal(second(**inputs).logits, plain[1])


def test_a_block_without_a_forward_is_an_error() -> None:
    model = tiny("llama")
    with pytest.raises(SiteError, match="No forward of llama"), ss.probe(model):
        pass
    with pytest.raises(SiteError, match="No forward"), ss.probe(model):
        build("llama")(**batch())


def test_a_site_that_is_never_seen_is_an_error() -> None:
    model = build("llama")
    block = model.model.layers[1]
    block.mlp.forward = lambda states: states
    with pytest.raises(SiteError, match="'mlp_act' of layer 1 was not seen"):
        ss.record(model, **batch(), keep=["mlp_act"])


def test_a_block_that_runs_twice_is_an_error() -> None:
    model = build("llama")
    model.model.layers[1] = model.model.layers[0]
    with pytest.raises(SinkscopeError, match="twice"):
        ss.record(model, **batch())


def test_what_a_probe_refuses() -> None:
    model = tiny("llama")
    with pytest.raises(InputError, match="no reducer was given"):
        ss.probe(model, [])
    with pytest.raises(InputError, match="would both write 'median'"):
        ss.probe(model, [ss.Median("resid_post"), ss.Median("resid_post", layers=[1])])
    with pytest.raises(SiteError, match="no layer 2; its layers are 0 to 1"):
        ss.probe(model, [ss.Median("resid_post", layers=[2])])
    probe = ss.probe(model)
    with pytest.raises(SinkscopeError, match="leave the probe's block first"):
        _ = probe.record
    with probe:
        model(**batch())
    with pytest.raises(SinkscopeError, match="was used before"):
        probe.__enter__()
