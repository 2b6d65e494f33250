"""LoRA branches as the adapter files of PEFT, out and in."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.lora import TARGETS, adapters_of, attach_lora, branches_of, peft_config
from sinkscope.avsr.lora_schemes import SHARED
from sinkscope.avsr.mome import mixtures
from sinkscope.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["export_adapter", "read_adapter"]


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

    branches = branches_of(llm)
    if not branches:
        raise InputError("export_adapter: the LLM has no LoRA branches.")
    if adapters_of(llm) != (SHARED,):
        raise InputError(
            f"export_adapter: the LLM has branches {', '.join(adapters_of(llm))}, and PEFT's "
            "adapter holds one for all passes; save the whole model."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layer = branches[0][1]
    config = peft_config(layer.r["default"], layer.lora_alpha["default"])
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
        InputError: the LLM has branches already, or mixtures of experts.
    """
    if branches_of(llm):
        raise InputError("read_adapter: the LLM has LoRA branches already; merge them first.")
    if next(mixtures(llm), None) is not None:
        raise InputError(
            "read_adapter: the LLM has mixtures of experts, and an LLM has branches or experts; "
            "read the adapter into one without experts."
        )
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
