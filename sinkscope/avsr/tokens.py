"""What an audio-visual LLM adds to a tokenizer, the prompts, and the tiny model's own tokenizer.

The order of the added tokens and the prompts are those of Llama-AVSR (arXiv 2409.12319).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sinkscope.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "ADDED_TOKENS",
    "PROMPTS",
    "add_tokens",
    "added_ids",
    "read_tokenizer",
    "text_ids",
    "word_tokenizer",
]

ADDED_TOKENS = ("<pad>", "<audio>", "</audio>", "<video>", "</video>")
"""What an audio-visual LLM adds to its text tokenizer, in this order."""

PROMPTS = {
    "audio": "Transcribe speech to text.",
    "video": "Transcribe video to text.",
    "audiovisual": "Transcribe speech and video to text.",
}
"""What the model is asked, for each modality."""

_BOS, _EOS, _UNKNOWN = "<s>", "</s>", "<unk>"


def word_tokenizer(words: Iterable[str]) -> "PreTrainedTokenizerFast":
    """A tokenizer with one token a word: lower case, full stops apart, no word pieces.

    Args:
        words: the vocabulary, without special tokens and prompt words, which are added.

    >>> tokenizer = word_tokenizer(["bin", "blue"])
    >>> tokenizer.convert_ids_to_tokens(tokenizer("Bin blue.").input_ids)
    ['<s>', 'bin', 'blue', '.']
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    prompt_words = " ".join(PROMPTS.values()).lower().replace(".", " .").split()
    specials = (_UNKNOWN, _BOS, _EOS, *ADDED_TOKENS)
    order = dict.fromkeys((*specials, *prompt_words, *words))
    vocabulary = {word: index for index, word in enumerate(order)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", special_tokens=[(_BOS, vocabulary[_BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BOS,
        eos_token=_EOS,
        unk_token=_UNKNOWN,
        pad_token=ADDED_TOKENS[0],
        additional_special_tokens=list(ADDED_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
    )


def added_ids(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    """The ids of BOS, EOS, padding and the delimiters, by the names of the spans.

    There is no ``"bos"`` where the tokenizer has none (Qwen2.5): then what follows stands first.

    Raises:
        CheckpointError: the tokenizer lacks another one of them.
    """
    names = ("padding", "audio_open", "audio_close", "video_open", "video_close")
    ids = {name: _id_of(tokenizer, token) for name, token in zip(names, ADDED_TOKENS, strict=True)}
    if not isinstance(tokenizer.eos_token_id, int):
        raise CheckpointError("The tokenizer has no eos token; add one, the layout needs it.")
    if isinstance(tokenizer.bos_token_id, int):
        ids["bos"] = tokenizer.bos_token_id
    return ids | {"eos": tokenizer.eos_token_id}


def add_tokens(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Adds what the tokenizer lacks of `ADDED_TOKENS`, in their order, and pads with the first.

    A tokenizer that has a BOS and does not put it before a text (as Llama 3's, as published) does
    so afterwards. Where BOS is missing altogether (Qwen2.5), none is made up.

    Returns:
        How many were added: so many embeddings the LLM needs more.

    >>> tokenizer = word_tokenizer(["bin"])
    >>> add_tokens(tokenizer)
    0
    """
    added = tokenizer.add_special_tokens(
        {"pad_token": ADDED_TOKENS[0], "extra_special_tokens": list(ADDED_TOKENS[1:])},
        replace_extra_special_tokens=False,
    )
    tokenizer.padding_side = "right"
    _open_with_bos(tokenizer)
    return added


def _open_with_bos(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Lets texts begin with BOS where the tokenizer has one."""
    from tokenizers import processors

    bos = tokenizer.bos_token_id
    if not isinstance(bos, int) or tokenizer("a").input_ids[:1] == [bos]:
        return
    name = str(tokenizer.bos_token)
    opening = processors.TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A {name}:1 $B:1", special_tokens=[(name, bos)]
    )
    own = tokenizer.backend_tokenizer.post_processor
    tokenizer.backend_tokenizer.post_processor = (
        opening if own is None else processors.Sequence([own, opening])
    )


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a model folder, as it was saved."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def text_ids(tokenizer: "PreTrainedTokenizerFast", text: str) -> list[int]:
    """Token ids of a text, without BOS and EOS.

    Raises:
        InputError: the text holds a word that a word-level tokenizer does not know.
    """
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise InputError(
            f"The tokenizer knows not every word of {text!r} "
            f"(read as {_words(tokenizer, ids)}); use words of its vocabulary."
        )
    return ids


def _words(tokenizer: "PreTrainedTokenizerFast", ids: Sequence[int]) -> list[str]:
    return [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]


def _id_of(tokenizer: "PreTrainedTokenizerFast", token: str) -> int:
    value = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(value, int) or value == tokenizer.unk_token_id:
        raise CheckpointError(
            f"The tokenizer has no {token} token; an audio-visual LLM needs {ADDED_TOKENS}."
        )
    return value
