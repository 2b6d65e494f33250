"""LoRA schemes: which branches a pass uses and trains, by hand and through PEFT."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.lora import activated, adapters_of, attach_lora, branches_of, merge_lora
from sinkscope.avsr.lora_files import export_adapter, read_adapter
from sinkscope.avsr.lora_schemes import SCHEMES, active_adapters, all_adapters
from sinkscope.avsr.model import Inputs, LlamaAvsr
from sinkscope.errors import InputError
from tests.test_avsr_lora import IDS, a_llama, logits
from tests.test_avsr_model import a_clip, a_model

PAIR = {"audio_rate": 16, "video_rate": 2}
EXPECTED = {
    ("MS", "pair"): {"audio": "default", "video": "default", "audiovisual": "default"},
    ("S", "pair"): {"audio": "default", "video": "default", "audiovisual": "default"},
    ("SS", "pair"): {"audio": "a16", "video": "v2", "audiovisual": "a16-v2"},
    ("SS", "audio"): {"audio": "a16", "video": "v2", "audiovisual": "a16"},
    ("SS", "video"): {"audio": "a16", "video": "v2", "audiovisual": "v2"},
    ("MSS", "pair"): {
        "audio": "default a16",
        "video": "default v2",
        "audiovisual": "default a16-v2",
    },
    ("T", "pair"): {"audio": "audio", "video": "video", "audiovisual": "audiovisual"},
    ("ST", "pair"): {
        "audio": "default audio",
        "video": "default video",
        "audiovisual": "default audiovisual",
    },
}
MODALITIES = ("audio", "video", "audiovisual")


def a_scheme(scheme: str, key: str = "pair", *, stir: bool = True) -> LlamaAvsr:
    model = a_model(lora=LoraSettings(8, 4, scheme=scheme, scale_key=key))
    torch.manual_seed(1)
    for name, value in model.llm.named_parameters():
        if stir and ".lora_A" in name:
            torch.nn.init.normal_(value, std=0.3)
    return model


def prepared(model: LlamaAvsr, modality: str, **rates: int) -> Inputs:
    options: dict = {"modality": modality} | (rates or PAIR)
    with torch.no_grad():
        return model.prepare([a_clip()], texts=["bin blue"], **options)


def changed(model: LlamaAvsr) -> set[str]:
    """The branches that got a gradient."""
    return {
        name.split(".")[-2]
        for name, value in model.llm.named_parameters()
        if value.grad is not None and ".lora_" in name
    }


def gradients(model: LlamaAvsr) -> dict[str, Tensor]:
    found = {n: v.grad for n, v in model.llm.named_parameters() if v.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(("scheme", "key"), EXPECTED)
def test_a_pass_trains_the_branches_of_its_task_and_scale(scheme: str, key: str) -> None:
    model = a_scheme(scheme, key)
    learns = {name: value.requires_grad for name, value in model.llm.named_parameters()}
    assert all(value == (".lora_" in name) for name, value in learns.items())
    for modality in MODALITIES:
        model.zero_grad(set_to_none=True)
        model(prepared(model, modality)).loss.backward()
        assert changed(model) == set(EXPECTED[scheme, key][modality].split())
        assert {n: v.requires_grad for n, v in model.llm.named_parameters()} == learns


@pytest.mark.parametrize(("scheme", "key"), EXPECTED)
def test_every_branch_there_is_can_be_reached(scheme: str, key: str) -> None:
    model = a_scheme(scheme, key, stir=False)
    lora = model.config.lora
    assert lora is not None
    reached = set()
    for audio in (4, 16):
        for video in (2, 5):
            both = {"audio": audio, "video": video}
            reached |= set(active_adapters(lora, "audiovisual", both))
            reached |= set(active_adapters(lora, "audio", {"audio": audio}))
            reached |= set(active_adapters(lora, "video", {"video": video}))
    assert reached == set(adapters_of(model.llm)) == set(all_adapters(lora, model.config))


def test_the_update_is_the_sum_of_the_active_branches() -> None:
    model = a_scheme("ST")
    layer = model.llm.model.layers[0].self_attn.v_proj
    x = torch.randn(3, 32)
    expected = x @ layer.base_layer.weight.T
    for name in ("default", "video"):
        expected = expected + 0.5 * x @ layer.lora_A[name].weight.T @ layer.lora_B[name].weight.T
    with model.adapted("video", {"video": 2}):
        torch.testing.assert_close(layer(x), expected)


@torch.no_grad()
def test_each_task_and_scale_has_outputs_of_its_own() -> None:
    task, scale = a_scheme("T"), a_scheme("SS")
    inputs = prepared(task, "audiovisual")
    heard = task(replace(inputs, modality="audio")).logits
    assert (task(inputs).logits - heard).abs().max() > 1e-3
    inputs = prepared(scale, "audiovisual")
    other = scale(replace(inputs, rates={"audio": 4, "video": 2})).logits
    assert (scale(inputs).logits - other).abs().max() > 1e-3


def test_a_later_pass_leaves_the_gradients_of_the_first_alone() -> None:
    model = a_scheme("MSS")
    passes = [prepared(model, "audio"), prepared(model, "audiovisual"), prepared(model, "video")]
    alone = []
    for inputs in passes:
        model(inputs).loss.backward()
        alone.append(gradients(model))
    torch.stack([model(inputs).loss for inputs in passes]).sum().backward()
    together = gradients(model)
    assert set(together) == {name for found in alone for name in found}
    for name, value in together.items():
        own = sum(found[name] for found in alone if name in found)
        torch.testing.assert_close(value, own, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_that_are_computed_again_keep_the_branches_of_their_pass(reentrant: bool) -> None:
    model = a_scheme("ST").train()
    passes = [prepared(model, "audio"), prepared(model, "video")]
    sum(model(inputs).loss for inputs in passes).backward()
    plain = gradients(model)
    model.llm.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for inputs in passes:
        inputs.inputs_embeds.requires_grad_()
    sum(model(inputs, use_cache=False).loss for inputs in passes).backward()
    again = gradients(model)
    assert again.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-5)


def test_what_was_active_before_is_active_afterwards() -> None:
    model = a_scheme("ST")
    (_, branch), *_ = branches_of(model.llm)
    assert branch.active_adapters == ["default"]
    with model.adapted("audio", {"audio": 4}):
        assert branch.active_adapters == ["default", "audio"]
        with pytest.raises(RuntimeError), model.adapted("video", {"video": 2}):
            model.llm(inputs_embeds=torch.zeros(1, 1, 3))
        assert branch.active_adapters == ["default", "audio"]
    assert branch.active_adapters == ["default"]
    model = a_scheme("T")
    (_, branch), *_ = branches_of(model.llm)
    assert branch.active_adapters == []


@torch.no_grad()
def test_without_a_pass_only_the_shared_branch_works() -> None:
    model = a_scheme("T")
    base = merge_lora(a_scheme("T", stir=False).llm, adapters=["audio"])
    ids = torch.tensor([[1, 5, 7, 2]])
    assert torch.equal(model.llm(input_ids=ids).logits, base(input_ids=ids).logits)


@torch.no_grad()
def test_generation_uses_the_branches_of_the_task() -> None:
    model = a_scheme("T")
    inputs = model.prepare([a_clip()], modality="video")
    found = model.generate(inputs, max_new_tokens=4)
    merge_lora(model.llm, adapters=["video"])
    model.config = replace(model.config, lora=None)
    assert torch.equal(found, model.generate(inputs, max_new_tokens=4))
    torch.testing.assert_close(
        model(inputs).logits, model.llm(inputs_embeds=inputs.inputs_embeds).logits
    )


def test_batches_of_several_modalities_are_refused() -> None:
    clips = [a_clip(), a_clip(picture=False)]
    plain, model = a_scheme("S"), a_scheme("T")
    inputs = plain.prepare(clips)
    assert inputs.modality is None
    assert plain(inputs).logits.isfinite().all()
    with pytest.raises(InputError, match="scheme T has branches of their own for each modality"):
        model(model.prepare(clips))
    with pytest.raises(InputError, match="each scale, and this batch has samples of several"):
        a_scheme("SS")(inputs)


def test_rates_without_a_branch_are_refused() -> None:
    model = a_scheme("MSS")
    with pytest.raises(InputError, match="audio_rate is 8, but this model has LoRA for 4, 16"):
        model.prepare([a_clip()], audio_rate=8)
    inputs = prepared(model, "audiovisual")
    with pytest.raises(InputError, match="no LoRA branch 'a8-v2'; it has default, a4"):
        model(replace(inputs, rates={"audio": 8, "video": 2}))
    by_sound = a_scheme("SS", "audio")
    assert prepared(by_sound, "audiovisual", video_rate=3).rates == {"audio": 4, "video": 3}
    with pytest.raises(InputError, match="no LoRA branch 'v3'"):
        by_sound(prepared(by_sound, "video", video_rate=3))


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(InputError, match="scheme is 'X'; use one of MS, SS, MSS, S, T, ST"):
        LoraSettings(8, 4, scheme="X")
    with pytest.raises(InputError, match="scale_key is 'both'"):
        LoraSettings(8, 4, scale_key="both")
    assert set(SCHEMES) == {scheme for scheme, _ in EXPECTED}


def test_several_branches_are_merged_and_exported_only_by_name(tmp_path: Path) -> None:
    llm = attach_lora(a_llama(), LoraSettings(8, 4, scheme="ST"), adapters=("default", "audio"))
    torch.manual_seed(1)
    for name, value in llm.named_parameters():
        if ".lora_A" in name:
            torch.nn.init.normal_(value, std=0.3)
    with pytest.raises(InputError, match="has branches default, audio, which do not work all"):
        merge_lora(llm)
    with pytest.raises(InputError, match="has no branch 'video'"):
        merge_lora(llm, adapters=["video"])
    with pytest.raises(InputError, match="has branches default, audio, and PEFT's adapter holds"):
        export_adapter(llm, tmp_path)
    with pytest.raises(InputError, match="already"):
        read_adapter(llm, tmp_path)
    with activated(llm, ["default", "audio"]):
        wanted = logits(llm)
    merge_lora(llm, adapters=["default", "audio"])
    torch.testing.assert_close(logits(llm), wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - a_llama()(input_ids=IDS).logits).abs().max() > 1e-3
    assert adapters_of(llm) == ()


def test_branches_of_a_scheme_need_their_names() -> None:
    with pytest.raises(InputError, match="give adapters=all_adapters"):
        attach_lora(a_llama(), LoraSettings(8, 4, scheme="T"))


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["ST", "SS"])
def test_folders_keep_every_branch(tmp_path: Path, scheme: str) -> None:
    model = a_scheme(scheme)
    model.save_pretrained(tmp_path)
    again = LlamaAvsr.from_pretrained(tmp_path)
    assert again.config == model.config
    for modality in MODALITIES:
        inputs = prepared(model, modality)
        assert torch.equal(again(inputs).logits, model(inputs).logits)
