"""A released checkpoint becomes a folder with equal outputs, or one clear sentence."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

import sinkscope as ss
from sinkscope.avsr.adapters import BASES
from sinkscope.avsr.checkpoint import read_weights
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.convert import Answers, convert
from sinkscope.avsr.convert.convert import read_released
from sinkscope.avsr.llm import build_llm
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError, InputError
from tests.golden_avsr import golden_case, golden_set, published_weights, tokenizer
from tests.shared_data import shared

STACKED, AVERAGED = "av_stack_a4v3_bA_sink1", "av_avg_a3v4_bB_ln_sink10000"
CASES = (
    STACKED,
    AVERAGED,
    "audio_stack4_bA",
    "audio_ratio1_nopeft_bA",
    "video_stack3_bA_lora_avhubert",
    "avhubert_av_single_rav3_bB",
    "avhubert_av_two_a4v3_bA",
    "avhubert_audio_stack3_bB",
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The base models on disk, as a user has them: an LLM without the added tokens, a Whisper."""
    folder = tmp_path_factory.mktemp("bases")
    told, _, _ = golden_set()
    whole = published_weights(STACKED)
    llm = build_llm(told["llm_config"])
    rows = llm.config.vocab_size
    own = {k.removeprefix("llm."): v for k, v in whole.items() if k.startswith("llm.")}
    own = {k: v[:rows] if len(v) == rows + 5 else v for k, v in own.items() if "lora_" not in k}
    llm.load_state_dict(own)
    llm.save_pretrained(folder / "llm")
    tokenizer().save_pretrained(folder / "llm")
    whisper = WhisperModel(WhisperConfig(**told["whisper_config"]))
    prefix = "audio_encoder."
    heard = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
    whisper.get_encoder().load_state_dict(heard)
    whisper.save_pretrained(folder / "whisper")
    cfg = json.loads((shared("golden/A_avhubert_small") / "config.json").read_text())
    prefix = "video_encoder."
    seen = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
    seen["final_proj.bias"] = torch.zeros(3)
    hubert = {"model": seen, "cfg": {"model": cfg["lnfirst_large"]["cfg"]}}
    torch.save(hubert, folder / "hubert.pt")
    lora = told["lora_config"]
    return Answers(
        llm=str(folder / "llm"),
        encoder=str(folder / "whisper"),
        video_encoder=str(folder / "hubert.pt"),
        lora_alpha=lora["ALPHA"],
    )


def released(path: Path, case: str, changes: Mapping[str, Any] | None = None) -> Path:
    """A ``.pth`` as the authors write it."""
    torch.save(published_weights(case) | dict(changes or {}), path)
    return path


def answered(sources: Answers, case: str) -> Answers:
    told = golden_set()[0]["cases"][case]
    averages = told["mode"] != "stack" or case == "audio_ratio1_nopeft_bA"
    return replace(
        sources,
        lora_alpha=sources.lora_alpha if told["peft"] else None,
        compression=("average" if told["mode"] != "stack" else "stack") if averages else None,
        audio_rate=told["ra"] if told["mode"] != "stack" else None,
        video_rate=told["rv"] if told["mode"] != "stack" else None,
    )


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_checkpoint_makes_the_round_trip(tmp_path: Path, sources: Answers, case: str) -> None:
    path = released(tmp_path / "model.pth", case, {"video_encoder.mask_emb": torch.zeros(104)})
    done = convert(path, tmp_path / "model", answered(sources, case))
    assert done.left_out == ("video_encoder.mask_emb",)
    golden = golden_case(case).model
    model = LlamaAvsr.from_pretrained(tmp_path / "model")
    assert model.config.streams == golden.config.streams
    for stream in model.config.streams:
        assert model.config.rates(stream)[0] == golden.config.rates(stream)[0]
    wanted = golden.state_dict()
    assert wanted.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    clip = _clip()
    found, expected = (one(one.prepare([clip], texts=["hello"])) for one in (model, golden))
    assert torch.equal(found.logits, expected.logits)
    subject = ss.load(tmp_path / "model")
    assert ss.record(subject, clip).layers == [0, 1, 2, 3]


