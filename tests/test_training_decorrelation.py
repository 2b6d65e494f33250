"""The decorrelation loss equals the authors' numbers, and an independent float64 computation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from tests.golden_avsr import golden_case, golden_set


def golden_cases() -> list[str]:
    """The cases that the authors trained with the loss; skips where the set is not there."""
    return [name for name, case in golden_set()[0]["cases"].items() if case["sink"]]


def states_of(name: str) -> list[torch.Tensor]:
    """The hidden states of the golden model on the golden embeddings."""
    model = golden_case(name).model.llm
    with torch.no_grad():
        output = model(inputs_embeds=outputs_of(name)["inputs_embeds"], output_hidden_states=True)
    return list(output.hidden_states)


def outputs_of(name: str) -> dict[str, torch.Tensor]:
    start = f"{name}/train/"
    found = golden_set()[2].items()
    return {key.removeprefix(start): value for key, value in found if key.startswith(start)}


def authors_mask(name: str, states: list[torch.Tensor]) -> torch.Tensor:
    count = golden_set()[0]["cases"][name]["non_output_tokens_count"]
    mask = torch.zeros(states[0].shape[:2], dtype=torch.bool)
    mask[:, 1 : count + 1] = True
    return mask


def slow_loss(states, mask, positions, *, power=2.0, layers=None) -> float:
    """Token by token in float64."""
    layers = range(len(states) - 2) if layers is None else layers
    terms = []
    for layer in layers:
        own = []
        for sample, position in enumerate(positions):
            state = states[layer + 1][sample].double().numpy()
            bos = state[position]
            for token in np.flatnonzero(mask[sample].numpy()):
                cosine = state[token] @ bos / np.linalg.norm(state[token]) / np.linalg.norm(bos)
                own.append(abs(cosine) ** power)
        terms.append(np.mean(own))
    return float(np.mean(terms))


def test_it_equals_the_authors_loss():
    told = golden_set()[0]
    factors = set()
    for name in golden_cases():
        states, factor = states_of(name), told["cases"][name]["factor"]
        factors.add(factor)
        found = ss.decorrelation_loss(states, authors_mask(name, states), weight=factor)
        right = outputs_of(name)
        torch.testing.assert_close(found, right["decor_loss"], rtol=1e-5, atol=2e-5)
        total = right["loss_ce"] + found
        torch.testing.assert_close(total, right["total_loss"], rtol=1e-5, atol=2e-5)
    assert {1, 10000} <= factors


@pytest.mark.parametrize("fault", ["layers", "tokens", "embeddings"])
def test_the_authors_number_catches_a_wrong_set(fault):
    name = golden_cases()[0]
    states = states_of(name)
    mask = authors_mask(name, states)
    right = float(outputs_of(name)["decor_loss"])
    factor = golden_set()[0]["cases"][name]["factor"]
    if fault == "tokens":
        mask = mask.roll(1, dims=1)
    elif fault == "embeddings":
        states = [states[0], *states[:-1]]
    layers = [0, 1] if fault == "layers" else None
    wrong = float(ss.decorrelation_loss(states, mask, weight=factor, layers=layers))
    assert abs(wrong - right) > 1e-3 * right


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("layers", [None, [0], [1, 2]])
def test_it_equals_a_slow_computation(power, layers):
    torch.manual_seed(0)
    states = [torch.randn(3, 7, 5) for _ in range(5)]
    mask = torch.rand(3, 7) < 0.6
    mask[:, :2] = torch.tensor([False, True])
    found = ss.decorrelation_loss(states, mask, weight=2.5, power=power, layers=layers)
    right = 2.5 * slow_loss(states, mask, [0, 0, 0], power=power, layers=layers)
    assert float(found) == pytest.approx(right, rel=1e-5)


def test_bos_may_stand_anywhere():
    torch.manual_seed(1)
    states = [torch.randn(2, 6, 4) for _ in range(4)]
    segments = [["padding"] * 2 + ["bos", "audio", "instruction", "response"]]
    segments += [["bos", "audio", "delimiter", "instruction", "response", "response"]]
    layouts = [TokenLayout.of(row, [str(i) for i in range(6)]) for row in segments]
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 3:5] = mask[1, 1:4] = True
    found = ss.decorrelation_loss(states, layouts, weight=1)
    assert float(found) == pytest.approx(slow_loss(states, mask, [2, 0]), rel=1e-5)
    positions = torch.tensor([2, 0])
    by_mask = ss.decorrelation_loss(states, mask, weight=1, reference=positions)
    assert float(by_mask) == pytest.approx(float(found), rel=1e-6)
    mask[0, :2] = True
    unmasked = ss.decorrelation_loss(states, layouts, weight=1, mask_padding=False)
    assert float(unmasked) == pytest.approx(slow_loss(states, mask, [2, 0]), rel=1e-5)
    assert abs(float(unmasked) - float(found)) > 1e-3


def test_without_bos_the_layouts_reference_stands_for_it():
    torch.manual_seed(2)
    states = [torch.randn(1, 4, 6) for _ in range(3)]
    layout = TokenLayout.of(["audio"] * 4, list("abcd"), reference=2)
    mask = torch.tensor([[True, True, False, True]])
    found = ss.decorrelation_loss(states, layout, weight=1)
    assert float(found) == pytest.approx(slow_loss(states, mask, [2]), rel=1e-5)


def test_a_direction_takes_the_place_of_bos():
    torch.manual_seed(3)
    states = [torch.randn(2, 5, 4) for _ in range(3)]
    mask = torch.ones(2, 5, dtype=torch.bool)
    direction = torch.randn(4)
    found = ss.decorrelation_loss(states, mask, weight=1, reference=direction)
    right = torch.cosine_similarity(states[1], direction.expand(2, 5, 4), dim=-1).square().mean()
    torch.testing.assert_close(found, right)


@given(scale=st.floats(0.01, 100), samples=st.integers(1, 3), tokens=st.integers(2, 6))
def test_lengths_do_not_matter_and_one_is_the_most(scale, samples, tokens):
    generator = torch.Generator().manual_seed(tokens)
    states = [torch.randn(samples, tokens, 8, generator=generator) for _ in range(3)]
    mask = torch.ones(samples, tokens, dtype=torch.bool)
    mask[:, 0] = False
    one = ss.decorrelation_loss(states, mask, weight=1)
    other = ss.decorrelation_loss([scale * state for state in states], mask, weight=1)
    torch.testing.assert_close(one, other)
    assert 0 <= float(one) <= 1 + 1e-6
    twins = [state[:, :1].expand_as(state) for state in states]
    assert float(ss.decorrelation_loss(twins, mask, weight=1)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("direction", [False, True])
def test_gradients_pass_gradcheck(power, detach, direction):
    torch.manual_seed(4)
    states = [torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    mask = torch.tensor([[False, True, True, True], [False, True, False, True]])
    reference = torch.randn(3, dtype=torch.float64) if direction else "bos"

    bos = [state.detach()[:, :1].clone() for state in states]  # gradcheck perturbs in place

    def loss(*given):
        kept = [torch.cat([b, g[:, 1:]], 1) for b, g in zip(bos, given, strict=True)]
        held = kept if detach else given
        how = {"power": power, "detach_bos": detach, "reference": reference}
        return ss.decorrelation_loss(list(held), mask, weight=3.0, **how)

    assert torch.autograd.gradcheck(loss, states)


def test_detaching_bos_stops_its_gradient_only():
    torch.manual_seed(5)
    states = [torch.randn(1, 3, 4, requires_grad=True) for _ in range(3)]
    mask = torch.tensor([[False, True, True]])
    ss.decorrelation_loss(states, mask, weight=1, detach_bos=True).backward()
    gradient = states[1].grad
    assert gradient is not None
    assert not gradient[:, 0].any()
    assert gradient[:, 1:].any()
    ss.decorrelation_loss(states, mask, weight=1).backward()
    assert states[1].grad is not None
    assert states[1].grad[:, 0].any()
    assert states[0].grad is None  # the embeddings are not compared
    assert states[2].grad is None  # nor is the last block


def test_half_precision_is_compared_in_float32():
    torch.manual_seed(6)
    wide = [torch.randn(2, 9, 64) * 30 for _ in range(4)]
    wide[1][:, 0, 5] = 4000.0
    half = [state.bfloat16().requires_grad_() for state in wide]
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 0] = False
    found = ss.decorrelation_loss(half, mask, weight=1)
    right = ss.decorrelation_loss([h.detach().float() for h in half], mask, weight=1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach(), right)
    found.backward()
    assert half[1].grad is not None
    assert half[1].grad.dtype == torch.bfloat16


def test_autocast_does_not_narrow_it():
    torch.manual_seed(8)
    states = [torch.randn(2, 9, 64, requires_grad=True) for _ in range(4)]
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 0] = False
    right = ss.decorrelation_loss(states, mask, weight=1)
    wanted = torch.autograd.grad(right, states[1:-1])
    with torch.autocast("cpu", torch.bfloat16):
        found = ss.decorrelation_loss(states, mask, weight=1)
        gradients = torch.autograd.grad(found, states[1:-1])
    torch.testing.assert_close(found, right, rtol=0, atol=0)
    torch.testing.assert_close(gradients, wanted, rtol=0, atol=0)


def test_a_state_of_zeros_has_no_direction():
    states = [torch.zeros(1, 3, 4, requires_grad=True) for _ in range(3)]
    mask = torch.tensor([[False, True, True]])
    for power in (1, 2):
        loss = ss.decorrelation_loss(states, mask, weight=1, power=power)
        assert float(loss.detach()) == 0
        (gradient,) = torch.autograd.grad(loss, [states[1]])
        assert bool((gradient == 0).all())


def test_parts_of_a_batch_sum_to_the_whole():
    torch.manual_seed(7)
    leaves = [torch.randn(4, 6, 5, requires_grad=True) for _ in range(4)]
    mask = torch.rand(4, 6) < 0.5
    mask[:, :2] = torch.tensor([False, True])
    ss.decorrelation_loss(leaves, mask, weight=1).backward()
    whole = [leaf.grad for leaf in leaves[1:-1]]
    for leaf in leaves:
        leaf.grad = None
    for sample in range(4):
        part = [leaf[sample : sample + 1] for leaf in leaves]
        own = mask[sample : sample + 1]
        ss.decorrelation_loss(part, own, weight=1, count=mask.sum()).backward()
    for leaf, gradient in zip(leaves[1:-1], whole, strict=True):
        torch.testing.assert_close(leaf.grad, gradient)


def bad(**changed):
    given = {"states": [torch.ones(1, 3, 2)] * 3, "mask": torch.tensor([[False, True, True]])}
    given |= {"weight": 1.0} | changed
    return given


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"weight": -1.0}, "weight is -1.0"),
        ({"power": 0}, "power is 0"),
        ({"power": 0.5}, "power is 0.5"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"mask": torch.tensor([[True, True, True]])}, "compared with itself"),
        ({"mask": torch.tensor([[False, False, False]])}, "no token is compared"),
        ({"mask": torch.tensor([[0, 1, 1]])}, "True and False"),
        ({"mask": torch.tensor([[False, True]])}, r"shape \(1, 2\)"),
        ({"states": [torch.ones(1, 3, 2)] * 2}, "no layer to compare in"),
        ({"layers": [1]}, "no layer 1.*final norm"),
        ({"layers": [-1]}, "no layer -1"),
        ({"layers": []}, "no layer to compare in"),
        ({"reference": "eos"}, "reference is 'eos'"),
        ({"reference": torch.ones(3)}, "each of the 2 features"),
        ({"reference": torch.tensor([5])}, "references at"),
        ({"reference": torch.tensor([0, 0])}, "one position a sample"),
    ],
)
def test_bad_input_is_refused_in_words(changed, words):
    given = bad(**changed)
    with pytest.raises(InputError, match=words):
        ss.decorrelation_loss(given.pop("states"), given.pop("mask"), **given)


def test_layouts_of_different_lengths_are_refused():
    states = [torch.ones(2, 3, 2)] * 3
    layouts = [TokenLayout.of_text(["<s>", *"ab"][:n], has_bos=True) for n in (3, 2)]
    with pytest.raises(InputError, match="3, 2 tokens"):
        ss.decorrelation_loss(states, layouts, weight=1)


def test_the_schedule_rises_stays_and_falls():
    schedule = ss.WeightSchedule(2.0, warmup=0.25, decay=0.5)
    assert [schedule.at(step, steps=8) for step in range(8)] == [0, 1, 2, 2, 2, 1.5, 1, 0.5]
    with pytest.raises(InputError, match="no shares of one run"):
        ss.WeightSchedule(1.0, warmup=0.6, decay=0.6)
    with pytest.raises(InputError, match="weight is -1"):
        ss.WeightSchedule(-1)


def test_what_padding_holds_does_not_reach_the_gradient():
    states = [torch.randn(1, 4, 3) for _ in range(3)]
    states[1][0, 3] = float("inf")
    states = [state.requires_grad_() for state in states]
    mask = torch.tensor([[False, True, True, False]])
    ss.decorrelation_loss(states, mask, weight=1).backward()
    assert states[1].grad is not None
    assert torch.isfinite(states[1].grad).all()
    assert states[1].grad[0, :3].any(-1).all()


def test_of_several_batches_one_may_compare_no_token():
    states = [torch.ones(1, 3, 2)] * 3
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert float(ss.decorrelation_loss(states, nothing, weight=1, count=5)) == 0


def test_there_is_no_second_derivative():
    states = [torch.randn(1, 3, 2, requires_grad=True) for _ in range(3)]
    loss = ss.decorrelation_loss(states, torch.tensor([[False, True, True]]), weight=1)
    with pytest.raises(InputError, match="no gradient of its own"):
        torch.autograd.grad(loss, states[1], create_graph=True)
