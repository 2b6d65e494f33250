"""Sharded and quantised weights: the same record, or one sentence; never a weight read blindly.

bitsandbytes, torchao and quanto are no dependencies: their tests are skipped where they are absent.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist

import sinkscope as ss
from sinkscope.errors import UnknownFamilyError
from tests.families import batch, build
from tests.same_records import check_same

KEEP = ["pattern", "resid_pre", "attn_out", "mlp_out", "mlp_act", "resid_post", "q", "v"]
FOUND = pd.DataFrame({"sample": [0], "token": [4], "feature": [3]})
quiet = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def unchanged_logits(model: Any) -> None:
    with torch.no_grad():
        before = model(**batch("left")).logits
        with ss.probe(model):
            watched = model(**batch("left")).logits
    assert torch.equal(watched, before)


@quiet
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_model_in_shards(family: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plain = ss.record(build(family), **batch("left"), keep=KEEP[:3])
    model: Any = build(family)
    mesh = init_device_mesh("cpu", (1,))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    record = ss.record(model, **batch("left"), keep=KEEP[:3])
    check_same(record, plain)
    assert record.provenance["model_hash"] == plain.provenance["model_hash"]
    unchanged_logits(model)
    if family == "llama":
        trace = ss.trace(model, None, at=FOUND, **batch(samples=1))
        assert all("are shards" in why for why in trace.provenance["unreadable"].values())
        assert set(trace.provenance["unreadable"]) == {"0", "1"}


@quiet
@pytest.mark.usefixtures("alone")
def test_wrappers_of_the_first_fsdp_are_refused_and_ddp_is_seen_through() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.nn.parallel import DistributedDataParallel

    plain = ss.record(build("llama"), **batch("left"), keep=KEEP)
    check_same(
        ss.record(DistributedDataParallel(build("llama")), **batch("left"), keep=KEEP), plain
    )
    cpu = torch.device("cpu")
    model: Any = build("llama")
    model.model.layers[1] = FullyShardedDataParallel(
        model.model.layers[1], use_orig_params=True, device_id=cpu
    )
    with pytest.raises(UnknownFamilyError, match=r"'model\.layers\.1'.*fully_shard"):
        ss.load(model)
    with pytest.raises(UnknownFamilyError, match=r"it is wrapped.*fully_shard"):
        ss.load(FullyShardedDataParallel(build("llama"), device_id=cpu))


def quantised(kind: str, folder: Path) -> Any:
    """A tiny Llama with weights of 8 or 4 bits."""
    from transformers import AutoModelForCausalLM

    plain = build("llama", hidden_size=64, intermediate_size=128)
    if kind == "quanto":
        quanto = pytest.importorskip("optimum.quanto")
        quanto.quantize(plain, weights=quanto.qint8)
        quanto.freeze(plain)
        return plain
    if kind == "torchao":
        from transformers import TorchAoConfig

        made = pytest.importorskip("torchao.quantization").Int8WeightOnlyConfig()
        settings: Any = TorchAoConfig(quant_type=made)
    else:
        from transformers import BitsAndBytesConfig

        pytest.importorskip("bitsandbytes")
        four = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
        settings = BitsAndBytesConfig(**(four if kind == "4-bit" else {"load_in_8bit": True}))
    plain.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, device_map="cpu", dtype=torch.float32
    )


@quiet
@pytest.mark.parametrize("kind", ["8-bit", "4-bit", "torchao", "quanto"])
def test_quantised_weights(kind: str, tmp_path: Path) -> None:
    """Sites close, maps make z, outputs stay; rows of a projection are right or said not to be."""
    model = quantised(kind, tmp_path)
    record = ss.record(model, **batch("none"), keep=[*KEEP, "z"])
    pre, post = record["resid_pre"].values, record["resid_post"].values
    made = pre + record["attn_out"].values + record["mlp_out"].values
    assert np.abs(made - post).max() < 1e-4 * np.abs(post).max()
    value = record["v"].values.repeat(2, axis=2)
    assert np.abs(record["pattern"].values @ value - record["z"].values).max() < 1e-4
    unchanged_logits(model)
    named = {"8-bit": "bitsandbytes", "4-bit": "bitsandbytes", "torchao": "torchao", "quanto": None}
    assert record.provenance["quantisation"] == named[kind]
    trace = ss.trace(model, None, at=FOUND, **batch(samples=1))
    assert ss.trace_origin(trace) is not None
    read = (
        {int(layer) for layer in trace["down_weight"]["layer"]} if "down_weight" in trace else set()
    )
    assert read | {int(layer) for layer in trace.provenance["unreadable"]} == {0, 1}
    for layer in read:
        weight = trace["down_weight"].sel(layer=layer).values
        act = trace["picked_mlp_act"].sel(layer=layer).values[0]
        added = trace["picked_mlp_out"].sel(layer=layer).values[0]
        assert np.abs(act @ weight.T - added).max() < 1e-2 * max(1, np.abs(added).max())
