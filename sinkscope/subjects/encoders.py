"""Encoders as subjects: the sites, sinks and massive activations of what feeds the LLM.

An encoder's tokens are its frames, each with seconds; there is no BOS, so the first frame of the
clip is the reference, and every frame sees every other. ``subject.encoder("audio")`` of an
audio-visual LLM gives one, and so does ``load`` of a bare encoder::

    heard = ss.record(subject.encoder("audio"), clip)
    ss.find_sinks(heard)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.encoders import Encoder
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.clip_layouts import summarise
from sinkscope.subjects.encoder_anatomy import encoder_anatomy
from sinkscope.subjects.encoder_fronts import front_of, refuse_more
from sinkscope.subjects.encoder_given import (
    as_features,
    layouts_of_features,
    only_clips,
    refuse_others,
)
from sinkscope.subjects.encoder_layouts import frame_mask, layouts_of
from sinkscope.subjects.frame_layouts import STREAMS, layout_of_frames, unknown_frames
from sinkscope.subjects.fronts import Front
from sinkscope.subjects.image_fronts import ImageFront
from sinkscope.subjects.running import describe_model, evaluating
from sinkscope.subjects.subject import Announce, ModelInputs

__all__ = ["EncoderSubject", "encoder_of", "encoder_subject"]


@dataclass(frozen=True, eq=False)
class EncoderSubject:
    """An encoder; see ``Subject`` for what is not explained here.

    Attributes:
        front: what makes frames of clips.
        stream: what it reads: ``"audio"``, ``"video"`` or ``"audiovisual"``, the segment of its
            frames.
    """

    name: str
    model: nn.Module
    anatomy: Anatomy
    front: Front | ImageFront
    stream: str = "audio"
    tokenizer: Any | None = None
    massive_ratio: float | None = None

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
        """One forward for each clip, or for what the encoder's processor made.

        An encoder of images reads a clip's frames, each as one sample.

        Args:
            data: a clip or several; a mapping of the arguments of the model's own forward; or a
                tensor of the first of them.
            input_ids: none, as for the others: an encoder reads no tokens.
            inputs_embeds: none.
            attention_mask: none; it may be in the mapping.
            layout: none.
            prepend_bos: none.

        Raises:
            InputError: anything else; a clip that lacks the stream or is too short.
        """
        others = (input_ids, inputs_embeds, attention_mask, layout, prepend_bos)
        features = as_features(self.name, self.model, data)
        if features is not None:
            refuse_others(self.name, others)
            yield self._of_features(features)
            return
        prepare: Any = self.front.prepare if not isinstance(self.front, ImageFront) else None
        for clip in only_clips(self.name, data, others):
            if isinstance(self.front, ImageFront):
                yield from self.front.inputs(clip, summarise(clip))
                continue
            batch, lengths = prepare([clip], **self._asked)
            device = next(self.model.parameters()).device
            yield ModelInputs(
                {"batch": _moved(batch, device), "lengths": lengths.to(device)},
                self._layouts([clip], lengths),
                (summarise(clip),),
                prepend_bos=False,
            )

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """Run the encoder in evaluation mode without gradients; it has no logits."""
        with evaluating(self.model):
            if "batch" in inputs.kwargs and not isinstance(self.front, ImageFront):
                return self.front(**inputs.kwargs)
            return self.model(**inputs.kwargs)

    @contextmanager
    def announcing(self, announce: Announce) -> Iterator[None]:
        """While open, the clips that the encoder prepares are announced before it runs.

        Not where WavLM prepares several, which it then runs one by one.
        """
        if not isinstance(self.front, Encoder):
            yield
            return
        front, prepare = self.front, self.front.prepare

        def prepare_and_announce(clips: Sequence[Clip], **options: Any) -> Any:
            prepared = prepare(clips, **options)
            if self.anatomy.family != "wavlm" or len(clips) == 1:
                read = tuple(options.get("streams") or (self.stream,))
                layouts = self._layouts(clips, prepared[1], stream=_joined(read))
                announce(layouts, [summarise(clip) for clip in clips])
            return prepared

        before = vars(front).get("prepare")
        vars(front)["prepare"] = prepare_and_announce
        try:
            yield
        finally:
            vars(front).pop("prepare")
            if before is not None:
                vars(front)["prepare"] = before

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """There is no vocabulary: the numbers themselves."""
        return [str(int(i)) for i in ids]

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """The layouts of a forward whose clips nobody named: frames and padding, by its mask.

        Raises:
            InputError: if the encoder was called without a tensor.
        """
        own = layouts_of(self.anatomy, decoder_kwargs)
        if own is not None:
            return own
        given = next((x for x in decoder_kwargs.values() if isinstance(x, Tensor)), None)
        if given is None:
            raise InputError(f"{self.name} was called without a tensor; give it its features.")
        positions = self._window or int(given.shape[1])
        mask = frame_mask(self.anatomy, decoder_kwargs)
        real = torch.ones(len(given), positions) if mask is None else mask
        return tuple(
            unknown_frames(self.stream, row, frame_rate=self.front.frame_rate)
            for row in real.bool().cpu().numpy()
        )

    def provenance(self) -> dict[str, Any]:
        """What a reader must know of the model to repeat a run."""
        return {
            "subject": self.name,
            "massive_ratio": self.massive_ratio,
            "stream": self.stream,
            "frame_rate": float(self.front.frame_rate),
            **describe_model(self.model, self.anatomy),
        }

    @property
    def _window(self) -> int | None:
        """Frames that the encoder always runs, filling up with silence; None where it does not."""
        if self.anatomy.family not in ("whisper", "qwen2_audio", "voxtral", "audioflamingo3"):
            return None
        return int(self.anatomy.config.max_source_positions)

    @property
    def _asked(self) -> dict[str, Any]:
        """What an encoder of several streams must be told where it reads one of them alone."""
        own = getattr(self.front, "streams", ())
        return {"streams": (self.stream,)} if len(own) > 1 and self.stream in own else {}

    def _of_features(self, features: dict[str, Any]) -> ModelInputs:
        layouts = layouts_of_features(
            self.model,
            self.anatomy,
            features,
            stream=self.stream,
            frame_rate=self.front.frame_rate,
        )
        layouts = self.layout_of(features) if layouts is None else layouts
        return ModelInputs(features, layouts, (None,) * len(layouts), prepend_bos=False)

    def _layouts(
        self, clips: Sequence[Clip], lengths: Tensor, *, stream: str | None = None
    ) -> tuple[TokenLayout, ...]:
        window = self._window
        counts = lengths.tolist()
        return tuple(
            layout_of_frames(
                clip,
                stream or self.stream,
                positions=window or max(counts),
                frame_rate=self.front.frame_rate,
                frames=count,
                appends=window is not None,
            )
            for clip, count in zip(clips, counts, strict=True)
        )


def encoder_subject(
    model: nn.Module,
    *,
    name: str | None = None,
    stream: str | None = None,
    processor: Any | None = None,
) -> EncoderSubject:
    """A subject of a loaded encoder.

    Args:
        model: an encoder of the package, an AV-HuBERT, or an encoder of transformers whose class
            is in the table (``encoder_rows``), with its front end where it has one.
        name: what tables and figures call it.
        stream: ``"audio"``, ``"video"``, ``"audiovisual"`` or ``"image"``; by default what the
            encoder reads.
        processor: of an encoder of images, for the mean and deviation of its pictures.

    Raises:
        UnknownFamilyError: if it is none of these, or holds more than an encoder.
        InputError: if there is no such stream.
    """
    refuse_more(model)
    anatomy = encoder_anatomy(model)
    stream = stream or _stream(model, anatomy)
    if stream not in STREAMS:
        raise InputError(f"stream is {stream!r}; use one of {', '.join(STREAMS)}.")
    path = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    called = name or path or f"{anatomy.family} ({type(model).__name__})"
    front = front_of(model, anatomy, called, processor=processor)
    return EncoderSubject(called, model, anatomy, front, stream)


def encoder_of(model: LlamaAvsr, stream: str, *, name: str) -> EncoderSubject:
    """The encoder of one stream of an audio-visual LLM, as a subject.

    Raises:
        InputError: if there is no such stream, or the model does not encode it.
    """
    if stream not in STREAMS:
        raise InputError(f"stream is {stream!r}; use one of {', '.join(STREAMS)}.")
    if stream not in model.config.streams:
        raise InputError(
            f"This model has no {stream} encoder; it has one of "
            f"{' and of '.join(model.config.streams)}."
        )
    return encoder_subject(model.encoder(stream), name=name, stream=stream)


def _stream(model: nn.Module, anatomy: Anatomy) -> str:
    reads = getattr(anatomy.row, "reads", "audio")
    return _joined(list(getattr(model, "streams", ())) or [reads])


def _joined(streams: Sequence[str]) -> str:
    """The segment of frames that are made of these streams."""
    return "audiovisual" if len(streams) > 1 else str(streams[0])


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    return batch.to(device) if isinstance(batch, Tensor) else batch
