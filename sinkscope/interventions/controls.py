"""The controls of the input: which there are, and what each needs. Depends on changes and subjects.

To add one, write a function of a sample and give it a row in ``CONTROLS``, or hand a row of your
own to ``input_controls``.

Example:
    >>> sorted(name for name, control in CONTROLS.items() if "text" in control.kinds)
    ['no_bos', 'random_tokens', 'repeated_after_bos', 'repeated_token']
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.streams import ORDER
from sinkscope.errors import InputError
from sinkscope.interventions import changes
from sinkscope.layout import TokenLayout

__all__ = ["CONTROLS", "Control", "Input", "Surroundings"]

_BOTH = "audiovisual"
_PROJECTED = (*ORDER, _BOTH)


@dataclass(frozen=True, eq=False)
class Input:
    """One input, and all of it that a control may change: a clip, token ids or embeddings.

    Attributes:
        subject: the model, with its choices of streams and rates.
        layout: what the tokens are, as long as nothing was changed; of ``embeds``, too.
        clip: None for text.
        ids: token ids of a text, BOS among them; None for a clip.
        embeds: what the language model reads instead of either.
        prepend_bos: whether a clip's tokens begin with BOS; None as the model does.
    """

    subject: Any
    layout: TokenLayout
    clip: Clip | None = None
    ids: tuple[int, ...] | None = None
    embeds: Float[Tensor, "token feature"] | None = None
    prepend_bos: bool | None = None

    @property
    def kind(self) -> Literal["clip", "text"]:
        """What it is made of."""
        return "text" if self.clip is None else "clip"

    def arguments(self) -> dict[str, Any]:
        """What ``record`` is given, beside the subject."""
        if self.embeds is not None:
            return {"inputs_embeds": self.embeds, "layout": self.layout}
        if self.ids is not None:
            return {"input_ids": [list(self.ids)]}
        return {"data": self.clip, "prepend_bos": self.prepend_bos}


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a control may look at beside its sample.

    Attributes:
        others: the other clips, the next one first.
        rng: of the draws.
    """

    others: Sequence[Clip]
    rng: np.random.Generator


@dataclass(frozen=True)
class Control:
    """A way to change an input.

    Attributes:
        words: how a sentence calls it.
        kinds: the inputs that it makes sense for, of ``"clip"`` and ``"text"``.
        change: from a sample to the changed one; an InputError says why there is none.
    """

    words: str
    kinds: tuple[str, ...]
    change: Callable[[Input, Surroundings], Input]


def _silence(sample: Input, around: Surroundings) -> Input:
    _refuse_unread(sample, "audio")
    return replace(sample, clip=changes.silence(_clip(sample)))


def _frozen_frame(sample: Input, around: Surroundings) -> Input:
    _refuse_unread(sample, "video")
    return replace(sample, clip=changes.frozen_frame(_clip(sample)))


def _other_picture(sample: Input, around: Surroundings) -> Input:
    """The next picture that is long enough, else the longest."""
    _refuse_unread(sample, "audio", "video")
    clip = _clip(sample)
    found = [other for other in around.others if _is_other_picture(clip, other)]
    if not found:
        raise InputError("no other clip has another picture.")
    wanted = 0 if clip.frames is None else len(clip.frames)
    return replace(
        sample,
        clip=changes.other_picture(clip, max(found, key=lambda one: min(_frames(one), wanted))),
    )


def _swapped_order(sample: Input, around: Surroundings) -> Input:
    _refuse_unread(sample, *ORDER)
    if _BOTH in sample.layout.segments:
        raise InputError("sound and picture are one sequence here, which has no order.")
    if not hasattr(sample.subject, "with_options"):
        raise InputError("this model reads one stream, which has no order.")
    order = tuple(reversed(sample.subject.stream_order or ORDER))
    return replace(sample, subject=sample.subject.with_options(stream_order=order))


def _no_bos(sample: Input, around: Surroundings) -> Input:
    _refuse_no_bos(sample)
    if sample.ids is None:
        return replace(sample, prepend_bos=False)
    return replace(sample, ids=changes.without(sample.ids, sample.layout.reference))


