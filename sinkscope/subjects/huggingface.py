"""Adapter for decoder-only models of transformers: text, token ids or embeddings in.

The model may be wrapped by PEFT, spread over devices, or in bfloat16; it is only read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy, anatomy_of
from sinkscope.subjects.given import (
    check_embeds,
    check_ids,
    check_mask,
    padding_kwargs,
    real_tokens,
)
from sinkscope.subjects.layouts import fit_layouts, numbered_layout, pad_layout, text_layout
from sinkscope.subjects.running import describe_model, evaluating, fewest_logits
from sinkscope.subjects.subject import Announce, ModelInputs
from sinkscope.subjects.tokens import label_tokens, text_ids

__all__ = ["HuggingFaceSubject", "huggingface_subject"]


@dataclass(frozen=True, eq=False)
class HuggingFaceSubject:
    """A decoder-only model of transformers; see ``Subject`` for the attributes and methods."""

    name: str
    model: nn.Module
    anatomy: Anatomy
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
        """One forward for each text, or one for the ids or embeddings that are given.

        Args:
            data: a text (``str``) or several (a list or tuple).
            input_ids: ``(sample, token)`` or ``(token,)``, used as given.
            inputs_embeds: ``(sample, token, feature)`` or ``(token, feature)``, used as given.
            attention_mask: ``(sample, token)``, 1 where there is a token, 0 where there is padding;
                comes with ids or embeddings.
            layout: what every token is; made from the tokenizer by default.
            prepend_bos: whether texts begin with BOS; None leaves it to the tokenizer.

        Raises:
            InputError: not exactly one of text, ids and embeddings; shapes that disagree; a text
                without a tokenizer; BOS from a tokenizer that has none.
        """
        _exactly_one(self.name, text=data, input_ids=input_ids, inputs_embeds=inputs_embeds)
        if data is None:
            yield self._as_given(input_ids, inputs_embeds, attention_mask, layout, prepend_bos)
            return
        if attention_mask is not None:
            raise InputError("attention_mask comes with input_ids or inputs_embeds, not with text.")
        texts = list(data) if isinstance(data, list | tuple) else [data]
        if not texts:
            raise InputError(f"{self.name}: the list of texts is empty; give at least one.")
        given = [layout] if layout is None or isinstance(layout, TokenLayout) else list(layout)
        if layout is not None and len(given) != len(texts):
            raise InputError(f"layout: {len(given)} layouts for {len(texts)} texts; give one each.")
        for i, text in enumerate(texts):
            yield self._of_text(text, given[i] if layout is not None else None, prepend_bos)

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """Run the model in evaluation mode without gradients; its training flags are restored."""
        options = self._uncached() | ({} if logits else fewest_logits(self.model))
        with evaluating(self.model):
            return self.model(**inputs.kwargs, **options)

    def announcing(self, announce: Announce) -> AbstractContextManager[None]:
        """Nothing to announce: a text model's layouts follow from what its decoder receives."""
        return nullcontext()

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """A printable label of each vocabulary entry; its number where there is no tokenizer."""
        return label_tokens(self.tokenizer, ids)

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """The layouts of a forward, from the decoder's ``input_ids`` and ``attention_mask``.

        Raises:
            InputError: if neither ids nor embeddings are there.
        """
        ids, embeds = decoder_kwargs.get("input_ids"), decoder_kwargs.get("inputs_embeds")
        given = ids if ids is not None else embeds
        if given is None:
            raise InputError(f"{self.name}: its decoder got neither input_ids nor inputs_embeds.")
        return self._layouts(ids, real_tokens(given, decoder_kwargs.get("attention_mask")))

    def provenance(self) -> dict[str, Any]:
        """What a reader must know of the model to repeat a run."""
        return {
            "subject": self.name,
            "massive_ratio": self.massive_ratio,
            **describe_model(self.model, self.anatomy),
        }

    @property
    def bos_token_id(self) -> int | None:
        """The id of BOS, by the tokenizer, or by the configuration where there is no tokenizer."""
        if self.tokenizer is not None:
            return self.tokenizer.bos_token_id
        return getattr(self.anatomy.config, "bos_token_id", None)

    def _of_text(
        self, text: Any, layout: TokenLayout | None, prepend_bos: bool | None
    ) -> ModelInputs:
        ids = text_ids(self.tokenizer, text, prepend_bos=prepend_bos, name=self.name)
        given = check_ids([ids], self._embedding()).to(self.device)
        real = np.ones((1, len(ids)), dtype=bool)
        layouts = self._layouts(given, real) if layout is None else fit_layouts(layout, real)
        return ModelInputs({"input_ids": given}, layouts, (None,), ids[0] == self.bos_token_id)

    def _as_given(
        self,
        ids: Tensor | Sequence[Any] | None,
        embeds: Tensor | None,
        attention_mask: Tensor | None,
        layout: TokenLayout | Sequence[TokenLayout] | None,
        prepend_bos: bool | None,
    ) -> ModelInputs:
        if prepend_bos is not None:
            raise InputError(
                f"prepend_bos={prepend_bos} is for text: input_ids and inputs_embeds are used as "
                "given; put BOS there yourself, or leave prepend_bos out."
            )
        if ids is not None:
            given = ids = check_ids(ids, self._embedding())
            kwargs: dict[str, Any] = {"input_ids": given}
        else:
            given = check_embeds(embeds, self._width()).to(self.dtype)
            kwargs = {"inputs_embeds": given}
        mask = check_mask(attention_mask, given)
        real = real_tokens(given, mask)
        layouts = self._layouts(ids, real) if layout is None else fit_layouts(layout, real)
        kwargs = {
            name: value.to(self.device) for name, value in (kwargs | padding_kwargs(mask)).items()
        }
        return ModelInputs(kwargs, layouts, (None,) * len(layouts), "as given")

    def _layouts(
        self, ids: Tensor | None, real: Bool[np.ndarray, "sample token"]
    ) -> tuple[TokenLayout, ...]:
        if ids is None:
            return tuple(pad_layout(numbered_layout(int(row.sum())), row) for row in real)
        layouts = []
        for row, mask in zip(ids.detach().cpu().numpy(), real, strict=True):
            own = row[mask].tolist()
            layout = text_layout(own, self.label_tokens(own), bos=self.bos_token_id)
            layouts.append(pad_layout(layout, mask))
        return tuple(layouts)

    def _uncached(self) -> dict[str, bool]:
        """What keeps a model of transformers from filling a cache that nobody reads."""
        return {"use_cache": False} if hasattr(self.anatomy.config, "use_cache") else {}

    def _embedding(self) -> nn.Module | None:
        find = getattr(self.anatomy.decoder, "get_input_embeddings", None)
        return find() if find else None

    def _width(self) -> int:
        return int(getattr(self._embedding(), "embedding_dim", self.anatomy.d_model))

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in: the dtype of its first weight that holds fractions."""
        return next(
            weight.dtype for weight in self.model.parameters() if weight.is_floating_point()
        )

    @property
    def device(self) -> torch.device:
        """Where the input goes: to the embedding, or to the CPU if that is offloaded."""
        source = self._embedding() or self.model
        device = next(source.parameters()).device
        return torch.device("cpu") if device.type == "meta" else device


def huggingface_subject(
    model: nn.Module,
    *,
    tokenizer: Any | None = None,
    name: str | None = None,
    massive_ratio: float | None = None,
) -> HuggingFaceSubject:
    """A subject of a loaded model.

    Args:
        model: a decoder-only model of transformers, also wrapped by PEFT, or one whose family was
            registered.
        tokenizer: its tokenizer; without one it takes ids and embeddings only.
        name: what tables and figures call it; where it was loaded from by default.
        massive_ratio: its own ratio for massive activations.

    Raises:
        UnknownFamilyError: if its family is not in the anatomy table.
        InputError: if a PEFT wrapper adds virtual tokens, which no layout could cover.
    """
    _refuse_virtual_tokens(model)
    anatomy = anatomy_of(model)
    path = getattr(anatomy.config, "_name_or_path", "")
    return HuggingFaceSubject(
        name or path or f"{anatomy.family} ({type(model).__name__})",
        model,
        anatomy,
        tokenizer,
        massive_ratio,
    )


def _exactly_one(name: str, **given: Any) -> None:
    found = [key for key, value in given.items() if value is not None]
    if len(found) != 1:
        raise InputError(
            f"{name}: give one of {', '.join(given)}; got {' and '.join(found) or 'none of them'}."
        )


def _refuse_virtual_tokens(model: nn.Module) -> None:
    for config in (getattr(model, "peft_config", None) or {}).values():
        if getattr(config, "is_prompt_learning", False):
            raise InputError(
                f"The PEFT wrapper adds virtual tokens ({config.peft_type}), which no layout "
                "covers; hand over the base model, and inputs_embeds that hold them."
            )
