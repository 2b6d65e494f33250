"""Multimodal subjects: what may be given, what is refused, folders, and registered families."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError, UnknownFamilyError
from sinkscope.subjects.multimodal.subject import MultimodalSubject
from sinkscope.subjects.multimodal.table import CHATML, Turns
from sinkscope.subjects.multimodal.turns import segments_of_turns
from tests.adapters import windowed_sound
from tests.adapters.qwen_omni import QWEN2, inputs, thinker


@pytest.fixture(scope="module")
def subject() -> MultimodalSubject:
    found = ss.load(thinker(QWEN2))
    assert isinstance(found, MultimodalSubject)
    return found


def test_a_folder_is_loaded_with_the_class_of_its_family(tmp_path: Path) -> None:
    thinker(QWEN2).save_pretrained(tmp_path)
    subject = ss.load(tmp_path)
    assert isinstance(subject, MultimodalSubject)
    assert subject.name == tmp_path.name
    own, other = ss.record(subject, inputs(QWEN2)), ss.record(thinker(QWEN2), inputs(QWEN2))
    assert np.array_equal(own["entropy"], other["entropy"], equal_nan=True)


def test_a_family_without_a_row_is_refused_by_name() -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    text = {"model_type": "llama", "num_attention_heads": 2, "vocab_size": 40_000, **size}
    vision = {"model_type": "clip_vision_model", "num_attention_heads": 2, "image_size": 8, **size}
    config = LlavaConfig(text_config=text, vision_config=vision | {"patch_size": 4})
    model = LlavaForConditionalGeneration(config)
    with pytest.raises(UnknownFamilyError, match=r"'llava'.*no row describes"):
        ss.load(model)
    assert ss.load(model.model.language_model).anatomy.family == "llama"


@pytest.mark.parametrize("family", ["gemma3", "llava"])
def test_a_folder_of_a_family_without_a_row_is_refused_by_its_configuration(
    family: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(family).save_pretrained(tmp_path)  # no weights are asked for
    with pytest.raises(UnknownFamilyError, match=rf"'{family}'.*no row describes"):
        ss.load(tmp_path)


def test_text_ids_and_embeddings_go_to_the_same_model(subject: MultimodalSubject) -> None:
    subject.module.model.rope_deltas = None
    ids = torch.tensor([[5, 6, 7, 8]])
    record = ss.record(subject, input_ids=ids)
    assert record.layouts[0].segments == ("text",) * 4
    embeds = subject.module.get_input_embeddings()(ids)
    layout = ss.TokenLayout.of(["audio"] * 2 + ["text"] * 2, list("abcd"))
    given = ss.record(subject, inputs_embeds=embeds, layout=layout)
    assert given.layouts[0].labels == ("a", "b", "c", "d")
    assert np.allclose(given["norm"], record["norm"], rtol=1e-5)
    assert subject.module.model.rope_deltas is None
    with torch.no_grad():
        thinker(QWEN2)(**inputs(QWEN2))  # leaves how far its positions lag behind
    again = ss.record(subject, inputs_embeds=embeds, layout=layout)
    assert np.array_equal(again["norm"], given["norm"])
    assert subject.module.model.rope_deltas is not None


def test_a_layout_of_ones_own_goes_before_that_of_the_ids(subject: MultimodalSubject) -> None:
    one = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4).long()}
    length = 4
    own = ss.TokenLayout.of(["text"] * length, ["x"] * length)
    assert ss.record(subject, one, layout=own).layouts[0].labels == ("x",) * length


def test_what_is_refused(subject: MultimodalSubject) -> None:
    given = inputs(QWEN2)
    with pytest.raises(InputError, match="holds no tensor input_ids"):
        ss.record(subject, {"input_features": given["input_features"]})
    without = {name: value for name, value in given.items() if name != "input_features"}
    with pytest.raises(InputError, match=r"placeholders of audio .* input_features is missing"):
        ss.record(subject, without)
    fewer = given | {"feature_attention_mask": given["feature_attention_mask"].clone()}
    fewer["feature_attention_mask"][0, 30:] = 0
    with pytest.raises(InputError, match=r"placeholders of audio .* makes \d+ tokens"):
        ss.record(subject, fewer)
    with pytest.raises(InputError, match="within the mapping"):
        ss.record(subject, given, attention_mask=given["attention_mask"])
    with pytest.raises(InputError, match="has no processor"):
        ss.record(subject, ss.read_clip(ss.bundled_clips()[0]))
    with pytest.raises(InputError, match="reads no stream 'smell'"):
        subject.with_options(streams=["smell"])
    with pytest.raises(InputError, match="streams is empty"):
        subject.with_options(streams=[])
    assert subject.with_options(instruction="").instruction == ""
    with pytest.raises(InputError, match="taken as it is, without dtype"):
        ss.load(subject, dtype="bfloat16")
    with pytest.raises(InputError, match="reads text alone"):
        ss.load(thinker(QWEN2).model.language_model, processor=object())


def test_clips_come_alone_and_to_a_processor_with_a_template(subject: MultimodalSubject) -> None:
    clip = ss.read_clip(ss.bundled_clips()[0])
    with pytest.raises(InputError, match="mixes clips"):
        ss.record(subject, ["a text", clip])
    with pytest.raises(InputError, match="makes ids and mask from the clip"):
        ss.record(subject, clip, input_ids=[[5, 6]])
    with pytest.raises(InputError, match="prepend_bos=True is for text"):
        ss.record(subject, clip, prepend_bos=True)
    bare = ss.load(subject.module, processor=SimpleNamespace())
    with pytest.raises(InputError, match="a SimpleNamespace, has no chat template"):
        ss.record(bare, clip)
    voxtral = ss.load(windowed_sound.model("voxtral"), processor=SimpleNamespace())
    with pytest.raises(InputError, match=r"apply_transcription_request\(\.\.\.\) or"):
        ss.record(voxtral, clip)


def test_turns_say_who_speaks() -> None:
    chat = [
        "<|im_start|>",
        "system",
        "\n",
        "Be",
        "short",
        ".",
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "user",
        "\n",
        "Hi",
        "<|im_end|>",
    ]
    found = segments_of_turns(chat, CHATML)
    assert found[:3] == ["delimiter"] * 3
    assert found[3:6] == ["system"] * 3
    assert found[6:11] == ["delimiter"] * 5
    assert found[11:] == ["instruction", "delimiter"]
    direct = Turns(direct={"[INST]": "user", "[/INST]": "assistant"}, ends=("</s>",))
    assert segments_of_turns(["[INST]", "Hi", "[/INST]", "Ho", "</s>", "x"], direct) == [
        "delimiter",
        "instruction",
        "delimiter",
        "response",
        "delimiter",
        "text",
    ]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_peft_is_seen_through() -> None:
    from peft import LoraConfig, get_peft_model

    from tests.adapters import qwen_omni

    base = qwen_omni.thinker.__wrapped__(QWEN2)
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"])).eval()
    subject: Any = ss.load(model)
    assert subject.model is model
    with ss.probe(subject) as probe, torch.no_grad():
        model(**inputs(QWEN2))
    assert "audio" in probe.record.layouts[0].segments
