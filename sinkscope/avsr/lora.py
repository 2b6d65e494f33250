"""LoRA on the query and value projections, in the reduction-factor convention of Llama-AVSR.

Llama-AVSR (arXiv 2409.12319) names a reduction factor R, not a rank: the rank is
``round(H / R)``, the update is scaled by ``alpha / R``, the down matrix begins at zero and the up
matrix at random, the reverse of the usual choice. PEFT does the rest; its ``lora_alpha`` is
``rank · alpha / R``.
"""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sinkscope.avsr.config import LoraSettings
from sinkscope.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "attach_lora",
    "export_adapter",
    "lora_rank",
    "merge_lora",
    "peft_name",
    "published_name",
    "read_adapter",
]

TARGETS = ("q_proj", "v_proj")
"""The projections that have a LoRA branch."""


def lora_rank(hidden_size: int, *, reduction: float | int) -> int:
    """The rank that a reduction factor means for a hidden size.

    Raises:
        InputError: the factor is not positive, or so large that no rank is left.

    >>> lora_rank(2048, reduction=32), lora_rank(3072, reduction=32), lora_rank(4096, reduction=64)
    (64, 96, 64)
    """
    rank = round(hidden_size / reduction) if reduction > 0 else 0
    if rank < 1:
        raise InputError(
            f"LoRA: a reduction factor of {reduction} leaves no rank at hidden size {hidden_size}; "
            "give one between 1 and the hidden size."
        )
    return rank


def attach_lora(llm: "PreTrainedModel", settings: LoraSettings) -> "PreTrainedModel":
    """Adds LoRA branches to q and v in place, and freezes everything else of the LLM.

    The outputs do not change: the down matrices are zero at first. Key-value heads may be fewer
    than query heads.

    Raises:
        InputError: see `lora_rank`; or the LLM has LoRA branches already.
    """
    from peft import inject_adapter_in_model

    if _branches(llm):
        raise InputError("attach_lora: the LLM has LoRA branches already; merge them first.")
    rank = lora_rank(llm.config.hidden_size, reduction=settings.reduction)
    config = _peft_config(rank, rank * settings.alpha / settings.reduction)
    inject_adapter_in_model(config, llm)
    for _, branch in _branches(llm):
        nn.init.zeros_(branch.lora_A["default"].weight)
        nn.init.kaiming_uniform_(branch.lora_B["default"].weight, a=math.sqrt(5))
    return llm


def merge_lora(llm: "PreTrainedModel") -> "PreTrainedModel":
    """Adds the branches' updates to the weights, in place, and removes the branches."""
    for name, branch in _branches(llm):
        branch.merge()
        llm.set_submodule(name, branch.get_base_layer())
    return llm


def peft_name(name: str) -> str:
    """What a weight of Llama-AVSR's own LLM is called once PEFT has put its branches in.

    >>> peft_name("model.layers.0.self_attn.lora_up_V.weight")
    'model.layers.0.self_attn.v_proj.lora_B.default.weight'
    >>> peft_name("model.layers.0.self_attn.q_proj.weight")
    'model.layers.0.self_attn.q_proj.base_layer.weight'
    """
    branch = re.fullmatch(r"(.*\.self_attn)\.lora_(down|up)_([QV])\.weight", name)
    if branch:
        block, way, letter = branch.groups()
        return f"{block}.{letter.lower()}_proj.lora_{_PEFT[way]}.default.weight"
    return re.sub(r"(\.self_attn\.[qv]_proj)\.(weight|bias)$", r"\1.base_layer.\2", name)


def published_name(name: str) -> str:
    """The inverse of `peft_name`.

    >>> published_name("model.layers.0.self_attn.q_proj.lora_A.default.weight")
    'model.layers.0.self_attn.lora_down_Q.weight'
    """
    branch = re.fullmatch(r"(.*\.self_attn)\.([qv])_proj\.lora_([AB])\.default\.weight", name)
    if branch:
        block, letter, side = branch.groups()
        way = {"A": "down", "B": "up"}[side]
        return f"{block}.lora_{way}_{letter.upper()}.weight"
    return name.replace(".base_layer.", ".")


