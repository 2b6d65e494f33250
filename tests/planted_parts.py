"""The weights of one block, as views under one set of names, whatever its family calls them.

Writing to a view writes to the model. The names are looked up here, not in the anatomy table, so
that a wrong row of that table cannot hide itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

HEADS, HEAD_WIDTH, WIDTH = 8, 8, 64

_LLAMA = {
    "blocks": "model.layers",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
_UNGATED = {name: path for name, path in _LLAMA.items() if name != "gate"}
_FUSED = {name: path for name, path in _UNGATED.items() if name not in ("query", "key", "value")}
PATHS: dict[str, dict[str, str]] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "gemma2": _LLAMA | {"mlp_norm": "pre_feedforward_layernorm"},
    "stablelm": _LLAMA | {"mlp_norm": "input_layernorm"},
    "starcoder2": _UNGATED | {"up": "mlp.c_fc", "down": "mlp.c_proj"},
    "phi": _UNGATED
    | {
        "attention_out": "self_attn.dense",
        "up": "mlp.fc1",
        "down": "mlp.fc2",
        "mlp_norm": "input_layernorm",
    },
    "opt": _UNGATED
    | {
        "blocks": "model.decoder.layers",
        "attention_out": "self_attn.out_proj",
        "up": "fc1",
        "down": "fc2",
        "attention_norm": "self_attn_layer_norm",
        "mlp_norm": "final_layer_norm",
    },
    "gpt2": _FUSED
    | {
        "blocks": "transformer.h",
        "fused": "attn.c_attn",
        "attention_out": "attn.c_proj",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
        "attention_norm": "ln_1",
        "mlp_norm": "ln_2",
    },
    "gpt_neox": _FUSED
    | {
        "blocks": "gpt_neox.layers",
        "fused": "attention.query_key_value",
        "attention_out": "attention.dense",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    },
}


@dataclass(frozen=True, eq=False)
class Parts:
    """One block.

    Attributes:
        block: the module itself.
        query: ``(head, width, feature)``; ``key`` and ``value`` have key-value heads.
        attention_out: ``(feature, head, width)``.
        gate: ``(neuron, feature)``, or None where the MLP has no gate.
        up: ``(neuron, feature)``; without a gate, what enters the activation function.
        up_bias: ``(neuron,)``, or None.
        down: ``(feature, neuron)``.
        activation: the activation function.
        attention_norm: what attention reads through; ``mlp_norm`` likewise.
        multiplier: what both outputs are multiplied by before they are added.
    """

    block: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    attention_out: Tensor
    gate: Tensor | None
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    activation: Callable[[Tensor], Tensor]
    attention_norm: nn.Module
    mlp_norm: nn.Module
    multiplier: float

    def fire(self, state: Tensor) -> Tensor:
        """What enters the down projection ``(neuron,)`` when the MLP reads a state."""
        read = self.mlp_norm(state)
        up = self.up @ read + (0 if self.up_bias is None else self.up_bias)
        return self.activation(up) if self.gate is None else self.activation(self.gate @ read) * up


def parts_of(model: nn.Module) -> tuple[Parts, ...]:
    """Every block's parts."""
    paths = PATHS[model.config.model_type]
    return tuple(_parts(block, paths) for block in model.get_submodule(paths["blocks"]))


def _parts(block: nn.Module, paths: dict[str, str]) -> Parts:
    query, key, value = _attention_weights(block, paths)
    out = _weight(block.get_submodule(paths["attention_out"]))
    up = block.get_submodule(paths["up"])
    functions = ("act_fn", "activation_fn", "act")
    inside = getattr(block, "mlp", block)
    return Parts(
        block,
        query,
        key,
        value,
        rearrange(out, "feature (head width) -> feature head width", width=HEAD_WIDTH),
        _weight(block.get_submodule(paths["gate"])) if "gate" in paths else None,
        _weight(up),
        None if up.bias is None else up.bias.detach(),
        _weight(block.get_submodule(paths["down"])),
        next(getattr(inside, name) for name in functions if hasattr(inside, name)),
        block.get_submodule(paths["attention_norm"]),
        block.get_submodule(paths["mlp_norm"]),
        getattr(block, "residual_multiplier", 1.0),
    )


def _attention_weights(block: nn.Module, paths: dict[str, str]) -> list[Tensor]:
    if "fused" not in paths:
        modules = [block.get_submodule(paths[name]) for name in ("query", "key", "value")]
        return [module.weight.detach().unflatten(0, (-1, HEAD_WIDTH)) for module in modules]
    fused = block.get_submodule(paths["fused"])
    if isinstance(fused, Conv1D):  # all queries, all keys, all values
        return list(fused.weight.detach().T.unflatten(0, (3, HEADS, HEAD_WIDTH)))
    apart = fused.weight.detach().unflatten(0, (HEADS, 3, HEAD_WIDTH))  # head by head
    return [apart[:, part] for part in range(3)]


def _weight(module: nn.Module) -> Tensor:
    """The weight of a linear layer, ``(out, in)``."""
    weight = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight
