"""The encoder inside a composite as a subject: its frames, with the seconds and patches they cover.

The composite runs as a whole, and what its encoder is called with says what the frames are. An
encoder has no BOS, so its first frame is the reference.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import nn

from sinkscope.errors import InputError
from sinkscope.glossary import APPENDED
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.encoder_anatomy import encoder_anatomy
from sinkscope.subjects.encoder_layouts import frame_mask
from sinkscope.subjects.finding import submodule
from sinkscope.subjects.layouts import pad_layout
from sinkscope.subjects.multimodal.calls import arguments, following, given_by_subject
from sinkscope.subjects.multimodal.layouts import DESCRIPTORS, LETTERS
from sinkscope.subjects.multimodal.table import Composite, Given, Stream, StreamTokens
from sinkscope.subjects.running import describe_model
from sinkscope.subjects.subject import Announce, ModelInputs

__all__ = ["PartSubject", "Whole", "part_of"]


@runtime_checkable
class Whole(Protocol):
    """The subject that an encoder is a part of."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def model(self) -> nn.Module: ...  # noqa: D102
    @property
    def module(self) -> nn.Module: ...  # noqa: D102
    @property
    def composite(self) -> Composite: ...  # noqa: D102
    @property
    def processor(self) -> Any | None: ...  # noqa: D102

    @property
    def batches(self) -> Callable[..., Iterator[ModelInputs]]:
        """As of any subject."""
        ...

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """As of any subject."""
        ...


