"""The parts of one sample in Llama-AVSR's order, before anything is embedded.

Arxiv 2409.12319, section 2: BOS, sound, picture, prompt, transcript, EOS. Sound and picture stand
between delimiters of their own, which go with them where another order is asked for; one sequence
that was made of both has none.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sinkscope.avsr.inputs import Part
from sinkscope.avsr.streams import NAMES, ORDER
from sinkscope.avsr.tokens import PROMPTS, text_ids
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["parts_of"]


def parts_of(
    features: Sequence[Part],
    *,
    tokenizer: "PreTrainedTokenizerFast",
    ids: Mapping[str, int],
    text: str | None = None,
    prepend_bos: bool | None = None,
    stream_order: Sequence[str] = ORDER,
) -> list[Part]:
    """The parts of one sample.

    Args:
        features: the projected tokens of each stream; their names are the streams'.
        tokenizer: of prompt and transcript.
        ids: of BOS, EOS and the delimiters, by the names of the spans.
        text: the transcript, which EOS follows; or None.
        prepend_bos: whether BOS opens the sequence; None where the tokenizer has one. Without it,
            the first delimiter (or the first token of both) stands first.
        stream_order: the streams, the first one first. The prompt stays the one of the modality.

    Raises:
        InputError: BOS is asked for and the tokenizer has none; or see `text_ids`.
    """
    if prepend_bos and "bos" not in ids:
        raise InputError(
            "prepend_bos is True, but this model's tokenizer has no BOS; leave prepend_bos out."
        )
    opens = "bos" in ids if prepend_bos is None else prepend_bos
    parts = [Part("bos", ids=[ids["bos"]])] if opens else []
    for part in _ordered(features, stream_order):
        parts += [part] if part.name == "audiovisual" else _delimited(part, ids)
    prompt = PROMPTS[NAMES[tuple(part.name for part in _ordered(features, ORDER))]]
    parts.append(Part("prompt", ids=text_ids(tokenizer, prompt)))
    if text is not None:
        parts.append(Part("transcript", ids=text_ids(tokenizer, text)))
        parts.append(Part("eos", ids=[ids["eos"]]))
    return parts


def _ordered(features: Sequence[Part], order: Sequence[str]) -> list[Part]:
    """The streams in an order; one sequence of both stands alone."""
    return sorted(features, key=lambda part: (*order, "audiovisual").index(part.name))


def _delimited(part: Part, ids: Mapping[str, int]) -> list[Part]:
    first, last = f"{part.name}_open", f"{part.name}_close"
    return [Part(first, ids=[ids[first]]), part, Part(last, ids=[ids[last]])]
