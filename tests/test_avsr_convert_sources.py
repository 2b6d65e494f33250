"""Configurations, encoders and LoRA factors in every form in which they may be named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import WavLMConfig, WavLMModel

from sinkscope.avsr.convert import Answers, convert
from sinkscope.avsr.convert.answers import reduction_of, refuse_unanswered
from sinkscope.avsr.convert.infer import Encoding, LlmFacts, Told
from sinkscope.avsr.convert.sources import tokenizer_of
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError, InputError
from tests.golden_avsr import golden_case, published_weights, tokenizer
from tests.released_checkpoints import answered, base_models, clip, hubert_fields, released
from tests.test_avsr_encoders_published import WAVLM

BY_EYE = "video_stack3_bA_lora_avhubert"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return base_models(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("form", ["fairseq", "nested", "ours"])
def test_hubert_by_its_configuration(tmp_path: Path, sources: Answers, form: str) -> None:
    """As JSON, with fairseq's names or ours."""
    wanted = golden_case(BY_EYE).model.config.video_encoder
    assert wanted is not None
    fields = {"fairseq": hubert_fields(), "nested": {"model": hubert_fields()}}
    (tmp_path / "h.json").write_text(json.dumps(fields.get(form, wanted.config)))
    answers = replace(answered(sources, BY_EYE), video_encoder=str(tmp_path / "h.json"))
    done = convert(released(tmp_path / "m.pth", BY_EYE), tmp_path / "model", answers)
    assert done.config.video_encoder == wanted


def test_sizes_by_name_say_where_layers_normalise(tmp_path: Path, sources: Answers) -> None:
    weights = published_weights(BY_EYE)
    torch.save(weights, tmp_path / "m.pth")
    found = {}
    for size in ("large", "base"):
        answers = replace(answered(sources, BY_EYE), video_encoder=size)
        if weights["video_encoder.post_extract_proj.weight"].shape[0] % 64:
            with pytest.raises(CheckpointError, match="don't tell its number of attention heads"):
                convert(tmp_path / "m.pth", tmp_path / size, answers)
            continue
        config = convert(tmp_path / "m.pth", tmp_path / size, answers).config.video_encoder
        assert config is not None
        found[size] = config.config["norm_first"], config.config["lora_rank"]
    assert found in ({}, {"large": (True, 4), "base": (False, 4)})


def test_hubert_that_listens_may_be_the_encoder(tmp_path: Path, sources: Answers) -> None:
    case = "avhubert_audio_stack3_bB"
    said = answered(sources, case)
    answers = replace(said, encoder=said.video_encoder, video_encoder=None)
    done = convert(released(tmp_path / "m.pth", case), tmp_path / "model", answers)
    assert done.config == convert(tmp_path / "m.pth", tmp_path / "again", said).config


@torch.no_grad()
@pytest.mark.parametrize("adapters_only", [False, True])
def test_wavlm(tmp_path: Path, sources: Answers, adapters_only: bool) -> None:
    torch.manual_seed(0)
    wavlm = WavLMModel(WavLMConfig(**WAVLM)).eval()
    wavlm.save_pretrained(tmp_path / "wavlm")
    case = "audio_stack4_bA"
    weights = published_weights(case)
    weights = {k: v for k, v in weights.items() if not k.startswith("audio_encoder.")}
    weights |= {f"audio_encoder.{name}": value for name, value in wavlm.state_dict().items()}
    inputs = torch.randn(40, 4 * wavlm.config.hidden_size)
    torch.save(weights | {"audio_proj.0.weight": inputs}, tmp_path / "m.pth")
    answers = replace(answered(sources, case), encoder=str(tmp_path / "wavlm"))
    convert(tmp_path / "m.pth", tmp_path / "model", answers, adapters_only=adapters_only)
    model = LlamaAvsr.from_pretrained(tmp_path / "model")
    assert model.config.audio_rates == (4,)
    for name, value in model.audio_encoder.model.state_dict().items():
        assert torch.equal(value, wavlm.state_dict()[name]), name
    assert model(model.prepare([clip()])).logits.isfinite().all()


def told(hidden: int, rank: int | None) -> Told:
    facts = LlmFacts(hidden, 50, 4, rank, None, None)
    return Told({"audio": Encoding("whisper", 32, (4,))}, facts, 40, False, False)


@pytest.mark.parametrize(
    ("hidden", "rank", "said", "wanted"),
    [
        (4096, 64, None, 64),
        (2048, 64, None, 32),
        (3072, 96, None, 32),
        (5120, 80, None, 64),
        (100, 33, None, 3),
        (100, None, None, None),
        (4096, 59, None, None),
        (4096, 59, 69, 69),
        (4096, 59, 70, 70),
    ],
)
def test_the_reduction_factor(
    hidden: int, rank: int | None, said: int | None, wanted: int | None
) -> None:
    answers = Answers(llm="x", encoder="x", lora_alpha=8, lora_reduction=said)
    assert reduction_of(told(hidden, rank), answers) == wanted
    if rank is not None and wanted is None:
        with pytest.raises(InputError, match="give --lora-reduction"):
            refuse_unanswered(told(hidden, rank), answers)
    else:
        refuse_unanswered(told(hidden, rank), answers)


def test_a_tokenizer_without_the_five_tokens_gets_them_in_their_order(tmp_path: Path) -> None:
    bare = tokenizer()
    bare.save_pretrained(tmp_path / "tokens")
    text = json.loads((tmp_path / "tokens" / "tokenizer.json").read_text())
    five = ["<pad>", "<audio>", "</audio>", "<video>", "</video>"]
    text["added_tokens"] = [t for t in text["added_tokens"] if t["content"] not in five]
    for token in five:
        text["model"]["vocab"].pop(token, None)
    (tmp_path / "tokens" / "tokenizer.json").write_text(json.dumps(text))
    told = json.loads((tmp_path / "tokens" / "tokenizer_config.json").read_text())
    told = {k: v for k, v in told.items() if k not in ("pad_token", "extra_special_tokens")}
    (tmp_path / "tokens" / "tokenizer_config.json").write_text(json.dumps(told))
    made = tokenizer_of(str(tmp_path / "tokens"), vocabulary=50)
    assert made.convert_tokens_to_ids(five) == [45, 46, 47, 48, 49]
    with pytest.raises(CheckpointError, match="has 45 entries and 5 added ones, the checkpoint 45"):
        tokenizer_of(str(tmp_path / "tokens"), vocabulary=45)
