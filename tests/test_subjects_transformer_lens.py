"""A TransformerBridge as a subject: the same sites as its own hooks, and refused where not."""

from pathlib import Path
from typing import Any

import pytest
import torch

import sinkscope as ss
from sinkscope.errors import CheckpointError, InputError, SiteError
from sinkscope.glossary import SITES
from tests import test_whisper as whisper
from tests.families import CONFIGURATIONS, batch, build
from tests.test_subjects_anatomy import SAMPLES, far, read_sites
from tests.test_subjects_text import tokenizer
from tests.text_families import HYBRIDS, LATENT, build_text

lens = pytest.importorskip("transformer_lens.model_bridge", reason="transformer-lens not installed")

FAMILIES = ("llama", "gemma2", "gpt2", "gpt_neox", "phi3", "opt")


def made(name: str, **changes: Any) -> Any:
    """A tiny model of either table of families."""
    model: Any = build(name, **changes) if name in CONFIGURATIONS else build_text(name, **changes)
    model.config.architectures = [type(model).__name__]
    return model


def boot(name: str, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """A bridge, and the same model without one."""
    model = made(name, **changes)
    model.set_attn_implementation("eager")
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    from transformers import AutoTokenizer

    reads = AutoTokenizer.from_pretrained(folder)
    wrapped = made(name, **changes)
    bridge = lens.TransformerBridge.boot_transformers(
        str(folder), hf_model=wrapped, tokenizer=reads, device="cpu"
    )
    return bridge, model


@pytest.mark.parametrize("name", FAMILIES)
def test_sites_are_those_of_the_bridges_hooks(name: str, tmp_path: Path) -> None:
    bridge, plain = boot(name, tmp_path)
    subject = ss.load(bridge)
    ids = batch(samples=SAMPLES)["input_ids"]
    seen, output = read_sites(subject.model, subject.anatomy, {"input_ids": ids})
    with torch.no_grad():
        assert torch.equal(output.logits, plain(ids).logits)
        _, cache = bridge.run_with_cache(ids, prepend_bos=False)
    compared = set()
    for (site, layer), value in seen.items():
        hook = SITES[site].transformer_lens.format(layer=layer)
        if hook in cache:
            assert far(value, cache[hook]) < 1e-4, (site, layer)
            compared.add(site)
    residual = {"resid_pre", "resid_post", "attn_out", "mlp_out"}
    assert compared >= residual | (set() if name == "gpt_neox" else {"resid_mid"})
    assert len(compared) >= len(subject.anatomy.sites()) - 1


def test_the_bridge_is_left_as_it_was_and_its_weights_are_shared(tmp_path: Path) -> None:
    bridge, _ = boot("llama", tmp_path)
    ids, modules = batch()["input_ids"], [type(module) for module in bridge.modules()]
    with torch.no_grad():
        before = bridge(ids)
    subject = ss.load(bridge)
    assert subject.name == "llama (LlamaForCausalLM)"
    inputs = next(iter(subject.batches("one two")))
    assert inputs.layouts[0].labels == ("<s>", "one", "two")
    with torch.no_grad():
        assert torch.equal(bridge(ids), before)
    assert [type(module) for module in bridge.modules()] == modules
    handle = subject.model.model.layers[0].register_forward_hook(lambda *_: 1 / 0)
    with torch.no_grad():
        assert torch.equal(bridge(ids), before)
    handle.remove()
    shared = {parameter.data_ptr() for parameter in bridge.original_model.parameters()}
    assert {parameter.data_ptr() for parameter in subject.model.parameters()} <= shared


def test_a_bridge_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    bridge, _ = boot("gpt2", tmp_path)
    bridge.add_hook("blocks.0.hook_resid_post", lambda value, hook: value * 2)
    with pytest.raises(InputError, match=r"hooks of yours at .*reset_hooks"):
        ss.load(bridge)
    bridge.reset_hooks()
    ss.load(bridge)
    block = bridge.original_model.transformer.h[0]
    handle = block.register_forward_hook(lambda block, args, output: output * 2)
    with pytest.raises(CheckpointError, match="differ by"):
        ss.load(bridge)
    handle.remove()
    bridge.enable_compatibility_mode()
    with pytest.raises(CheckpointError, match="compatibility mode"):
        ss.load(bridge)


EXPORTED = ("resid_pre", "resid_post", "attn_out", "mlp_out", "mlp_act", *"qkvz", "pattern")


HIDDEN = {
    **{"opt": {"q"}, "jamba": {"q", "k", "router"}, "qwen3_next": {"z", "router"}},
    **{"qwen3_5_text": {"z"}, "qwen3_5_moe_text": {"z", "router"}, "deepseek_v3": {"z"}},
    **{name: {"z", "router"} for name in ("deepseek_v2", "deepseek_v2:groups")},
    **{"gemma4_text": {"q", "k", "v"}, "gemma4_text:experts": {"q", "k", "v", "router"}},
    **{name: {"router"} for name in ("gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe")},
}
ROTATED = {"rot_q", "rot_k"}
UNSHOWN = {
    **dict.fromkeys(("gpt_neox", "gpt_neox_sequential"), ROTATED),
    "phi3": ROTATED | {"pre", "pre_linear"},
    **{name: {"attn_out"} for name in HYBRIDS},
}
"""What a bridge does not compute: rotated queries of some, attn_out of blocks without attention."""
FAST = (*FAMILIES, "qwen3", "mistral", "phi", "deepseek_v3", "qwen3_5_text", "gemma4_text")
BRIDGED = (*CONFIGURATIONS, *HYBRIDS, *LATENT, "gemma4_text", "gemma4_text:experts")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in BRIDGED if name not in FAST]


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_a_record_goes_out_as_the_bridges_cache(name: str, tmp_path: Path) -> None:
    """Same names, same axes, same numbers, wherever the bridge computes it."""
    bridge, plain = boot(name, tmp_path)
    ids = batch(samples=SAMPLES)["input_ids"]
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids, prepend_bos=False)
    subject = ss.load(plain)
    has = {*subject.anatomy.sites(), *"qkvz", "pattern"}
    more = ("resid_mid", "mlp_gate", "mlp_up")
    sites = [site for site in (*EXPORTED, *more) if site in has]
    ours = ss.to_transformer_lens(ss.record(plain, input_ids=ids, keep=sites))
    assert set(ours.left_out) == HIDDEN.get(name, set())
    both = [key for key in ours if key in cache]
    for key in both:
        assert ours[key].shape == cache[key].shape, key
        assert far(ours[key], cache[key]) < 1e-4, key
    missing = {key.rpartition("hook_")[2] for key in set(ours) - set(both)}
    assert missing <= UNSHOWN.get(name, set()), missing
    last = subject.anatomy.n_layers - 1
    shown = [("pattern", 1), ("z", 1)] if "z" not in ours.left_out else []
    for key in (("resid_pre", 1), *shown, ("mlp_out", -1)):
        full = SITES[key[0]].transformer_lens.format(layer=key[1] % (last + 1))
        assert torch.equal(ours[key], ours[full])
        assert far(ours[key], cache[key]) < 1e-4
    stacked = ours.stack_activation("resid_post")
    assert far(stacked, cache.stack_activation("resid_post")) < 1e-4


