"""What a model is given to be fine-tuned with; what it cannot be given leaves it as it was."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sinkscope.avsr.adapting import adapt, adapted
from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import MomeSettings
from sinkscope.errors import InputError
from sinkscope.training.config import TrainConfig
from sinkscope.training.prepared import prepare_for_training
from tests.test_avsr_model import a_clip, a_model

LORA = LoraSettings(8, 4)
EXPERTS = MomeSettings(routed=4, top_k=2, bottleneck=2)


def stacked(**changes: Any) -> LlamaAvsr:
    return a_model(compression="stack", audio_rates=(4,), video_rates=(2,), **changes)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "both": (a_model, {"lora": LORA, "mome": EXPERTS}, "lora and mome are both given"),
    "no rank": (a_model, {"lora": LoraSettings(1e9, 4)}, "leaves no rank at hidden size"),
    "word": (a_model, {"projectors": "perrate", "lora": LORA}, "projectors is 'perrate'"),
    "mome there": (lambda: a_model(mome=EXPERTS), {"lora": LORA}, "the model has mome already"),
    "mome twice": (lambda: a_model(mome=EXPERTS), {"mome": EXPERTS}, "mixtures of .* already"),
    "lora there": (lambda: a_model(lora=LORA), {"mome": EXPERTS}, "the model has lora already"),
    "lora twice": (lambda: a_model(lora=LORA), {"lora": LORA}, "has LoRA branches already"),
    "stacked": (stacked, {"mome": EXPERTS, "projectors": None}, "takes 4 stacked frames"),
    "stacked shared": (stacked, {"projectors": "shared"}, "takes 4 stacked frames"),
    "no rate": (a_model, {"lora": LORA, "audio_rates": (0,)}, "whole numbers of at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_refused_something_stays_as_it_was(name: str) -> None:
    made, changes, words = REFUSED[name]
    model = made()
    before, config = {n: v.clone() for n, v in model.state_dict().items()}, model.config
    learns = {n: v.requires_grad for n, v in model.named_parameters()}
    rates = {"audio_rates": (8,)} if name.startswith("stacked") else {}
    given = {"projectors": "per_rate", **rates, **changes}
    with pytest.raises(InputError, match=words):
        adapt(model, **given)
    assert model.config == config
    assert {n: v.requires_grad for n, v in model.named_parameters()} == learns
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], before[n]) for n in before)


def test_stacked_frames_may_get_a_projector_for_each_rate() -> None:
    model = adapted(stacked(), projectors="per_rate", audio_rates=(4, 8), video_rates=(2,))
    assert [one[0].in_features for one in model.audio_projector.values()] == [16 * 4, 16 * 8]
    tokens = [model.prepare([a_clip()], audio_rate=rate).inputs_embeds.shape[1] for rate in (4, 8)]
    assert tokens[0] > tokens[1]
    same = adapted(stacked(), audio_rates=(4,), video_rates=(2,))
    assert same.config == stacked().config


def test_training_at_a_rate_that_the_projector_does_not_stack_is_refused() -> None:
    config = TrainConfig(model="x", train="y", llm="full", audio_rates=(8,), modalities=("audio",))
    model = stacked()
    with pytest.raises(InputError, match="config: audio rates 8 are asked for, but the shared"):
        prepare_for_training(model, config)
    assert model.config.audio_rates == (4,)
    prepare_for_training(model, replace(config, audio_rates=(4,)))
