"""The layouts of a composite's forward: what every token is, by its ids and its family's row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from sinkscope.errors import InputError
from sinkscope.glossary import BOS
from sinkscope.layout import TokenLayout
from sinkscope.subjects.given import real_tokens
from sinkscope.subjects.layouts import fit_layouts, pad_layout
from sinkscope.subjects.multimodal.table import (
    Composite,
    Given,
    Stream,
    StreamTokens,
    token_id,
)
from sinkscope.subjects.multimodal.turns import segments_of_turns
from sinkscope.subjects.tokens import label_tokens

__all__ = ["DESCRIPTORS", "LETTERS", "layouts_of"]

LETTERS = {"audio": "a", "image": "i", "video": "v", "audiovisual": "av"}
"""What the labels of a stream's tokens begin with."""

DESCRIPTORS = ("row", "column", "item", "view")

Ids = Int[np.ndarray, "sample token"]
Row = Int[np.ndarray, " token"]


def layouts_of(
    composite: Composite, given: Given, tokenizer: Any | None
) -> tuple[TokenLayout, ...]:
    """What every token of a forward is.

    Args:
        composite: the family's row.
        given: the forward's arguments, which hold ``input_ids``.
        tokenizer: what turns ids into words; without it text is not told apart by speaker.

    Raises:
        InputError: if the placeholders are not as many as the tokens that the encoders make.
    """
    ids: Ids = given.inputs["input_ids"].detach().cpu().numpy()
    real = real_tokens(given.inputs["input_ids"], given.inputs.get("attention_mask"))
    if composite.layout is not None:
        return fit_layouts(_registered(composite, given), real)
    found = {
        name: _placed(name, stream, ids, real, given) for name, stream in composite.streams.items()
    }
    marks = _delimiters(composite, given.config, tokenizer)
    bos = _bos(given.config, tokenizer)
    layouts = []
    for sample, (row, mask) in enumerate(zip(ids, real, strict=True)):
        own = {name: placed[sample] for name, placed in found.items()}
        layout = _layout(row[mask], own, composite, tokenizer, marks=marks, bos=bos)
        layouts.append(pad_layout(layout, mask))
    return tuple(layouts)


def _registered(composite: Composite, given: Given) -> Sequence[TokenLayout]:
    """What a user's own function says.

    Raises:
        InputError: if that is no list of layouts.
    """
    found: Any = composite.layout(given) if composite.layout is not None else ()
    if not isinstance(found, list | tuple):
        odd = type(found).__name__
    else:
        odd = next((type(one).__name__ for one in found if not isinstance(one, TokenLayout)), "")
        odd = f"{type(found).__name__} with a {odd} in it" if odd else ""
    if odd:
        raise InputError(
            f"The layout function of the family {composite.model_type!r} returned a {odd}; it must "
            "return a list with one TokenLayout a sample."
        )
    return found


Placed = tuple[Int[np.ndarray, " place"], StreamTokens]
"""Where a sample's tokens of a stream stand among its real tokens, and what they are."""


def _placed(
    name: str, stream: Stream, ids: Ids, real: Bool[np.ndarray, "sample token"], given: Given
) -> list[Placed]:
    """For each sample its share of a stream's tokens."""
    placeholder = token_id(stream.placeholder, given.config)
    here = (ids == placeholder) & real if placeholder is not None else np.zeros_like(real)
    comes = given.brings(name, stream.features)
    tokens = stream.tokens(given) if comes else StreamTokens.joined([])
    if here.sum() != len(tokens):
        raise InputError(
            f"The ids hold {here.sum()} placeholders of {name} ({stream.placeholder} = "
            f"{placeholder}), but {stream.features} "
            f"{f'makes {len(tokens)} tokens' if comes else 'is missing'}"
            "; give what the model's own processor made of one conversation."
        )
    ends = np.cumsum(here.sum(axis=1))
    shares = [np.arange(end - row.sum(), end) for end, row in zip(ends, here, strict=True)]
    return [
        (np.flatnonzero(row[mask]), tokens.take(share))
        for row, mask, share in zip(here, real, shares, strict=True)
    ]


def _layout(
    ids: Row,
    placed: Mapping[str, Placed],
    composite: Composite,
    tokenizer: Any | None,
    *,
    marks: frozenset[int],
    bos: int | None,
) -> TokenLayout:
    words = _words(ids, placed, tokenizer)
    segments = segments_of_turns(words, composite.turns)
    labels = label_tokens(tokenizer, ids.tolist())
    seconds = np.full((len(ids), 2), np.nan)
    columns = {name: np.full(len(ids), np.nan) for name in DESCRIPTORS}
    for i, token in enumerate(ids.tolist()):
        if token in marks:
            segments[i] = "delimiter"
    if len(ids) and bos is not None and ids[0] == bos:
        segments[0] = BOS
    for name, (places, tokens) in placed.items():
        seconds[places] = tokens.seconds
        for descriptor in DESCRIPTORS:
            values = getattr(tokens, descriptor)
            if values is not None:
                columns[descriptor][places] = values
        for count, place in enumerate(places.tolist()):
            segments[place], labels[place] = name, f"{LETTERS[name]}{count}"
    known = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    return TokenLayout.of(segments, labels, seconds=seconds, descriptors=known)


def _words(ids: Row, placed: Mapping[str, Placed], tokenizer: Any | None) -> list[str]:
    """Each token's text; "" for placeholders, and everywhere without a tokenizer."""
    words = [""] * len(ids)
    if tokenizer is None:
        return words
    taken = {int(place) for places, _ in placed.values() for place in places}
    for i, token in enumerate(ids.tolist()):
        if i not in taken:
            words[i] = tokenizer.decode([token], skip_special_tokens=False)
    return words


def _delimiters(composite: Composite, config: Any, tokenizer: Any | None) -> frozenset[int]:
    """The ids of the tokens that open and close what the encoders made."""
    found = [token_id(name, config) for name in composite.delimiters]
    if tokenizer is not None:
        vocabulary = tokenizer.get_vocab()
        found += [vocabulary.get(name) for name in composite.delimiters]
    return frozenset(one for one in found if one is not None)


def _bos(config: Any, tokenizer: Any | None) -> int | None:
    """The id of BOS, by the tokenizer, or by the text model's configuration without one."""
    if tokenizer is not None:
        return tokenizer.bos_token_id
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "bos_token_id", None)
