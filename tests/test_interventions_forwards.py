"""Edits in forwards of every kind: nested blocks, checkpointed training, caches, encoders."""

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from tests.encoder_models import FRAMES, encoder, real_frames
from tests.families import batch, build, tiny

EDITS = (
    ss.Scale(by=2.0, site="mlp_out", layers=0, tokens=[1, 10]),
    ss.Rotate(layers=1, tokens=3, toward=1, fraction=0.7),
    ss.BlockAttention(keys=[2, 9], layers=1),
    ss.BlockAttention(keys=3, layers=0, heads=[1]),
)


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "mlp_act", "z"])
def test_nested_blocks_act_as_one_block_with_both_edits(site: str) -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    there = {"site": site, "layers": 0, "tokens": 3}
    first, then = ss.Replace(value=2.0, **there), ss.Scale(by=5.0, **there)
    with ss.intervene(model, first), ss.intervene(model, then), ss.probe(model, [site]) as nested:
        model(ids)
    with ss.probe(model, [site]) as flat, ss.intervene(model, [first, then]):
        model(ids)
    with ss.intervene(model, then), ss.intervene(model, first):
        backwards = ss.record(model, input_ids=ids, reducers=[ss.Keep(site)])
    axis = 1 if site == "z" else 0
    for probe, expected in ((nested.record, 10), (flat.record, 10), (backwards, 2)):
        assert (probe[site][0, 0].values.take(3, axis) == expected).all()
    assert np.array_equal(nested.record[site], flat.record[site])


@pytest.mark.parametrize("by_ids", [True, False])
def test_nested_edits_of_embeddings(by_ids: bool) -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    given = {"input_ids": ids}
    if not by_ids:
        given = {"inputs_embeds": model.get_input_embeddings()(ids).detach()}
    swap, clear = ss.SwapEmbeddings(2, 5), ss.ReplaceEmbeddings(2, "zero")
    keep = [ss.Keep("resid_pre", layers=[0])]
    for outer, inner, zero in ((swap, clear, 2), (clear, swap, 5)):
        with ss.intervene(model, outer), ss.intervene(model, inner):
            seen = ss.record(model, **given, reducers=keep)["resid_pre"][0, 0].values
        assert np.flatnonzero((seen == 0).all(-1)).tolist() == [zero]


def test_leaving_an_inner_block_leaves_the_outer_one_in_place() -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    with ss.intervene(model, EDITS):
        outer = model(ids).logits
        with ss.intervene(model, ss.Zero(layers=0, tokens=5)):
            assert not torch.equal(model(ids).logits, outer)
        assert torch.equal(model(ids).logits, outer)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_checkpointed_blocks_are_refused_where_they_would_run_again() -> None:
    model, ids = build("llama").train(), batch(samples=1)["input_ids"]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with ss.intervene(model, EDITS, allow_idle=True):
        with pytest.raises(InputError, match="turn gradient checkpointing off"):
            model(ids, use_cache=False)
        with torch.no_grad():
            model(ids, use_cache=False)
    with ss.intervene(model.eval(), EDITS):
        model(ids).logits.sum().backward()


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3_text"])
def test_a_static_cache_generates_as_a_growing_one(name: str) -> None:
    model, given = tiny(name), batch("left")
    how = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True}
    found = []
    for cache in (None, "static"):
        with ss.intervene(model, EDITS):
            made = model.generate(**given, **how, output_logits=True, cache_implementation=cache)
        found.append(torch.stack(made.logits))
    assert torch.allclose(*found, atol=1e-4)
    plain = model.generate(**given, **how, output_logits=True)
    assert not torch.allclose(found[0][0], plain.logits[0], atol=1e-2)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_half_precision_and_inference_mode(name: str) -> None:
    model, ids = build(name).to(torch.bfloat16), batch(samples=1)["input_ids"]
    with ss.intervene(model, EDITS), torch.inference_mode():
        pattern = ss.record(model, input_ids=ids, keep=["pattern"])["pattern"].values[0]
    assert (pattern[1][:, 10:, 9] == 0).all()
    assert (pattern[0][1, 4:, 3] == 0).all()
    assert (pattern[0][[0, 2, 3], 4:, 3] > 0).all()
    assert np.allclose(pattern.sum(-1), 1, atol=1e-5)


