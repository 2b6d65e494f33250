"""Llama-AVSR (arXiv 2409.12319): encoders, compression, projectors and a language model.

Example:
    >>> model = LlamaAvsr.from_pretrained("tiny-avsr-folder")       # doctest: +SKIP
    >>> model.transcribe([clip])                                    # doctest: +SKIP
    ['bin blue at f two now']
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sinkscope.avsr.checkpoint import WEIGHTS, load_weights, read_weights, write_weights
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, EncoderConfig
from sinkscope.avsr.encoders import Encoder, build_encoder
from sinkscope.avsr.lora import attach_lora
from sinkscope.avsr.projector import Projector, compress_average, compress_stack
from sinkscope.avsr.sequence import Inputs, Part, Span, join_parts
from sinkscope.avsr.tokens import PROMPTS, added_ids, text_ids
from sinkscope.errors import CheckpointError, InputError

__all__ = ["Features", "Inputs", "LlamaAvsr", "Span"]

STREAMS = {"audio": ("audio",), "video": ("video",), "audiovisual": ("audio", "video")}


@dataclass(frozen=True)
class Features:
    """What the encoders make of one clip, before compression; None where a stream is left out."""

    name: str
    audio: Float[Tensor, "frame width"] | None = None
    video: Float[Tensor, "frame width"] | None = None

    @property
    def modality(self) -> str:
        """The streams that are there, as the prompts name them."""
        if self.audio is not None and self.video is not None:
            return "audiovisual"
        return "audio" if self.audio is not None else "video"


class LlamaAvsr(nn.Module):
    """An audio-visual LLM.

    Args:
        config: what to build.
        tokenizer: with BOS, EOS, padding and the four delimiters.
    """

    def __init__(self, config: AvsrConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.ids = added_ids(tokenizer)
        self.llm = LlamaForCausalLM(LlamaConfig(**config.llm))
        self.audio_encoder, self.audio_projector = self._stream("audio", config.audio_encoder)
        self.video_encoder, self.video_projector = self._stream("video", config.video_encoder)
        if config.lora is not None:
            attach_lora(self.llm, config.lora)

    def encode(self, clips: Sequence[Clip], *, modality: str | None = None) -> list[Features]:
        """What the encoders make of the clips.

        Args:
            clips: at least one.
            modality: ``"audio"``, ``"video"`` or ``"audiovisual"``; None for what the clips have,
                which must then be the same for all.

        Raises:
            InputError: a stream is missing in a clip or in the model, or the clips differ.
        """
        if not clips:
            raise InputError("LlamaAvsr: there is no clip; give at least one.")
        streams = STREAMS[self._modality(clips, modality)]
        encoded: dict[str, list[Tensor]] = {}
        for stream in streams:
            encoder = self._encoder(stream)
            batch, lengths = encoder.prepare(clips)
            device = next(encoder.parameters()).device
            frames = encoder(batch.to(device), lengths.to(device))
            pairs = zip(frames, lengths.tolist(), strict=True)
            encoded[stream] = [row[:length] for row, length in pairs]
        return [
            Features(clip.name, **{stream: encoded[stream][row] for stream in streams})
            for row, clip in enumerate(clips)
        ]

    def assemble(
        self,
        features: Sequence[Features],
        *,
        audio_rate: int | None = None,
        video_rate: int | None = None,
        texts: Sequence[str] | None = None,
        prepend_bos: bool = True,
        padding_side: Literal["left", "right"] = "right",
    ) -> Inputs:
        """The language model's input, from features.

        Args:
            features: one a sample.
            audio_rate: feature frames that become one audio token; None for the default.
            video_rate: the same for video.
            texts: what is said, as transcript and labels; None where the model shall find out.
            prepend_bos: whether samples begin with BOS.
            padding_side: where shorter samples are padded.

        Raises:
            InputError: a clip is too short for one token, a rate is impossible, or a word unknown.
        """
        rates = {"audio": audio_rate, "video": video_rate}
        tokens = {
            stream: self._tokens(stream, features, rates[stream])
            for stream in STREAMS[features[0].modality]
        }
        samples = []
        for row, sample in enumerate(features):
            parts = [self._words("bos", [self.ids["bos"]])] if prepend_bos else []
            for stream, streams in tokens.items():
                parts += [
                    self._words(f"{stream}_open", [self.ids[f"{stream}_open"]]),
                    streams[row],
                    self._words(f"{stream}_close", [self.ids[f"{stream}_close"]]),
                ]
            parts.append(self._words("prompt", text_ids(self.tokenizer, PROMPTS[sample.modality])))
            if texts is not None:
                parts.append(self._words("transcript", text_ids(self.tokenizer, texts[row])))
                parts.append(self._words("eos", [self.ids["eos"]]))
            samples.append(parts)
        return join_parts(
            samples,
            padding_id=self.ids["padding"],
            padding_side=padding_side,
            with_labels=texts is not None,
        )

    def prepare(
        self,
        clips: Sequence[Clip],
        *,
        modality: str | None = None,
        audio_rate: int | None = None,
        video_rate: int | None = None,
        texts: Sequence[str] | None = None,
        prepend_bos: bool = True,
        padding_side: Literal["left", "right"] = "right",
    ) -> Inputs:
        """The language model's input, from clips: `encode`, then `assemble`."""
        return self.assemble(
            self.encode(clips, modality=modality),
            audio_rate=audio_rate,
            video_rate=video_rate,
            texts=texts,
            prepend_bos=prepend_bos,
            padding_side=padding_side,
        )

    def forward(self, inputs: Inputs, **options: Any) -> Any:
        """The language model's output; with a loss where the inputs carry labels."""
        return self.llm(
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=None if bool(inputs.attention_mask.all()) else inputs.attention_mask,
            position_ids=inputs.position_ids,
            labels=inputs.labels,
            **options,
        )

    @torch.no_grad()
    def transcribe(
        self,
        clips: Sequence[Clip],
        *,
        modality: str | None = None,
        audio_rate: int | None = None,
        video_rate: int | None = None,
        max_new_tokens: int = 64,
        num_beams: int = 1,
    ) -> list[str]:
        """What is said in each clip; greedy and deterministic unless beams are asked for."""
        inputs = self.prepare(
            clips,
            modality=modality,
            audio_rate=audio_rate,
            video_rate=video_rate,
            padding_side="left",
        )
        said = self.llm.generate(
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=inputs.attention_mask.long(),
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            do_sample=False,
            eos_token_id=self.ids["eos"],
            pad_token_id=self.ids["padding"],
        )
        return self.tokenizer.batch_decode(said, skip_special_tokens=True)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write configuration, weights (floats in ``dtype``) and tokenizer to a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save(folder)
        write_weights(self, folder, dtype=dtype)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LlamaAvsr":
        """Read what ``save_pretrained`` wrote, in float32 and evaluation mode.

        Raises:
            CheckpointError: the folder is missing, damaged, pickled or of another kind.
        """
        folder = Path(folder)
        config = AvsrConfig.load(folder)
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: its tokenizer cannot be read ({error}).") from error
        model = cls(config, tokenizer)
        load_weights(model, read_weights(folder), where=str(folder / WEIGHTS))
        return model.eval()

    def _stream(
        self, stream: str, config: EncoderConfig | None
    ) -> tuple[Encoder | None, Projector | None]:
        if config is None:
            return None, None
        encoder = build_encoder(config.kind, config.config)
        stacked = self._default_rate(stream) if self.config.compression == "stack" else 1
        projector = Projector(
            encoder.width * stacked,
            self.config.projector_width,
            self.config.hidden_size,
            norm=self.config.projector_norm,
        )
        return encoder, projector

    def _encoder(self, stream: str) -> Encoder:
        encoder = self.audio_encoder if stream == "audio" else self.video_encoder
        if encoder is None:
            raise InputError(f"This model has no {stream} encoder; choose another modality.")
        return encoder

    def _default_rate(self, stream: str) -> int:
        return (self.config.audio_rates if stream == "audio" else self.config.video_rates)[0]

    def _modality(self, clips: Sequence[Clip], asked: str | None) -> str:
        if asked is not None:
            if asked not in STREAMS:
                raise InputError(f"modality {asked!r} is not known; use one of {list(STREAMS)}.")
            return asked
        found = {_streams_of(clip) for clip in clips}
        if len(found) > 1:
            raise InputError(
                f"The clips have different streams ({', '.join(sorted(found))}); "
                "choose a modality that all have, or give them apart."
            )
        has = found.pop()
        if has == "audiovisual" and None in (self.audio_encoder, self.video_encoder):
            return "video" if self.audio_encoder is None else "audio"
        return has

    def _tokens(self, stream: str, features: Sequence[Features], rate: int | None) -> list[Part]:
        """The projected tokens of one stream, for every sample."""
        rate = rate or self._default_rate(stream)
        stack = self.config.compression == "stack"
        if stack and rate != self._default_rate(stream):
            raise InputError(
                f"{stream}_rate {rate}: this model stacks {self._default_rate(stream)} frames, "
                "and its projector fits no other rate."
            )
        compress = compress_stack if stack else compress_average
        seconds = rate / self._encoder(stream).frame_rate
        short = []
        for sample in features:
            frames = getattr(sample, stream)
            whole = compress(frames[None], rate=rate)[0]
            if not len(whole):
                raise InputError(
                    f"{sample.name}: {len(frames)} {stream} frames give no token at rate {rate}; "
                    f"give a clip of at least {seconds:.2f} s, or a lower rate."
                )
            short.append(whole)
        projector = self.audio_projector if stream == "audio" else self.video_projector
        projected = projector(torch.cat(short)) if projector else torch.cat(short)
        parts = projected.split([len(whole) for whole in short])
        return [Part(stream, part, times=_times(len(part), seconds)) for part in parts]

    def _words(self, name: str, ids: list[int]) -> Part:
        embedding = self.llm.get_input_embeddings()
        device = next(embedding.parameters()).device
        return Part(name, embedding(torch.tensor(ids, device=device)), ids)


def _streams_of(clip: Clip) -> str:
    if clip.waveform is not None and clip.frames is not None:
        return "audiovisual"
    return "audio" if clip.waveform is not None else "video"


def _times(count: int, seconds: float) -> Float[np.ndarray, "token 2"]:
    starts = np.arange(count) * seconds
    return np.stack([starts, starts + seconds], axis=1)
