"""A released checkpoint becomes a folder with equal outputs, and the authors' own numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.convert import Answers, convert
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError
from tests.golden_avsr import golden_case, golden_set, published_weights
from tests.released_checkpoints import (
    AVERAGED,
    STACKED,
    answered,
    base_models,
    clip,
    half,
    released,
)
from tests.test_avsr_golden_forward import TOLERANCE, run

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
    return base_models(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_checkpoint_makes_the_round_trip(tmp_path: Path, sources: Answers, case: str) -> None:
    path = released(tmp_path / "model.pth", case, {"llm.rotary_emb.inv_freq": torch.zeros(4)})
    done = convert(path, tmp_path / "model", answered(sources, case))
    assert done.left_out == ("llm.rotary_emb.inv_freq",)
    golden, model = golden_case(case), LlamaAvsr.from_pretrained(tmp_path / "model")
    assert model.config.streams == golden.model.config.streams
    for stream in model.config.streams:
        assert model.config.rates(stream)[0] == golden.model.config.rates(stream)[0]
    wanted = golden.model.state_dict()
    assert wanted.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    found, expected = (m(m.prepare([clip()], texts=["hello"])) for m in (model, golden.model))
    assert torch.equal(found.logits, expected.logits)
    converted = replace(golden, model=model)
    inputs, _ = run(converted, 2, texts=golden_set()[0]["texts"])
    logits = golden.outputs[f"{case}/train/logits"]
    torch.testing.assert_close(model(inputs, use_cache=False).logits, logits, **TOLERANCE)
    inputs, _ = run(converted, 1, texts=None)
    new = {"max_new_tokens": golden_set()[0]["max_new_tokens"], "num_beams": golden.told["beams"]}
    assert torch.equal(model.generate(inputs, **new), golden.outputs[f"{case}/test/generated_ids"])


def test_the_folder_is_a_subject(tmp_path: Path, sources: Answers) -> None:
    convert(released(tmp_path / "model.pth", STACKED), tmp_path / "model", sources)
    assert ss.record(ss.load(tmp_path / "model"), clip()).layers == [0, 1, 2, 3]


def test_what_was_inferred_is_said(tmp_path: Path, sources: Answers) -> None:
    case = "video_stack3_bA_lora_avhubert"
    done = convert(released(tmp_path / "m.pth", case), tmp_path / "m", answered(sources, case))
    assert done.summary == (
        "video through avhubert-video with LoRA of rank 4, 3 frames a token (stack); "
        "LLM of 4 layers, 64 wide, 50 entries; LoRA of rank 4; projectors with LayerNorm"
    )


@torch.no_grad()
def test_half_precision_and_lightning_are_kept(tmp_path: Path, sources: Answers) -> None:
    weights = {f"model.{name}": value for name, value in half(STACKED).items()}
    torch.save({"state_dict": weights, "epoch": 3, "hyper_parameters": {}}, tmp_path / "m.ckpt")
    convert(tmp_path / "m.ckpt", tmp_path / "model", sources)
    stored = LlamaAvsr.from_pretrained(tmp_path / "model", dtype=None)
    for name, value in stored.named_parameters():
        assert value.dtype == torch.bfloat16, name
    projected = stored.state_dict()["audio_projector.0.weight"]
    assert torch.equal(projected, half(STACKED)["audio_proj.0.weight"])
    whole = LlamaAvsr.from_pretrained(tmp_path / "model")
    assert {value.dtype for value in whole.parameters()} == {torch.float32}
    assert whole(whole.prepare([clip()])).logits.isfinite().all()


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


def test_files_of_old_format_are_read(tmp_path: Path, sources: Answers) -> None:
    weights = published_weights("audio_stack4_bA")
    torch.save(weights, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    answers = answered(sources, "audio_stack4_bA")
    convert(tmp_path / "m.pth", tmp_path / "model", answers)
    found = LlamaAvsr.from_pretrained(tmp_path / "model").state_dict()
    assert torch.equal(found["audio_projector.0.weight"], weights["audio_proj.0.weight"])


def test_tied_embeddings(tmp_path: Path, sources: Answers) -> None:
    weights = published_weights("audio_stack4_bA")
    answers = answered(sources, "audio_stack4_bA")
    head = weights.pop("llm.lm_head.weight")
    torch.save(weights, tmp_path / "without.pth")
    convert(tmp_path / "without.pth", tmp_path / "model", answers)
    found = LlamaAvsr.from_pretrained(tmp_path / "model")
    assert torch.equal(found.state_dict()["llm.lm_head.weight"], head)
    assert found.llm.lm_head.weight is found.llm.model.embed_tokens.weight
    torch.save(weights | {"llm.lm_head.weight": head + 1}, tmp_path / "apart.pth")
    with pytest.raises(CheckpointError, match="ties embedding and head, and the checkpoint's"):
        convert(tmp_path / "apart.pth", tmp_path / "apart", answers)
