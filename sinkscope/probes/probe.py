"""Attach probes to a subject: ``record`` runs it on data, ``probe`` watches your own forwards.

Example:
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=12,
    ...     num_hidden_layers=2, num_attention_heads=2, vocab_size=11))
    >>> seen = record(model, input_ids=[[1, 4, 7]], keep=["pattern"])
    >>> seen["pattern"].shape
    (1, 2, 2, 3, 3)
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from sinkscope.errors import InputError, SinkscopeError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.probes.assemble import assemble, refuse_doubles
from sinkscope.probes.keep import Keep
from sinkscope.probes.learned_sinks import LearnedSink, has_learned_sinks
from sinkscope.probes.reducer import Reducer
from sinkscope.probes.reducers import DEFAULT
from sinkscope.probes.session import Session, layers_of
from sinkscope.probes.tracking import announce
from sinkscope.record import Record
from sinkscope.subjects.subject import Subject, load

__all__ = ["Probe", "default_reducers", "probe", "record"]


class Probe:
    """A context manager that records every forward inside its block; see ``probe``."""

    def __init__(self, subject: Any, reducers: Iterable[Reducer | str] | None = None) -> None:
        self.subject = load(subject)
        chosen = default_reducers(self.subject) if reducers is None else reducers
        self.reducers = tuple(Keep(item) if isinstance(item, str) else item for item in chosen)
        if not self.reducers:
            raise InputError("probe: no reducer was given; leave them out for the default ones.")
        refuse_doubles(self.reducers)
        self._session = Session(self.subject, self.reducers)
        self._stack = ExitStack()
        self._record: Record | None = None
        self._prepend_bos: bool | str = "as given"

    def __enter__(self) -> "Probe":
        if self._record is not None:
            raise SinkscopeError("This probe was used before; make a new one for each block.")
        with ExitStack() as stack:
            self._session.attach(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if not self._session.streams:
            if kind is None:
                raise SiteError(
                    f"No forward of {self.subject.name} ran inside the probe's block; call the "
                    "model that was given to the probe."
                )
            return
        self._session.finish()
        self._record = assemble(
            self._session.streams,
            self.reducers,
            [layers_of(reducer, self.subject) for reducer in self.reducers],
            self.subject.provenance() | {"prepend_bos": self._prepend_bos},
        )

    @property
    def record(self) -> Record:
        """What was seen, once the block is left.

        Raises:
            SinkscopeError: if the block is still open, or no forward came to its end.
        """
        if self._record is None:
            raise SinkscopeError("There is no record yet; leave the probe's block first.")
        return self._record

    def run(self, data: Any, **given: Any) -> None:
        """Run the subject on data inside the block; the arguments are those of ``record``."""
        choices = set()
        with torch.no_grad():
            for inputs in self.subject.batches(data, **given):
                announce(self.subject.anatomy.decoder, inputs.layouts, inputs.clips)
                self.subject.forward(inputs, logits=False)
                choices.add(inputs.prepend_bos)
        self._prepend_bos = choices.pop() if len(choices) == 1 else "as given"


def default_reducers(subject: Subject) -> tuple[Reducer, ...]:
    """The statistics of a default record: of ``DEFAULT``, those whose site the subject has.

    A decoder has all of them; a convolutional encoder has no attention. A model with mixtures of
    experts adds the probabilities of its routers, a number for each token and expert; one with
    learned sinks what they take, a number for each query and head.
    """
    anatomy = subject.anatomy
    routers = (Keep("router"),) if anatomy.reads("router") else ()
    learned = (LearnedSink(),) if has_learned_sinks(anatomy) else ()
    general = (reducer for reducer in DEFAULT if anatomy.reads(reducer.site))
    return (*general, *routers, *learned)


def probe(subject: Any, reducers: Iterable[Reducer | str] | None = None) -> Probe:
    """Watch the forwards of a subject that run inside a ``with`` block; read ``.record`` after it.

    The model's outputs are those that it has without the probe, to the bit. A forward with a KV
    cache, as in ``generate``, is stitched to the one before: the record is that of the whole
    sequence. Every other forward adds its samples.

    Args:
        subject: a `Subject`, or anything that ``load`` takes, such as a loaded model.
        reducers: what to record, by default `default_reducers`; a site's name stands for ``Keep``
            of it.

    Raises:
        SiteError: the subject lacks a site or a layer; nothing ran in the block; something asked
            for was not seen.
        InputError: beams, assisted decoding, a cache that was filled elsewhere; two reducers that
            write one variable.

    Example:
        >>> import sinkscope as ss
        >>> with ss.probe("tiny-avsr", [ss.Keep("pattern", layers=[4])]) as probe:
        ...     probe.subject.transcribe(ss.read_clip("clip.mp4"))  # doctest: +SKIP
        >>> probe.record  # doctest: +SKIP
    """
    return Probe(subject, reducers)


def record(
    subject: Any,
    data: Any = None,
    *,
    input_ids: Tensor | Sequence[Any] | None = None,
    inputs_embeds: Tensor | None = None,
    attention_mask: Tensor | None = None,
    layout: TokenLayout | Sequence[TokenLayout] | None = None,
    layers: Sequence[int] | None = None,
    keep: Sequence[Reducer | str] = (),
    prepend_bos: bool | None = None,
    reducers: Sequence[Reducer] | None = None,
) -> Record:
    """Run a subject on data, one forward each, and record what its reducers see.

    Args:
        subject: a `Subject`, or anything that ``load`` takes, such as a loaded model.
        data: a clip or several, a text or several.
        input_ids: token ids ``(sample, token)`` instead of data.
        inputs_embeds: embeddings ``(sample, token, feature)`` instead of data.
        attention_mask: 1 where ids or embeddings hold a token, 0 where they hold padding.
        layout: what every token is, one a sample, where the subject does not know it.
        layers: 0-based layers to record; all by default.
        keep: what to keep whole beside the statistics: ``"pattern"``, another site, or `Keep`.
            What is among the statistics already is taken once.
        prepend_bos: whether texts begin with BOS; None leaves it to the tokenizer or model.
        reducers: the statistics, by default `default_reducers`, which take memory linear in the
            number of tokens.

    Returns:
        One record of all samples.

    Raises:
        InputError: data that the subject cannot take, or a layout that does not fit.
        SiteError: a site or layer that the subject lacks, or that was never seen; more to keep
            than allowed.
    """
    subject = load(subject)
    statistics: Iterable[Any] = default_reducers(subject) if reducers is None else reducers
    if layers is not None and reducers is None:
        statistics = [one for one in statistics if _reads_some(one, subject, layers)]
    chosen = [*statistics, *(Keep(item) if isinstance(item, str) else item for item in keep)]
    if layers is not None:
        chosen = [_within(reducer, layers, subject) for reducer in chosen]
    chosen = [one for place, one in enumerate(chosen) if one not in chosen[:place]]
    given = {
        "input_ids": input_ids,
        "inputs_embeds": inputs_embeds,
        "attention_mask": attention_mask,
        "layout": layout,
        "prepend_bos": prepend_bos,
    }
    with Probe(subject, chosen) as recording:
        recording.run(data, **given)
    return recording.record


def _reads_some(reducer: Reducer, subject: Subject, layers: Sequence[int]) -> bool:
    """Whether some of the layers have the reducer's site, as in hybrids not all do.

    Layers that do not exist count as if they had it, so that they are refused as ever.
    """
    having = subject.anatomy.layers_of(reducer.site)
    return any(i in having or not 0 <= i < subject.anatomy.n_layers for i in layers)


def _within(reducer: Reducer, layers: Sequence[int], subject: Subject) -> Reducer:
    """The reducer, on those of its layers that are among ``layers``.

    Raises:
        SiteError: it names layers, and none of them is.
    """
    if reducer.layers is None:
        having = tuple(i for i in layers if i in subject.anatomy.layers_of(reducer.site))
        return replace(reducer, layers=having or tuple(layers))
    both = tuple(layer for layer in reducer.layers if layer in layers)
    if not both:
        raise SiteError(
            f"{reducer} reads none of the layers {list(layers)} that are to be recorded."
        )
    return replace(reducer, layers=both)
