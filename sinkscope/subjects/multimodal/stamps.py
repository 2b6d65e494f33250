"""Time stamps that a processor writes into the text before each frame of a film."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sinkscope.subjects.multimodal.table import Given

__all__ = ["stamps_before"]

LONGEST = 32
"""Tokens before a frame in which its stamp is looked for."""


def stamps_before(
    given: Given, placeholder: int, lengths: Sequence[int], pattern: str
) -> Float[np.ndarray, " frame"] | None:
    """The seconds that the stamp before each frame says.

    Args:
        given: what is known of the forward; its processor's tokenizer turns ids into text.
        placeholder: the id that stands for a film's tokens.
        lengths: tokens of each frame, through all films and samples; none is 0.
        pattern: a stamp that ends where the frame begins; its groups are minutes and seconds, or
            seconds alone.

    Returns:
        None where there is no tokenizer, or a frame without a stamp.
    """
    tokenizer = getattr(given.processor, "tokenizer", None)
    if tokenizer is None or "input_ids" not in given.inputs:
        return None
    ids = given.inputs["input_ids"].detach().cpu().numpy()
    sample, place = np.nonzero(ids == placeholder)
    if sum(lengths) != len(place) or not all(lengths):
        return None
    firsts = np.cumsum([0, *lengths])[:-1]
    found: list[float] = []
    for row, end in zip(sample[firsts], place[firsts], strict=True):
        before = ids[row, max(0, end - LONGEST) : end]
        text = tokenizer.decode(before.tolist(), skip_special_tokens=False)
        stamp = re.search(f"(?:{pattern})$", text)
        if stamp is None:
            return None
        found.append(sum(float(part) * 60**i for i, part in enumerate(stamp.groups()[::-1])))
    return np.array(found)
