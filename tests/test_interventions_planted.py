"""On a planted model an intervention does what its construction says, and a control nothing."""

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.interventions.standard import leading_neurons, mean_over_other_samples
from tests.planted import BOS_ID, planted

RULES = ss.Thresholds(min_heads=0.3)
SINKS = [[0, 7], [0, 11], [0, 19]]


@pytest.fixture(scope="module", params=[True, False], ids=["grouped", "not grouped"])
def plant(request):
    return planted(grouped=request.param)


@pytest.fixture(scope="module")
def ids(plant) -> torch.Tensor:
    return torch.cat([plant.ids(48, sinks=own, seed=i) for i, own in enumerate(SINKS)])


@pytest.fixture(scope="module")
def story(plant, ids):
    return ss.explain(plant.model, input_ids=ids, rules=RULES)


def sinks_of(plant, ids, *, min_heads: float = 0.3) -> set[tuple[int, int]]:
    found = ss.find_sinks(ss.record(plant.model, input_ids=ids), min_heads=min_heads)
    return set(zip(found["sample"], found["token"], strict=True))


def massive_of(plant, ids) -> set[tuple[int, int]]:
    found = ss.find_massive_activations(ss.record(plant.model, input_ids=ids))
    return set(zip(found["sample"], found["token"], strict=True))


def planted_tokens() -> set[tuple[int, int]]:
    return {(sample, token) for sample, own in enumerate(SINKS) for token in own}


def test_everything_planted_is_found(plant, story) -> None:
    births = story.findings.births
    assert set(zip(births["sample"], births["token"], strict=True)) == planted_tokens()
    assert set(births["layer"]) == {plant.layer}
    assert set(births["feature"]) == {plant.feature}
    assert set(births["part"]) == {"mlp"}
    assert leading_neurons(story.findings) == {plant.layer: [plant.neuron]}
    sinks = story.findings.sinks
    assert set(zip(sinks["sample"], sinks["token"], strict=True)) == planted_tokens()
    assert set(sinks["layer"]) == set(plant.locked_layers)


def test_every_causal_test_agrees_and_every_control_is_silent(story) -> None:
    tests = story.tests.set_index(["condition", "claim"])
    assert (tests["clips"] == 3).all()
    assert (tests["share"] == 1).all(), tests["share"]
    assert tests["control"].sum() == 5


def test_the_effects_are_those_of_the_construction(story) -> None:
    after = story.effects.summary.pivot(index="condition", columns="metric", values="after")
    assert after.loc["before", "sinks"] == 2
    for gone in ("zero massive", "silence neurons"):
        assert after.loc[gone, "sinks"] == after.loc[gone, "massive"] == 0
        assert after.loc[gone, "largest_ratio"] < 100
    assert after.loc["mean massive", "sinks"] == 2
    assert after.loc["mean massive", "kl"] < 1e-3 * after.loc["zero massive", "kl"]
    for control in ("zero random features", "zero median features", "silence random neurons"):
        assert after.loc[control, "sinks"] == 2
        assert after.loc[control, "kl"] < 0.1 * after.loc["zero massive", "kl"]


def test_the_words_name_what_was_planted(plant, story) -> None:
    assert f"neuron {plant.neuron} of layer {plant.layer} writes 100%" in story.words
    assert f"feature {plant.feature} is born in layer {plant.layer}" in story.words
    assert "no sink is left in 3 of 3 samples" in story.words
    assert "told of 3 samples only" in story.words


@pytest.mark.parametrize("site", ["resid_post", "resid_pre"])
def test_zero_at_what_was_found(plant, ids, story, site: str) -> None:
    massive = story.findings.massive
    layer = plant.layer if site == "resid_post" else plant.layer + 1
    with ss.intervene(plant.model, ss.Zero(at=massive, site=site, layers=layer)):
        assert not sinks_of(plant, ids)
        left = massive_of(plant, ids)
        assert not left or site == "resid_pre"


def test_scaling_keeps_a_sink_until_its_key_is_short(plant, ids, story) -> None:
    massive = story.findings.massive
    for by, stays in ((0.5, True), (0.0, False)):
        with ss.intervene(plant.model, ss.Scale(by=by, at=massive, layers=plant.layer)):
            assert (sinks_of(plant, ids) == planted_tokens()) == stays


def test_clamping_below_the_ratio(plant, ids, story) -> None:
    massive = story.findings.massive
    limit = 500 * float(massive["median"].min())
    with ss.intervene(plant.model, ss.Clamp(limit=limit, at=massive, layers=plant.layer)):
        assert not massive_of(plant, ids)


def test_an_ordinary_token_turned_to_bos_becomes_both(plant) -> None:
    ids = plant.ids(48, sinks=[0])
    assert sinks_of(plant, ids) == massive_of(plant, ids) == {(0, 0)}
    turn = ss.Rotate(tokens=20, toward="bos", layers=plant.layer)
    with ss.intervene(plant.model, turn):
        assert massive_of(plant, ids) == {(0, 0), (0, 20)}
        assert sinks_of(plant, ids) == {(0, 0), (0, 20)}
    with ss.intervene(plant.model, ss.Rotate(tokens=20, toward=9, layers=plant.layer)):
        assert sinks_of(plant, ids) == massive_of(plant, ids) == {(0, 0)}


