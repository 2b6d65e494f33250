"""From prepared inputs to the token ids that follow: a search that never draws, unless it is asked.

The published decoding inherits its generation settings from the LLM's checkpoint, so that Llama 3
draws at temperature 0.6 inside the beam search and no two runs agree (arXiv 2409.12319's code).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from sinkscope.avsr.inputs import Inputs
from sinkscope.errors import InputError

__all__ = ["ORIGINAL", "Search", "generate"]


@dataclass(frozen=True)
class Search:
    """How a transcript is searched for.

    Attributes:
        max_new_tokens: where the search stops.
        num_beams: 1 is greedy search.
        temperature: None never draws; a number draws every token (of every beam) at that
            temperature, from the whole vocabulary.
        seed: of the draws. The caller's generator is left as it was.

    Raises:
        InputError: a number is out of its range.
    """

    max_new_tokens: int = 64
    num_beams: int = 1
    temperature: float | int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}; give a whole number of at least 1."
                )
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise InputError(
                f"temperature is {self.temperature}; give a number above 0, or None for a search "
                "that never draws."
            )


ORIGINAL = Search(max_new_tokens=32, num_beams=15, temperature=0.6)
"""What the published command does: runs differ, and long utterances are cut."""


@torch.no_grad()
def generate(
    llm: Any, inputs: Inputs, ids: Mapping[str, int], how: Search
) -> Int64[Tensor, "sample token"]:
    """Token ids that follow each sample, EOS and padding included.

    Args:
        llm: the language model.
        inputs: prepared, and padded on the left where samples differ in length.
        ids: of ``"eos"`` and ``"padding"``, and of ``"bos"`` where there is one.
        how: greedy, with beams, or drawn.

    Raises:
        InputError: samples are padded on the right.
    """
    if not inputs.attention_mask[:, -1].all():
        raise InputError(
            "The inputs are padded on the right, after which nothing can be generated; prepare "
            "them with padding_side='left'."
        )
    options: dict[str, Any] = {"do_sample": False}
    if how.temperature is not None:
        options = {"do_sample": True, "temperature": float(how.temperature)}
        options |= {"top_k": 0, "top_p": 1.0}
    seed = None if how.temperature is None else how.seed
    with _seeded(seed, inputs.inputs_embeds.device):
        return llm.generate(
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=inputs.attention_mask.long(),
            max_new_tokens=how.max_new_tokens,
            num_beams=how.num_beams,
            bos_token_id=ids.get("bos"),
            eos_token_id=ids["eos"],
            pad_token_id=ids["padding"],
            **options,
        )


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
