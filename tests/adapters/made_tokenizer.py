"""A tokenizer that needs no download: every byte a token, and the marks of a template."""

from collections.abc import Sequence
from typing import Any


def made_tokenizer(marks: Sequence[str], **settings: Any) -> Any:
    """A tokenizer of transformers.

    Args:
        marks: special tokens, one number each, after those of the bytes.
        settings: of the tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(["<pad>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", **settings)
    made.add_special_tokens({"additional_special_tokens": list(marks)})
    return made
