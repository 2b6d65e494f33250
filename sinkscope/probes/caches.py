"""Which samples a KV cache holds, so that decode steps find the prefill that they continue."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sinkscope.errors import InputError
from sinkscope.probes.stitching import Stream

__all__ = ["Caches", "length_of"]

_FORBIDDEN = {
    "reorder_cache": "beam search reorders its samples between steps: use num_beams=1",
    "crop": "assisted decoding takes tokens back: generate without an assistant",
    "batch_repeat_interleave": "several sequences a prompt multiply samples: ask for one",
    "batch_select_indices": "its samples are selected between steps: generate greedily",
}


@dataclass
class Caches:
    """The caches that a probe has seen, each with the samples that it holds.

    While a cache is known, whatever would change what it holds between two forwards is refused.
    """

    _known: list[tuple[Callable[[], Any], Sequence[Stream]]] = field(default_factory=list)

    def streams(self, cache: Any, *, length: int, samples: int) -> Sequence[Stream]:
        """The samples that a cache of ``length`` positions holds.

        Raises:
            InputError: if the probe did not see it filled, or not as it is now.
        """
        found = next((streams for known, streams in self._known if known() is cache), None)
        if found is None:
            raise InputError(
                f"The KV cache holds {length} tokens that this probe did not see; open the probe "
                "before the prefill, or give the whole sequence."
            )
        if len(found) != samples:
            raise InputError(
                f"A decode step has {samples} samples, its prefill had {len(found)}; beam search "
                "and several sequences a prompt cannot be recorded: use num_beams=1."
            )
        if found[0].padded != length:
            raise InputError(
                f"The KV cache holds {length} positions where the probe saw {found[0].padded}: "
                "tokens were taken back or added elsewhere (assisted decoding?); generate "
                "without an assistant, with the probe open throughout."
            )
        return found

    def know(self, cache: Any, streams: Sequence[Stream]) -> None:
        """Remember that a prefill of these samples filled a cache."""
        self._known = [(known, held) for known, held in self._known if known() not in (cache, None)]
        self._known.append((weakref.ref(cache), streams))
        for method, why in _FORBIDDEN.items():
            if hasattr(type(cache), method):
                vars(cache)[method] = _refuser(why)

    def release(self) -> None:
        """Let every cache do again what it could."""
        for known, _ in self._known:
            for method in _FORBIDDEN:
                vars(known()).pop(method, None) if known() is not None else None
        self._known.clear()


def length_of(cache: Any) -> int:
    """How many positions a cache holds; 0 for none."""
    return 0 if cache is None else int(cache.get_seq_length())


def _refuser(why: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise InputError(f"A probe cannot follow this KV cache: {why}.")

    return refuse
