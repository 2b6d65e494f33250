"""Edits do what they say, where they say, in every family; and nothing is left of them."""

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from sinkscope.interventions.edits import SITES
from sinkscope.interventions.rotation import rotated
from sinkscope.subjects.anatomy import anatomy_of
from tests.families import FAMILIES, MORE_FAMILIES, PADDINGS, batch, build, tiny

TOKEN = 4
LAYER = 1


def editable(name: str) -> list[str]:
    """The sites of a family that can be changed in the layer of these tests."""
    anatomy = anatomy_of(tiny(name))
    return [site for site in SITES if site == "z" or not anatomy.absence(site, LAYER)]


def hooks_of(model) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.mark.parametrize("name", FAMILIES + MORE_FAMILIES)
def test_zero_is_seen_at_its_site_and_nowhere_before(name: str) -> None:
    model, ids = tiny(name), batch(samples=1)["input_ids"]
    for site in editable(name):
        keep = [ss.Keep(which) for which in {site, "resid_pre"}]
        plain = ss.record(model, input_ids=ids, reducers=keep)
        with ss.intervene(model, ss.Zero(site=site, layers=LAYER, tokens=TOKEN)):
            seen = ss.record(model, input_ids=ids, reducers=keep)
        before, after = (found[site].sel(layer=LAYER).values[0] for found in (plain, seen))
        axis = 1 if site == "z" else 0
        assert (np.take(after, TOKEN, axis) == 0).all()
        assert np.abs(np.take(before, TOKEN, axis)).max() > 1e-3
        earlier = np.arange(TOKEN)
        assert np.array_equal(np.take(after, earlier, axis), np.take(before, earlier, axis))
        if site != "resid_pre":
            entered = [found["resid_pre"].sel(layer=LAYER).values for found in (plain, seen)]
            assert np.array_equal(*entered)


@pytest.mark.parametrize("name", FAMILIES + MORE_FAMILIES)
def test_a_silenced_block_passes_the_stream_on(name: str) -> None:
    model, ids = tiny(name), batch(samples=1)["input_ids"]
    silent = [ss.knock_out(layers=LAYER, part="attention"), ss.knock_out(layers=LAYER, part="mlp")]
    with ss.intervene(model, silent):
        seen = ss.record(
            model, input_ids=ids, reducers=[ss.Keep("resid_pre"), ss.Keep("resid_post")]
        )
    before, after = (seen[site].sel(layer=LAYER) for site in ("resid_pre", "resid_post"))
    assert np.allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES + MORE_FAMILIES)