def test_a_cache_of_transformer_lens_can_be_made_of_it(tmp_path: Path) -> None:
    from transformer_lens import ActivationCache

    bridge, plain = boot("llama", tmp_path)
    ids = batch(samples=1)["input_ids"]
    ours = ss.to_transformer_lens(ss.record(plain, input_ids=ids, keep=["resid_post", "mlp_act"]))
    made = ActivationCache(dict(ours), bridge)
    assert torch.equal(made["resid_post", 1], ours["resid_post", 1])
    assert torch.equal(ours["post", 0], ours["mlp_act", 0])
    assert ("resid_post", 1) in ours
    assert ("resid_pre", 1) not in ours
    assert "2 layers" in repr(ours)


UNROTATED: dict[str, dict[str, Any]] = {
    "smollm3": {"no_rope_layers": [1, 0]},
    "cohere2": {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
    "exaone4": {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("name", UNROTATED)
def test_a_layer_that_rotates_nothing_is_named_as_the_others(name: str, tmp_path: Path) -> None:
    """The bridge's hook_rot_q and hook_rot_k are there too, and what enters attention."""
    bridge, plain = boot(name, tmp_path, **UNROTATED[name])
    ids = batch(samples=SAMPLES)["input_ids"]
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids, prepend_bos=False)
    ours = ss.to_transformer_lens(ss.record(plain, input_ids=ids, keep=["q", "k"]))
    assert len(ours) == 4
    for key in ours:
        assert far(ours[key], cache[key]) < 1e-4, key
    if name != "exaone4":
        before = cache["blocks.1.attn.hook_q"]
        assert far(ours["rot_q", 1], before.reshape(ours["rot_q", 1].shape)) < 1e-4


def test_a_decoder_with_cross_attention_is_refused() -> None:
    model = whisper.build()
    for kept in (["q"], ["resid_mid", "cross_out"]):
        with pytest.raises(InputError, match="cross-attention"):
            ss.to_transformer_lens(ss.record(model, whisper.given(), keep=kept))


def test_what_cannot_go_out_is_refused() -> None:
    model = build("mixtral")
    with pytest.raises(InputError, match=r"12, 9 tokens|9, 12 tokens"):
        ss.to_transformer_lens(ss.record(model, **batch("left", samples=2), keep=["resid_post"]))
    with pytest.raises(SiteError, match="kept no activations"):
        ss.to_transformer_lens(ss.record(build("llama"), **batch()))
    record = ss.record(model, **batch(), keep=["expert_out", "resid_post"])
    cache = ss.to_transformer_lens(record)
    assert cache.left_out == ("router", "expert_out")
    with pytest.raises(SiteError, match=r"kept no .*hook_resid_post"):
        cache["resid_pre", 0]
    with pytest.raises(SiteError, match="no activation 'router'"):
        cache["router", 0]


@pytest.mark.parametrize("how", ["enable", "process", "one step", "aliases"])
def test_every_way_into_compatibility_mode(how: str, tmp_path: Path) -> None:
    """Changed weights are refused; mere names of hooks, with the weights as they were, are not."""
    bridge, plain = boot("llama", tmp_path)
    if how == "enable":
        bridge.enable_compatibility_mode()
    elif how == "process":
        bridge.process_weights()
    elif how == "one step":
        nothing = {"center_unembed": False, "fold_value_biases": False, "fold_ln": False}
        bridge.process_weights(center_writing_weights=True, **nothing)
    else:
        bridge.enable_compatibility_mode(no_processing=True)
        ids = batch(samples=SAMPLES)["input_ids"]
        with torch.no_grad():
            assert torch.equal(ss.load(bridge).model(ids).logits, plain(ids).logits)
        return
    with pytest.raises(CheckpointError, match=r"compatibility mode.*boot_transformers"):
        ss.load(bridge)
