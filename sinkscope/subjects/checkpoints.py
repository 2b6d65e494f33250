"""Opens a bundled model, a folder or a hub id. Weights are safetensors; nothing is unpickled."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sinkscope.errors import CheckpointError, InputError
from sinkscope.subjects.bundled import bundled
from sinkscope.subjects.families import family
from sinkscope.subjects.stored import (
    Options,
    attempt,
    placed,
    stored_processor,
    stored_tokenizer,
    stored_weights,
)
from sinkscope.subjects.subject import Subject

__all__ = ["Options", "open_checkpoint"]

_AVSR = "sinkscope-avsr"
_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
_ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "whisper": ("WhisperForConditionalGeneration", {}),
    "wav2vec2": ("Wav2Vec2Model", {}),
    "hubert": ("HubertModel", {}),
    "wavlm": ("WavLMModel", {}),
    "clip": ("CLIPVisionModel", {}),
    "clip_vision_model": ("CLIPVisionModel", {}),
    "siglip": ("SiglipVisionModel", {}),
    "siglip_vision_model": ("SiglipVisionModel", {}),
    "vit": ("ViTModel", {"add_pooling_layer": False}),
}
"""What is studied without a language model, by ``model_type``: its class, and how it is made."""


def open_checkpoint(what: str | Path, options: Options) -> Subject:
    """The subject behind a bundled name, a folder or a hub id.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged, incomplete or pickled.
        UnknownFamilyError: its family is not in the anatomy table.
        InputError: options that do not exist, or contradict each other.
    """
    if options.device is not None and options.device_map is not None:
        raise InputError(
            f"load: device={options.device!r} and device_map={options.device_map!r}; give one."
        )
    options = replace(options, device=_device(options), dtype=_dtype(options.dtype))
    shipped = {model.name: model.folder for model in bundled()}
    folder = shipped.get(str(what)) or Path(what).expanduser()
    if not folder.is_dir():
        _refuse_path(what, list(shipped))
        return _open_huggingface(str(what), str(what), options)
    name = str(what) if str(what) in shipped else folder.resolve().name
    if _model_type(folder) == _AVSR:
        return _open_avsr(folder, name, options)
    return _open_huggingface(str(folder), name, options)


def _open_avsr(folder: Path, name: str, options: Options) -> Subject:
    from sinkscope.avsr.model import LlamaAvsr
    from sinkscope.subjects.avsr import avsr_subject

    unused = [
        n
        for n in ("tokenizer", "processor", "revision", "device_map")
        if getattr(options, n) is not None
    ]
    if unused:
        raise InputError(f"load: an audio-visual LLM of this package takes no {', '.join(unused)}.")
    model = LlamaAvsr.from_pretrained(folder, dtype=None)
    wanted: Any = options.dtype
    if wanted is None:
        wanted = torch.bfloat16 if model.llm.dtype == torch.bfloat16 else torch.float32
    _cast(model, torch.float32, aside="llm.")  # the encoders, like what they read
    _cast(model.llm, wanted)
    return avsr_subject(model.to(options.device).eval(), name=name)


def _cast(model: nn.Module, dtype: torch.dtype, *, aside: str = "\0") -> None:
    """Changes the dtype of weights in place; tables of frequencies are no weights and stay."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith(aside):
                weight.data = weight.to(dtype)
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not name.startswith(aside):
                module.to(dtype)


def _open_huggingface(source: str, name: str, options: Options) -> Subject:
    from transformers import AutoConfig, AutoModelForCausalLM

    from sinkscope.subjects.huggingface import huggingface_subject
    from sinkscope.subjects.multimodal.registry import composite_config, refuse_unlisted_config

    config = attempt(
        source, "config", lambda: AutoConfig.from_pretrained(source, revision=options.revision)
    )
    if config.model_type in _ALONE:
        return _open_alone(source, name, config.model_type, options)
    composite = composite_config(config)
    if composite is None:
        refuse_unlisted_config(config, name)
        family(config.get_text_config(decoder=True).model_type)  # refuses before weights come
    else:
        family(composite.get_text_config(decoder=True).model_type)
        return _open_multimodal(source, name, composite, options)
    model = placed(stored_weights(source, options, AutoModelForCausalLM), options)
    tokenizer = options.tokenizer or stored_tokenizer(source, options.revision)
    return huggingface_subject(model.eval(), tokenizer=tokenizer, name=name)


def _open_multimodal(source: str, name: str, config: Any, options: Options) -> Subject:
    from sinkscope.subjects.multimodal.registry import class_of
    from sinkscope.subjects.multimodal.subject import multimodal_subject

    model = placed(stored_weights(source, options, class_of(config)), options)
    processor = stored_processor(source, options)
    tokenizer = options.tokenizer
    if tokenizer is None and processor is None:
        tokenizer = stored_tokenizer(source, options.revision)
    return multimodal_subject(model.eval(), processor=processor, tokenizer=tokenizer, name=name)


def _open_alone(source: str, name: str, model_type: str, options: Options) -> Subject:
    """An encoder without a language model, or Whisper."""
    import transformers

    from sinkscope.subjects.encoders import encoder_subject
    from sinkscope.subjects.whisper import whisper_subject

    kind, more = _ALONE[model_type]
    model = placed(
        stored_weights(source, options, getattr(transformers, kind), **more), options
    ).eval()
    processor = stored_processor(source, options)
    if model_type == "whisper":
        tokenizer = options.tokenizer
        return whisper_subject(model, tokenizer=tokenizer, processor=processor, name=name)
    if options.tokenizer is not None:
        raise InputError(f"load: {name} is an encoder and takes no tokenizer; leave it out.")
    return encoder_subject(model, processor=processor, name=name)


def _refuse_path(what: str | Path, shipped: list[str]) -> None:
    """Refuse what can only be a path, since nothing lies there."""
    text = str(what)
    if isinstance(what, Path) or text[:1] in ("", ".", "/", "~") or text.count("/") > 1:
        raise CheckpointError(
            f"{text!r} is no folder; give one that save_pretrained wrote, a hub id, or a bundled "
            f"model ({', '.join(shipped) or 'none is bundled'})."
        )
    if Path(text).exists():
        raise CheckpointError(f"{text!r} is a file; give the folder that holds config.json.")


def _model_type(folder: Path) -> str | None:
    path = folder / "config.json"
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        advice = (
            "it is a PEFT adapter: load its base model, wrap it with "
            "peft.PeftModel.from_pretrained, and hand over the result"
            if adapter
            else "give a folder that save_pretrained wrote"
        )
        raise CheckpointError(f"{folder} holds no config.json; {advice}.")
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a JSON object ({error}); restore the file."
        ) from error


def _device(options: Options) -> torch.device | None:
    """Where the model goes; None where a device map says so."""
    if options.device_map is not None:
        return None
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {str(device)!r} is not available here; use cpu, or cuda with a GPU."
        ) from error
    return place


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; use one of {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]