def test_what_leaves_a_block_enters_the_next(name: str) -> None:
    model, ids = tiny(name), batch(samples=1)["input_ids"]
    edit = ss.Scale(by=3.0, site="resid_post", layers=0, tokens=TOKEN, features=[2, 5])
    keep = [ss.Keep("resid_pre"), ss.Keep("resid_post")]
    plain = ss.record(model, input_ids=ids, reducers=keep)
    with ss.intervene(model, edit):
        seen = ss.record(model, input_ids=ids, reducers=keep)
    expected = plain["resid_post"].sel(layer=0).values[0].copy()
    expected[TOKEN, [2, 5]] *= 3
    assert np.allclose(seen["resid_post"].sel(layer=0).values[0], expected, rtol=1e-6)
    assert np.array_equal(
        seen["resid_pre"].sel(layer=1).values, seen["resid_post"].sel(layer=0).values
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_left_after_the_block_also_after_an_error(name: str) -> None:
    model, given = build(name), batch(samples=2)
    edits = [ss.Zero(site="mlp_out", layers=0), ss.BlockAttention(keys=1), ss.SwapEmbeddings(1, 2)]
    if anatomy_of(model).attn_implementation == "eager":
        edits = edits[:1] + edits[2:] + [ss.BlockAttention(keys=1)]
    before, hooks, weights = model(**given).logits, hooks_of(model), model.state_dict()
    copies = {key: value.clone() for key, value in weights.items()}
    with ss.intervene(model, edits):
        assert not torch.equal(model(**given).logits, before)
        assert hooks_of(model) > hooks
    with pytest.raises(KeyboardInterrupt), ss.intervene(model, edits):
        raise KeyboardInterrupt(model(**given))
    assert hooks_of(model) == hooks
    assert torch.equal(model(**given).logits, before)
    assert all(torch.equal(copies[key], value) for key, value in model.state_dict().items())


def test_the_probe_sees_the_change_whichever_is_opened_first() -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    edits = [
        ss.Zero(site="resid_post", layers=0, tokens=2),
        ss.Zero(site="mlp_act", layers=1, features=3),
        ss.Zero(site="z", layers=1, heads=2),
        ss.BlockAttention(keys=1, layers=1),
    ]
    keep = ["resid_post", "mlp_act", "z", "pattern"]
    with ss.intervene(model, edits), ss.probe(model, keep) as inside:
        model(ids)
    with ss.probe(model, keep) as outside, ss.intervene(model, edits):
        model(ids)
    for site in keep:
        assert np.array_equal(inside.record[site], outside.record[site])
    assert (inside.record["resid_post"][0, 0, 2] == 0).all()
    assert (inside.record["mlp_act"][0, 1, :, 3] == 0).all()
    assert (inside.record["z"][0, 1, 2] == 0).all()
    assert (inside.record["pattern"][0, 1, :, 2:, 1] == 0).all()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_padded_batch_is_changed_as_each_sample_alone(name: str, padding: str) -> None:
    model, given = tiny(name), batch(padding)
    edits = [
        ss.Zero(site="resid_post", layers=0, tokens=2, features=[1, 3]),
        ss.Rotate(layers=1, tokens=3, toward=1, fraction=0.5),
        ss.BlockAttention(keys=1, layers=1),
        ss.ReplaceEmbeddings(2, "zero"),
    ]
    reducers = [ss.Keep("resid_post")]
    with ss.intervene(model, edits):
        together = ss.record(model, **given, reducers=reducers)
    for sample in range(3):
        real = given.get("attention_mask", torch.ones_like(given["input_ids"]))[sample].bool()
        with ss.intervene(model, edits):
            alone = ss.record(model, input_ids=given["input_ids"][sample][real], reducers=reducers)
        found = together.sample(sample)["resid_post"].values
        assert np.allclose(found, alone["resid_post"].values, atol=3e-4 * np.abs(found).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_decode_steps_with_a_cache_equal_the_whole_sequence(name: str) -> None:
    model, ids = tiny(name), batch(samples=2)["input_ids"]
    edits = [
        ss.Scale(by=2.0, site="mlp_out", layers=0, tokens=[1, 10]),
        ss.Rotate(layers=1, tokens=11, toward=1, fraction=0.7),
        ss.BlockAttention(keys=[2, 9], layers=1),
    ]
    with ss.intervene(model, edits):
        whole = model(ids).logits
    with ss.intervene(model, edits):
        first = model(ids[:, :9], use_cache=True)
        steps, cache = [first.logits], first.past_key_values
        for place in range(9, 12):
            step = model(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            steps, cache = [*steps, step.logits], step.past_key_values
    assert torch.allclose(torch.cat(steps, 1), whole, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("heads", [None, [0, 3]])
def test_hidden_keys_get_nothing_but_from_themselves(name: str, heads: list[int] | None) -> None:
    model, ids = tiny(name), batch(samples=2)["input_ids"]
    plain = ss.record(model, input_ids=ids, keep=["pattern"])
    with ss.intervene(model, ss.BlockAttention(keys=[1, 6], queries=None, layers=0, heads=heads)):
        seen = ss.record(model, input_ids=ids, keep=["pattern"])
    before, after = plain["pattern"].values[:, 0], seen["pattern"].values[:, 0]
    expected = before.copy()
    for head in range(4) if heads is None else heads:
        for key in (1, 6):
            expected[:, head, key + 1 :, key] = 0
    if name != "gpt_oss":
        expected /= expected.sum(-1, keepdims=True)
        assert np.allclose(after, expected, atol=1e-5)
    else:
        assert (after[expected == 0] == 0).all()
        assert after.sum() < before.sum()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
def test_without_bos_is_what_it_would_be_without_bos(name: str, implementation: str) -> None:
    model = build(name, attn_implementation=implementation)
    ids = batch(samples=1)["input_ids"]
    ids[0, 0] = 1
    with ss.intervene(model, ss.DropBos()):
        hidden = model(ids).logits[:, 1:]
    expected = model(ids[:, 1:]).logits
    reach = 5 if name == "mistral" else 11
    assert torch.allclose(hidden[:, :reach], expected[:, :reach], atol=1e-3)


def test_a_knocked_out_head_is_a_head_without_its_output_weights() -> None:
    model, ids = build("llama"), batch(samples=1)["input_ids"]
    with ss.intervene(model, ss.knock_out(layers=1, heads=2)):
        found = model(ids).logits
    width = model.config.hidden_size // 4
    model.model.layers[1].self_attn.o_proj.weight.data[:, 2 * width : 3 * width] = 0
    assert torch.allclose(found, model(ids).logits, atol=1e-6)


def test_a_knocked_out_neuron_is_one_without_its_weights() -> None:
    model, ids = build("gpt2"), batch(samples=1)["input_ids"]
    with ss.intervene(model, ss.knock_out(layers=0, neurons=[7, 9])):
        found = model(ids).logits
    model.transformer.h[0].mlp.c_proj.weight.data[[7, 9]] = 0
    assert torch.allclose(found, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt"])
def test_swapped_and_replaced_embeddings(name: str) -> None:
    model, ids = tiny(name), batch(samples=1)["input_ids"]
    table = model.get_input_embeddings()
    swapped = ids.clone()
    swapped[0, [2, 7]] = ids[0, [7, 2]]
    with ss.intervene(model, ss.SwapEmbeddings(2, 7)):
        found = model(ids).logits
    assert torch.allclose(found, model(swapped).logits, atol=1e-5)
    with ss.intervene(model, ss.ReplaceEmbeddings(3, by=table(torch.tensor(50)).detach())):
        found = model(ids).logits
    other = ids.clone()
    other[0, 3] = 50
    assert torch.allclose(found, model(other).logits, atol=1e-5)
    with ss.intervene(model, ss.SwapEmbeddings(2, 7)):
        from_embeds = model(inputs_embeds=table(ids)).logits
    assert torch.allclose(from_embeds, model(swapped).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_embeddings_of_the_vocabulary_s_kind(name: str) -> None:
    model, ids = tiny(name), batch(samples=1)["input_ids"]
    every = model.get_input_embeddings()(torch.arange(97)).detach()
    found = {}
    for by in ("mean", "random", "zero"):
        with ss.intervene(model, ss.ReplaceEmbeddings([2, 3], by)):
            seen = ss.record(model, input_ids=ids, reducers=[ss.Keep("resid_pre", layers=[0])])
        found[by] = seen["resid_pre"][0, 0, [2, 3]].values
    assert np.allclose(found["mean"], every.mean(0), atol=1e-5)
    assert (found["zero"] == 0).all()
    away = (found["random"] - every.mean(0).numpy()) / every.std(0).numpy()
    assert 0.6 < away.std() < 1.4
    assert not np.allclose(found["random"][0], found["random"][1])


def test_rotation_keeps_norms_and_goes_its_share_of_the_angle() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 16, generator=generator) * torch.arange(1, 6)[:, None]
    target = torch.randn(16, generator=generator)
    whole = torch.arccos(torch.cosine_similarity(states, target[None]))
    for fraction in (0.0, 0.25, 0.5, 1.0):
        turned = rotated(states, target.expand_as(states), fraction)
        assert torch.allclose(turned.norm(dim=-1), states.norm(dim=-1), rtol=1e-5)
        left = torch.arccos(torch.cosine_similarity(turned, target[None]).clamp(-1, 1))
        assert torch.allclose(left, (1 - fraction) * whole, atol=2e-3)
    opposite = rotated(states[:1], -states[:1], 1.0)
    assert torch.allclose(opposite, -states[:1])
    assert torch.equal(rotated(states[:1], 2 * states[:1], 0.5), states[:1])


def test_rotation_towards_other_tokens() -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    keep = [ss.Keep("resid_pre", layers=[1])]
    plain = ss.record(model, input_ids=ids, reducers=keep)["resid_pre"][0, 0].values
    unit = plain / np.linalg.norm(plain, axis=-1, keepdims=True)
    free = np.setdiff1d(np.arange(12), [0, 5])
    mean = unit[free].mean(0)
    nearest = unit[free[(unit[free] @ unit[5]).argmax()]]
    for toward, target in (("mean_other", mean), ("nearest_other", nearest), (0, unit[0])):
        with ss.intervene(model, ss.Rotate(layers=1, tokens=5, toward=toward)):
            seen = ss.record(model, input_ids=ids, reducers=keep)["resid_pre"][0, 0].values
        expected = target / np.linalg.norm(target) * np.linalg.norm(plain[5])
        assert np.allclose(seen[5], expected, atol=1e-4)
        assert np.array_equal(np.delete(seen, 5, 0), np.delete(plain, 5, 0))


def test_edits_of_one_site_act_in_their_order() -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    there = {"site": "resid_post", "layers": 0, "tokens": 3, "features": 4}
    for edits, expected in (
        ([ss.Replace(value=2.0, **there), ss.Scale(by=5.0, **there)], 10.0),
        ([ss.Scale(by=5.0, **there), ss.Replace(value=2.0, **there)], 2.0),
        ([ss.Replace(value=-7.0, **there), ss.Clamp(limit=4.0, **there)], -4.0),
    ):
        with ss.intervene(model, edits):
            seen = ss.record(model, input_ids=ids, reducers=[ss.Keep("resid_post")])
        assert seen["resid_post"][0, 0, 3, 4] == expected


def test_gradients_pass_through_edits() -> None:
    model, ids = build("llama"), batch(samples=1)["input_ids"]
    with ss.intervene(model, [ss.Scale(by=2.0, layers=0, tokens=2), ss.BlockAttention(keys=1)]):
        model(ids).logits.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())
    assert model.model.embed_tokens.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: ss.Zero(site="resid_mid"), "only a copy"),
        (lambda: ss.Zero(site="k"), "cannot be changed"),
        (lambda: ss.Zero(heads=1), "site='z'"),
        (lambda: ss.Replace(layers=0), "replacement"),
        (lambda: ss.Rotate(layers=0, fraction=1.5), "from 0 to 1"),
        (lambda: ss.Clamp(limit=-1.0), "0 or more"),
        (lambda: ss.knock_out(layers=0), "one of part"),
        (lambda: ss.BlockAttention(), "keys="),
    ],
)
def test_edits_that_make_no_sense(edit, message: str) -> None:
    with pytest.raises(InputError, match=message):
        edit()


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([ss.Zero(layers=9)], "no layer 9"),
        ([ss.Zero(layers=0, tokens="<audio>")], "changed nothing"),
        ([ss.Zero(layers=0, tokens=40)], "changed nothing"),
        ([ss.Zero(layers=0, features=999, tokens=1)], "no feature 999"),
        ([ss.Zero(layers=0, site="z", heads=9)], "no head 9"),
        ([ss.BlockAttention(keys=1, heads=9)], "no head 9"),
        ([ss.Rotate(layers=0, tokens=3, toward="</audio>")], "no token '</audio>'"),
        ([ss.SwapEmbeddings([1, 2], 3)], "name as many"),
        (["zero"], "is no edit"),
    ],
)
def test_edits_that_do_not_fit(edits, message: str) -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    before = hooks_of(model)
    with pytest.raises(InputError, match=message), ss.intervene(model, edits):
        model(ids)
    assert hooks_of(model) == before


def test_sites_that_a_family_lacks() -> None:
    with (
        pytest.raises(SiteError, match="no gate"),
        ss.intervene(tiny("gpt2"), ss.Zero(site="mlp_gate", layers=0)),
    ):
        pass
    with (
        pytest.raises(SiteError, match="fused"),
        ss.intervene(tiny("mixtral"), ss.knock_out(layers=0, neurons=1)),
    ):
        pass
