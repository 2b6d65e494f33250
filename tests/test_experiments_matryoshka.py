"""The many-rates experiment: the law of its loss, what its systems share, its intervals."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sinkscope.avsr.adapting import adapted
from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import MomeSettings, mixtures
from sinkscope.errors import InputError
from sinkscope.experiments.matryoshka.plan import AUDIO, SETTINGS, SYSTEMS, VIDEO, Arm
from sinkscope.experiments.matryoshka.systems import with_adapters
from sinkscope.experiments.matryoshka.training import step_loss
from sinkscope.experiments.tiny_listening import lay_out, restrict
from sinkscope.subjects.bundled import bundled

TEXTS = ["bin blue at a nine now", "set red by a one soon"]


@cache
def base() -> LlamaAvsr:
    """The bundled model."""
    folder = next(one.folder for one in bundled() if one.name == "tiny-avsr")
    return LlamaAvsr.from_pretrained(folder).double()


@cache
def features() -> list[dict[str, Tensor]]:
    """Random frames of two utterances, the second of which is shorter."""
    torch.manual_seed(0)
    model = base()
    return [
        {
            "audio": torch.randn(2 * frames, model.encoder("audio").width),
            "video": torch.randn(frames, model.encoder("video").width),
        }
        for frames in (40, 30)
    ]


def system(name: str) -> LlamaAvsr:
    """A system in float64, filled with random numbers where it is trained.

    (Its losses are in float32 all the same: transformers takes the logits so.)
    """
    torch.manual_seed(1)
    model = with_adapters(base(), name).double()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def gradients(model: LlamaAvsr, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every trained parameter."""
    model.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


@pytest.mark.parametrize("name", ["ms", "ss", "mome"])
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_loss_of_a_step_is_the_mean_of_its_settings(name: str, weight: float) -> None:
    model = system(name)
    found = step_loss(model, features(), TEXTS, SETTINGS, weight=weight)
    found.pop("balance", None)
    whole = gradients(model, sum(found.values(), torch.zeros(())))
    means = {part: torch.zeros((), dtype=torch.float64) for part in found}
    alone = {own: torch.zeros_like(value) for own, value in whole.items()}
    for setting in SETTINGS:
        one = step_loss(model, features(), TEXTS, [setting], weight=weight)
        one.pop("balance", None)
        for part, value in one.items():
            means[part] += value.detach() / len(SETTINGS)
        for own, value in gradients(model, sum(one.values(), torch.zeros(()))).items():
            alone[own] += value / len(SETTINGS)
    for part, value in found.items():
        torch.testing.assert_close(value.detach().double(), means[part], rtol=1e-6, atol=1e-7)
    assert any((value != 0).any() for value in whole.values())
    for own, value in whole.items():
        assert (value - alone[own]).norm() <= 1e-6 * max(1e-3, value.norm()), own


@pytest.mark.parametrize("name", ["ms", "mome"])
def test_a_system_begins_as_its_base(name: str) -> None:
    model = with_adapters(base(), name).eval()
    for setting in SETTINGS:
        heard = [restrict(one, setting.task) for one in features()]
        with torch.no_grad():
            ways = [
                one(lay_out(one, heard, setting.rates), use_cache=False).logits
                for one in (base(), model)
            ]
        torch.testing.assert_close(*(way.float() for way in ways))


def test_a_system_trains_projectors_and_adapters_alone() -> None:
    for name in SYSTEMS:
        model = with_adapters(base(), name)
        own = {n for n, p in model.named_parameters() if p.requires_grad}
        marks = ("_projector.", ".mome." if name == "mome" else ".lora_")
        assert own == {n for n in model.state_dict() if any(mark in n for mark in marks)}


def test_the_seed_of_an_arm_draws_its_adapters_and_nothing_else() -> None:
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(with_adapters(base(), "mome"))
    routers = [[m.router.weight for _, m in mixtures(model)] for model in drawn]
    assert all(torch.equal(a, b) for a, b in zip(routers[0], routers[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(routers[0], routers[2], strict=True))
    for stream, rates in (("audio", AUDIO), ("video", VIDEO)):
        for rate in rates:
            own = drawn[0].projector(stream, rate=rate)
            assert torch.equal(own[0].weight, base().projector(stream, rate=rate)[0].weight)


def test_no_two_arms_share_a_folder_and_all_see_every_setting() -> None:
    arms = [Arm(s, system, w) for s in (0, 1) for system in SYSTEMS for w in (0.0, 0.1, 1.0)]
    assert len({arm.name for arm in arms}) == len(arms)
    for arm in arms:
        assert [one for part in arm.parts for one in part] == list(SETTINGS)
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_what_cannot_be_adapted_is_refused(tmp_path: Path) -> None:
    model = with_adapters(base(), "ms")
    with pytest.raises(InputError, match="the model has lora already"):
        adapted(model, mome=MomeSettings())
    with pytest.raises(InputError, match="has LoRA branches already"):
        adapted(model, lora=LoraSettings(4, 4))
    with pytest.raises(InputError, match="audio rate 8 is to be trained, but"):
        adapted(model, audio_rates=(8,))
    with pytest.raises(InputError, match="and none that knows them all"):
        adapted(model, projectors="shared")