def export_adapter(llm: "PreTrainedModel", folder: str | Path, *, base_model: str = "") -> None:
    """Writes the branches as an adapter that PEFT reads with equal outputs.

    Args:
        llm: with branches.
        folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` go; it is made.
        base_model: the name or folder of the LLM without branches, for the adapter's record.

    Raises:
        InputError: the LLM has no branches.
    """
    from safetensors.torch import save_file

    branches = _branches(llm)
    if not branches:
        raise InputError("export_adapter: the LLM has no LoRA branches.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layer = branches[0][1]
    config = _peft_config(layer.r["default"], layer.lora_alpha["default"])
    config.base_model_name_or_path = base_model
    config.task_type = "CAUSAL_LM"
    config.inference_mode = True
    config.save_pretrained(str(folder))
    own = {
        f"base_model.model.{name.replace('.default.', '.')}": value.detach().cpu().contiguous()
        for name, value in llm.state_dict().items()
        if ".lora_" in name
    }
    save_file(own, folder / ADAPTER, metadata={"format": "pt"})


def read_adapter(llm: "PreTrainedModel", folder: str | Path) -> LoraSettings:
    """Adds the branches that a PEFT adapter holds to an LLM, in place.

    An audio-visual LLM is told of them by its configuration, so that it can be saved::

        lora = read_adapter(model.llm, folder)
        model.config = dataclasses.replace(model.config, lora=lora)

    Returns:
        The settings that Llama-AVSR would call them by.

    Raises:
        CheckpointError: no adapter there, one of another kind, or one of another LLM: only LoRA on
            the query and value projections is read, of one rank and one scale, without bias.
        InputError: the LLM has branches already.
    """
    if _branches(llm):
        raise InputError("read_adapter: the LLM has LoRA branches already; merge them first.")
    folder = Path(folder)
    config, state = _adapter_config(folder), _adapter_weights(folder)
    wanted = _adapter_shapes(llm, config.r)
    faults = [f"missing {name}" for name in sorted(wanted.keys() - state.keys())]
    faults += [f"unexpected {name}" for name in sorted(state.keys() - wanted.keys())]
    faults += [
        f"{name} is {tuple(state[name].shape)}, not {wanted[name]}"
        for name in sorted(wanted.keys() & state.keys())
        if tuple(state[name].shape) != wanted[name]
    ]
    if faults:
        raise CheckpointError(
            f"{folder / ADAPTER} does not fit the LLM: {'; '.join(faults)}. Use adapter and model "
            "as they were trained together."
        )
    reduction = llm.config.hidden_size / config.r
    settings = LoraSettings(reduction, config.lora_alpha / config.r * reduction)
    attach_lora(llm, settings)
    llm.load_state_dict(state, strict=False)
    return settings


ADAPTER = "adapter_model.safetensors"

_OTHERWISE = {
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "fan_in_fan_out": False,
}
"""Fields of an adapter that change its formula, and the values at which they do not."""


def _adapter_config(folder: Path) -> Any:
    from peft import PeftConfig

    if not (folder / ADAPTER).is_file() or not (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds no adapter_config.json with {ADAPTER}; give the folder of a PEFT "
            "adapter."
        )
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / 'adapter_config.json'} cannot be read ({error}); restore the file."
        ) from error
    kind, targets = str(config.peft_type), getattr(config, "target_modules", None) or ()
    odd = [
        f"{name} = {getattr(config, name)!r}"
        for name, usual in _OTHERWISE.items()
        if getattr(config, name, usual) != usual
    ]
    if "LORA" not in kind or isinstance(targets, str) or set(targets) != set(TARGETS) or odd:
        on = targets if isinstance(targets, str) else " and ".join(sorted(targets))
        raise CheckpointError(
            f"{folder}: the adapter is a {kind.removeprefix('PeftType.')} on {on or 'nothing'}"
            f"{''.join(f', {one}' for one in odd)}; only plain LoRA on {' and '.join(TARGETS)} is "
            "read."
        )
    return config


def _adapter_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter under the names that they have in an LLM with branches."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / ADAPTER)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / ADAPTER} is damaged ({error}); restore it.") from error
    return {
        name.removeprefix("base_model.model.").replace(".weight", ".default.weight"): value
        for name, value in state.items()
    }


def _adapter_shapes(llm: nn.Module, rank: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the branches that an LLM would have."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in llm.named_modules():
        if name.rpartition(".")[2] in TARGETS and isinstance(module, nn.Linear):
            shapes[f"{name}.lora_A.default.weight"] = (rank, module.in_features)
            shapes[f"{name}.lora_B.default.weight"] = (module.out_features, rank)
    return shapes


_PEFT = {"down": "A", "up": "B"}


def _peft_config(rank: int, alpha: float | int) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        target_modules=list(TARGETS),
        lora_dropout=0.0,
        bias="none",
    )


def _branches(llm: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in llm.named_modules() if isinstance(module, LoraLayer)]
