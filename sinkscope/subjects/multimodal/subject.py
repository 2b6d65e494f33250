"""Adapter for the multimodal models of transformers: what a processor made, or clips, in.

The layout follows from the ids that the composite's forward receives, so it is known of the user's
own calls and of ``generate`` too.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from sinkscope.avsr.clip import Clip
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy, anatomy_of
from sinkscope.subjects.clip_layouts import summarise
from sinkscope.subjects.given import real_tokens
from sinkscope.subjects.huggingface import HuggingFaceSubject
from sinkscope.subjects.layouts import fit_layouts
from sinkscope.subjects.multimodal.calls import (
    arguments,
    following,
    fresh_positions,
    given_by_subject,
    refuse_continued,
    run_by_subject,
    takes,
)
from sinkscope.subjects.multimodal.conversation import (
    check_options,
    clips_of,
    conversation,
    described,
)
from sinkscope.subjects.multimodal.layouts import layouts_of
from sinkscope.subjects.multimodal.mapping import Place, taken
from sinkscope.subjects.multimodal.parts import PartSubject, part_of
from sinkscope.subjects.multimodal.registry import composite_of, find_composite
from sinkscope.subjects.multimodal.table import Composite, Given
from sinkscope.subjects.running import describe_model, evaluating, fewest_logits
from sinkscope.subjects.subject import Announce, ModelInputs

__all__ = ["MultimodalSubject", "multimodal_subject"]


@dataclass(frozen=True, eq=False)
class MultimodalSubject:
    """A multimodal model of transformers; see ``Subject`` for what is not explained here.

    Attributes:
        composite: its family's row.
        module: the composite inside ``model`` whose forward brings the streams together.
        text: the same model for text, ids and embeddings.
        processor: its processor, which clips need.
        instruction: what the model is asked about a clip.
        streams: which of a clip's streams it is given; None for all that model and clip have.
        audio_in_video: whether a clip's sound lies between its frames.
        processing: what the processor is told of clips besides.
    """

    name: str
    model: nn.Module
    composite: Composite
    module: nn.Module
    text: HuggingFaceSubject
    processor: Any | None = None
    instruction: str = "Transcribe the speech."
    streams: tuple[str, ...] | None = None
    audio_in_video: bool = False
    processing: Mapping[str, Any] = field(default_factory=dict)
    massive_ratio: float | None = None

    @property
    def anatomy(self) -> Anatomy:
        """Where the sites of its LLM are."""
        return self.text.anatomy

    @property
    def tokenizer(self) -> Any | None:
        """Its tokenizer, or None."""
        return self.text.tokenizer

    def with_options(
        self,
        *,
        instruction: str | None = None,
        streams: Sequence[str] | None = None,
        audio_in_video: bool | None = None,
        processing: Mapping[str, Any] | None = None,
    ) -> "MultimodalSubject":
        """The same model, given clips in another way; what is None stays as it is.

        Args:
            instruction: what it is asked.
            streams: which of a clip's streams it is given.
            audio_in_video: whether a clip's sound lies between its frames, in turns.
            processing: arguments of its processor, such as ``{"fps": 1.0}``.

        Raises:
            InputError: a stream that the family does not have, or sound between frames where it
                cannot.
        """
        check_options(self, streams, audio_in_video=bool(audio_in_video))
        return replace(
            self,
            instruction=self.instruction if instruction is None else instruction,
            streams=self.streams if streams is None else tuple(streams),
            audio_in_video=self.audio_in_video if audio_in_video is None else audio_in_video,
            processing=self.processing if processing is None else dict(processing),
        )

    def encoder(self, stream: str) -> PartSubject:
        """The encoder of ``"audio"``, ``"image"`` or ``"video"``, as a subject of its own.

        It takes the same data as this subject; the whole model runs.

        Raises:
            InputError: if the family has no such encoder, or what it runs over is not known.
        """
        return part_of(self, stream)

    def batches(
        self,
        data: Any = None,
        *,
        input_ids: Tensor | Sequence[Any] | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        layout: TokenLayout | Sequence[TokenLayout] | None = None,
        prepend_bos: bool | None = None,
    ) -> Iterator[ModelInputs]:
        """One forward for each clip, or for what the processor made; text as any LLM.

        Args:
            data: what the model's processor returned (a mapping with ``input_ids``), a clip or
                several, a text or several.
            input_ids: see ``HuggingFaceSubject.batches``, as for the others.
            inputs_embeds: embeddings, with ``layout``.
            attention_mask: for ids or embeddings.
            layout: in place of the one that follows from the ids.
            prepend_bos: for text only.

        Raises:
            InputError: a mapping without ids; placeholders that do not fit what came with them;
                clips without a processor.
        """
        clips = clips_of(data)
        if clips is not None:
            if any(one is not None for one in (input_ids, inputs_embeds, attention_mask)):
                raise InputError(
                    f"{self.name} makes ids and mask from the clip itself; give clips alone."
                )
            self._refuse_bos(prepend_bos)
            for clip in clips:
                inputs = conversation(self, clip)
                yield self._of_mapping(inputs, layout, clip)
        elif isinstance(data, Mapping):
            if input_ids is not None or inputs_embeds is not None or attention_mask is not None:
                raise InputError(f"{self.name}: give ids and mask within the mapping, or without.")
            self._refuse_bos(prepend_bos)
            yield self._of_mapping(data, layout, None)
        else:
            for inputs in self.text.batches(
                data,
                input_ids=input_ids,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                layout=layout,
                prepend_bos=prepend_bos,
            ):
                given = Given(inputs.kwargs, self.module.config, self.processor)
                if layout is None and "input_ids" in inputs.kwargs:
                    inputs = replace(
                        inputs, layouts=layouts_of(self.composite, given, self.tokenizer)
                    )
                yield inputs

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """Run the model in evaluation mode without gradients; its training flags are restored."""
        options = {"use_cache": False} if takes(self.module, "use_cache") else {}
        options |= {} if logits else fewest_logits(self.model)
        ran = run_by_subject(self.module, inputs)
        with evaluating(self.model), fresh_positions(self.model), ran:
            return self.model(**inputs.kwargs, **options)

    @contextmanager
    def announcing(self, announce: Announce) -> Iterator[None]:
        """While open, every prefill of the composite is announced before its LLM runs."""
        with following(self.module) as following_inputs:

            def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                own = given_by_subject(module)
                if own is not None and own.layouts:
                    announce(own.layouts, own.clips)
                    return
                called = arguments(module, args, kwargs)
                refuse_continued(self.composite, called, module.config)
                inputs = following_inputs(called)
                if "input_ids" in inputs:
                    given = Given(inputs, self.module.config, self.processor)
                    announce(layouts_of(self.composite, given, self.tokenizer), ())

            handle = self.module.register_forward_pre_hook(before, with_kwargs=True)
            try:
                yield
            finally:
                handle.remove()

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """A printable label of each vocabulary entry; its number where there is no tokenizer."""
        return self.text.label_tokens(ids)

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """The layouts of a forward that did not come with ids: numbered embeddings."""
        return self.text.layout_of(decoder_kwargs)

    def provenance(self) -> dict[str, Any]:
        """What a reader must know of the model to repeat a run."""
        return {
            "subject": self.name,
            "massive_ratio": self.massive_ratio,
            "composite": self.composite.model_type,
            "instruction": self.instruction,
            "streams": list(self.streams or self.composite.streams),
            "audio_in_video": self.audio_in_video,
            "processing": {name: str(value) for name, value in self.processing.items()},
            **describe_model(self.model, self.anatomy),
        }

    def _refuse_bos(self, prepend_bos: bool | None) -> None:
        if prepend_bos is not None:
            raise InputError(
                f"{self.name}: prepend_bos={prepend_bos} is for text; of clips and of what a "
                "processor returned the ids are used as they are."
            )

    def _of_mapping(
        self,
        data: Mapping[str, Any],
        layout: TokenLayout | Sequence[TokenLayout] | None,
        clip: Clip | None,
    ) -> ModelInputs:
        """One forward of what the processor made."""
        inputs = taken(
            data,
            name=self.name,
            module=self.module,
            composite=self.composite,
            processor=self.processor,
            place=Place(self.text.device, self.text.dtype),
        )
        given = Given(inputs, self.module.config, self.processor)
        layouts = layouts_of(self.composite, given, self.tokenizer)
        if layout is not None:
            real = real_tokens(inputs["input_ids"], inputs.get("attention_mask"))
            layouts = fit_layouts(layout, real)
        elif clip is not None:
            layouts = tuple(described(one, clip) for one in layouts)
        clips = (None,) * len(layouts) if clip is None else (summarise(clip),)
        kwargs = {name: value for name, value in inputs.items() if takes(self.module, name)}
        known = {name: value for name, value in inputs.items() if name not in kwargs}
        return ModelInputs(kwargs, layouts, clips, "as given", known)


def multimodal_subject(
    model: nn.Module,
    *,
    processor: Any | None = None,
    tokenizer: Any | None = None,
    name: str | None = None,
) -> MultimodalSubject:
    """A subject of a loaded multimodal model.

    Args:
        model: a composite of transformers, also wrapped by PEFT, or a model that holds one (of
            Qwen's Omni models with a talker, the thinker is studied).
        processor: its processor; without it only what a processor made can be given.
        tokenizer: in place of the processor's own.
        name: what tables and figures call it; where it was loaded from by default.

    Raises:
        UnknownFamilyError: if the family of the composite or of its LLM is not in the table.
    """
    module = find_composite(model)
    config: Any = getattr(module, "config", None)
    composite = composite_of(str(getattr(config, "model_type", type(model).__name__)))
    if module is None:
        raise InputError(f"{type(model).__name__} holds no multimodal model.")
    anatomy = anatomy_of(module)
    path = getattr(config, "_name_or_path", "")
    called = name or path or f"{composite.title} ({type(module).__name__})"
    runs = model if hasattr(model, "peft_config") else module
    tokenizer = tokenizer or getattr(processor, "tokenizer", None)
    text = HuggingFaceSubject(called, runs, anatomy, tokenizer)
    return MultimodalSubject(called, runs, composite, module, text, processor)
