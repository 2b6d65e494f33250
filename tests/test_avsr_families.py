"""LLM families and their tokenizers: Llama 2 and 3 (scaled RoPE, tied embeddings), Qwen2.5."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, EncoderConfig, LoraSettings
from sinkscope.avsr.llm import build_llm, fit_embeddings
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.tokens import ADDED_TOKENS, PROMPTS, add_tokens, added_ids, text_ids
from sinkscope.errors import CheckpointError, InputError
from tests.avsr_tokenizers import KINDS, a_tokenizer

ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLMS: dict[str, dict[str, Any]] = {
    "llama 3": {"num_key_value_heads": 2, "rope_scaling": ROPE, "tie_word_embeddings": True},
    "llama 2": {"num_key_value_heads": 4},
    "qwen2.5": {"model_type": "qwen2", "num_key_value_heads": 1, "tie_word_embeddings": True},
}


def llm_fields(kind: str, vocabulary: int) -> dict[str, Any]:
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "rope_theta": 500000.0,
    }
    return sizes | LLMS[kind]


def a_model(kind: str, folder: Path, **changes: Any) -> LlamaAvsr:
    tokenizer = a_tokenizer(kind, folder)
    add_tokens(tokenizer)
    settings: dict[str, Any] = {
        "audio_encoder": EncoderConfig("tiny-audio", {"width": 16, "depth": 1}),
        "video_encoder": EncoderConfig("tiny-video", {"width": 16, "depth": 1}),
        "projector_width": 24,
        "lora": LoraSettings(reduction=8, alpha=4),
    }
    torch.manual_seed(0)
    model = LlamaAvsr(
        AvsrConfig(llm=llm_fields(kind, len(tokenizer)), **(settings | changes)), tokenizer
    )
    for name, value in model.llm.named_parameters():
        if "lora_A" in name or name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.2)
    return model


def a_clip(seconds: float = 1.0, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    waveform = rng.normal(0, 0.1, round(16_000 * seconds)).astype(np.float32)
    return Clip(waveform, rng.integers(0, 255, (round(25 * seconds), 96, 96)).astype(np.uint8))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> LlamaAvsr:
    return a_model(kind, tmp_path_factory.mktemp("tokenizer"))


def test_the_five_tokens_follow_the_vocabulary_in_order(kind: str, tmp_path: Path) -> None:
    tokenizer = a_tokenizer(kind, tmp_path)
    before = len(tokenizer)
    with pytest.raises(CheckpointError, match="has no <pad> token"):
        added_ids(tokenizer)
    assert add_tokens(tokenizer) == 5
    ids = added_ids(tokenizer)
    names = ("padding", "audio_open", "audio_close", "video_open", "video_close")
    assert [ids[name] for name in names] == list(range(before, before + 5))
    assert tokenizer.pad_token == "<pad>"
    assert add_tokens(tokenizer) == 0
    for name, token in zip(names, ADDED_TOKENS, strict=True):
        assert text_ids(tokenizer, f"bin{token}now").count(ids[name]) == 1


def test_bos_opens_a_text_where_there_is_one(kind: str, tmp_path: Path) -> None:
    tokenizer = a_tokenizer(kind, tmp_path)
    plain = tokenizer("bin blue", add_special_tokens=False).input_ids
    add_tokens(tokenizer)
    bos = [] if kind == "qwen2.5" else [tokenizer.bos_token_id]
    assert tokenizer("bin blue").input_ids == [*bos, *plain]
    assert text_ids(tokenizer, "bin blue") == plain
    add_tokens(tokenizer)
    assert tokenizer("bin blue").input_ids == [*bos, *plain]
    tokenizer.save_pretrained(tmp_path / "saved")
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    assert again("bin blue").input_ids == [*bos, *plain]
    assert added_ids(again) == added_ids(tokenizer)
    assert again.decode(again("bin blue").input_ids, skip_special_tokens=True) == "bin blue"


def test_the_layout_says_what_stands_first(kind: str, model: LlamaAvsr) -> None:
    spans = model.prepare([a_clip()], texts=["bin blue now"]).spans[0]
    first = "audio_open" if kind == "qwen2.5" else "bos"
    assert spans[0].name == first
    assert [span.name for span in spans].count("bos") == (first == "bos")
    prompt = next(span for span in spans if span.name == "prompt")
    assert prompt.stop - prompt.start == len(text_ids(model.tokenizer, PROMPTS["audiovisual"]))
    layout = next(iter(ss.load(model).batches(a_clip()))).layouts[0]
    assert layout.has_bos == (first == "bos")
    assert layout.labels[layout.reference] == ("<audio>" if kind == "qwen2.5" else layout.labels[0])
    assert layout.reference == 0
    if kind == "qwen2.5":
        assert layout.segments[0] == "delimiter"
        with pytest.raises(InputError, match="has no BOS"):
            model.prepare([a_clip()], prepend_bos=True)


def test_a_record_of_every_family_is_made(kind: str, model: LlamaAvsr) -> None:
    record = ss.record(ss.load(model), a_clip(), keep=["pattern"])
    assert record.layouts[0].has_bos == (kind != "qwen2.5")
    with torch.no_grad():
        inputs = model.prepare([a_clip()])
        model.llm.set_attn_implementation("eager")
        patterns = model(inputs, output_attentions=True, use_cache=False).attentions
        model.llm.set_attn_implementation("sdpa")
    kept = record.dataset["pattern"].sel(sample=0).to_numpy()
    np.testing.assert_allclose(kept, np.stack([p[0].numpy() for p in patterns]), atol=1e-5)


def test_a_folder_gives_every_family_back(model: LlamaAvsr, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = LlamaAvsr.from_pretrained(tmp_path)
    texts = ["bin blue now"]
    with torch.no_grad():
        first = model(model.prepare([a_clip()], texts=texts))
        second = again(again.prepare([a_clip()], texts=texts))
    assert torch.equal(first.logits, second.logits)
    assert again.transcribe(a_clip(), max_new_tokens=4) == model.transcribe(
        a_clip(), max_new_tokens=4
    )
    tied = model.llm.config.tie_word_embeddings
    assert (again.llm.lm_head.weight is again.llm.model.embed_tokens.weight) == tied


def test_a_clip_in_a_padded_batch_gives_the_logits_that_it_gives_alone(model: LlamaAvsr) -> None:
    clips, texts = [a_clip(0.6, 1), a_clip(1.4, 2)], ["bin", "blue at f two now"]
    with torch.no_grad():
        together = model.prepare(clips, texts=texts)
        alone = model.prepare(clips[:1], texts=texts[:1])
        real = together.attention_mask[0]
        assert not real.all()
        found, wanted = model(together).logits[0][real], model(alone).logits[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_scaled_rope_and_tied_embeddings_are_built() -> None:
    fields = llm_fields("llama 3", 50)
    llm, plain = build_llm(fields), build_llm({**fields, "rope_scaling": None})
    assert llm.lm_head.weight is llm.model.embed_tokens.weight
    own, unscaled = llm.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq
    assert torch.equal(own[0], unscaled[0])
    torch.testing.assert_close(own[-1], unscaled[-1] / 8)
    untied = build_llm(llm_fields("llama 2", 50))
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


def test_unknown_families_and_missing_sizes_are_refused() -> None:
    with pytest.raises(CheckpointError, match="model_type is 'mistral'"):
        build_llm({**llm_fields("llama 2", 50), "model_type": "mistral"})
    fields = llm_fields("llama 2", 50)
    del fields["hidden_size"]
    with pytest.raises(CheckpointError, match="hidden_size of the llama configuration is missing"):
        build_llm(fields)


@pytest.mark.parametrize("kind", KINDS)
def test_new_embeddings_come_from_the_seed_alone(kind: str, tmp_path: Path) -> None:
    tokenizer = a_tokenizer(kind, tmp_path)
    before = len(tokenizer)
    torch.manual_seed(0)
    llms = [build_llm(llm_fields(kind, before)) for _ in range(3)]
    old = [llm.model.embed_tokens.weight.detach().clone() for llm in llms]
    add_tokens(tokenizer)
    added = [fit_embeddings(llm, tokenizer, seed=s) for llm, s in zip(llms, (1, 1, 2), strict=True)]
    assert added == [5, 5, 5]
    rows = [llm.model.embed_tokens.weight[before:].detach() for llm in llms]
    assert rows[0].shape == (5, 32)
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert 0.014 < rows[0].std() < 0.027  # 160 draws of deviation 0.02
    for llm, weight in zip(llms, old, strict=True):
        assert torch.equal(llm.model.embed_tokens.weight[:before], weight)
        assert llm.lm_head.weight.shape[0] == llm.config.vocab_size == len(tokenizer)
        tied = llm.lm_head.weight is llm.model.embed_tokens.weight
        assert tied == (kind != "llama 2")
    assert fit_embeddings(llms[0], tokenizer) == 0


def test_an_llm_with_more_embeddings_than_entries_keeps_them(tmp_path: Path) -> None:
    tokenizer = a_tokenizer("qwen2.5", tmp_path)
    llm = build_llm(llm_fields("qwen2.5", 400))
    weight = llm.model.embed_tokens.weight.detach().clone()
    add_tokens(tokenizer)
    assert fit_embeddings(llm, tokenizer) == 0
    assert torch.equal(llm.model.embed_tokens.weight, weight)


def test_a_tied_head_is_read_back_as_one(tmp_path: Path) -> None:
    model = a_model("llama 3", tmp_path / "t")
    model.save_pretrained(tmp_path / "m")
    names = set(load_file(tmp_path / "m" / "model.safetensors"))
    assert "llm.model.embed_tokens.weight" in names
    again = LlamaAvsr.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        again.llm.model.embed_tokens.weight[3] += 1
    assert torch.equal(again.llm.lm_head.weight[3], again.llm.model.embed_tokens.weight[3])
