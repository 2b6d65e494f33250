"""What cannot be converted: one clear sentence each, with the option or the key, and no folder."""

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sinkscope.avsr.convert import Answers, convert, read_released
from sinkscope.errors import CheckpointError, InputError
from tests.golden_avsr import published_weights, tokenizer
from tests.released_checkpoints import AVERAGED, STACKED, answered, base_models, released


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return base_models(tmp_path_factory.mktemp("bases"))


def refused(tmp_path: Path, changes: Mapping[str, Any], answers: Answers, case: str) -> str:
    """What is said of a changed checkpoint; nothing may be left behind."""
    path = released(tmp_path / "model.pth", case, changes)
    with pytest.raises((CheckpointError, InputError)) as caught:
        convert(path, tmp_path / "out" / "model", answers)
    assert not list((tmp_path / "out").glob("*"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("stacked", [True, False])
def test_what_is_not_told_is_asked_for_at_once(tmp_path: Path, stacked: bool) -> None:
    said = Answers() if stacked else Answers(compression="average")
    found = refused(tmp_path, {}, said, STACKED if stacked else AVERAGED)
    for option in ("--llm", "--encoder", "--video-encoder", "--lora-alpha"):
        assert option in found
    for option in ("--audio-rate", "--video-rate"):
        assert (option in found) != stacked
    assert "--compression" not in found


def test_a_mode_that_shapes_leave_open_is_asked_for(tmp_path: Path, sources: Answers) -> None:
    assert "give --compression (average, or stack" in refused(tmp_path, {}, sources, AVERAGED)


def test_a_tokenizer_is_asked_for_where_a_file_names_the_llm(
    tmp_path: Path, sources: Answers
) -> None:
    answers = replace(sources, llm=f"{sources.llm}/config.json")
    assert "give --tokenizer" in refused(tmp_path, {}, answers, STACKED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm.stranger": torch.zeros(1)}, "unexpected llm.stranger"),
        ({"audio_proj.0.bias": torch.zeros(3)}, "audio_proj.0.bias is (3,), not (40,)"),
        ({"video_proj.0.weight": torch.zeros(40, 100)}, "takes 100 features"),
        ({"video_proj.0.weight": torch.zeros(4)}, "video: 0.weight has shape (4,)"),
        ({"decoder.weight": torch.zeros(1)}, "is no Llama-AVSR: it holds decoder.weight"),
        ({"audio_proj.4.0.weight": torch.zeros(1, 1)}, "the rates are numbered 4, not from 0"),
        ({"llm.model.embed_tokens.weight": torch.zeros(50)}, "embed_tokens.weight has shape (50,)"),
        ({"llm.model.layers.9.mlp.up_proj.weight": torch.zeros(144, 64)}, "its num_hidden_layers"),
        ({"llm.model.layers.1.self_attn.lora_up_V.weight": torch.zeros(64, 4)},
         "llm.model.layers.1.self_attn.lora_up_V.weight is (64, 4), not (16, 4)"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_listed(
    tmp_path: Path, sources: Answers, changes: dict[str, Tensor], message: str
) -> None:
    assert message in refused(tmp_path, changes, sources, STACKED)


def test_missing_weights_are_listed_by_their_published_names(
    tmp_path: Path, sources: Answers
) -> None:
    weights = published_weights(STACKED)
    gone = (
        "audio_proj.2.bias",
        "audio_encoder.layers.0.fc1.bias",
        "video_encoder.encoder.pos_conv.0.weight_g",
        "llm.model.layers.1.self_attn.lora_down_V.weight",
        "llm.model.layers.1.self_attn.q_proj.weight",
    )
    for name in gone:
        del weights[name]
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "model.pth", tmp_path / "model", sources)
    for name in gone:
        assert f"missing {name}" in str(caught.value)
    assert str(caught.value).count("missing ") == len(gone)


def changed_json(path: Path, source: str | None, **changes: Any) -> str:
    fields = json.loads((Path(str(source)) / "config.json").read_text()) | changes
    path.write_text(json.dumps(fields))
    return str(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 32, "its hidden_size is 32, the checkpoint's 64"),
        ("num_hidden_layers", 5, "its num_hidden_layers is 5, the checkpoint's 4"),
        ("intermediate_size", 10, "its intermediate_size is 10, the checkpoint's 144"),
        ("num_key_value_heads", 4, "its keys have 32 features (4 heads), the checkpoint's 16"),
        ("model_type", "gpt2", "model_type is 'gpt2'"),
        ("hidden_act", "none", "make no model"),
    ],
)
def test_another_llm_is_refused(
    tmp_path: Path, sources: Answers, field: str, value: Any, message: str
) -> None:
    other = changed_json(tmp_path / "other.json", sources.llm, **{field: value})
    answers = replace(sources, llm=other, tokenizer=sources.llm)
    assert message in refused(tmp_path, {}, answers, STACKED)


def test_another_tokenizer_is_refused(tmp_path: Path, sources: Answers) -> None:
    larger = tokenizer()
    larger.add_tokens(["one", "two"])
    larger.save_pretrained(tmp_path / "tokens")
    found = refused(tmp_path, {}, replace(sources, tokenizer=str(tmp_path / "tokens")), STACKED)
    assert "has 52 entries and 0 added ones, the checkpoint 50 embeddings" in found


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (STACKED, {"video_encoder": "huge"}, "--video-encoder huge: there is no such file"),
        (STACKED, {"audio_rate": 7}, "takes 4 stacked frames, and --audio-rate is 7"),
        (STACKED, {"audio_rates": (2, 4)}, "takes 4 stacked frames, and --audio-rates is 2, 4"),
        (STACKED, {"compression": "average"}, "takes 4 stacked frames, and --compression is"),
        (STACKED, {"compression": "mean"}, "--compression is 'mean'"),
        (STACKED, {"encoder": "{}/none.json"}, "none.json is no configuration"),
        (STACKED, {"encoder": "{}/text.json"}, "text.json is no configuration"),
        (STACKED, {"encoder": "{}/list.json"}, "list.json holds no JSON object"),
        (STACKED, {"encoder": "{}/nowhere"}, "nowhere does not exist; name the folder"),
        (STACKED, {"encoder": "{}"}, "' cannot be read"),
        (STACKED, {"encoder": "{}/wide.json"}, "its d_model is 48, the checkpoint's 32"),
        (STACKED, {"video_encoder": "{}/text.json"}, "text.json is no configuration"),
        (STACKED, {"lora_reduction": 32}, "--lora-reduction 32 means a rank of 2"),
        ("audio_ratio1_nopeft_bA", {"lora_alpha": 8}, "has no LoRA branches"),
        ("audio_stack4_bA", {"video_rate": 2}, "has no video projector; leave --video-rate out"),
        ("audio_stack4_bA", {"video_rates": (2,)}, "projector; leave --video-rates out"),
        ("video_stack3_bA_lora_avhubert", {"audio_rate": 2}, "has no audio projector"),
    ],
)
def test_answers_that_do_not_fit(
    tmp_path: Path, sources: Answers, case: str, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "list.json").write_text("[]")
    changed_json(tmp_path / "wide.json", sources.encoder, d_model=48)
    placed = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in changes.items()}
    answers = replace(answered(sources, case), **placed)
    assert message in refused(tmp_path, {}, answers, case)