@dataclass(frozen=True, eq=False)
class PartSubject:
    """The encoder of a composite; see ``Subject`` for what is not explained here.

    Attributes:
        whole: the composite's subject.
        stream: which of its streams the encoder reads.
        row: what the family's row says of the stream.
    """

    name: str
    whole: Whole
    anatomy: Anatomy
    stream: str
    row: Stream
    tokenizer: Any | None = None
    massive_ratio: float | None = None

    @property
    def model(self) -> nn.Module:
        """The whole composite, which is what runs."""
        return self.whole.model

    def batches(self, data: Any = None, **given: Any) -> Iterator[ModelInputs]:
        """The forwards of the whole composite.

        Raises:
            InputError: as of the whole; or the data has nothing for this encoder.
        """
        for inputs in self.whole.batches(data, **given):
            if self.row.features not in inputs.kwargs:
                raise InputError(
                    f"{self.name}: the input has no {self.row.features}, so the encoder would not "
                    f"run; give {self.stream}."
                )
            yield replace(inputs, layouts=(), clips=(), prepend_bos=False)

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """Run the whole composite."""
        return self.whole.forward(inputs, logits=logits)

    @contextmanager
    def announcing(self, announce: Announce) -> Iterator[None]:
        """While open, every forward of the encoder is announced before its blocks run."""
        module, encoder = self.whole.module, self.anatomy.decoder
        processor = self.whole.processor
        now: dict[str, Any] = {}
        with following(module) as following_inputs, ExitStack() as stack:

            def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                now.clear()
                now.update(following_inputs(arguments(module, args, kwargs)))

            def before(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                own = given_by_subject(module)
                known = dict(own.known) if own is not None else {}
                given = Given(now | following_inputs({}) | known, module.config, processor)
                self._refuse_another(given)
                announce(self._layouts(arguments(encoder, args, kwargs), given), ())

            def forget(*_: Any) -> None:
                now.clear()

            for hook in (
                module.register_forward_pre_hook(remember, with_kwargs=True),
                module.register_forward_hook(forget, always_call=True),
                encoder.register_forward_pre_hook(before, with_kwargs=True),
            ):
                stack.callback(hook.remove)
            yield

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """There is no vocabulary: the numbers themselves."""
        return [str(int(i)) for i in ids]

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """The layouts of a forward that the composite did not make.

        Raises:
            InputError: if only the composite's own arguments would tell them.
        """
        given = Given({}, self.whole.module.config, self.whole.processor)
        return self._layouts(decoder_kwargs, given)

    def provenance(self) -> dict[str, Any]:
        """What a reader must know of the model to repeat a run."""
        return {
            "subject": self.name,
            "massive_ratio": self.massive_ratio,
            "composite": self.whole.composite.model_type,
            "stream": self.stream,
            **describe_model(self.model, self.anatomy),
        }

    def _refuse_another(self, given: Given) -> None:
        """Refuse to take the frames of another stream that runs through the same encoder.

        Raises:
            InputError: if the encoder reads several streams and the forward does not bring this.
        """
        streams = self.whole.composite.streams
        sharing = [name for name, one in streams.items() if one.encoder == self.row.encoder]
        if len(sharing) > 1 and not given.brings(self.stream, self.row.features):
            raise InputError(
                f"{self.name}: its encoder reads {' and '.join(sharing)}, and it ran without "
                f"{self.row.features}; call the whole model with {self.stream}, or leave the "
                "probe for this call."
            )

    def _layouts(self, called: Mapping[str, Any], given: Given) -> tuple[TokenLayout, ...]:
        if self.row.frames is None:
            raise InputError(f"{self.name}: what its frames are is not known.")
        frames = self.row.frames(called, given)
        told = [name for name in DESCRIPTORS if any(_tells(getattr(one, name)) for one in frames)]
        layouts = [_layout(self.stream, tokens, told) for tokens in frames]
        mask = frame_mask(self.anatomy, called)
        if mask is None:
            return tuple(layouts)
        real = mask.cpu().numpy()
        if [len(one) for one in layouts] != real.sum(1).tolist():
            raise InputError(
                f"{self.name}: its frames are {[len(one) for one in layouts]} by the forward's "
                f"arguments, but {real.sum(1).tolist()} by the mask that it got; give what the "
                "model's own processor made."
            )
        return tuple(pad_layout(one, row) for one, row in zip(layouts, real, strict=True))


def part_of(whole: Whole, stream: str) -> PartSubject:
    """The encoder of one stream of a composite, as a subject.

    Raises:
        InputError: if the family has no such stream, no encoder of it, or its frames are unknown.
        UnknownFamilyError: if the encoder's class is not in the table.
    """
    row = whole.composite.streams.get(stream)
    if row is None or not row.encoder or row.frames is None:
        known = [name for name, one in whole.composite.streams.items() if one.frames is not None]
        raise InputError(
            f"{whole.name} has no {stream} encoder that can be studied alone; it has "
            f"{', '.join(known) or 'none'}."
        )
    bare = row.encoder.removeprefix("model.")
    encoder = submodule(whole.module, row.encoder) or submodule(whole.module, bare)
    if encoder is None:
        raise InputError(f"{whole.name} was loaded without its {stream} encoder ({row.encoder}).")
    return PartSubject(
        f"{whole.name} {stream} encoder", whole, encoder_anatomy(encoder), stream, row
    )


def _tells(values: np.ndarray | None) -> bool:
    """Whether a descriptor is known of some frame."""
    return values is not None and not np.isnan(values.astype(float)).all()


def _layout(stream: str, tokens: StreamTokens, told: Sequence[str]) -> TokenLayout:
    """The layout of a sample with the descriptors that are told of some sample.

    Frames of sound without seconds come after the sound's end.
    """
    silent = np.isnan(tokens.seconds[:, 0]) if stream == "audio" else np.zeros(len(tokens), bool)
    values = {name: getattr(tokens, name) for name in told}
    return TokenLayout.of(
        [APPENDED if appended else stream for appended in silent],
        [f"{LETTERS[stream]}{i}" for i in range(len(tokens))],
        seconds=tokens.seconds,
        descriptors={
            name: np.full(len(tokens), np.nan) if own is None else own.astype(float)
            for name, own in values.items()
        },
    )