def _repeated(sample: Input, keep: int) -> Input:
    if sample.ids is None:
        return _repeated_feature(sample, keep)
    return replace(sample, ids=changes.repeated(sample.ids, keep=keep))


def _repeated_token(sample: Input, around: Surroundings) -> Input:
    return _repeated(sample, 0)


def _repeated_after_bos(sample: Input, around: Surroundings) -> Input:
    _refuse_no_bos(sample)
    return _repeated(sample, sample.layout.reference + 1)


def _random_tokens(sample: Input, around: Surroundings) -> Input:
    keep = sample.layout.reference + 1 if sample.layout.has_bos else 0
    words = _vocabulary(sample.subject)
    return replace(
        sample, ids=changes.random_tokens(sample.ids or (), words, around.rng, keep=keep)
    )


CONTROLS: dict[str, Control] = {
    "silence": Control("silence for the sound", ("clip",), _silence),
    "frozen_frame": Control("the middle picture throughout", ("clip",), _frozen_frame),
    "other_picture": Control("the picture of another clip", ("clip",), _other_picture),
    "swapped_order": Control("sound and picture in the other order", ("clip",), _swapped_order),
    "no_bos": Control("without BOS", ("clip", "text"), _no_bos),
    "repeated_token": Control("one token repeated", ("clip", "text"), _repeated_token),
    "repeated_after_bos": Control(
        "one token repeated after BOS", ("clip", "text"), _repeated_after_bos
    ),
    "random_tokens": Control("random tokens", ("text",), _random_tokens),
}
"""Every control by its name. The repeated token of a clip is its first projected one."""


def _repeated_feature(sample: Input, keep: int) -> Input:
    """The first projected token in the place of every token, through the embeddings."""
    inputs = next(iter(sample.subject.batches(sample.clip, prepend_bos=sample.prepend_bos)))
    prepared = inputs.kwargs.get("inputs")
    if prepared is None:
        raise InputError("this model reads frames, not tokens of a language model.")
    embeds, old = prepared.inputs_embeds[0].detach(), sample.layout
    place = next(i for i, segment in enumerate(old.segments) if segment in _PROJECTED)
    embeds = embeds.clone()
    embeds[keep:] = embeds[place].clone()
    layout = TokenLayout.of(
        (*old.segments[:keep], *[old.segments[place]] * (len(old) - keep)),
        (*old.labels[:keep], *[old.labels[place]] * (len(old) - keep)),
    )
    return replace(sample, embeds=embeds, layout=layout)


def _clip(sample: Input) -> Clip:
    if sample.clip is None:
        raise InputError("this is a text, not a clip.")
    return sample.clip


def _refuse_unread(sample: Input, *streams: str) -> None:
    """Refuse what would change nothing, because no token is made of it."""
    names = {"audio": "sound", "video": "picture"}
    for stream in streams:
        if not {stream, _BOTH} & set(sample.layout.segments):
            raise InputError(f"no token is made of {names[stream]} here.")


def _refuse_no_bos(sample: Input) -> None:
    if not sample.layout.has_bos:
        raise InputError("there is no BOS to begin with.")


def _frames(clip: Clip) -> int:
    return 0 if clip.frames is None else len(clip.frames)


def _is_other_picture(clip: Clip, other: Clip) -> bool:
    if clip.frames is None or other.frames is None:
        return False
    return not np.array_equal(clip.frames, other.frames)


def _vocabulary(subject: Any) -> list[int]:
    """The entries that are no special token, by the tokenizer or else by the configuration."""
    rows = subject.anatomy.decoder.get_input_embeddings().num_embeddings
    tokenizer, config = subject.tokenizer, subject.anatomy.config
    if tokenizer is not None:
        special, rows = set(tokenizer.all_special_ids), min(rows, len(tokenizer))
    else:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        given = [getattr(config, name, None) for name in names]  # EOS may be several
        special = {i for one in given for i in (one if isinstance(one, list | tuple) else [one])}
    return [index for index in range(rows) if index not in special]
