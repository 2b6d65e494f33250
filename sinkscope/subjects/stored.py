"""Reads what a folder or a hub stores: weights, tokenizer, processor. Nothing is unpickled."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import CheckpointError
from sinkscope.subjects.bundled import bundled

__all__ = [
    "Options",
    "attempt",
    "placed",
    "stored_processor",
    "stored_tokenizer",
    "stored_weights",
]

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json"),
    *("spiece.model", "tekken.json"),
)
_TRAINING_ONLY = "masked_spec_embed"
"""A weight of wav2vec 2.0 and its kin that only training reads, and many checkpoints lack."""
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Options:
    """How a checkpoint is opened; see ``load`` for each."""

    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    tokenizer: Any | None = None
    processor: Any | None = None
    revision: str | None = None
    device_map: Any | None = None


def stored_processor(source: str, options: Options) -> Any | None:
    """The processor that was given, else the stored one; None for a folder that has none."""
    from transformers import AutoProcessor

    if options.processor is not None or _lacks(source, _PROCESSOR_FILES):
        return options.processor
    return attempt(
        source,
        "processor",
        lambda: AutoProcessor.from_pretrained(source, revision=options.revision),
    )


def placed(model: Any, options: Options) -> Any:
    """The model on the device that was asked for; where a device map put it, otherwise."""
    return model if options.device is None else model.to(options.device)


def stored_weights(source: str, options: Options, kind: Any, **more: Any) -> Any:
    """The model of a class, with every weight that it asks for.

    Args:
        source: a folder or a hub id.
        options: dtype, revision and device map.
        kind: the class of transformers.
        **more: for its constructor.

    Raises:
        CheckpointError: the weights cannot be read, are pickled, or do not fit the configuration.
    """
    _refuse_pickles(source)
    model, report = attempt(
        source,
        "weights",
        lambda: kind.from_pretrained(
            source,
            dtype=options.dtype or "auto",
            revision=options.revision,
            device_map=options.device_map,
            use_safetensors=True,
            output_loading_info=True,
            **more,
        ),
    )
    random = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    random = [name for name in random if not name.endswith(_TRAINING_ONLY)]
    if random:
        raise CheckpointError(
            f"{source} lacks {len(random)} weights that its config asks for, or has them in other "
            f"shapes ({', '.join(random[:3])}), so they would be random; use weights and config as "
            "they were saved together."
        )
    return model


def stored_tokenizer(source: str, revision: str | None) -> Any | None:
    """The stored tokenizer, or None for a folder that has none."""
    from transformers import AutoTokenizer

    if _lacks(source, _TOKENIZER_FILES):
        return None
    return attempt(
        source, "tokenizer", lambda: AutoTokenizer.from_pretrained(source, revision=revision)
    )


def _lacks(source: str, names: tuple[str, ...]) -> bool:
    """Whether a local folder has none of these files."""
    folder = Path(source)
    return folder.is_dir() and not any((folder / name).is_file() for name in names)


def attempt(source: str, what: str, read: Callable[[], Any]) -> Any:
    """Run a reader of transformers; its many kinds of errors become one sentence."""
    from safetensors import SafetensorError

    try:
        return read()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ImportError) as error:
        advice = (
            "restore the folder as save_pretrained wrote it"
            if Path(source).is_dir()
            else "check its spelling and the connection, give a local folder, or a bundled model "
            f"({', '.join(map(str, bundled())) or 'none is bundled'})"
        )
        reason = " ".join(str(error).split()).partition(". ")[0][:240].rstrip(".")
        raise CheckpointError(
            f"The {what} of {source!r} cannot be read ({reason}); {advice}."
        ) from error


def _refuse_pickles(source: str) -> None:
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for mask in _PICKLES for path in folder.glob(mask))
    if pickled:
        raise CheckpointError(
            f"{source} holds only pickled weights ({', '.join(pickled)}), which could run any "
            "code; load them where you trust them, and save_pretrained writes safetensors."
        )
    raise CheckpointError(f"{source} holds no weights (*.safetensors); complete the folder.")