def test_hidden_sinks_draw_nothing(plant, ids, story) -> None:
    with ss.intervene(plant.model, ss.BlockAttention(keys=story.findings.sinks)):
        record = ss.record(plant.model, input_ids=ids, keep=["pattern"])
    for sample, own in enumerate(SINKS):
        for layer in plant.locked_layers:
            pattern = record["pattern"].sel(layer=layer).values[sample]
            for key in own:
                assert (pattern[:, key + 1 :, key] == 0).all()


def test_a_locked_head_without_its_output(plant, ids) -> None:
    layer, head = plant.locked_layers[0], plant.heads[0]
    keep = [ss.Keep("z", layers=[layer])]
    with ss.intervene(plant.model, ss.knock_out(layers=layer, heads=head)):
        z = ss.record(plant.model, input_ids=ids, reducers=keep)["z"]
    assert (z.isel(head=head) == 0).all()
    assert (np.abs(z.isel(head=head - 1)).max()) > 0


def test_measure_with_edits_of_ones_own(plant, ids) -> None:
    edits = {
        "planted": ss.knock_out(layers=plant.layer, neurons=plant.neuron),
        "another": ss.knock_out(layers=plant.layer, neurons=plant.neuron + 1),
        "both": [
            ss.knock_out(layers=plant.layer, neurons=plant.neuron),
            ss.knock_out(layers=0, part="mlp"),
        ],
    }
    found = ss.measure(plant.model, None, edits, input_ids=ids, rules=RULES)
    rows = found.clips.set_index(["condition", "sample"])
    logits = plant.model(ids[:1]).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
    assert rows.loc[("before", 0), "loss"] == pytest.approx(expected, rel=1e-5)
    assert (rows.loc["before", "kl"] == 0).all()
    assert (rows.loc["planted", "sinks"] == 0).all()
    assert (rows.loc["another", "sinks"] == 2).all()
    summary = found.summary.set_index(["condition", "metric"])
    change = summary.loc[("planted", "loss")]
    own = rows.loc["planted", "loss"] - rows.loc["before", "loss"]
    assert change["change"] == pytest.approx(own.mean())
    assert own.min() <= change["low"] <= change["high"] <= own.max()


def test_a_hidden_reference_token_is_no_sink(plant, ids) -> None:
    """It sees itself alone, wholly: that is no attention of others, and not to be counted."""
    before, after = (
        ss.measure(plant.model, None, ss.DropBos(), input_ids=ids[:1], rules=RULES)
        .clips.set_index("condition")["sink_rate"]
        .loc[["before", "edited"]]
    )
    assert before > 0.1
    assert after == 0
    short = ss.measure(plant.model, None, [], input_ids=ids[:1, :5], rules=RULES).clips
    assert (short["sink_rate"] == 0).all()


def test_the_divergence_is_that_of_the_distributions(plant, ids) -> None:
    edit = ss.knock_out(layers=0, part="mlp")
    found = ss.measure(plant.model, None, edit, input_ids=ids[:1]).clips
    with torch.no_grad():
        first = plant.model(ids[:1]).logits[0, :-1].double().log_softmax(-1)
        with ss.intervene(plant.model, edit):
            then = plant.model(ids[:1]).logits[0, :-1].double().log_softmax(-1)
    expected = (first.exp() * (first - then)).sum(-1).mean().item()
    measured = found.loc[found["condition"] == "edited", "kl"].item()
    assert measured == pytest.approx(expected, rel=1e-4)


def test_means_leave_the_own_sample_out(story) -> None:
    births = story.findings.births
    means = mean_over_other_samples(births)
    bos = births.loc[births["token"] == 0]
    for sample in range(3):
        others = bos.loc[bos["sample"] != sample, "leaving"].mean()
        own = means.loc[(means["sample"] == sample) & (means["token"] == 0), "replacement"]
        assert own.item() == pytest.approx(others)
    assert not len(mean_over_other_samples(births.loc[births["sample"] == 0]))


def test_a_model_without_anything_to_explain(plant) -> None:
    ids = plant.ids(40, sinks=[])
    ids[0, 0] = BOS_ID + 8
    story = ss.explain(plant.model, input_ids=ids)
    assert story.effects is None
    assert story.tests.empty
    assert "nothing whose origin could be traced" in story.words


def test_another_text_under_the_same_table_is_refused(plant, ids, story) -> None:
    other = plant.ids(48, sinks=[0, 7], seed=9)
    other[0, 7] = 40
    with (
        pytest.raises(InputError, match="calls token 7"),
        ss.intervene(plant.model, ss.Zero(at=story.findings.massive)),
    ):
        plant.model(other)