def test_a_multiplier_leaves_the_other_tokens_to_the_bit() -> None:
    model, ids = build("granite", residual_multiplier=0.3), batch(samples=1)["input_ids"]
    value = torch.linspace(-3, 5, 32)
    for site in ("attn_out", "mlp_out"):
        keep = [ss.Keep(site), ss.Keep("resid_post")]
        plain = ss.record(model, input_ids=ids, reducers=keep)
        with ss.intervene(model, ss.Replace(value=value, site=site, layers=1, tokens=4)):
            seen = ss.record(model, input_ids=ids, reducers=keep)
        before, after = (found["resid_post"].values[0, 1] for found in (plain, seen))
        assert np.array_equal(np.delete(after, 4, 0), np.delete(before, 4, 0))
        assert np.allclose(seen[site].values[0, 1, 4], value, rtol=1e-6)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("name", ["whisper", "avhubert", "avhubert post-norm"])
def test_frames_are_hidden_from_all_others_of_an_encoder(name: str, padding: bool) -> None:
    built, mask = encoder(name), real_frames(padding)
    hidden = ss.BlockAttention(keys=3, layers=0)
    with ss.intervene(built.model, hidden), ss.probe(built.model, ["pattern"]) as probe:
        built.run(mask)
    pattern = probe.record["pattern"].values[0, 0]
    others = np.delete(np.arange(FRAMES), 3)
    assert (pattern[:, others, 3] == 0).all()
    assert (pattern[:, 3, 3] > 0).all()
    assert (pattern[:, 2, 4:] > 0).all()


