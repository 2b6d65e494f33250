"""The weights of base models: LLM, Whisper, WavLM, AV-HuBERT, or another audio-visual LLM."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from sinkscope.avsr.avhubert.transformer import named_as_published
from sinkscope.avsr.avhubert.weights import PRETRAINING
from sinkscope.avsr.checkpoint import read_weights
from sinkscope.avsr.config import MODEL_TYPE
from sinkscope.avsr.fairseq_pickle import read_fairseq_checkpoint
from sinkscope.errors import InputError

__all__ = ["BASES", "READERS", "WHOLE", "is_whole", "located", "without_bars"]

BASES = "bases.json"
"""The file in which a model folder names its base models."""

WHOLE = "avsr"
"""The kind of a base that is a part of another audio-visual LLM of this package."""

Weights = tuple[dict[str, Tensor], str | None]


def located(source: str) -> str:
    """A path that holds wherever it is read from; a hub id stays as it is.

    >>> located("openai/whisper-medium.en")
    'openai/whisper-medium.en'
    """
    return str(Path(source).resolve()) if Path(source).exists() else source


def is_whole(source: str) -> bool:
    """Whether a source is a folder of an audio-visual LLM.

    Raises:
        InputError: it refers to base models itself.
    """
    if (Path(source) / BASES).is_file():
        raise InputError(
            f"{source} refers to base models itself; give the models that its {BASES} names."
        )
    try:
        told = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("model_type") == MODEL_TYPE


@contextmanager
def without_bars() -> Iterator[None]:
    """Keeps transformers from drawing progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _llm(source: str, revision: str | None) -> Weights:
    from transformers import AutoModelForCausalLM

    return _weights(AutoModelForCausalLM, source, revision)


def _whisper(source: str, revision: str | None) -> Weights:
    from transformers import WhisperModel

    weights, found = _weights(WhisperModel, source, revision)
    prefix = "encoder."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}, found


def _wavlm(source: str, revision: str | None) -> Weights:
    from transformers import WavLMModel

    return _weights(WavLMModel, source, revision)


def _avhubert(source: str, _: str | None) -> Weights:
    state = named_as_published(read_fairseq_checkpoint(source).state, "encoder.pos_conv.0.")
    own = {name: value for name, value in state.items() if not name.startswith(PRETRAINING)}
    return own, None


def _avsr(source: str, _: str | None) -> Weights:
    return read_weights(Path(source)), None


def _weights(kind: Any, source: str, revision: str | None) -> Weights:
    commit = _commit(source, revision)
    given = {} if commit is None else {"revision": commit}
    with without_bars():
        model = kind.from_pretrained(source, dtype="auto", trust_remote_code=False, **given)
    return dict(model.state_dict()), commit


def _commit(source: str, revision: str | None) -> str | None:
    """The commit of a hub id, as its cache names it; None for a local folder."""
    if Path(source).exists():
        return None
    from transformers.utils.hub import cached_file, extract_commit_hash

    given = {} if revision is None else {"revision": revision}
    return extract_commit_hash(cached_file(source, "config.json", **given), None)


READERS: dict[str, Callable[[str, str | None], Weights]] = {
    "llm": _llm,
    "whisper": _whisper,
    "wavlm": _wavlm,
    "avhubert": _avhubert,
    WHOLE: _avsr,
}
"""By the kind of the base: its weights under their own names, and the commit of a hub id."""
