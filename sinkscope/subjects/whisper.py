"""Whisper as a subject: its decoder, which writes down what the encoder heard.

The decoder's tokens are the start token (BOS), the prompt that names language and task, and the
response. Three things are added to its stream in a block: ``attn_out`` of the tokens, ``cross_out``
of the encoder's frames, and ``mlp_out``; ``resid_mid`` is what the MLP reads, after both.
``subject.cross_attention()`` studies how tokens attend to frames, ``subject.encoder("audio")`` the
encoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from sinkscope.avsr.clip import Clip
from sinkscope.errors import InputError, UnknownFamilyError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.clip_layouts import summarise
from sinkscope.subjects.cross_attention import CrossSubject, cross_subject
from sinkscope.subjects.encoders import EncoderSubject, encoder_subject
from sinkscope.subjects.family import Family
from sinkscope.subjects.fronts import WhisperFront
from sinkscope.subjects.given import check_ids, check_mask, real_tokens
from sinkscope.subjects.layouts import fit_layouts, pad_layout
from sinkscope.subjects.running import describe_model, evaluating
from sinkscope.subjects.subject import Announce, ModelInputs
from sinkscope.subjects.tokens import label_tokens
from sinkscope.subjects.whisper_tokens import default_prompt, response_layout, special_ids

__all__ = ["WhisperSubject", "whisper_subject"]

_ROW = Family(
    "whisper_decoder",
    blocks="layers",
    resid_mid="final_layer_norm",
    mlp_out="fc2",
    gate=None,
    up=None,
    down="fc2",
    builtin=True,
    cross_out="encoder_attn",
    also="adds what cross-attention reads of the encoder's frames (cross_out)",
)


@dataclass(frozen=True, eq=False)
class WhisperSubject:
    """A Whisper model; see ``Subject`` for what is not explained here.

    Attributes:
        prompt: the ids with which its decoder begins on a clip: the start token, and what names
            language and task.
        extractor: what makes log-mel bands of a clip; as published where None.
    """

    name: str
    model: Any
    anatomy: Anatomy
    prompt: tuple[int, ...]
    tokenizer: Any | None = None
    extractor: Any | None = None
    massive_ratio: float | None = None

    def with_options(self, *, prompt: Sequence[int]) -> "WhisperSubject":
        """The same model that begins with another prompt.

        Raises:
            InputError: ids outside the vocabulary, or none.
        """
        ids = check_ids([list(prompt)], self.model.get_input_embeddings())
        return replace(self, prompt=tuple(ids[0].tolist()))

    def encoder(self, stream: str = "audio") -> EncoderSubject:
        """The encoder, as a subject of its own.

        Raises:
            InputError: for anything but ``"audio"``.
        """
        if stream != "audio":
            raise InputError(f"{self.name} has no {stream} encoder; it has one of audio.")
        return encoder_subject(self.model.get_encoder(), name=f"{self.name} audio encoder")

    def cross_attention(self) -> CrossSubject:
        """How the decoder's tokens attend to the encoder's frames, as a subject of its own."""
        return cross_subject(self)

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
        """One forward for each clip, or for what the processor made.

        Args:
            data: a clip or several; or a mapping with ``input_features``, and
                ``decoder_input_ids`` where they are not given apart.
            input_ids: the decoder's tokens ``(sample, token)`` or ``(token,)``, the same for every
                clip; the prompt by default.
            inputs_embeds: none.
            attention_mask: for ``input_ids`` that come with a mapping.
            layout: in place of the one that follows from the ids.
            prepend_bos: none; the prompt begins with the start token.

        Raises:
            InputError: anything else; a clip without sound.
        """
        if inputs_embeds is not None or prepend_bos is not None:
            raise InputError(
                f"{self.name} takes a clip and its decoder's input_ids, not inputs_embeds or "
                "prepend_bos."
            )
        if isinstance(data, Mapping):
            yield self._of_mapping(data, input_ids, attention_mask, layout)
            return
        clips = list(data) if isinstance(data, list | tuple) else [data]
        if not clips or not all(isinstance(clip, Clip) for clip in clips):
            raise InputError(
                f"{self.name} reads clips, not {type(data).__name__}; give a clip or several, or "
                "what its processor returns."
            )
        for clip in clips:
            features, _ = self._front.prepare([clip])
            made = self._of_mapping({"input_features": features}, input_ids, attention_mask, layout)
            yield replace(made, clips=(summarise(clip),))

    def forward(self, inputs: ModelInputs, *, logits: bool = True) -> Any:
        """Run the model in evaluation mode without gradients; its training flags are restored."""
        with evaluating(self.model):
            return self.model(**inputs.kwargs, use_cache=False)

    @contextmanager
    def announcing(self, announce: Announce) -> Iterator[None]:
        """Nothing to announce: the layout follows from what the decoder receives.

        While open, ``generate`` may not guess the language: its forward for that would be taken
        for a sample.
        """
        own = vars(self.model)
        before = own.get("detect_language")

        def refuse(*_: Any, **__: Any) -> None:
            raise InputError(
                f"{self.name}: generate was not told the language, and its forward that guesses it "
                "would be recorded as a sample; give language=, such as language='en'."
            )

        own["detect_language"] = refuse
        try:
            yield
        finally:
            own.pop("detect_language", None)
            if before is not None:
                own["detect_language"] = before

    def label_tokens(self, ids: Sequence[int]) -> list[str]:
        """A printable label of each vocabulary entry; its number where there is no tokenizer."""
        return label_tokens(self.tokenizer, ids)

    def layout_of(self, decoder_kwargs: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
        """The layouts of a forward, from the decoder's ``input_ids`` and ``attention_mask``.

        Raises:
            InputError: if there are no ids.
        """
        ids = decoder_kwargs.get("input_ids")
        if not isinstance(ids, Tensor):
            raise InputError(f"{self.name}: its decoder got no input_ids, which tell its layout.")
        return self._layouts(ids, decoder_kwargs.get("attention_mask"))

    def provenance(self) -> dict[str, Any]:
        """What a reader must know of the model to repeat a run."""
        return {
            "subject": self.name,
            "massive_ratio": self.massive_ratio,
            "prompt": list(self.prompt),
            **describe_model(self.model, self.anatomy),
        }

    @cached_property
    def _front(self) -> WhisperFront:
        return WhisperFront(self.model.get_encoder(), self.extractor)

    def _of_mapping(
        self,
        data: Mapping[str, Any],
        input_ids: Any,
        attention_mask: Tensor | None,
        layout: TokenLayout | Sequence[TokenLayout] | None,
    ) -> ModelInputs:
        weight = next(self.model.parameters())
        features = data.get("input_features")
        if not isinstance(features, Tensor):
            raise InputError(
                f"{self.name} got no input_features; give what its feature extractor returns with "
                "return_tensors='pt'."
            )
        ids = data.get("decoder_input_ids") if input_ids is None else input_ids
        ids = check_ids([list(self.prompt)] if ids is None else ids, self._embedding)
        if len(ids) == 1:
            ids = ids.expand(len(features), -1)
        if len(ids) != len(features):
            raise InputError(f"{self.name}: {len(ids)} rows of ids for {len(features)} sounds.")
        given = data.get("decoder_attention_mask") if attention_mask is None else attention_mask
        mask = check_mask(given, ids)
        real = real_tokens(ids, mask)
        layouts = self._layouts(ids, mask) if layout is None else fit_layouts(layout, real)
        kwargs = {
            "input_features": features.to(weight),
            "decoder_input_ids": ids.to(weight.device),
        }
        if mask is not None:
            kwargs["decoder_attention_mask"] = mask.to(weight.device)
        return ModelInputs(kwargs, layouts, (None,) * len(layouts), prepend_bos="as given")

    @property
    def _embedding(self) -> nn.Module:
        return self.anatomy.decoder.get_input_embeddings()  # pyright: ignore

    def _layouts(self, ids: Tensor, mask: Any) -> tuple[TokenLayout, ...]:
        special = special_ids(self.model, self.tokenizer)
        layouts = []
        for row, real in zip(ids.cpu().numpy(), real_tokens(ids, mask), strict=True):
            own = row[real].tolist()
            layout = response_layout(own, self.label_tokens(own), special=special)
            layouts.append(pad_layout(layout, real))
        return tuple(layouts)


def whisper_subject(
    model: Any,
    *,
    tokenizer: Any | None = None,
    processor: Any | None = None,
    name: str | None = None,
) -> WhisperSubject:
    """A subject of a loaded Whisper model.

    Args:
        model: ``WhisperForConditionalGeneration`` or ``WhisperModel``.
        tokenizer: its tokenizer, for labels and for what is a prompt's.
        processor: its processor or feature extractor.
        name: what tables and figures call it.

    Raises:
        UnknownFamilyError: if its blocks run other code than transformers'.
    """
    decoder = model.get_decoder()
    code = type(decoder.layers[0]).forward.__module__
    if not code.startswith("transformers.models.whisper."):
        raise UnknownFamilyError(
            f"{type(model).__name__}: its decoder's blocks run code of {code!r}, not Whisper's of "
            "transformers."
        )
    config = decoder.config
    heads, width = int(config.decoder_attention_heads), int(config.d_model)
    anatomy = Anatomy(
        _ROW.model_type,
        n_layers=len(decoder.layers),
        n_heads=heads,
        n_kv_heads=heads,
        d_model=width,
        d_head=width // heads,
        decoder=decoder,
        blocks=tuple(decoder.layers),
        attention=tuple(block.self_attn for block in decoder.layers),
        row=_ROW,
    )
    words = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
    return WhisperSubject(
        name
        or str(getattr(config, "_name_or_path", "") or "")
        or f"whisper ({type(model).__name__})",
        model,
        anatomy,
        default_prompt(model, words),
        words,
        getattr(processor, "feature_extractor", processor),
    )
