"""Released models of several rates and tasks: round trips, and what does not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sinkscope as ss
from sinkscope.avsr.adapters import ADAPTERS
from sinkscope.avsr.checkpoint import read_weights
from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.convert import Answers, convert
from sinkscope.avsr.convert.convert import rates_by_index
from sinkscope.avsr.convert.names import is_left_out, their_name
from sinkscope.avsr.lora_schemes import is_plain
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError, InputError
from tests.golden_matryoshka import omni_answers, omni_weights
from tests.released_checkpoints import base_models, clip
from tests.test_cli import run

SHARED, STACKS, TASKED = "avg_single", "stack_nolnflag", "avg_multi_taskspecific_shared_w"
PLAIN = "avg_multi"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return base_models(tmp_path_factory.mktemp("bases"))


def three_rates(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A third audio projector that differs from the others."""
    third = {
        name.replace("_proj.1.", "_proj.2."): value + 1
        for name, value in state.items()
        if name.startswith("audio_proj.1.")
    }
    return state | third


def other_rank(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """LoRA branches of twice the rank."""
    return {
        name: torch.cat([value, value], dim=0 if "_down_" in name else 1)
        if ".lora_" in name
        else value
        for name, value in state.items()
    }


def unchanged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


KINDS: list[tuple[str, Callable[[dict[str, Tensor]], dict[str, Tensor]], dict[str, Any]]] = [
    (PLAIN, unchanged, {"compression": None}),
    (PLAIN, three_rates, {"audio_rates": (16, 4, 8), "video_rates": (5, 2)}),
    (SHARED, unchanged, {}),
    (STACKS, unchanged, {}),
    (STACKS, unchanged, {"audio_rates": (4, 16), "video_rates": (2, 5)}),
    (TASKED, other_rank, {}),
    ("avg_multi_taskspecific", unchanged, {}),
]


def published(model: LlamaAvsr) -> dict[str, Tensor]:
    """The weights of a model by their published names."""
    rates, lora = rates_by_index(model.config), model.config.lora
    alone = lora is None or is_plain(lora)
    return {
        their_name(name, rates=rates, alone=alone): value
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize(("name", "change", "said"), KINDS)
def test_names_make_the_round_trip(
    tmp_path: Path, sources: Answers, name: str, change: Callable, said: dict[str, Any]
) -> None:
    state = change(omni_weights(name))
    torch.save(state, tmp_path / "m.pth")
    answers = replace(omni_answers(sources, name), **said)
    done = convert(tmp_path / "m.pth", tmp_path / "model", answers)
    assert done.left_out == ("prompt_audio", "prompt_audiovisual", "prompt_video")
    model = LlamaAvsr.from_pretrained(tmp_path / "model")
    found = published(model)
    kept = {key: value for key, value in state.items() if not is_left_out(key)}
    assert {k for k in kept if "pos_conv" not in k} <= found.keys()
    for key in kept:
        if "pos_conv" not in key:  # torch's own names of a normed weight
            assert torch.equal(found[key], kept[key]), key
    asked = {"audio_rate": model.config.audio_rates[-1], "video_rate": model.config.video_rates[-1]}
    assert model(model.prepare([clip()], **asked)).logits.isfinite().all()


def test_what_was_inferred(tmp_path: Path, sources: Answers) -> None:
    found = {}
    for name in (PLAIN, SHARED, STACKS, TASKED):
        torch.save(omni_weights(name), tmp_path / f"{name}.pth")
        found[name] = convert(
            tmp_path / f"{name}.pth", tmp_path / name, omni_answers(sources, name)
        )
    told = {name: one.config for name, one in found.items()}
    rates = {name: (one.audio_rates, one.video_rates) for name, one in told.items()}
    assert set(rates.values()) == {((4, 16), (2, 5))}
    assert {name: one.projectors for name, one in told.items()} == {
        **dict.fromkeys((PLAIN, STACKS, TASKED), "per_rate"),
        SHARED: "shared",
    }
    assert {name: one.projector_norm for name, one in told.items()} == {
        PLAIN: False,
        SHARED: True,
        STACKS: ("audio",),
        TASKED: False,
    }
    assert told[STACKS].compression == "stack"
    assert told[TASKED].lora == LoraSettings(16, 8, scheme="ST")
    assert found[TASKED].summary == (
        "audio through whisper, 4 or 16 frames a token (average); "
        "video through avhubert-video, 2 or 5 frames a token (average); "
        "LLM of 4 layers, 64 wide, 50 entries; "
        "LoRA of rank 4 in branches default, audio, video, audiovisual; "
        "projectors one for each rate, without LayerNorm"
    )
    assert found[STACKS].summary.endswith("those of audio alone with LayerNorm")


@torch.no_grad()
@pytest.mark.parametrize("name", [STACKS, TASKED])
def test_only_what_was_trained_is_kept(tmp_path: Path, sources: Answers, name: str) -> None:
    torch.save(omni_weights(name), tmp_path / "m.pth")
    answers = omni_answers(sources, name)
    convert(tmp_path / "m.pth", tmp_path / "whole", answers)
    convert(tmp_path / "m.pth", tmp_path / "small", answers, adapters_only=True)
    stored = read_weights(tmp_path / "small", name=ADAPTERS)
    assert {key for key in stored if ".lora_" not in key and "_projector." not in key} == {
        "llm.model.embed_tokens.weight.added_rows",
        "llm.lm_head.weight.added_rows",
    }
    one, other = (LlamaAvsr.from_pretrained(tmp_path / kind) for kind in ("whole", "small"))
    assert one.config == other.config
    theirs = other.state_dict()
    for key, value in one.state_dict().items():
        assert torch.equal(value, theirs[key]), key


def test_the_folder_is_a_subject_at_every_rate(tmp_path: Path, sources: Answers) -> None:
    torch.save(omni_weights(TASKED), tmp_path / "m.pth")
    convert(tmp_path / "m.pth", tmp_path / "model", omni_answers(sources, TASKED))
    subject = ss.load(tmp_path / "model")
    counts = [
        ss.record(subject.with_options(audio_rate=rate), clip()).layouts[0].segments.count("audio")
        for rate in (4, 16)
    ]
    assert counts == [12, 3]


def without(*parts: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """A checkpoint that lacks whatever has one of these in its name."""
    return lambda state: {k: v for k, v in state.items() if not any(part in k for part in parts)}


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """A checkpoint whose names have something else in them."""
    return lambda state: {key.replace(old, new): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("name", "change", "said", "message"),
    [
        (PLAIN, unchanged, {"audio_rates": None},
         "give --audio-rates (frames that were averaged into a token, one number for each of its "
         "2 projectors"),
        (PLAIN, unchanged, {"audio_rates": (4, 8, 16)},
         "There are 2 audio projectors, one for each rate, and --audio-rates is 4, 8, 16; "
         "name every rate with --audio-rates, in the authors' order."),
        (PLAIN, unchanged, {"video_rates": None, "video_rate": 2},
         "There are 2 video projectors, one for each rate, and --video-rate is 2; name "
         "every rate with --video-rates, in the authors' order."),
        (PLAIN, unchanged, {"video_rate": 2}, "Both --video-rate and --video-rates were given"),
        (PLAIN, unchanged, {"audio_rates": (4, 4)}, "give each rate once"),
        (PLAIN, unchanged, {"compression": "stack"}, "take one frame each, and --compression"),
        (PLAIN, without("audio_proj.0."), {}, "numbered 1, not from 0 on"),
        (PLAIN, without("audio_proj.1.2.bias"), {}, "missing audio_proj.1.2.bias"),
        (PLAIN, renamed("video_proj.0.", "video_proj."), {}, "numbered 1, not from 0 on"),
        (SHARED, renamed("video_proj.", "video_proj.0."), {},
         "video_proj has a projector for each rate, and audio_proj one for all"),
        (STACKS, unchanged, {"audio_rates": (16, 4)},
         "take 4 and 16 stacked frames, and --audio-rates is 16, 4"),
        (STACKS, without("audio_proj.1.3."), {}, "some of the projectors end in a LayerNorm"),
        (TASKED, without(".audiovisual.weight"), {}, "audiovisual is missing and none is too many"),
        (TASKED, renamed(".video.weight", ".lips.weight"), {},
         "video is missing and lips is too many"),
        (TASKED, renamed("_shared.weight", ".weight"), {},
         "none is missing and one without a name is too many"),
        (TASKED, without("layers.1.self_attn.lora_down_Q.video"), {},
         "missing llm.model.layers.1.self_attn.lora_down_Q.video.weight"),
        (TASKED, without("layers.2.self_attn.lora_up_V_shared"), {},
         "missing llm.model.layers.2.self_attn.lora_up_V_shared.weight"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    tmp_path: Path,
    sources: Answers,
    name: str,
    change: Callable,
    said: dict[str, Any],
    message: str,
) -> None:
    torch.save(change(omni_weights(name)), tmp_path / "m.pth")
    answers = replace(omni_answers(sources, name), **said)
    with pytest.raises((CheckpointError, InputError)) as caught:
        convert(tmp_path / "m.pth", tmp_path / "model", answers)
    assert message in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_several_rates_from_the_shell(tmp_path: Path, sources: Answers) -> None:
    torch.save(omni_weights(PLAIN), tmp_path / "m.pth")
    words = ["convert", tmp_path / "m.pth", tmp_path / "out", "--llm", sources.llm]
    words += ["--encoder", sources.encoder, "--video-encoder", sources.video_encoder]
    words += ["--alpha", sources.lora_alpha, "--video-rates", "2,5"]
    refused = run(*words, "--audio-rates", "4;16")
    assert refused.returncode == 2
    assert refused.stderr.strip() == (
        "sinkscope: --audio-rates is '4;16'; give whole numbers with commas between them, such as "
        "4,16."
    )
    done = run(*words, "--audio-rates", "4,16")
    assert done.returncode == 0, done.stderr
    assert "audio through whisper, 4 or 16 frames a token (average)" in done.stdout
    assert "left out, because they play no part: prompt_audio" in done.stdout
