"""What hold_states holds is what transformers returns, with its gradients, however it runs."""

from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import sinkscope as ss
from sinkscope.errors import InputError, SinkscopeError
from tests.families import FAMILIES, MORE_FAMILIES, batch, build


def mask_of(given):
    """Every token but the first that is real."""
    mask = given.get("attention_mask", torch.ones_like(given["input_ids"])).bool().clone()
    mask[:, 0] = False
    return mask


def gradients(model):
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


def same(one, other, **tolerance):
    assert one.keys() == other.keys()
    assert any(gradient is not None for gradient in one.values())
    for name, gradient in one.items():
        if gradient is None:
            assert other[name] is None or not other[name].any(), name
        else:
            torch.testing.assert_close(other[name], gradient, msg=name, **tolerance)


def loss_by_hooks(model, given, **how):
    model.zero_grad()
    with ss.hold_states(model) as states:
        output = model(**given, use_cache=False)
        loss = ss.decorrelation_loss(states, mask_of(given), weight=1.0, **how)
        (loss + 0 * output.logits.float().sum()).backward()
    return loss.detach()


def loss_by_return(model, given, **how):
    model.zero_grad()
    output = model(**given, use_cache=False, output_hidden_states=True)
    loss = ss.decorrelation_loss(output.hidden_states, mask_of(given), weight=1.0, **how)
    (loss + 0 * output.logits.float().sum()).backward()
    return loss.detach()


@pytest.mark.parametrize("name", [*FAMILIES, *MORE_FAMILIES])
def test_states_and_gradients_are_those_of_transformers(name):
    model, given = build(name).train(), batch("right")
    with ss.hold_states(model) as states, torch.no_grad():
        right = model.eval()(**given, use_cache=False, output_hidden_states=True).hidden_states
        assert len(states) == len(right)
        for held, returned in zip(states[:-1], right[:-1], strict=True):
            torch.testing.assert_close(held, returned, rtol=0, atol=0)
    by_return = loss_by_return(model, given, layers=[0])
    wanted = gradients(model)
    torch.testing.assert_close(loss_by_hooks(model, given, layers=[0]), by_return)
    same(wanted, gradients(model))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["llama", "gemma2", "opt", "qwen3_moe"])
def test_checkpointed_blocks_give_the_same_gradients(name, reentrant):
    plain = build(name, num_hidden_layers=4).train()
    given = batch()
    right = loss_by_hooks(plain, given)
    wanted = gradients(plain)
    saving = build(name, num_hidden_layers=4).train()
    saving.activation_checkpointing_enable({"use_reentrant": reentrant})
    saving.enable_input_require_grads()
    torch.testing.assert_close(loss_by_hooks(saving, given), right)
    same(wanted, gradients(saving))


def test_what_backward_repeats_is_not_held():
    model, given = build("llama").train(), batch()
    for block in model.model.layers:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    ran = []
    model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: ran.append(1))
    with ss.hold_states(model) as states:
        model(**given, use_cache=False)
        before = list(states)
        ss.decorrelation_loss(states, mask_of(given), weight=1.0).backward()
        assert len(ran) == 2
        assert all(one is other for one, other in zip(before, states, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
def test_whole_blocks_under_checkpoint_are_right_or_refused(reentrant):
    """As in older transformers, and FSDP: the hooks run inside the checkpoint, twice."""
    plain, given = build("llama").train(), batch()
    right = loss_by_hooks(plain, given)
    wanted = gradients(plain)
    model = build("llama").train()
    kinds = {}
    for block in model.model.layers:
        kind = type(block)
        call = partial(checkpoint, use_reentrant=reentrant)
        inside = {
            "__call__": lambda self, *a, k=kind, c=call, **kw: c(
                partial(k.__call__, self, **kw), *a
            )
        }
        block.__class__ = kinds.setdefault(kind, type(kind.__name__, (kind,), inside))
    model.enable_input_require_grads()
    if reentrant:
        with pytest.raises(InputError, match="use_reentrant=False"):
            loss_by_hooks(model, given)
        return
    torch.testing.assert_close(loss_by_hooks(model, given), right)
    same(wanted, gradients(model))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_under_peft_the_adapters_get_the_gradients():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model, given = get_peft_model(build("llama", num_hidden_layers=3), config).train(), batch()
    right = loss_by_return(model, given)
    wanted = gradients(model)
    torch.testing.assert_close(loss_by_hooks(model, given), right)
    same(wanted, gradients(model))
    assert {name.split(".")[-3] for name, g in wanted.items() if g is not None} == {
        "lora_A",
        "lora_B",
    }


def test_four_parts_give_the_gradients_of_one_batch():
    model, given = build("llama", num_hidden_layers=3).train(), batch("right", samples=4)
    mask = mask_of(given)
    loss_by_hooks(model, given)
    wanted = gradients(model)
    model.zero_grad()
    for sample in range(4):
        part = {name: value[sample : sample + 1] for name, value in given.items()}
        with ss.hold_states(model) as states:
            output = model(**part, use_cache=False)
            own = mask[sample : sample + 1]
            loss = ss.decorrelation_loss(states, own, weight=1.0, count=mask.sum())
            (loss + 0 * output.logits.sum()).backward()
    same(wanted, gradients(model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["autocast", "pure"])
def test_half_precision_gives_a_wide_loss_and_finite_gradients(how):
    model, given = build("llama", num_hidden_layers=3, scale=0.05).train(), batch()
    right = loss_by_hooks(model, given)
    if how == "pure":
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = loss_by_hooks(model, given)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(right), rel=0.05)
    own = [g for g in gradients(model).values() if g is not None]
    assert own
    assert all(bool(g.isfinite().all()) for g in own)


def test_compiled_models_are_refused_in_words():
    model = build("llama")
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(SinkscopeError, match=r"before torch\.compile"), ss.hold_states(compiled):
        pass


def test_hooks_are_gone_also_after_an_error():
    model, given = build("llama"), batch()
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    def run():
        with ss.hold_states(model):
            model(**given)
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert before == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_before_the_first_forward_there_is_nothing():
    with (
        ss.hold_states(build("llama")) as states,
        pytest.raises(InputError, match="no forward has run"),
    ):
        states[1]
