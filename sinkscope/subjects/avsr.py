"""Adapter for the audio-visual LLMs of this package: clips in, tokens with roles and seconds.

The model's own ``prepare`` says where each part of a sample lies; here that becomes a TokenLayout.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.model import Inputs, LlamaAvsr
from sinkscope.avsr.streams import chosen_order, chosen_rate
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.clip_layouts import layout_of_spans, summarise
from sinkscope.subjects.encoders import EncoderSubject, encoder_of
from sinkscope.subjects.huggingface import HuggingFaceSubject, huggingface_subject
from sinkscope.subjects.projectors import ProjectorSubject, projector_of
from sinkscope.subjects.running import describe_model, evaluating, fewest_logits
from sinkscope.subjects.subject import Announce, ModelInputs

__all__ = ["AvsrSubject", "avsr_subject"]


@dataclass(frozen=True, eq=False)
class AvsrSubject:
    """An audio-visual LLM; see ``Subject`` for what is not explained here.

    Attributes:
        text: its language model alone, for text, ids and embeddings.
        modality: ``"audio"``, ``"video"``, ``"audiovisual"``, or None for what a clip has.
        audio_rate: feature frames that become one audio token; None for the model's default.
        video_rate: the same for video.
        with_transcript: whether the clip's own text and EOS follow the prompt (teacher forcing);
            by default the prompt comes last.
        stream_order: ``("video", "audio")`` puts the picture first; None is the published order.
    """

    name: str
    model: LlamaAvsr
    text: HuggingFaceSubject
    modality: str | None = None
    audio_rate: int | None = None
    video_rate: int | None = None
    with_transcript: bool = False
    massive_ratio: float | None = None
    stream_order: tuple[str, ...] | None = None

    @property
    def anatomy(self) -> Anatomy:
        """Where the sites of its language model are."""
        return self.text.anatomy

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of its language model."""
        return self.text.tokenizer

    def with_options(
        self,
        *,
        modality: str | None = None,
        audio_rate: int | None = None,
        video_rate: int | None = None,
        with_transcript: bool | None = None,
        stream_order: Sequence[str] | None = None,
    ) -> "AvsrSubject":
        """The same model with other choices; what is left out stays as it is.

        Raises:
            InputError: an order of streams or a rate that the model cannot have.
        """
        config = self.model.config
        order = None if stream_order is None else chosen_order(stream_order, config)
        for stream in config.streams:
            chosen_rate(stream, audio_rate if stream == "audio" else video_rate, config)
        given = {
            "modality": modality,
            "audio_rate": audio_rate,
            "video_rate": video_rate,
            "with_transcript": with_transcript,
            "stream_order": order,
        }
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def encoder(self, stream: str) -> EncoderSubject:
        """The encoder of ``"audio"``, ``"video"`` or ``"audiovisual"``, as a subject of its own.

        Raises:
            InputError: if the model has no such encoder.
        """
        return encoder_of(self.model, stream, name=f"{self.name} {stream} encoder")

    def projector(self, stream: str) -> ProjectorSubject:
        """The projector of a stream, as a subject of its own, at the rate that is chosen here.

        Raises:
            InputError: if the model has no such projector.
        """
        rate = self.audio_rate if stream == "audio" else self.video_rate
        name = f"{self.name} {stream} projector"
        return projector_of(self.model, self.encoder(stream), rate=rate, name=name)

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
        """One forward for each clip. Text, ids and embeddings go to the language model alone.

        Raises:
            InputError: a clip that is too short or lacks a stream that is asked for; a clip without
                text where the transcript is wanted; clips together with ids, embeddings or layouts;
                BOS where the tokenizer has none.
        """
        clips = _clips(data)
        if clips is None:
            yield from self.text.batches(
                data,
                input_ids=input_ids,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                layout=layout,
                prepend_bos=prepend_bos,
            )
            return
        if any(given is not None for given in (input_ids, inputs_embeds, attention_mask, layout)):
            raise InputError(
                f"{self.name} makes tokens, mask and layout from the clip itself; give clips alone."
            )
        bos = "bos" in self.model.ids if prepend_bos is None else prepend_bos
        for clip in clips:
            inputs = self._prepare(clip, prepend_bos=bos)
            layouts = self._layouts(inputs, [clip])
            yield ModelInputs({"inputs": inputs}, layouts, (summarise(clip),), bos)

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """Run the model in evaluation mode without gradients; its training flags are restored."""
        if "inputs" not in inputs.kwargs:
            return self.text.forward(inputs, logits=logits)
        options = {} if logits or self.with_transcript else fewest_logits(self.model.llm)
        with evaluating(self.model):
            return self.model(**inputs.kwargs, use_cache=False, **options)

    @contextmanager
    def announcing(self, announce: Announce) -> Iterator[None]:
        """While open, whatever this model prepares is announced before its decoder runs."""
        model, prepare = self.model, self.model.prepare

        def prepare_and_announce(clips: Any, **options: Any) -> Inputs:
            inputs = prepare(clips, **options)
            clips = [clips] if isinstance(clips, Clip) else list(clips)
            announce(self._layouts(inputs, clips), [summarise(clip) for clip in clips])
            return inputs

        before = vars(model).get("prepare")
        vars(model)["prepare"] = prepare_and_announce
        try:
            yield
        finally:
            vars(model).pop("prepare")
            if before is not None:
                vars(model)["prepare"] = before

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """A printable label of each vocabulary entry."""
        return self.text.label_tokens(ids)

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """The layouts of a forward that was not prepared here: that of plain text or embeddings."""
        return self.text.layout_of(decoder_kwargs)

    def transcribe(
        self,
        clips: Clip | Sequence[Clip],
        *,
        audio_rate: int | None = None,
        video_rate: int | None = None,
        max_new_tokens: int = 64,
        num_beams: int = 1,
    ) -> Any:
        """What is said in a clip (``str``) or in several (``list[str]``).

        Args:
            clips: one clip, or several.
            audio_rate: encoder frames a token of sound; None is the one that is chosen here.
            video_rate: the same for video.
            max_new_tokens: where the search stops.
            num_beams: 1 is greedy search.

        Raises:
            InputError: see `LlamaAvsr.transcribe`.
        """
        several = [clips] if isinstance(clips, Clip) else list(clips)
        chosen = self.with_options(audio_rate=audio_rate, video_rate=video_rate)._streams()
        with evaluating(self.model):
            said = self.model.transcribe(
                several, max_new_tokens=max_new_tokens, num_beams=num_beams, **chosen
            )
        return said[0] if isinstance(clips, Clip) else said

    def provenance(self) -> dict[str, Any]:
        """What a reader must know of the model to repeat a run."""
        config = self.model.config
        return {
            "subject": self.name,
            "massive_ratio": self.massive_ratio,
            "modality": self.modality or "what the clip has",
            "audio_rate": self.audio_rate or config.audio_rates[0],
            "video_rate": self.video_rate or config.video_rates[0],
            "with_transcript": self.with_transcript,
            "stream_order": list(self.stream_order or config.streams),
            **describe_model(self.model, self.anatomy),
        }

    def _streams(self) -> dict[str, Any]:
        return {
            "modality": self.modality,
            "audio_rate": self.audio_rate,
            "video_rate": self.video_rate,
            "stream_order": self.stream_order,
        }

    def _prepare(self, clip: Clip, *, prepend_bos: bool) -> Inputs:
        """The model's own inputs; the class's ``prepare``, so that nothing is announced."""
        text = clip.text or ""
        if self.with_transcript and not text:
            raise InputError(
                f"{clip.name} has no text, so its transcript cannot follow the prompt; give the "
                "clip its text, or leave with_transcript out."
            )
        texts = [text] if self.with_transcript else None
        with evaluating(self.model):
            return type(self.model).prepare(
                self.model, [clip], texts=texts, prepend_bos=prepend_bos, **self._streams()
            )

    def _layouts(self, inputs: Inputs, clips: Sequence[Clip]) -> tuple[TokenLayout, ...]:
        ids = inputs.token_ids.detach().cpu().numpy()
        real = inputs.attention_mask.bool().cpu().numpy()
        labelled = zip(inputs.spans, ids, real, clips, strict=True)
        return tuple(
            layout_of_spans(spans, self._words(row), mask, clip)
            for spans, row, mask, clip in labelled
        )

    def _words(self, ids: np.ndarray) -> list[str]:
        """A label for every position that holds a vocabulary entry, "" for the others."""
        known = np.flatnonzero(ids >= 0)
        words = [""] * len(ids)
        for index, label in zip(known, self.label_tokens(ids[known].tolist()), strict=True):
            words[index] = label
        return words


def avsr_subject(model: LlamaAvsr, *, name: str | None = None) -> AvsrSubject:
    """A subject of a loaded audio-visual LLM."""
    name = name or type(model).__name__
    text = huggingface_subject(model.llm, tokenizer=model.tokenizer, name=name)
    return AvsrSubject(name, model, text, massive_ratio=model.config.massive_ratio)


def _clips(data: Any) -> list[Clip] | None:
    """The clips, or None where the data is something else."""
    if isinstance(data, Clip):
        return [data]
    if isinstance(data, str) or not isinstance(data, Sequence) or not len(data):
        return None
    found = [isinstance(one, Clip) for one in data]
    if any(found) and not all(found):
        raise InputError("The data mixes clips with something else; record one kind at a time.")
    return list(data) if all(found) else None
