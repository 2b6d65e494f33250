"""What a converted model is, in a line: what was inferred of it, to be read over."""

from sinkscope.avsr.config import AvsrConfig
from sinkscope.avsr.lora import lora_rank
from sinkscope.avsr.lora_schemes import all_adapters

__all__ = ["in_a_line"]


def in_a_line(config: AvsrConfig) -> str:
    """Encoders, rates, LLM, LoRA branches and projectors of a model."""
    told = []
    for stream in config.streams:
        encoder = config.audiovisual_encoder or getattr(config, f"{stream}_encoder")
        rank = encoder.config.get("lora_rank")
        adapted = f" with LoRA of rank {rank}" if rank else ""
        rates = " or ".join(map(str, config.rates(stream)))
        told.append(
            f"{stream} through {encoder.kind}{adapted}, {rates} frames a token "
            f"({config.compression})"
        )
    return "; ".join(
        (
            *told,
            f"LLM of {config.llm['num_hidden_layers']} layers, {config.hidden_size} wide, "
            f"{config.llm['vocab_size']} entries",
            _lora_told(config),
            _projectors_told(config),
        )
    )


def _lora_told(config: AvsrConfig) -> str:
    if config.lora is None:
        return "no LoRA"
    rank = lora_rank(config.hidden_size, reduction=config.lora.reduction)
    names = all_adapters(config.lora, config)
    branches = f" in branches {', '.join(names)}" if len(names) > 1 else ""
    return f"LoRA of rank {rank}{branches}"


def _projectors_told(config: AvsrConfig) -> str:
    normed = [stream for stream in config.streams if config.ends_in_norm(stream)]
    each = "one for each rate, " if config.projectors == "per_rate" else ""
    if normed and len(normed) < len(config.streams):
        return f"projectors {each}those of {normed[0]} alone with LayerNorm"
    return f"projectors {each}{'with' if normed else 'without'} LayerNorm"
