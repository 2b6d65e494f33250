"""Text, ids and embeddings in; BOS on or off; padding; what is refused, and in which words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

import sinkscope as ss
from sinkscope.errors import CheckpointError, InputError, UnknownFamilyError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.running import evaluating, model_hash
from sinkscope.subjects.subject import Bundled, Subject, bundled
from tests.families import FAMILIES, batch, build, tiny
from tests.shared_data import shared

WORDS = ["<unk>", "<s>", "</s>", "one", "two", "three", "four"]


def tokenizer(*, has_bos: bool = True, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    bos = {"bos_token": "<s>"} if has_bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **bos)


def text_subject(**options: bool) -> Subject:
    return ss.load(tiny("llama"), tokenizer=tokenizer(**options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny("llama").save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("adds_bos", "prepend_bos", "begins"),
    [
        (True, None, True),
        (True, True, True),
        (True, False, False),
        (False, None, False),
        (False, True, True),
        (False, False, False),
    ],
)
def test_bos_is_the_callers_choice(adds_bos: bool, prepend_bos: bool | None, begins: bool) -> None:
    subject = text_subject(adds_bos=adds_bos)
    inputs = next(iter(subject.batches("one two", prepend_bos=prepend_bos)))
    assert inputs.kwargs["input_ids"].tolist() == [[1, 3, 4] if begins else [3, 4]]
    assert inputs.prepend_bos is begins
    assert inputs.layouts[0].has_bos is begins
    assert inputs.layouts[0].segments == (("bos", "text", "text") if begins else ("text", "text"))
    assert inputs.layouts[0].labels[-1] == "two"


def test_a_tokenizer_without_bos_is_not_given_one() -> None:
    subject = text_subject(has_bos=False, adds_bos=False)
    with pytest.raises(InputError, match="has no BOS token"):
        next(iter(subject.batches("one", prepend_bos=True)))
    assert next(iter(subject.batches("one"))).prepend_bos is False


def test_several_texts_are_one_forward_each() -> None:
    inputs = list(text_subject().batches(["one", "two three four"]))
    assert [len(one.layouts[0]) for one in inputs] == [2, 4]


def test_text_needs_a_tokenizer_and_tokens() -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        next(iter(ss.load(tiny("llama")).batches("one")))
    with pytest.raises(InputError, match="no tokens"):
        next(iter(text_subject(adds_bos=False).batches("")))
    with pytest.raises(InputError, match="not int"):
        next(iter(text_subject().batches(5)))


def test_ids_are_used_as_given() -> None:
    subject = text_subject()
    inputs = next(iter(subject.batches(None, input_ids=[[1, 3, 4], [3, 4, 5]])))
    assert inputs.prepend_bos == "as given"
    assert [layout.has_bos for layout in inputs.layouts] == [True, False]
    assert set(inputs.kwargs) == {"input_ids"}
    with pytest.raises(InputError, match="used as given"):
        next(iter(subject.batches(None, input_ids=[1], prepend_bos=True)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_labelled(side: str) -> None:
    given = batch(side)
    inputs = next(iter(ss.load(tiny("llama")).batches(None, **given)))
    for layout, mask in zip(inputs.layouts, given["attention_mask"], strict=True):
        assert layout.is_real.tolist() == mask.bool().tolist()
        assert layout.reference == int(mask.argmax())
    assert ("position_ids" in inputs.kwargs) == (side == "left")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_padded_sample_gives_what_it_gives_alone(name: str, side: str) -> None:
    """Also with learned positions, which a left-padded sample would otherwise see shifted."""
    subject, given = ss.load(tiny(name)), batch(side)
    inputs = next(iter(subject.batches(None, **given)))
    together = subject.forward(inputs).logits
    for sample, layout in enumerate(inputs.layouts):
        real = torch.tensor(layout.is_real)
        alone = next(iter(subject.batches(None, input_ids=given["input_ids"][sample][real])))
        expected = subject.forward(alone).logits[0]
        difference = (together[sample][real] - expected).abs().max() / expected.abs().max()
        assert difference < 1e-5


def test_forward_is_the_models_own() -> None:
    subject, ids = ss.load(tiny("gemma2")), batch()["input_ids"]
    with torch.no_grad():
        expected = tiny("gemma2")(input_ids=ids).logits
    inputs = next(iter(subject.batches(None, input_ids=ids)))
    assert torch.equal(subject.forward(inputs).logits, expected)


def test_a_record_makes_the_logits_of_the_last_token_only() -> None:
    model = tiny("llama")
    seen = []
    hook = model.lm_head.register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    subject = ss.load(model)
    ss.record(subject, input_ids=[[1, 2, 3, 4]])
    subject.forward(next(iter(subject.batches(None, input_ids=[[1, 2, 3, 4]]))))
    hook.remove()
    assert seen == [1, 4]


def test_embeddings() -> None:
    model = tiny("llama")
    subject, ids = ss.load(model), batch()["input_ids"]
    embeds = model.get_input_embeddings()(ids).detach()
    inputs = next(iter(subject.batches(None, inputs_embeds=embeds)))
    assert inputs.layouts[0].labels[:2] == ("e0", "e1")
    assert inputs.layouts[0].segments[0] == "text"
    assert inputs.layouts[0].reference == 0
    by_ids = next(iter(subject.batches(None, input_ids=ids)))
    assert torch.equal(subject.forward(inputs).logits, subject.forward(by_ids).logits)
    layout = TokenLayout.of(["audio", "bos", *["text"] * 10], list("abcdefghijkl"))
    inputs = next(iter(subject.batches(None, inputs_embeds=embeds[:1], layout=layout)))
    assert inputs.layouts[0].reference == 1


def test_a_layout_of_the_real_tokens_is_spread_over_the_padding() -> None:
    given = {name: value[1:2] for name, value in batch("left").items()}
    own = TokenLayout.of(
        ["bos", *["audio"] * 8],
        [f"t{i}" for i in range(9)],
        seconds=np.arange(18.0).reshape(9, 2),
        descriptors={"loudness_db": np.arange(9.0), "phoneme": np.array(list("abcdefghi"))},
    )
    layout = next(iter(ss.load(tiny("llama")).batches(None, layout=own, **given))).layouts[0]
    assert layout.segments[:4] == ("padding", "padding", "padding", "bos")
    assert layout.labels[3:] == own.labels
    assert layout.reference == 3
    assert layout.seconds[3:].tolist() == own.seconds.tolist()
    assert layout.without_padding().descriptors["phoneme"].tolist() == list("abcdefghi")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "none of them"),
        ({"data": []}, "is empty"),
        ({"data": "one", "input_ids": [1]}, "text and input_ids"),
        ({"data": "one", "attention_mask": torch.ones(1, 2)}, "not with text"),
        ({"input_ids": [[1, 2], [1]]}, "no rectangle"),
        ({"input_ids": [[1, 97]]}, "vocabulary has 97"),
        ({"input_ids": [[1, -1]]}, "from -1 to 1"),
        ({"input_ids": torch.ones(1, 2, 3)}, "whole numbers"),
        ({"input_ids": torch.ones(1, 0, dtype=torch.long)}, "at least one"),
        ({"inputs_embeds": torch.ones(1, 4, 7)}, r"\(sample, token, 32\)"),
        ({"inputs_embeds": torch.ones(1, 4, 32).long()}, "floating-point"),
        ({"input_ids": [[1, 2]], "attention_mask": torch.ones(1, 3)}, "one entry for each"),
        ({"input_ids": [[1, 2]], "attention_mask": torch.tensor([[0.5, 1]])}, "other than 0 and 1"),
        ({"input_ids": [[1, 2]], "attention_mask": torch.zeros(1, 2)}, "has no token"),
        ({"input_ids": [[1, 2, 3]], "attention_mask": torch.tensor([[1, 0, 1]])}, "between its"),
        ({"input_ids": [[1, 2]], "layout": TokenLayout.of(["text"], ["a"])}, "it has 1 entries"),
        ({"input_ids": [[1, 2]], "layout": []}, "0 layouts for 1 samples"),
        ({"data": ["one", "two"], "layout": TokenLayout.of(["text"], ["a"])}, "1 layouts for 2"),
    ],
)
def test_wrong_input_is_refused(arguments: dict, message: str) -> None:
    arguments = {"data": None} | arguments
    with pytest.raises(InputError, match=message):
        list(text_subject().batches(**arguments))


def test_layouts_of_a_forward_that_nobody_announced() -> None:
    subject, given = text_subject(), batch("left", samples=2)
    given["input_ids"][0, 0] = 1
    first, second = subject.layout_of(given)
    assert first.has_bos
    assert (second.reference, second.has_bos) == (3, False)
    causal = given["attention_mask"].bool()[:, None, None, :] & torch.ones(12, 12).tril().bool()
    for mask in (causal, torch.where(causal, 0.0, -1e9), {"full_attention": causal}):
        found = subject.layout_of({"input_ids": given["input_ids"], "attention_mask": mask})
        assert [layout.segments for layout in found] == [first.segments, second.segments]
    embeds = {"inputs_embeds": torch.zeros(1, 3, 32), "attention_mask": None}
    assert subject.layout_of(embeds)[0].labels == ("e0", "e1", "e2")
    with pytest.raises(InputError, match="neither"):
        subject.layout_of({})
    with pytest.raises(InputError, match="attention mask of"):
        subject.layout_of({"input_ids": given["input_ids"], "attention_mask": torch.ones(2, 5)})


def test_the_models_training_flags_are_restored() -> None:
    model = build("llama")
    model.train()
    model.model.layers[0].eval()
    flags = [module.training for module in model.modules()]
    subject = ss.load(model)
    output = subject.forward(next(iter(subject.batches(None, input_ids=[1, 2]))))
    assert not output.logits.requires_grad
    assert [module.training for module in model.modules()] == flags
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    with pytest.raises(RuntimeError, match="on purpose"), evaluating(model):
        raise RuntimeError("on purpose")
    assert [module.training for module in model.modules()] == flags


def test_load_leaves_a_loaded_model_alone() -> None:
    model = build("qwen2").to(torch.bfloat16).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    subject = ss.load(model)
    assert subject.model is model
    assert ss.load(subject) is subject
    assert model.training
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for options in ({"device": "cpu"}, {"dtype": "float32"}, {"revision": "main"}):
        with pytest.raises(InputError, match=next(iter(options))):
            ss.load(model, **options)
    embeds = torch.randn(1, 3, 32)
    inputs = next(iter(subject.batches(None, inputs_embeds=embeds)))
    assert inputs.kwargs["inputs_embeds"].dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_wrapped() -> None:
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    model = get_peft_model(
        build("llama"), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    subject = ss.load(model)
    tuned = subject.provenance()["model_hash"]
    inputs = next(iter(subject.batches(None, input_ids=[1, 2, 3])))
    expected = model(input_ids=torch.tensor([[1, 2, 3]])).logits
    assert torch.equal(subject.forward(inputs).logits, expected)
    with model.disable_adapter():
        assert subject.provenance()["model_hash"] != tuned
        assert not torch.equal(subject.forward(inputs).logits, expected)
    assert subject.provenance()["model_hash"] == tuned
    prompt = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    with pytest.raises(InputError, match="virtual tokens"):
        ss.load(get_peft_model(build("llama"), prompt))


def test_hash_tells_models_apart() -> None:
    subject = ss.load(build("llama"))
    first = subject.provenance()["model_hash"]
    assert ss.load(build("llama")).provenance()["model_hash"] == first
    weight = subject.model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        weight[3, 5] += 1
    assert model_hash(subject.model, subject.anatomy) != first
    with torch.no_grad():
        weight[3, 5] -= 1
    subject.model.to(torch.bfloat16)
    assert model_hash(subject.model, subject.anatomy) != first


def test_provenance() -> None:
    found = ss.load(tiny("gemma2")).provenance()
    assert found["family"] == "gemma2"
    assert found["attention_implementation"] == "eager"
    assert (found["dtype"], found["device"]) == ("float32", "cpu")
    assert found["versions"]["torch"] == torch.__version__


def test_a_folder(folder: Path) -> None:
    subject = ss.load(folder)
    assert subject.name == folder.name
    assert subject.anatomy.family == "llama"
    inputs = next(iter(subject.batches("one three")))
    assert inputs.layouts[0].labels == ("<s>", "one", "three")
    expected = tiny("llama")(input_ids=torch.tensor([[1, 3, 5]])).logits
    assert torch.equal(subject.forward(inputs).logits, expected)
    half = ss.load(str(folder), dtype="bfloat16", device="cpu")
    assert half.provenance()["dtype"] == "bfloat16"
    spread = ss.load(folder, device_map={"": "cpu"})
    assert torch.equal(spread.forward(inputs).logits, expected)


def test_bundled_models_go_by_their_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Bundled("tiny-x", folder, "a tiny model")
    monkeypatch.setattr("sinkscope.subjects.checkpoints.bundled", lambda: [shipped])
    assert ss.load("tiny-x").name == "tiny-x"
    with pytest.raises(CheckpointError, match="tiny-x"):
        ss.load("./tiny-x")
    monkeypatch.undo()
    for model in bundled():
        assert ss.load(model.name).name == model.name


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    tiny("gpt2").save_pretrained(tmp_path)
    subject = ss.load(tmp_path)
    assert subject.tokenizer is None
    assert next(iter(subject.batches(None, input_ids=[1, 2]))).layouts[0].labels == ("1", "2")
    assert next(iter(subject.batches(None, input_ids=[1, 2]))).layouts[0].has_bos


def test_options_of_load_are_checked(folder: Path) -> None:
    with pytest.raises(InputError, match="float99"):
        ss.load(folder, dtype="float99")
    with pytest.raises(InputError, match="device 'nowhere'"):
        ss.load(folder, device="nowhere")
    with pytest.raises(InputError, match="give one"):
        ss.load(folder, device="cpu", device_map="auto")
    with pytest.raises(InputError, match="cannot study a int"):
        ss.load(5)


def damage(path: Path, how: str) -> None:
    weights = path / "model.safetensors"
    if how == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "no weights":
        weights.unlink()
    elif how == "pickled weights":
        weights.unlink()
        torch.save({}, path / "pytorch_model.bin")
    elif how == "no config":
        (path / "config.json").unlink()
    elif how == "broken config":
        (path / "config.json").write_text("{")
    elif how == "another config":
        text = (path / "config.json").read_text()
        (path / "config.json").write_text(
            text.replace('num_hidden_layers": 2', 'num_hidden_layers": 3')
        )
    elif how == "broken tokenizer":
        (path / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated weights", "weights of .* cannot be read"),
        ("no weights", "holds no weights"),
        ("pickled weights", r"pickled weights \(pytorch_model.bin\)"),
        ("no config", "holds no config.json"),
        ("broken config", "not a JSON object"),
        ("another config", "lacks 9 weights"),
        ("broken tokenizer", "tokenizer of .* cannot be read"),
    ],
)
def test_damaged_folders_are_refused(folder: Path, tmp_path: Path, how: str, message: str) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path, how)
    with pytest.raises(CheckpointError, match=message) as caught:
        ss.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_things_that_are_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        ss.load("./nowhere")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="PEFT adapter"):
        ss.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bloom", "hidden_size": 8}')
    with pytest.raises(UnknownFamilyError, match="'bloom'"):
        ss.load(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="'no-such/model' cannot be read") as caught:
        ss.load("no-such/model")
    assert "\n" not in str(caught.value)


def test_a_loaded_module_that_is_no_model() -> None:
    with pytest.raises(UnknownFamilyError, match="holds no decoder"):
        ss.load(nn.Linear(2, 2))


def test_a_trained_model() -> None:
    subject = ss.load(shared("data/stories260K"))
    inputs = next(iter(subject.batches("Once upon a time\n there", prepend_bos=True)))
    assert inputs.layouts[0].labels == ("<s>", "Once", "upon", "a", "time", "\\n", "there")
    assert (
        subject.forward(inputs).logits.argmax(-1)[0, -1]
        == subject.tokenizer.encode(" was", add_special_tokens=False)[-1]
    )
