"""Input controls of texts, on models whose sinks were planted or cannot be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import sinkscope as ss
from sinkscope.analysis import describe
from sinkscope.avsr.tokens import word_tokenizer
from sinkscope.errors import InputError
from sinkscope.interventions import changes
from sinkscope.interventions.controls import CONTROLS, Control, Input, Surroundings
from tests.families import batch, tiny
from tests.planted import BOS_ID, TRIGGER_ID, VOCABULARY, Planted, planted

TOKENS = 40


@pytest.fixture(scope="module")
def plant() -> Planted:
    return planted(heads=(0, 1, 2, 5, 7))


def rows_of(model: Any, ids: Any, **options: Any) -> dict[str, dict[str, Any]]:
    table = ss.input_controls(model, input_ids=ids, **options)
    return {row["control"]: row for row in table.to_dict("records")}


def test_the_planted_sinks_come_and_go_as_planted(plant: Planted) -> None:
    rows = rows_of(plant.model, plant.ids(TOKENS, sinks=[0, 17]))
    before = rows["original"]
    assert (before["n_sinks"], before["n_intermediate"], before["intermediate"]) == (2, 1, ("5",))
    assert before["massive_features"] == (plant.feature,)
    assert before["n_massive"] == 2  # one feature of two tokens, in however many layers
    after = rows["no_bos"]
    assert (after["tokens"], after["bos_present"]) == (TOKENS - 1, False)
    assert (after["n_sinks"], after["intermediate"], after["jaccard"]) == (1, ("5",), 1.0)
    assert after["sink_rate"] == 0.0
    assert rows["repeated_token"]["n_massive"] == 0
    assert rows["repeated_token"]["jaccard"] == 0.0
    kept = rows["repeated_after_bos"]
    assert (kept["n_sinks"], kept["n_intermediate"], kept["jaccard"]) == (1, 0, 1.0)


def test_without_its_trigger_the_sink_is_gone(plant: Planted) -> None:
    rows = rows_of(plant.model, plant.ids(TOKENS), controls=["no_bos"])
    before, after = rows["original"], rows["no_bos"]
    assert before["sink_rate"] > 0.2
    assert before["largest_sink_rate"] >= 5 / 8  # five heads of eight are locked
    assert after["sink_rate"] == after["largest_sink_rate"] == 0.0
    assert before["largest_ratio"] > 1000 > 100 > after["largest_ratio"]
    assert after["jaccard"] == 0.0
    plain = rows_of(plant.model, plant.ids(TOKENS, sinks=[]), controls=["repeated_token"])
    assert np.isnan(plain["repeated_token"]["jaccard"])  # none before, none after: nothing to tell


def test_random_words_are_sinks_only_where_a_trigger_was_drawn(plant: Planted) -> None:
    ids = plant.ids(TOKENS, sinks=[0, 9, 17])
    seen = set()
    for seed in range(6):
        rng = np.random.default_rng([seed, 0])
        words = [i for i in range(VOCABULARY) if i not in (0, BOS_ID, 2)]
        drawn = changes.random_tokens(ids[0].tolist(), words, rng, keep=1)
        judged = drawn[: TOKENS - 7]  # the last seven are seen by fewer than eight queries
        rows = rows_of(
            plant.model, ids, controls=["random_tokens"], seed=seed, threshold=0.1
        )  # the locked heads share their attention among the triggers
        row = rows["random_tokens"]
        assert row["n_intermediate"] == judged.count(TRIGGER_ID)
        assert set(row["intermediate"]) <= {str(TRIGGER_ID)}
        seen.add(row["n_intermediate"])
    assert len(seen) > 1


def test_special_tokens_are_never_drawn(plant: Planted) -> None:
    """Here the trigger is a special token, so that random words hold no intermediate sink."""
    tokenizer = word_tokenizer([f"word{i}" for i in range(40)])
    assert tokenizer.convert_tokens_to_ids("</audio>") == TRIGGER_ID
    subject = ss.load(plant.model, tokenizer=tokenizer)
    text = " ".join(["word1 word2 word3"] * 5 + ["</audio>"] + ["word4 word5 word6"] * 7)
    for seed in range(6):
        table = ss.input_controls(subject, text, controls=["random_tokens"], seed=seed)
        before, after = table.to_dict("records")
        assert (before["intermediate"], before["tokens"]) == (("</audio>",), 38)
        assert (after["n_intermediate"], after["tokens"]) == (0, 38)
        assert after["n_sinks"] == 1  # BOS was kept


def test_draws_follow_the_seed(plant: Planted) -> None:
    ids = plant.ids(TOKENS)
    same = [rows_of(plant.model, ids, controls=["random_tokens"], seed=3) for _ in range(2)]
    assert same[0]["random_tokens"] == same[1]["random_tokens"]
    other = rows_of(plant.model, ids, controls=["random_tokens"], seed=4)
    assert other["random_tokens"] != same[0]["random_tokens"]
    both = ss.input_controls(
        plant.model, input_ids=[ids[0].tolist()] * 2, controls=["random_tokens"], seed=3
    )
    drawn = both.loc[both["control"] == "random_tokens", "largest_ratio"].tolist()
    assert drawn[0] != drawn[1]


def test_keys_of_a_repeated_token_differ_by_their_rotation_alone() -> None:
    model = tiny("llama")
    ids = tuple(batch(samples=1)["input_ids"][0].tolist())
    subject = ss.load(model)
    layout = next(iter(subject.batches(None, input_ids=[list(ids)]))).layouts[0]
    sample = Input(subject, layout, ids=ids)
    nothing = Surroundings((), np.random.default_rng(0))
    changed = CONTROLS["repeated_token"].change(sample, nothing)
    assert changed.ids == (ids[len(ids) // 2],) * len(ids)
    seen = ss.record(subject, **changed.arguments(), keep=["resid_post", "k"])
    states = torch.from_numpy(seen["resid_post"].values)
    torch.testing.assert_close(states, states[:, :, :1].expand_as(states), rtol=1e-4, atol=1e-4)
    for layer in range(2):
        keys = torch.from_numpy(seen["k"].sel(layer=layer).values)  # sample, head, token, feature
        first = keys[:, :, :1].expand_as(keys).contiguous()  # at position 0 nothing is turned
        places = torch.arange(len(ids))[None]
        cos, sin = model.model.rotary_emb(first, places)
        turned, _ = apply_rotary_pos_emb(first, first, cos, sin)
        torch.testing.assert_close(keys, turned, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(keys, first, atol=1e-2)  # they are turned


def test_the_numbers_are_those_of_the_record(plant: Planted) -> None:
    ids = plant.ids(TOKENS)
    row = rows_of(plant.model, ids, threshold=0.1, layers=[1, 2, 3], controls=[])["original"]
    seen = ss.record(plant.model, input_ids=ids, layers=[1, 2, 3])
    alpha = ss.key_attention(seen).isel(sample=0).transpose("layer", "head", "key").values
    assert row["sink_rate"] == pytest.approx((alpha[:, :, 0] > 0.1).mean())
    assert row["largest_sink_rate"] == pytest.approx((alpha[:, :, 0] > 0.1).mean(-1).max())
    elsewhere = (alpha[:, :, 1 : TOKENS - 7] > 0.1).mean(1)
    assert row["sink_rate_elsewhere"] == pytest.approx(elsewhere.max())
    assert row["sink_rate_elsewhere"] < row["largest_sink_rate"]
    even = sum(1 / (query + 1) for query in range(TOKENS)) / TOKENS
    assert row["even_alpha"] == pytest.approx(even)
    massive = ss.find_massive_activations(seen)
    assert row["largest_ratio"] == pytest.approx(massive["ratio"].max())


def test_a_control_of_your_own(plant: Planted) -> None:
    def backwards(sample: Input, around: Surroundings) -> Input:
        assert sample.ids is not None
        return replace(sample, ids=sample.ids[::-1])

    mine = {"backwards": Control("read backwards", ("text",), backwards)}
    rows = rows_of(plant.model, plant.ids(TOKENS, sinks=[0, 17]), controls=mine)
    assert rows["backwards"]["reference"] != "1"
    table = ss.input_controls(plant.model, input_ids=plant.ids(TOKENS), controls=mine)
    assert "Read backwards: sink rate" in describe(table)


def test_other_features_are_not_the_originals(plant: Planted) -> None:
    elsewhere = ss.load(planted(feature=20, heads=plant.heads).model)
    swap = Control("another model", ("text",), lambda s, _: replace(s, subject=elsewhere))
    same = Control("the same", ("text",), lambda s, _: s)
    rows = rows_of(plant.model, plant.ids(TOKENS), controls={"swap": swap, "same": same})
    assert rows["swap"]["massive_features"] == (20,)
    assert (rows["swap"]["jaccard"], rows["same"]["jaccard"]) == (0.0, 1.0)


def test_what_makes_no_sense_is_said_or_refused(plant: Planted) -> None:
    ids = plant.ids(TOKENS)
    row = rows_of(plant.model, ids, controls=["silence"])["silence"]
    assert row["reason"] == "this control is for a clip."
    with pytest.raises(InputError, match="no control 'slience'; use silence, frozen_frame"):
        rows_of(plant.model, ids, controls=["slience"])
    with pytest.raises(InputError, match="no threshold 'epsilon'; use threshold"):
        rows_of(plant.model, ids, epsilon=0.3)
    with pytest.raises(InputError, match="data or input_ids"):
        ss.input_controls(plant.model)
    with pytest.raises(InputError, match="data or input_ids"):
        ss.input_controls(plant.model, "text", input_ids=ids)
    with pytest.raises(InputError, match="at least one"):
        ss.input_controls(plant.model, [])
    with pytest.raises(InputError, match="no tokenizer"):
        ss.input_controls(plant.model, "a text")
    with pytest.raises(InputError, match=r"threshold is 2\.0"):
        rows_of(plant.model, ids, threshold=2.0)
