"""Rates, tasks and parts that a run trains: what is not said, and what would do nothing."""

from dataclasses import replace
from typing import Any

import pytest

from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import MomeSettings
from sinkscope.errors import InputError
from sinkscope.training.config import TrainConfig
from sinkscope.training.prepared import prepare_for_training
from sinkscope.training.step_passes import passes_of
from sinkscope.training.unusable import refuse_unusable
from tests.test_avsr_model import a_model

EXPERTS = MomeSettings(routed=4, top_k=2, bottleneck=2)


@pytest.fixture(scope="module")
def model() -> LlamaAvsr:
    """With rates (4, 16) and (2, 5)."""
    return a_model()


def names(model: LlamaAvsr, **changes: Any) -> list[str]:
    config = TrainConfig(model="m", train="t", **changes)
    return [one.name for one in passes_of(model.config, config).possible()]


def test_rates_that_are_not_said_are_all_of_the_models_where_passes_are(model: LlamaAvsr) -> None:
    every = [f"audiovisual {audio}:{video}" for video in (2, 5) for audio in (4, 16)]
    assert names(model, passes="all_pairs") == names(model, passes="sampled_pair") == every
    assert names(model) == ["audiovisual 4:2"]
    assert names(model, passes="all_pairs", audio_rates=(16,)) == [every[1], every[3]]


@pytest.mark.parametrize("passes", ["all_pairs", "sampled_pair"])
def test_steps_of_one_pass_alone_are_refused(model: LlamaAvsr, passes: str) -> None:
    one = {"audio_rates": (4,), "video_rates": (2,), "passes": passes}
    with pytest.raises(InputError, match=f"passes is '{passes}', but .* audiovisual 4:2; name"):
        names(model, **one)
    assert len(names(model, **one, modalities=("audio", "video"))) == 2
    config = TrainConfig(model="m", train="t", **one)
    with pytest.raises(InputError, match="there is one pass alone"):
        refuse_unusable(model, [], config=config)


@pytest.mark.parametrize(
    ("weights", "modalities", "words"),
    [
        ({"video": 3}, ["audio"], "has 3.* for video, which is not trained"),
        ({"audio": 0.5}, None, r"has 0\.5 for audio, which is not trained"),
        ({"audio": 0, "video": 0}, ["audio", "video"], "is 0 for audio and video, which is all"),
        ({"audiovisual": 0}, None, "is 0 for audiovisual"),
    ],
)
@pytest.mark.parametrize("passes", ["drawn", "all_pairs"])
def test_weights_that_do_nothing_are_refused(
    model: LlamaAvsr, weights: dict[str, float], modalities: list[str] | None, words: str,
    passes: str,
) -> None:  # fmt: skip
    given = {"model": "m", "train": "t", "task_weights": weights, "passes": passes}
    config = TrainConfig.from_dict(given | {"modalities": modalities})
    with pytest.raises(InputError, match=words):
        passes_of(model.config, config)
    with pytest.raises(InputError, match=words):
        refuse_unusable(model, [], config=config)
    right = replace(config, modalities=("audio", "video", "audiovisual"))
    if weights != {"audiovisual": 0}:
        assert passes_of(model.config, right).possible()


@pytest.mark.parametrize(
    ("llm", "kinds"), [("frozen", {"projector", "mome"}), ("untouched", {"projector"})]
)
def test_experts_that_are_there_are_trained_or_left(llm: str, kinds: set[str]) -> None:
    model = a_model(mome=EXPERTS)
    prepare_for_training(model, TrainConfig(model="m", train="t", llm=llm))
    learning = [name for name, one in model.named_parameters() if one.requires_grad]
    assert {kind for kind in ("projector", "mome") for name in learning if kind in name} == kinds
    assert all("projector" in name or ".mome." in name for name in learning)


def test_fresh_experts_are_not_left_untrained() -> None:
    with pytest.raises(InputError, match="mome is given, but llm is 'untouched'"):
        TrainConfig(model="m", train="t", llm="untouched", mome=EXPERTS)