def test_an_llm_for_an_encoder_is_refused(tmp_path: Path, sources: Answers) -> None:
    found = refused(tmp_path, {}, replace(sources, encoder=sources.llm), STACKED)
    assert "is a llama; the checkpoint's encoder is a whisper" in found


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, sources: Answers) -> None:
    path = released(tmp_path / "model.pth", STACKED)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="mine exists; name a folder that does not"):
        convert(path, tmp_path / "mine", sources)
    assert not list((tmp_path / "mine").iterdir())


def test_nothing_is_left_of_a_conversion_that_breaks_off(
    tmp_path: Path, sources: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    path = released(tmp_path / "model.pth", STACKED)
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        convert(path, tmp_path / "model", sources)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


class Attack:
    """Runs a command where it is unpickled freely."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path: Path, zipped: bool) -> None:
    attack = {"llm.x": Attack(tmp_path / "ran")}
    torch.save(attack, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"asks for (posix|nt)\.system\); nothing in it was"):
        read_released(tmp_path / "m.pth")
    (tmp_path / "m.pth").write_bytes(pickle.dumps(attack))
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        read_released(tmp_path / "m.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off(tmp_path: Path, zipped: bool, share: float) -> None:
    weights = {"llm.x": torch.randn(300, 300), "llm.y": torch.randn(300, 300)}
    torch.save(weights, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"is no (whole )?checkpoint of tensors"):
        read_released(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds no tensors by name"),
        ({}, "holds no tensors by name"),
        ({"llm.x": 3}, "holds llm.x beside plain tensors"),
        ({"llm.x": torch.eye(3).to_sparse()}, "holds llm.x beside plain tensors"),
        ({"llm.x": torch.empty(3, device="meta")}, "holds llm.x beside plain tensors"),
        ({"state_dict": {}}, "holds no tensors by name"),
    ],
)
def test_files_of_something_else(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=message):
        read_released(tmp_path / "m.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04", None])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is no (file|whole|checkpoint)"):
        read_released(tmp_path / "m.pth")
