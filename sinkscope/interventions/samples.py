"""Samples: the clips, texts or token ids that a subject is run on, one at a time.

Example:
    >>> [dict(one.given) for one in samples_of(None, input_ids=[[1, 4], [1, 5, 6]])]
    [{'input_ids': [1, 4]}, {'input_ids': [1, 5, 6]}]
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.probes.probe import record
from sinkscope.record import Record
from sinkscope.subjects.subject import ModelInputs, Subject

__all__ = ["Sample", "samples_of"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One clip, text or row of ids, with what else ``record`` is given for it.

    Attributes:
        data: the clip or text; None where ids are given.
        given: ``input_ids`` or ``prepend_bos``, as for ``record``.
    """

    data: Any = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def record(self, subject: Subject, **options: Any) -> Record:
        """Record the sample."""
        return record(subject, self.data, **self.given, **options)

    def batches(self, subject: Subject) -> Iterator[ModelInputs]:
        """The one forward that it asks for."""
        return subject.batches(self.data, **self.given)


def samples_of(
    data: Any,
    *,
    input_ids: Tensor | Sequence[Any] | None = None,
    prepend_bos: bool | None = None,
) -> list[Sample]:
    """The samples of some data.

    Args:
        data: a clip or several, a text or several; or already samples.
        input_ids: token ids ``(sample, token)`` instead, or rows of unequal length.
        prepend_bos: whether clips or texts begin with BOS; None leaves it to the subject.

    Raises:
        InputError: neither or both of data and ids, or none at all.
    """
    if (data is None) == (input_ids is None):
        raise InputError("Give clips or texts, or input_ids: one of the two.")
    if input_ids is not None:
        rows = input_ids.tolist() if isinstance(input_ids, Tensor) else list(input_ids)
        if rows and isinstance(rows[0], int):
            rows = [rows]
        found = [Sample(given={"input_ids": row}) for row in rows]
    else:
        several = list(data) if isinstance(data, list | tuple) else [data]
        given = {} if prepend_bos is None else {"prepend_bos": prepend_bos}
        found = [one if isinstance(one, Sample) else Sample(one, given) for one in several]
    if not found:
        raise InputError("There is no clip or text to run; give at least one.")
    return found
