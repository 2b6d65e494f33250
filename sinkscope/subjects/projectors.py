"""Projectors as subjects: what happens to an encoder's frames before the LLM receives them.

A projector is one block without attention; its tokens are those of the LLM, with the same labels
and seconds. ``resid_pre`` is what enters it (compressed frames), ``mlp_act`` its hidden layer after
the activation function, ``resid_post`` what the LLM receives in place of embeddings::

    ss.record(subject.projector("audio"), clip, keep=["resid_pre", "mlp_act", "resid_post"])
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.inputs import token_times
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.streams import chosen_rate
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.clip_layouts import LABELS, describe, summarise
from sinkscope.subjects.encoder_anatomy import projector_anatomy
from sinkscope.subjects.encoder_given import only_clips
from sinkscope.subjects.encoders import EncoderSubject
from sinkscope.subjects.layouts import pad_layout
from sinkscope.subjects.running import describe_model, evaluating
from sinkscope.subjects.subject import Announce, ModelInputs

__all__ = ["ProjectorSubject", "projector_of"]


@dataclass(frozen=True, eq=False)
class ProjectorSubject:
    """A projector; see ``Subject`` for what is not explained here.

    Attributes:
        whole: the audio-visual LLM that it is a part of.
        encoder: what makes its frames.
        rate: frames that become one token.
    """

    name: str
    model: nn.Module
    anatomy: Anatomy
    whole: LlamaAvsr
    encoder: EncoderSubject
    rate: int
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
        """One forward for each clip, whose frames the encoder makes first.

        Raises:
            InputError: anything but clips; a clip that lacks the stream or is too short.
        """
        others = (input_ids, inputs_embeds, attention_mask, layout, prepend_bos)
        for clip in only_clips(self.name, data, others):
            encoded = next(self.encoder.batches(clip))
            frames, lengths = self.encoder.forward(encoded), encoded.kwargs["lengths"]
            own = self._layout(clip, positions=frames.shape[1], frames=int(lengths[0]))
            kwargs = {"frames": frames, "lengths": lengths}
            yield ModelInputs(kwargs, (own,), (summarise(clip),), prepend_bos=False)

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """Compress and project the frames; there are no logits."""
        with evaluating(self.whole):
            return self.whole.project(self.encoder.stream, **inputs.kwargs, rate=self.rate)

    def announcing(self, announce: Announce) -> AbstractContextManager[None]:
        """Nothing to announce: what nobody named has labels, and seconds from 0."""
        return nullcontext()

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """There is no vocabulary: the numbers themselves."""
        return [str(int(i)) for i in ids]

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """The layouts of a forward whose clips nobody named: nothing is known to be padding."""
        given = next((x for x in decoder_kwargs.values() if isinstance(x, Tensor)), None)
        if given is None:
            raise InputError(f"{self.name} was called without a tensor; give it frames.")
        return tuple(self._tokens(int(given.shape[1])) for _ in given)

    def provenance(self) -> dict[str, Any]:
        """What a reader must know of the model to repeat a run."""
        return {
            "subject": self.name,
            "massive_ratio": self.massive_ratio,
            "stream": self.encoder.stream,
            "frame_rate": float(self.encoder.front.frame_rate) / self.rate,
            "encoder": self.encoder.provenance()["model_hash"],
            **describe_model(self.model, self.anatomy),
        }

    def _layout(self, clip: Clip, *, positions: int, frames: int) -> TokenLayout:
        """The tokens of a clip, and padding after them."""
        count = min(frames, positions) // self.rate
        if count < 1:
            raise InputError(
                f"{clip.name} has {frames} {self.encoder.stream} frames, less than one token at "
                f"rate {self.rate}; use a longer clip or a smaller rate."
            )
        plain = self._tokens(count)
        described = describe(clip, plain.seconds)
        layout = TokenLayout.of(
            plain.segments, plain.labels, seconds=plain.seconds, descriptors=described
        )
        return pad_layout(layout, np.arange(positions // self.rate) < count)

    def _tokens(self, count: int) -> TokenLayout:
        stream = self.encoder.stream
        return TokenLayout.of(
            [stream] * count,
            [f"{LABELS[stream]}{i}" for i in range(count)],
            seconds=token_times(count, rate=self.rate, frame_rate=self.encoder.front.frame_rate),
        )


def projector_of(
    model: LlamaAvsr, encoder: EncoderSubject, *, rate: int | None, name: str
) -> ProjectorSubject:
    """The projector behind an encoder of an audio-visual LLM, as a subject.

    Args:
        model: the audio-visual LLM.
        encoder: one of its encoders.
        rate: frames that become one token; None for the model's default.
        name: what tables and figures call it.

    Raises:
        InputError: if the model does not take that rate.
    """
    chosen = chosen_rate(encoder.stream, rate, model.config)
    projector = model.projector(encoder.stream, rate=chosen)
    return ProjectorSubject(name, projector, projector_anatomy(projector), model, encoder, chosen)
