"""Models of several rates against the authors' own numbers, converted from the published names."""

import random
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sinkscope.avsr.convert import Answers
from sinkscope.avsr.streams import MODALITIES
from tests.golden_matryoshka import FAILING, SET, Omni, cases, converted, matryoshka_set
from tests.released_checkpoints import base_models
from tests.shared_data import shared

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
LOSS = {"atol": 2e-5, "rtol": 0.0}
TASKED, BOTH = "avg_multi_taskspecific", "avg_multi_taskspecific_shared_w"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return base_models(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module", params=cases())
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sources: Answers
) -> Omni:
    return converted(request.param, sources, tmp_path_factory.mktemp("model"))


def pairs(case: Omni) -> dict[str, dict[str, int]]:
    """The rates of every stored vector of losses."""
    found = [(name, re.fullmatch(r"losses_a(\d+)_v(\d+)", name)) for name in case.outputs]
    return {
        name: {"audio": int(match[1]), "video": int(match[2])} for name, match in found if match
    }


def test_the_failing_case_is_the_only_one_without_losses() -> None:
    told, _, outputs = matryoshka_set()
    without = [n for n in told["cases"] if not any(k.startswith(f"{n}/losses") for k in outputs)]
    assert without == [FAILING]
    assert "AttributeError" in told["cases"][FAILING]["train_error"]


@torch.no_grad()
def test_losses_of_every_task_and_pair(case: Omni) -> None:
    told = matryoshka_set()[0]
    assert len(pairs(case)) == len(told["rates_audio"]) * len(told["rates_video"])
    for name, rates in pairs(case).items():
        torch.testing.assert_close(case.losses(rates), case.outputs[name], **LOSS)


@torch.no_grad()
def test_losses_of_a_drawn_pair(case: Omni) -> None:
    told, drawn = matryoshka_set()[0], random.Random(3)
    rates = {kind: drawn.choice(told[f"rates_{kind}"]) for kind in ("audio", "video")}
    assert list(rates.values()) == case.told["random_seed3_rates"]
    torch.testing.assert_close(case.losses(rates), case.outputs["losses_random_seed3"], **LOSS)


@torch.no_grad()
def test_prepared_tokens_and_labels(case: Omni) -> None:
    stored = {name.split("/")[0] for name in case.outputs if name.startswith("prepare_")}
    assert stored
    for prefix in stored:
        audio, video = map(int, re.findall(r"\d+", prefix))
        rates = {"audio": audio, "video": video}
        for task, streams in MODALITIES.items():
            inputs = case.inputs(task, rates)
            assert inputs.labels is not None
            assert torch.equal(inputs.labels, case.outputs[f"{prefix}/labels_{task}"])
            for stream in streams:
                (span,) = (s for s in inputs.spans[0] if s.name == stream)
                found = inputs.inputs_embeds[:, span.start - 1 : span.stop + 1]  # delimiters too
                wanted = case.outputs[f"{prefix}/{stream}_tokens"]
                torch.testing.assert_close(found, wanted, **TOLERANCE)


@torch.no_grad()
def test_embedded_texts(case: Omni) -> None:
    tokens = torch.from_numpy(np.load(shared(SET) / "inputs.npz")["tokens"])
    stored = [v for name, v in case.outputs.items() if name.endswith("/text_embeddings")]
    assert stored
    for wanted in stored:
        found = case.model.llm.get_input_embeddings()(tokens)
        torch.testing.assert_close(found, wanted, **TOLERANCE)
    inputs = case.inputs("audio", {"audio": case.model.config.audio_rates[0]})
    (span,) = (s for s in inputs.spans[0] if s.name == "transcript")
    own = inputs.token_ids[0, span.start : span.stop]
    assert torch.equal(own, tokens[0, 1 : 1 + len(own)])


@torch.no_grad()
def test_transcripts(case: Omni) -> None:
    told = matryoshka_set()[0]
    rates = {kind: told[f"rates_{kind}"][0] for kind in ("audio", "video")}
    for task in MODALITIES:
        inputs = case.inputs(task, rates, samples=1, texts=False)
        wanted = case.outputs[f"test_{task}/inputs_embeds"]
        torch.testing.assert_close(inputs.inputs_embeds, wanted, **TOLERANCE)
        ids = case.model.generate(inputs, max_new_tokens=told["max_new_tokens"])
        assert torch.equal(ids, case.outputs[f"test_{task}/generated_ids"])


def misses(case: Omni, changes: Mapping[str, Tensor]) -> float:
    """By how much the losses miss the authors', once some weights are changed."""
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    case.model.load_state_dict(before | dict(changes))
    try:
        found = [case.losses(rates) - case.outputs[name] for name, rates in pairs(case).items()]
    finally:
        case.model.load_state_dict(before)
    return float(torch.stack(found).abs().max())


def swapped(state: Mapping[str, Tensor], one: str, other: str) -> dict[str, Tensor]:
    """What two sets of names hold, each under the other's names."""
    names = [name for name in state if one in name]
    there = {name: state[name.replace(one, other)] for name in names}
    return there | {name.replace(one, other): state[name] for name in names}


@torch.no_grad()
@pytest.mark.parametrize("stream", ["audio", "video"])
def test_swapped_projectors_miss(tmp_path: Path, sources: Answers, stream: str) -> None:
    case = converted("avg_multi", sources, tmp_path)
    rates = case.model.config.rates(stream)
    assert list(rates) == matryoshka_set()[0][f"rates_{stream}"]
    state = case.model.state_dict()
    for low, high in combinations(rates, 2):
        changes = swapped(state, f"{stream}_projector.{low}.", f"{stream}_projector.{high}.")
        assert len(changes) == 8
        assert misses(case, changes) > 100 * LOSS["atol"], (low, high)
    assert misses(case, {}) < LOSS["atol"]


@torch.no_grad()
@pytest.mark.parametrize("name", [TASKED, BOTH])
def test_other_branches_miss(tmp_path: Path, sources: Answers, name: str) -> None:
    case = converted(name, sources, tmp_path)
    state = case.model.state_dict()
    for one, other in (("audio", "video"), ("video", "audiovisual"), ("audiovisual", "audio")):
        changes = swapped(state, f".{one}.weight", f".{other}.weight")
        assert misses(case, changes) > 100 * LOSS["atol"], (one, other)
    if name == BOTH:
        shared = {n: torch.zeros_like(v) for n, v in state.items() if "lora_A.default" in n}
        assert shared
        assert misses(case, shared) > 100 * LOSS["atol"]
    assert misses(case, {}) < LOSS["atol"]
