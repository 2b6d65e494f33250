"""What is not tested is not counted: samples in which a condition has nothing to change."""

import numpy as np
import pandas as pd
import pytest
import torch

import sinkscope as ss
from sinkscope.interventions.causal_tests import case_of, causal_tests
from sinkscope.interventions.findings import find_origins
from sinkscope.interventions.measure import run_conditions
from sinkscope.interventions.standard import standard_interventions
from tests.families import tiny
from tests.planted import planted
from tests.test_encoders_subjects import a_clip, model_with

RULES = ss.Thresholds(min_heads=0.3)


@pytest.fixture(scope="module")
def plant():
    return planted()


def counted(story) -> pd.Series:
    return story.tests.set_index(["condition", "claim"])["clips"]


def explained(plant, ids, rules=RULES):
    return ss.explain(plant.model, input_ids=ids, rules=rules)


def test_a_sample_without_anything_is_counted_nowhere(plant) -> None:
    """Its reference token is nothing, so nothing can be made of a token that is turned to it."""
    ids = torch.cat([plant.ids(48, sinks=[0, 7]), plant.ids(48, sinks=[])])
    story = explained(plant, ids)
    assert (counted(story) == 1).all()
    assert (story.tests["share"] == 1).all()


def test_a_reference_that_is_no_sink_makes_none(plant) -> None:
    story = explained(plant, plant.ids(48, sinks=[7, 12]))
    clips = counted(story)
    assert (clips["turn ordinary to BOS"] == 0).all()
    assert (clips["turn BOS away"] == 0).all()
    assert (clips["turn sinks away"] == 1).all()


def test_a_control_that_changed_nothing_is_no_control(plant) -> None:
    """Where BOS is the only sink there is no other whose number of ordinary tokens to turn."""
    story = explained(plant, plant.ids(48, sinks=[0]))
    clips = counted(story)
    assert (clips["turn ordinary away"] == 0).all()
    assert (clips["turn sinks away"] == 0).all()
    assert (clips["zero at random tokens"] == 1).all()
    assert "turned to that direction, there: the sinks stay" not in story.words


def test_a_short_text_has_no_ordinary_tokens(plant) -> None:
    story = explained(plant, plant.ids(48, sinks=[0, 7])[:, :9])
    clips = counted(story)
    assert (clips["turn ordinary to BOS"] == 0).all()
    assert (clips["zero at random tokens"] == 0).all()
    assert (clips["silence neurons"] == 1).all()


def test_where_every_token_was_found_none_is_left_to_turn_to(plant) -> None:
    ids = plant.ids(48, sinks=[0, 1, 2])[:, :3]
    story = explained(plant, ids)
    assert story.findings.tokens == [{0, 1, 2}]
    turned = story.tests["condition"].str.startswith("turn")
    assert turned.any()
    assert not story.tests.loc[turned, "clips"].any()
    assert "no ordinary token to compare" in story.words


def test_idle_runs_are_as_before_and_said_so(plant) -> None:
    ids = torch.cat([plant.ids(48, sinks=[0, 7]), plant.ids(48, sinks=[])])
    found = find_origins(plant.model, input_ids=ids, rules=RULES)
    runs = list(run_conditions(found.subject, found.data, standard_interventions(found)))
    idle = {(run.condition, run.sample) for run in runs if run.idle}
    assert ("zero massive", 1) in idle
    assert ("zero massive", 0) not in idle
    assert ("before", 1) not in idle
    assert not {run.condition for run in runs if run.idle} & {"silence neurons"}
    for run in runs:
        same = torch.equal(run.before.logits, run.after.logits)
        assert same or not run.idle
        assert not same or run.sample == 1 or run.condition not in ("zero massive", "turn BOS away")
    cases = [(run.condition, case_of(run, RULES, found.features)) for run in runs]
    tests = causal_tests([(name, case) for name, case in cases if not case.idle])
    pd.testing.assert_frame_equal(tests, causal_tests(cases))


def test_controls_are_drawn_anew_by_their_seed_alone(plant) -> None:
    ids = plant.ids(48, sinks=[0, 7])
    found = find_origins(plant.model, input_ids=ids, rules=RULES)

    def drawn(seed: int) -> list:
        conditions = standard_interventions(found, seed=seed)
        features = conditions["zero random features"][0].at["feature"].tolist()
        tokens = conditions["zero at random tokens"][0].at["token"].tolist()
        return [features, tokens, conditions["silence random neurons"][0].features]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_a_value_that_stands_in_the_embedding_is_born_there(plant) -> None:
    """Nothing is massive by this ratio, and no block moves the second feature of the sinks."""
    ids = plant.ids(48, sinks=[0, 7])
    story = explained(plant, ids, ss.Thresholds(min_heads=0.3, ratio=1e9))
    births = story.findings.births
    assert set(births.loc[births["feature"] == plant.feature, "part"]) == {"mlp"}
    assert "embedding" in set(births["part"])
    book = story.findings.origin.ledger.set_index(["token", "feature"])
    for birth in births.to_dict("records"):
        own = book.loc[(birth["token"], birth["feature"])].sort_values("layer")
        until = own.iloc[: birth["peak_layer"] + 1]
        steps = np.sign(birth["peak"]) * (until["resid_post"] - until["resid_pre"])
        entering = np.sign(birth["peak"]) * own["resid_pre"].iloc[0]
        assert (birth["part"] == "embedding") == (entering >= steps.max())
    assert np.isfinite(births["share"]).all()
    assert "nan" not in story.words


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "qwen3_moe"])
def test_experts_that_cannot_be_read_are_said_so(name: str) -> None:
    ids = torch.randint(3, 97, (2, 30), generator=torch.Generator().manual_seed(0))
    rules = ss.Thresholds(ratio=5.0, min_heads=0.25)
    story = ss.explain(tiny(name), input_ids=ids, rules=rules)
    readable = name == "qwen3_moe"
    assert ("could not be read" in story.words) != readable
    assert ("silence neurons" in set(story.tests["condition"])) == readable
    assert "zero massive" in set(story.effects.clips["condition"])


@pytest.mark.parametrize(("name", "ratio"), [("avhubert-audio", 5.0), ("whisper", 1.4)])
def test_an_encoder_is_explained_without_predictions(name: str, ratio: float) -> None:
    subject = ss.load(model_with(name)).encoder("audio")
    rules = ss.Thresholds(ratio=ratio, min_heads=0.25, threshold=0.05)
    story = ss.explain(subject, [a_clip(), a_clip(0.8, seed=1)], rules=rules)
    assert set(story.findings.births["part"]) <= {"mlp", "attention", "embedding"}
    metrics = set(story.effects.summary["metric"])
    assert "largest_ratio" in metrics
    assert not metrics & {"loss", "kl", "wer"}
    changed = story.effects.summary.set_index(["condition", "metric"])["change"]
    assert changed["zero massive", "largest_ratio"] != 0


def test_one_sample_has_ordinary_tokens_and_another_none(plant) -> None:
    rows = [plant.ids(48, sinks=[0, 7])[0].tolist(), plant.ids(48, sinks=[0, 7])[0, :9].tolist()]
    story = explained(plant, rows)
    assert counted(story)["zero at random tokens"].tolist() == [1]
    assert counted(story)["zero random features"].tolist() == [2]