@pytest.mark.parametrize("edit", [ss.knock_out(layers=0, heads=1), ss.BlockAttention(keys=3)])
def test_attention_that_cannot_be_changed_is_refused_in_words(edit) -> None:
    with pytest.raises(SiteError, match="attn_out"), ss.intervene(encoder("wavlm").model, edit):
        pass
    model = build("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(SiteError, match="load the model with"), ss.intervene(model, edit):
        pass


@pytest.mark.parametrize("name", ["whisper", "wavlm", "avhubert"])
def test_an_encoder_has_no_embeddings_of_tokens(name: str) -> None:
    """Whisper calls its first convolution so."""
    edit = ss.SwapEmbeddings(1, 2)
    with pytest.raises(SiteError, match="no embeddings"), ss.intervene(encoder(name).model, edit):
        pass


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", [None, [1]])
def test_statistics_are_of_what_is_left(implementation: str, heads: list[int] | None) -> None:
    """Counts, sums and entropies under hidden keys are those of the map that is kept whole."""
    model, given = build("llama", attn_implementation=implementation), batch("left")
    hidden = ss.BlockAttention(keys=1, layers=0, heads=heads)
    with ss.intervene(model, hidden):
        record = ss.record(model, **given, keep=["pattern"])
    for sample, length in enumerate((12, 9, 6)):
        one = record.sample(sample)
        pattern = one["pattern"].values[0, 0].astype(float)
        seen = np.tril(np.ones((length, length), bool))
        if heads is None:
            seen[2:, 1] = False
        queries = one["queries"].sum("segment").values[0, 0]
        assert np.array_equal(queries, seen.sum(0))
        sums = one["segment_sum"].sum("segment").values[0, 0]
        assert np.allclose(sums, pattern.sum(1), atol=1e-5)
        terms = np.where(pattern > 0, pattern * np.log(np.where(pattern > 0, pattern, 1)), 0)
        assert np.allclose(one["entropy"].values[0, 0], -terms.sum(-1), atol=1e-5)
        blocked = range(4) if heads is None else heads
        assert all((pattern[head, 2:, 1] == 0).all() for head in blocked)


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
def test_keys_are_hidden_from_chosen_queries_among_padding(name: str) -> None:
    model, given = tiny(name), batch("left")
    keep = [ss.Keep("pattern", layers=[1])]
    plain = ss.record(model, **given, reducers=keep)
    with ss.intervene(model, ss.BlockAttention(keys=[1], queries=[3, 5, 11], layers=1)):
        seen = ss.record(model, **given, reducers=keep)
    for sample, length in enumerate((12, 9, 6)):
        before, after = (one.sample(sample)["pattern"].values[0, 0] for one in (plain, seen))
        rows = [query for query in (3, 5, 11) if query < length]
        assert (after[:, rows, 1] == 0).all()
        assert np.allclose(np.delete(after, rows, 1), np.delete(before, rows, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_edits_of_a_bridge_are_those_of_its_model(name: str, tmp_path) -> None:
    from tests.test_subjects_transformer_lens import boot

    bridge, plain = boot(name, tmp_path)
    ids = batch(samples=2)["input_ids"]
    edits = [*EDITS, ss.SwapEmbeddings(2, 6), ss.knock_out(layers=1, neurons=[3, 4])]
    with ss.intervene(plain, edits):
        expected = plain(ids).logits
    subject = ss.load(bridge)
    with ss.intervene(subject, edits), torch.no_grad():
        found = subject.model(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, plain(ids).logits, atol=1e-2)


def test_embeddings_by_position() -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    states = model.get_input_embeddings()(ids).detach()
    with ss.intervene(model, ss.SwapEmbeddings(1, 2)):
        by_place = model.model(None, None, None, None, states).last_hidden_state
        by_ids = model.model(ids).last_hidden_state
    assert torch.allclose(by_place, by_ids, atol=1e-6)
    assert not torch.allclose(by_place, model.model(ids).last_hidden_state, atol=1e-2)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_are_followed() -> None:
    from peft import LoraConfig, get_peft_model

    model, ids = build("llama"), batch(samples=1)["input_ids"]
    adapters = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    wrapped = get_peft_model(build("llama"), adapters).eval()
    keep = [ss.Keep("mlp_out")]
    with ss.intervene(wrapped, ss.Replace(value=1.5, site="mlp_out", layers=1, tokens=3)):
        seen = ss.record(wrapped, input_ids=ids, reducers=keep)["mlp_out"].values[0, 1]
    assert (seen[3] == 1.5).all()
    assert not np.allclose(
        seen[4], ss.record(model, input_ids=ids, reducers=keep)["mlp_out"].values[0, 1, 4]
    )


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_samples_that_end_early_are_changed_as_alone(name: str) -> None:
    """Fillers after an end are no tokens, and later keys are not shifted by them."""
    model, given = tiny(name), batch("left")
    edits = [
        ss.Scale(by=1.5, site="resid_post", layers=0, tokens=[2, 7, 10, 13, 15]),
        ss.BlockAttention(keys=[1, 8, 13], layers=1),
        ss.BlockAttention(keys="response", layers=0, heads=[2]),
    ]
    how = {"max_new_tokens": 10, "do_sample": False}
    with ss.intervene(model, edits):
        free = model.generate(**given, **how, eos_token_id=None)[:, 12:]
    end = int(free[1, 3])
    ends = [row.index(end) if end in row else 10 for row in free.tolist()]
    assert len(set(ends)) > 1
    settings, before = model.generation_config, vars(model.generation_config).copy()
    settings.eos_token_id, settings.pad_token_id = end, 0
    keep = [ss.Keep("resid_post"), ss.Keep("pattern")]
    try:
        with ss.intervene(model, edits), ss.probe(model, keep) as together:
            model.generate(**given, **how)
        for sample in range(3):
            ids = given["input_ids"][sample : sample + 1, 3 * sample :]
            with ss.intervene(model, edits), ss.probe(model, keep) as alone:
                model.generate(ids, attention_mask=torch.ones_like(ids), **how)
            one = together.record.sample(sample)
            length = len(alone.record.layouts[0])
            assert len(one.layouts[0]) in (length, length + 1), "the end itself, if others go on"
            for site, axes in (("resid_post", ["token"]), ("pattern", ["query", "key"])):
                cut = dict.fromkeys(axes, slice(0, length))
                found, expected = one[site].isel(cut).values, alone.record[site].values
                assert np.allclose(found, expected, atol=1e-4 * np.nanmax(np.abs(expected)))
    finally:
        vars(settings).update(before)


def test_gradients_in_double_precision_through_every_edit() -> None:
    """States that an edit looked at are changed afterwards; their gradients must not be."""
    model, ids = build("llama").double(), batch(samples=2)["input_ids"]
    edits = [
        ss.Rotate(layers=1, tokens=3, toward=1, fraction=0.5),
        ss.Scale(by=2.0, site="resid_pre", layers=1, tokens=[1, 3]),
        ss.Rotate(layers=1, tokens=[4, 5], toward="mean_other", fraction=0.3),
        ss.Clamp(limit=0.5, layers=1, tokens=1),
    ]
    weight = model.model.layers[0].mlp.down_proj.weight

    def loss() -> torch.Tensor:
        with ss.intervene(model, edits):
            return model(ids).logits.square().mean()

    loss().backward()
    step = 1e-2  # norms are computed in single precision
    for place in ((0, 0), (5, 7)):
        with torch.no_grad():
            weight[place] += step
            above = loss()
            weight[place] -= 2 * step
            below = loss()
            weight[place] += step
        slope = float((above - below) / (2 * step))
        assert float(weight.grad[place]) == pytest.approx(slope, rel=5e-3)
