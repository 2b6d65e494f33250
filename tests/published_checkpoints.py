"""Public checkpoints on disk, and whether BOS alone shows in them what was published.

They are looked for in the folders of ``SINKSCOPE_CHECKPOINTS``, each with subfolders that are named
as their model, and in the Hugging Face cache; nothing is downloaded.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import AutoModelForCausalLM, AutoTokenizer

import sinkscope as ss

TOLERANCE = 0.02
"""Relative: bfloat16 steps by up to 0.8 %, and kernels round differently."""


def measured_at_bos(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a forward of BOS alone must show: measured, at a BOS that was prepended."""
    at_bos = (table["mark"] == "measured") & (table["bos"] == "yes") & (table["token"] == "BOS")
    return table.loc[at_bos & table["std"].notna()]


def folder_of(model: str, roots: str | None = None, cache: str | None = None) -> Path | None:
    """Where a checkpoint of that name lies, in any case of its letters; None if nowhere.

    Args:
        model: name without its organisation.
        roots: folders of checkpoints; ``SINKSCOPE_CHECKPOINTS`` by default.
        cache: a cache of huggingface_hub; the user's by default.
    """
    roots = os.environ.get("SINKSCOPE_CHECKPOINTS", "") if roots is None else roots
    own = [path for root in roots.split(os.pathsep) if root for path in Path(root).glob("*")]
    cached = Path(HF_HUB_CACHE if cache is None else cache).glob("models--*/snapshots/*")
    named = [(path.name, path) for path in own]
    named += [(path.parent.parent.name.rpartition("--")[2], path) for path in cached]
    for name, path in named:
        has_weights = any(path.glob("*.safetensors")) or any(path.glob("*.bin"))
        if name.casefold() == model.casefold() and (path / "config.json").exists() and has_weights:
            return path
    return None


def bos_of(folder: Path, model: torch.nn.Module) -> int | None:
    """The id of BOS: the tokenizer's, else the configuration's."""
    if (folder / "tokenizer_config.json").exists():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True).bos_token_id
    return model.config.bos_token_id


def open_checkpoint(folder: Path) -> tuple[torch.nn.Module, int | None]:
    """The model in bfloat16, as the numbers were measured, and its BOS."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, local_files_only=True
    )
    return model, bos_of(folder, model)


def differences(model: torch.nn.Module, bos: int, rows: pd.DataFrame) -> list[str]:
    """What a forward of BOS alone shows otherwise than published, in words; empty if nothing.

    A BOS at position 0 depends on nothing that follows, so one token is enough. Its median is not
    that of a text, so features are compared by magnitude: the published ones are the largest, as
    large as published in the first block that has them, and not before it.
    """
    (layer,) = set(rows["layer"])
    record = ss.record(model, input_ids=[[bos]])
    value, feature = (
        record[name].isel(sample=0, token=0).transpose("layer", "rank").values
        for name in ("top_value", "top_feature")
    )
    published = dict(zip(rows["feature"], rows["magnitude"], strict=True))
    # A spread over sequences is no property of BOS; it widens what can be asked for.
    slack = {
        f: TOLERANCE + 2 * std / published[f]
        for f, std in zip(rows["feature"], rows["std"], strict=True)
    }
    found = [
        dict(zip(f.tolist(), np.abs(v).tolist(), strict=True))
        for f, v in zip(feature, value, strict=True)
    ]
    return [
        *_set_differs(found[layer], set(published), layer),
        *_sizes_differ(found[layer], published, slack, layer),
        *(
            f"block {earlier} has all of them already"
            for earlier in range(layer)
            if not _sizes_differ(found[earlier], published, slack, earlier)
        ),
    ]


def _set_differs(found: dict[int, float], published: set[int], layer: int) -> list[str]:
    largest = set(sorted(found, key=lambda f: -found[f])[: len(published)])
    if largest == published:
        return []
    return [f"block {layer}: the largest are {sorted(largest)}, not {sorted(published)}"]


def _sizes_differ(
    found: dict[int, float], published: dict[int, float], slack: dict[int, float], layer: int
) -> list[str]:
    return [
        f"block {layer}, feature {f}: {found.get(f, 0.0):g}, not {size:g}"
        for f, size in published.items()
        if abs(found.get(f, 0.0) - size) > slack[f] * size
    ]
