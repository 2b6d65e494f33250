"""A TransformerBridge as a subject: the same sites as its own hooks, and refused where not."""

from pathlib import Path
from typing import Any

import pytest
import torch

import sinkscope as ss
from sinkscope.errors import CheckpointError, InputError
from sinkscope.glossary import SITES
from tests.families import batch, build
from tests.test_subjects_anatomy import SAMPLES, far, read_sites
from tests.test_subjects_text import tokenizer

lens = pytest.importorskip("transformer_lens.model_bridge", reason="transformer-lens not installed")

FAMILIES = ("llama", "gemma2", "gpt2", "gpt_neox", "phi3", "opt")


def boot(name: str, folder: Path) -> tuple[Any, Any]:
    """A bridge, and the same model without one."""
    model = build(name)
    model.set_attn_implementation("eager")
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    from transformers import AutoTokenizer

    reads = AutoTokenizer.from_pretrained(folder)
    wrapped = build(name)
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
