"""The subject: a model under study with what it needs to run, and ``load``, which makes one.

Example:
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, vocab_size=11)
    >>> subject = load(LlamaForCausalLM(config))
    >>> inputs = next(iter(subject.batches(None, input_ids=[[1, 4, 7]])))
    >>> inputs.layouts[0].labels
    ('1', '4', '7')
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import ClipSummary
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.bundled import Bundled, bundled
from sinkscope.subjects.encoder_rows import is_encoder

__all__ = ["Announce", "Bundled", "ModelInputs", "Subject", "bundled", "load"]

_WRITERS = {
    f"transformers.models.whisper.modeling_whisper.{name}"
    for name in ("WhisperForConditionalGeneration", "WhisperModel")
}
"""Classes whose decoder attends to the frames of their encoder."""

Announce = Callable[[Sequence[TokenLayout], Sequence[ClipSummary | None]], None]
"""What a subject calls with the layouts and clips of the forward that comes next."""


@dataclass(frozen=True)
class ModelInputs:
    """The input of one forward, with what every position of it is.

    Attributes:
        kwargs: what ``Subject.forward`` hands to the model: ``input_ids`` or ``inputs_embeds``, and
            ``attention_mask``, ``position_ids`` where they are needed.
        layouts: one a sample, covering every position of the padded batch.
        clips: what is known of each sample's clip.
        prepend_bos: whether the samples begin with BOS, or ``"as given"`` where the caller made
            the tokens.
        known: what else is known of the input, which the model does not take (when the frames of a
            film were sampled).
    """

    kwargs: dict[str, Any]
    layouts: tuple[TokenLayout, ...]
    clips: tuple[ClipSummary | None, ...]
    prepend_bos: bool | Literal["as given"]
    known: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Subject(Protocol):
    """A model under study: what every adapter offers to the probes.

    Attributes:
        name: what tables and figures call it.
        model: the model as the caller handed it over; only read, never changed.
        anatomy: where its sites are.
        tokenizer: its tokenizer, or None.
        massive_ratio: the ratio to the median above which an activation of this model is called
            massive, where it carries its own.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def model(self) -> nn.Module: ...  # noqa: D102
    @property
    def anatomy(self) -> Anatomy: ...  # noqa: D102
    @property
    def tokenizer(self) -> Any | None: ...  # noqa: D102
    @property
    def massive_ratio(self) -> float | None: ...  # noqa: D102

    def batches(
        self,
        data: Any,
        *,
        input_ids: Tensor | Sequence[Any] | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        layout: TokenLayout | Sequence[TokenLayout] | None = None,
        prepend_bos: bool | None = None,
    ) -> Iterator[ModelInputs]:
        """The forwards that the data asks for, in order; every argument is checked."""
        ...

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """Run the model in evaluation mode without gradients; its training flags are restored.

        Without ``logits`` only those of the last token are made, where the model can do so.
        """
        ...

    def announcing(self, announce: Announce) -> AbstractContextManager[None]:
        """While open, every forward whose layout the subject knows is announced before it runs."""
        ...

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """A printable label of each vocabulary entry."""
        ...

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """The layouts of a forward that nobody announced, from what the decoder receives."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What a reader must know of the model to repeat a run."""
        ...


def load(
    what: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: Any | None = None,
    processor: Any | None = None,
    revision: str | None = None,
    device_map: Any | None = None,
) -> Subject:
    """Make a subject of a bundled model, a folder, a hub id, or a model that is loaded already.

    Args:
        what: the name of a bundled model; a folder of a decoder-only model of transformers or of an
            audio-visual LLM of this package; a hub id; a loaded module (of transformers, wrapped by
            PEFT, an audio-visual LLM, an encoder, or a ``TransformerBridge`` of transformer-lens);
            or a subject, which is handed back as it is.
        device: where to put a model that is read from disk; its GPU if there is one, else the CPU.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or torch's own; as stored by default.
        tokenizer: for a loaded module, its tokenizer; otherwise in place of the stored one.
        processor: for a loaded multimodal model, its processor, which turns clips into its input.
        revision: branch, tag or commit of a hub id.
        device_map: as in transformers, for models that are spread over devices.

    Returns:
        The subject. A loaded module is never moved, cast or changed.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged, incomplete or pickled.
        UnknownFamilyError: its family is not in the anatomy table.
        InputError: options that only make sense for a checkpoint come with a loaded module.
    """
    given = {"device": device, "dtype": dtype, "revision": revision, "device_map": device_map}
    if isinstance(what, nn.Module):
        _refuse_options("a loaded module", given)
        return _of_module(what, tokenizer, processor)
    if not isinstance(what, str | Path):
        if isinstance(what, Subject):
            _refuse_options("a subject", given | {"tokenizer": tokenizer, "processor": processor})
            return what
        raise InputError(
            f"load: cannot study a {type(what).__name__}; give a bundled name, a folder, a hub id, "
            "a loaded torch module or a subject."
        )
    from sinkscope.subjects.checkpoints import Options, open_checkpoint

    return open_checkpoint(what, Options(device, dtype, tokenizer, processor, revision, device_map))


def _of_module(module: Any, tokenizer: Any | None, processor: Any | None) -> Subject:
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__}
    if any(name.startswith("transformer_lens.") for name in names):
        from sinkscope.subjects.transformer_lens import bridge_subject

        return bridge_subject(module, tokenizer=tokenizer)
    if "sinkscope.avsr.model.LlamaAvsr" in names:
        from sinkscope.subjects.avsr import avsr_subject

        return avsr_subject(module)
    if names & _WRITERS:
        from sinkscope.subjects.whisper import whisper_subject

        return whisper_subject(module, tokenizer=tokenizer, processor=processor)
    if is_encoder(module):
        from sinkscope.subjects.encoders import encoder_subject

        _refuse_options("an encoder", {"tokenizer": tokenizer})
        return encoder_subject(module, processor=processor)
    from sinkscope.subjects.multimodal.registry import find_composite, refuse_unlisted

    if find_composite(module) is not None:
        from sinkscope.subjects.multimodal.subject import multimodal_subject

        return multimodal_subject(module, processor=processor, tokenizer=tokenizer)
    from sinkscope.subjects.huggingface import huggingface_subject

    refuse_unlisted(module)
    _refuse_options("a model that reads text alone", {"processor": processor})
    return huggingface_subject(module, tokenizer=tokenizer)


def _refuse_options(what: str, given: Mapping[str, Any]) -> None:
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise InputError(
            f"load: {what} is taken as it is, without {', '.join(named)}; "
            "move or cast it before, or load it from its checkpoint."
        )
