"""Word errors of two models on the same clips, side by side."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sinkscope.avsr.scoring import utterance_errors
from sinkscope.errors import InputError

__all__ = ["transcript_errors"]


def transcript_errors(
    texts: Sequence[str], before: Sequence[str], after: Sequence[str]
) -> pd.DataFrame:
    """How many words of each clip two models got wrong: what ``compare`` takes as ``wer``.

    Args:
        texts: what is said in each clip; "" where unknown, which gives NaN.
        before: transcripts of the first model.
        after: transcripts of the second.

    Returns:
        One row a clip: ``words errors_before errors_after transcript_before transcript_after``.

    Raises:
        InputError: if there is not one transcript a clip.

    Examples:
        >>> table = transcript_errors(["bin blue", ""], ["bin red", "a"], ["bin blue", "b"])
        >>> table[["words", "errors_before", "errors_after"]].to_numpy().tolist()
        [[2.0, 1.0, 0.0], [nan, nan, nan]]
    """
    if not len(texts) == len(before) == len(after):
        raise InputError(
            f"transcript_errors: {len(texts)} texts, {len(before)} transcripts before and "
            f"{len(after)} after; give one of each for every clip."
        )
    rows = []
    for text, *heard in zip(texts, before, after, strict=True):
        counts = [np.nan] * 3
        if text.split():
            errors = [utterance_errors(text, one) for one in heard]
            counts = [errors[0].words, *(one.wrong for one in errors)]
        rows.append((*counts, *heard))
    names = ["words", "errors_before", "errors_after", "transcript_before", "transcript_after"]
    table = pd.DataFrame(rows, columns=names)
    return table.astype(dict.fromkeys(names[:3], np.float64))