def _clip() -> Clip:
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, 16000).astype(np.float32)
    return Clip(sound, rng.integers(0, 256, (25, 96, 96), np.uint8))


@pytest.mark.parametrize("case", [STACKED, AVERAGED])
def test_adapters_only(tmp_path: Path, sources: Answers, case: str) -> None:
    drifted = "video_encoder.feature_extractor_video.resnet.frontend3D.1.running_mean"
    changes = {drifted: published_weights(case)[drifted] + 1}
    path = released(tmp_path / "model.pth", case, changes)
    answers = answered(sources, case)
    convert(path, tmp_path / "whole", answers)
    convert(path, tmp_path / "small", answers, adapters_only=True)
    whole = LlamaAvsr.from_pretrained(tmp_path / "whole").state_dict()
    small = LlamaAvsr.from_pretrained(tmp_path / "small").state_dict()
    assert whole.keys() == small.keys()
    for name, value in whole.items():
        assert torch.equal(value, small[name]), name
    stored = read_weights(tmp_path / "small", name="adapters.safetensors")
    assert "llm.model.embed_tokens.weight.added_rows" in stored
    assert stored["llm.model.embed_tokens.weight.added_rows"].shape == (5, 64)
    assert drifted.replace("video_encoder.", "video_encoder.model.") in stored
    assert {name.split(".")[0] for name in stored} == {
        *("llm", "audio_projector", "video_projector", "video_encoder")
    }
    weight = tmp_path / "small" / "adapters.safetensors"
    assert weight.stat().st_size < 0.1 * (tmp_path / "whole" / "model.safetensors").stat().st_size


def test_another_base_is_refused(tmp_path: Path, sources: Answers) -> None:
    path = released(tmp_path / "model.pth", STACKED)
    convert(path, tmp_path / "small", sources, adapters_only=True)
    bases = json.loads((tmp_path / "small" / BASES).read_text())
    assert [base["part"] for base in bases] == ["llm", "audio_encoder", "video_encoder"]
    bases[1]["hash"] = "0"
    (tmp_path / "small" / BASES).write_text(json.dumps(bases))
    with pytest.raises(CheckpointError, match="trained on another audio_encoder"):
        LlamaAvsr.from_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match="needs the weights of every base model, and 'large'"):
        convert(
            path, tmp_path / "none", replace(sources, video_encoder="large"), adapters_only=True
        )


def test_half_precision_and_lightning_are_kept(tmp_path: Path, sources: Answers) -> None:
    weights = {f"model.{k}": v.bfloat16() for k, v in published_weights(STACKED).items()
               if v.is_floating_point()}  # fmt: skip
    counts = {f"model.{k}": v for k, v in published_weights(STACKED).items()
              if not v.is_floating_point()}  # fmt: skip
    torch.save({"state_dict": weights | counts, "epoch": 3}, tmp_path / "model.ckpt")
    convert(tmp_path / "model.ckpt", tmp_path / "model", sources)
    stored = LlamaAvsr.from_pretrained(tmp_path / "model", dtype=None)
    assert stored.llm.dtype == torch.bfloat16
    assert LlamaAvsr.from_pretrained(tmp_path / "model").llm.dtype == torch.float32


