"""intervene: a block in which a subject's forwards are changed, and restored when it is left.

Example:
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from sinkscope.interventions.edits import Zero
    >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=12,
    ...     num_hidden_layers=2, num_attention_heads=2, vocab_size=11)).eval()
    >>> ids = torch.tensor([[1, 4, 7]])
    >>> before = model(ids).logits
    >>> with intervene(model, [Zero(site="mlp_out", layers=0)]):
    ...     changed = model(ids).logits
    >>> bool((changed == before).all()), bool((model(ids).logits == before).all())
    (False, True)
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from sinkscope.errors import InputError
from sinkscope.interventions.session import AnyEdit, Session
from sinkscope.subjects.subject import Subject, load

__all__ = ["intervene"]


@contextmanager
def intervene(
    subject: Any, edits: Sequence[Any] | Any, *, allow_idle: bool = False
) -> Iterator[Subject]:
    """Change what a subject computes, in every forward of its decoder inside a ``with`` block.

    Edits of one site act in their order, those of an outer block before those of an inner one.
    Probes see the changed values, whether they are opened before or inside the block; ``generate``
    and KV caches are followed, as are padded batches. Weights are never touched, and all is as
    before when the block is left, also by an exception.

    Args:
        subject: a `Subject`, or anything that ``load`` takes, such as a loaded model.
        edits: one or several of ``Zero Replace Scale Clamp Rotate SilenceExperts BlockAttention
            DropBos SwapEmbeddings ReplaceEmbeddings``.
        allow_idle: whether an edit may name what no sample has.

    Yields:
        The subject.

    Raises:
        InputError: an edit names what the model or a sample lacks, or a table of other samples;
            on leaving, if an edit has changed nothing in any forward.
        SiteError: a site that the family lacks, or an attention that takes no mask.
    """
    subject = load(subject)
    several: list[Any] = [*edits] if isinstance(edits, list | tuple) else [edits]
    for edit in several:
        if not isinstance(edit, AnyEdit):
            raise InputError(
                f"intervene: {edit!r} is no edit; give Zero, Replace, Scale, Clamp, Rotate, "
                "SilenceExperts, BlockAttention, DropBos, SwapEmbeddings or ReplaceEmbeddings."
            )
    session = Session(subject, several)
    with ExitStack() as stack:
        session.attach(stack)
        yield subject
    if not allow_idle:
        session.refuse_idle()
