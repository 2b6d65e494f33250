"""One model, several rates: projectors of their own, what a batch tells, and refusals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, EncoderConfig, LoraSettings
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.projector import compress_average, compress_stack
from sinkscope.errors import CheckpointError, InputError
from tests.test_avsr_model import a_clip, a_model

FRAMES = torch.randn(1, 33, 16, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([33])


@pytest.mark.parametrize("compression", ["average", "stack"])
def test_each_rate_has_a_projector_of_its_own(compression: str) -> None:
    model = a_model(projectors="per_rate", compression=compression)
    names = {name.rpartition(".")[0] for name in model.state_dict() if "_projector." in name}
    rates = [("audio", 4), ("audio", 16), ("video", 2), ("video", 5)]
    assert names == {f"{s}_projector.{rate}.{part}" for s, rate in rates for part in (0, 2)}
    compress = compress_stack if compression == "stack" else compress_average
    for stream, rate in rates:
        own = getattr(model, f"{stream}_projector")[str(rate)]
        assert own[0].in_features == (16 * rate if compression == "stack" else 16)
        tokens, counts = model.project(stream, FRAMES, LENGTHS, rate=rate)
        assert counts.tolist() == [33 // rate]
        assert torch.equal(tokens, own(compress(FRAMES, rate=rate)))


def test_swapped_projectors_are_noticed() -> None:
    model = a_model(projectors="per_rate")
    before, _ = model.project("audio", FRAMES, LENGTHS, rate=4)
    state = model.state_dict()
    for name in [name for name in state if name.startswith("audio_projector.4.")]:
        other = name.replace(".4.", ".16.")
        state[name], state[other] = state[other].clone(), state[name].clone()
    model.load_state_dict(state)
    after, _ = model.project("audio", FRAMES, LENGTHS, rate=4)
    assert (before - after).abs().max() > 1e-2


def test_only_the_projector_of_a_rate_learns_from_it() -> None:
    model = a_model(projectors="per_rate")
    model(model.prepare([a_clip()], audio_rate=16, video_rate=2, texts=["bin"])).loss.backward()
    learned = {n for n, v in model.named_parameters() if "_projector" in n and v.grad is not None}
    assert {name[:18] for name in learned} == {"audio_projector.16", "video_projector.2."}


def test_rates_without_a_projector_are_refused() -> None:
    model = a_model(projectors="per_rate")
    with pytest.raises(InputError, match="audio_rate is 8, but this model has projectors for 4, 1"):
        model.prepare([a_clip()], audio_rate=8)
    with pytest.raises(InputError, match="no video projector for rate 4; use one of 2, 5"):
        model.project("video", FRAMES, LENGTHS, rate=4)
    shared = a_model()
    assert shared.prepare([a_clip()], audio_rate=8).rates == {"audio": 8, "video": 2}
    with pytest.raises(InputError, match="no audio projector; use another modality"):
        a_model(audio_encoder=None).project("audio", FRAMES, LENGTHS, rate=4)


@torch.no_grad()
def test_a_folder_keeps_every_projector(tmp_path: Path) -> None:
    model = a_model(projectors="per_rate", compression="stack", projector_norm=("audio",))
    model.save_pretrained(tmp_path)
    again = LlamaAvsr.from_pretrained(tmp_path)
    assert again.config == model.config
    for rates in ((4, 2), (16, 5)):
        asked = dict(zip(("audio_rate", "video_rate"), rates, strict=True))
        found, expected = (m(m.prepare([a_clip()], **asked)).logits for m in (again, model))
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("norm", "ends"), [(True, (4, 4)), (False, (3, 3)), (("audio",), (4, 3)), (("video",), (3, 4))]
)
def test_streams_may_differ_in_their_last_norm(
    norm: bool | tuple[str, ...], ends: tuple[int, int]
) -> None:
    model = a_model(projector_norm=norm)
    assert (len(model.audio_projector or ()), len(model.video_projector or ())) == ends


def test_a_batch_tells_its_modality_and_rates() -> None:
    model = a_model()
    clips = [a_clip(), a_clip(0.8, seed=1)]
    found = model.prepare(clips, audio_rate=16)
    assert (found.modality, found.rates) == ("audiovisual", {"audio": 16, "video": 2})
    found = model.prepare(clips, modality="video", video_rate=5)
    assert (found.modality, found.rates) == ("video", {"video": 5})
    mixed = model.prepare([a_clip(), a_clip(picture=False)])
    assert (mixed.modality, mixed.rates) == (None, {"audio": 4, "video": 2})
    swapped = model.prepare(clips, stream_order=("video", "audio"))
    assert swapped.modality == "audiovisual"
    assert list(swapped.rates or ()) == ["audio", "video"]
    features = {"audio": torch.zeros(3, 32)}
    parts = [model.parts(features, rates={"audio": rate}) for rate in (4, 16)]
    assert model.assemble(parts).rates is None


def test_the_rate_is_chosen_where_it_is_transcribed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(projectors="per_rate", lora=LoraSettings(8, 4, scheme="SS"))
    subject, clip = ss.load(model), a_clip()
    seen: list[dict] = []
    prepare = LlamaAvsr.prepare

    def noted(own: LlamaAvsr, clips: list[Clip], **options: object) -> object:
        inputs = prepare(own, clips, **options)  # pyright: ignore[reportArgumentType]
        seen.append(dict(inputs.rates or {}))
        return inputs

    monkeypatch.setattr(LlamaAvsr, "prepare", noted)
    said = subject.transcribe(clip, audio_rate=16, video_rate=5, max_new_tokens=3)
    subject.transcribe(clip, max_new_tokens=3)
    subject.with_options(audio_rate=16).transcribe(clip, video_rate=2, max_new_tokens=3)
    pairs = [(16, 5), (4, 2), (16, 2)]
    assert seen == [{"audio": audio, "video": video} for audio, video in pairs]
    assert said == model.transcribe([clip], audio_rate=16, video_rate=5, max_new_tokens=3)[0]
    assert subject.audio_rate is None
    with pytest.raises(InputError, match="audio_rate is 8"):
        subject.transcribe(clip, audio_rate=8)


def test_a_record_of_a_rate_is_that_of_its_own_projector_and_branch() -> None:
    model = a_model(projectors="per_rate", lora=LoraSettings(8, 4, scheme="MSS"))
    for name, value in model.llm.named_parameters():
        if ".lora_A.a16-v5." in name:
            torch.nn.init.normal_(value, std=0.5)
    subject = ss.load(model).with_options(audio_rate=16, video_rate=5)
    found = ss.record(subject, a_clip(), keep=["resid_post"])["resid_post"].isel(layer=-1)
    inputs = model.prepare([a_clip()], audio_rate=16, video_rate=5)
    with torch.no_grad():
        states = []
        hook = model.llm.model.layers[-1].register_forward_hook(lambda _m, _i, o: states.append(o))
        model(inputs)
        plain = replace(inputs, rates={"audio": 4, "video": 2})
        model(plain)
        hook.remove()
    own, other = (torch.from_numpy(found.values[0]) - state[0] for state in states)
    assert own.abs().max() < 1e-5
    assert other.abs().max() > 1e-3
    frames = ss.record(subject.projector("audio"), a_clip(), keep=["resid_post"])
    assert frames["resid_post"].sizes["token"] == 3


def test_old_configurations_are_read_unchanged() -> None:
    old = {
        "model_type": "sinkscope-avsr",
        "version": 1,
        "llm": {"hidden_size": 8},
        "audio_encoder": {"kind": "whisper", "config": {}},
        "projector_norm": True,
        "lora": {"reduction": 32, "alpha": 4},
    }
    config = AvsrConfig.from_dict(old)
    assert (config.projectors, config.lora) == ("shared", LoraSettings(32, 4, "S", "pair"))
    assert config.ends_in_norm("audio")
    assert AvsrConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(CheckpointError, match=r"fields \['alpha'\] of LoraSettings are missing"):
        AvsrConfig.from_dict(old | {"lora": {"reduction": 3}})
    with pytest.raises(CheckpointError, match=r"fields \['llm'\] of AvsrConfig are missing"):
        AvsrConfig.from_dict({name: value for name, value in old.items() if name != "llm"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projectors": "per_rate", "audio_rates": (4, 4)}, "give each rate once"),
        ({"compression": "stack", "audio_rates": (4, 16)}, "or projectors='per_rate'"),
        ({"projector_norm": ("video",)}, "name streams among audio"),
        ({"projectors": "per_rate", "audio_rates": ()}, "whole numbers of at least 1"),
    ],
)
def test_configurations_that_make_no_model(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AvsrConfig(llm={}, audio_encoder=EncoderConfig("whisper"), **changes)