def test_large_weights_are_written_in_parts(
    tmp_path: Path, sources: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = released(tmp_path / "model.pth", STACKED)
    convert(path, tmp_path / "one", sources)
    monkeypatch.setattr("sinkscope.avsr.checkpoint.SHARD_BYTES", 10_000_000)
    convert(path, tmp_path / "many", sources)
    parts = sorted(file.name for file in (tmp_path / "many").glob("*.safetensors"))
    assert len(parts) > 2
    assert parts[0] == f"model-00001-of-{len(parts):05d}.safetensors"
    one, many = (LlamaAvsr.from_pretrained(tmp_path / n).state_dict() for n in ("one", "many"))
    assert all(torch.equal(value, many[name]) for name, value in one.items())
    (tmp_path / "many" / parts[1]).unlink()
    with pytest.raises(CheckpointError, match=parts[1]):
        LlamaAvsr.from_pretrained(tmp_path / "many")


def test_what_is_not_told_is_asked_for_at_once(tmp_path: Path) -> None:
    path = released(tmp_path / "model.pth", AVERAGED)
    with pytest.raises(InputError) as caught:
        convert(path, tmp_path / "model", Answers(compression="average"))
    for option in (
        *("--llm", "--encoder", "--video-encoder", "--lora-alpha", "--audio-rate"),
        "--video-rate",
    ):
        assert option in str(caught.value)
    stacked = released(tmp_path / "stacked.pth", STACKED)
    with pytest.raises(InputError) as caught:
        convert(stacked, tmp_path / "model", Answers())
    assert "rate" not in str(caught.value)
    assert "--compression" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm.stranger": torch.zeros(1)}, "unexpected llm.stranger"),
        ({"audio_proj.0.bias": torch.zeros(3)}, r"audio_projector.0.bias is \(3,\), not \(40,\)"),
        ({"video_proj.0.weight": torch.zeros(40, 100)}, "takes 100 features"),
        ({"decoder.weight": torch.zeros(1)}, "is no Llama-AVSR: it holds decoder.weight"),
    ],
)
def test_weights_that_do_not_fit_are_listed(
    tmp_path: Path, sources: Answers, changes: dict[str, Tensor], message: str
) -> None:
    path = released(tmp_path / "model.pth", STACKED, changes)
    with pytest.raises(CheckpointError, match=message):
        convert(path, tmp_path / "model", sources)
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob(".*"))


def test_missing_weights_are_listed(tmp_path: Path, sources: Answers) -> None:
    weights = published_weights(STACKED)
    for name in ("audio_proj.2.bias", "llm.model.layers.1.mlp.up_proj.weight"):
        del weights[name]
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "model.pth", tmp_path / "model", sources)
    assert "missing audio_projector.2.bias" in str(caught.value)
    assert "missing llm.model.layers.1.mlp.up_proj.weight" in str(caught.value)


def test_answers_that_do_not_fit(tmp_path: Path, sources: Answers) -> None:
    path = released(tmp_path / "model.pth", STACKED)
    other = json.loads((Path(str(sources.llm)) / "config.json").read_text()) | {"hidden_size": 32}
    (tmp_path / "other.json").write_text(json.dumps(other))
    for change, message in (
        ({"llm": str(tmp_path / "other.json"), "tokenizer": sources.llm}, "hidden_size is 32"),
        ({"video_encoder": "huge"}, "--video-encoder huge"),
        ({"audio_rate": 7}, "takes 4 stacked frames"),
        ({"encoder": str(tmp_path / "none.json")}, "none.json is no configuration"),
        ({"encoder": sources.llm}, "is a llama; the checkpoint's encoder is a whisper"),
    ):
        with pytest.raises(CheckpointError, match=message):
            convert(path, tmp_path / "model", replace(sources, **change))
    with pytest.raises(InputError, match="exists"):
        convert(path, tmp_path, sources)


class _Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_other_files_are_refused(tmp_path: Path) -> None:
    whole = released(tmp_path / "whole.pth", "audio_stack4_bA")
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:100_000])
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"llm.x": _Attack(tmp_path / "ran")}, tmp_path / "attack.pth")
    torch.save([1], tmp_path / "list.pth")
    torch.save({"llm.x": 3}, tmp_path / "numbers.pth")
    for name, message in (
        ("cut", "no whole checkpoint"),
        ("text", "no whole checkpoint"),
        ("attack", "no whole checkpoint"),
        ("list", "holds no tensors"),
        ("numbers", "holds llm.x beside tensors"),
        ("missing", "is no file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_released(tmp_path / f"{name}.pth")
    assert not (tmp_path / "ran").exists()
