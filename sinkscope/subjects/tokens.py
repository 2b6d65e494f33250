"""Text to token ids, with or without BOS, and token ids to printable labels."""

from collections.abc import Sequence
from typing import Any

from sinkscope.errors import InputError

__all__ = ["label_tokens", "text_ids"]

_ESCAPES: dict[str, str] = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_WORD_START = "▁Ġ"


def text_ids(
    tokenizer: Any | None, text: Any, *, prepend_bos: bool | None, name: str = "this model"
) -> list[int]:
    """The ids of a text.

    Args:
        tokenizer: a tokenizer of transformers.
        text: a ``str``, at least one token long.
        prepend_bos: whether the ids begin with BOS; None leaves it to the tokenizer.
        name: the subject, for the message.

    Raises:
        InputError: what is given is no text, or has no tokens; there is no tokenizer; or BOS is
            asked of a tokenizer that has none.
    """
    if not isinstance(text, str):
        raise InputError(f"{name} reads text (str), not {type(text).__name__}.")
    if tokenizer is None:
        raise InputError(
            f"{name} has no tokenizer, so it cannot read the text {text[:40]!r}; load it with "
            "tokenizer=, or give input_ids or inputs_embeds."
        )
    bos = tokenizer.bos_token_id
    if prepend_bos and bos is None:
        raise InputError(
            f"prepend_bos=True, but the tokenizer of {name} has no BOS token; leave prepend_bos "
            "out, or give input_ids that begin with the token of your choice."
        )
    ids = list(tokenizer(text).input_ids)
    begins = bos is not None and ids[:1] == [bos]
    if prepend_bos and not begins:
        ids = [bos, *ids]
    if prepend_bos is False and begins:
        ids = ids[1:]
    if not ids:
        raise InputError(f"{name}: the text {text!r} has no tokens; give a longer one.")
    return ids


def label_tokens(tokenizer: Any | None, ids: Sequence[int]) -> list[str]:
    r"""A printable label of each vocabulary entry; its number where there is no tokenizer.

    The mark of a word's beginning is left out, white space is written ``\n`` or ``␣``, and an
    entry that is part of a character is shown as the vocabulary spells it.

    Example:
        >>> label_tokens(None, [5, 17])
        ['5', '17']
    """
    if tokenizer is None:
        return [str(int(i)) for i in ids]
    return [_label(tokenizer, int(i)) for i in ids]


def _label(tokenizer: Any, index: int) -> str:
    token = tokenizer.convert_ids_to_tokens(index)
    if token is None:
        return f"<{index}>"
    if token in tokenizer.all_special_tokens:
        return token
    text = tokenizer.convert_tokens_to_string([token])
    if not text or "\ufffd" in text:
        text = token.lstrip(_WORD_START)
    words = text.strip(" ")
    if not words:
        return "␣" * max(1, len(text))
    for character, escape in _ESCAPES.items():
        words = words.replace(character, escape)
    return words
