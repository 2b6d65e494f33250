"""What the tokens of Whisper's decoder are: start, prompt and response.

Example:
    >>> special = Special(start=7, end=9, prompt=frozenset({3, 4}))
    >>> response_layout([7, 3, 4, 1, 9], list("abcde"), special=special).segments
    ('bos', 'instruction', 'instruction', 'response', 'response')
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sinkscope.errors import InputError
from sinkscope.glossary import BOS
from sinkscope.layout import TokenLayout

__all__ = ["Special", "default_prompt", "response_layout", "special_ids"]


@dataclass(frozen=True)
class Special:
    """Ids that are no words.

    Attributes:
        start: the token that begins a transcript.
        end: the token that ends it.
        prompt: languages, tasks and "no timestamps", which follow the start.
    """

    start: int
    end: int | None
    prompt: frozenset[int]


def special_ids(model: Any, tokenizer: Any | None) -> Special:
    """The ids by the model's generation settings, its configuration and the tokenizer.

    Raises:
        InputError: if nothing says which token begins a transcript.
    """
    owners = [getattr(model, "generation_config", None), model.config]
    start, end = (_first(owners, name) for name in ("decoder_start_token_id", "eos_token_id"))
    if not isinstance(start, int):
        raise InputError(
            "Nothing says with which token this Whisper begins; set decoder_start_token_id in its "
            "configuration."
        )
    end = end[0] if isinstance(end, list | tuple) else end
    prompt: set[int] = set()
    for field in ("lang_to_id", "task_to_id"):
        prompt |= set((_first(owners, field) or {}).values())
    plain = _first(owners, "no_timestamps_token_id")
    prompt |= {plain} if isinstance(plain, int) else set()
    if tokenizer is not None:
        prompt |= set(tokenizer.all_special_ids) - {start, end}
    return Special(start, end, frozenset(prompt))


def default_prompt(model: Any, tokenizer: Any | None) -> tuple[int, ...]:
    """Start, English, transcribe, no timestamps: as far as the model or tokenizer has them."""
    special = special_ids(model, tokenizer)
    settings = getattr(model, "generation_config", None)
    named = {
        "<|en|>": (getattr(settings, "lang_to_id", None) or {}).get("<|en|>"),
        "<|transcribe|>": (getattr(settings, "task_to_id", None) or {}).get("transcribe"),
        "<|notimestamps|>": getattr(settings, "no_timestamps_token_id", None),
    }
    known = tokenizer.get_vocab() if tokenizer is not None else {}
    found = [known.get(name, id_) for name, id_ in named.items()]
    return (special.start, *(one for one in found if one is not None))


def response_layout(ids: Sequence[int], labels: Sequence[str], *, special: Special) -> TokenLayout:
    """The layout of a decoder's real tokens.

    What stands before the start token (an earlier transcript that is continued) and what names
    language and task are the instruction.

    Args:
        ids: vocabulary entries.
        labels: of each.
        special: which of them are no words.
    """
    starts = [place for place, one in enumerate(ids) if one == special.start]
    first = starts[-1] if starts else -1
    segments = ["instruction"] * first if first > 0 else []
    segments += [BOS] if starts else []
    prompting = True
    for one in ids[first + 1 :]:
        prompting = prompting and one in special.prompt
        segments.append("instruction" if prompting else "response")
    return TokenLayout.of(segments, labels)


def _first(owners: Sequence[Any], name: str) -> Any:
    return next((found for o in owners if (found := getattr(o, name, None)) is not None), None)
