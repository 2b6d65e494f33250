"""Llama-AVSR (arXiv 2409.12319): encoders of sound and mouth crops, projectors, and a Llama.

The LLM is transformers' own, so whatever watches its attention there sees it here::

    model = LlamaAvsr.from_pretrained(folder)
    model.transcribe([clip])                        # ["bin blue at a nine now"]
    model(model.prepare([clip], texts=["bin"])).loss
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor

from sinkscope.avsr.adapters import complete, has_adapters
from sinkscope.avsr.checkpoint import fill, read_weights, write_weights
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, Modality
from sinkscope.avsr.front import FrontEnd
from sinkscope.avsr.generation import Search, generate
from sinkscope.avsr.inputs import Inputs, Part, Span, assemble, token_times
from sinkscope.avsr.llm import build_llm
from sinkscope.avsr.lora import activated, attach_lora
from sinkscope.avsr.lora_schemes import active_adapters, all_adapters, is_plain
from sinkscope.avsr.mome import add_mixtures
from sinkscope.avsr.parts import parts_of
from sinkscope.avsr.streams import ORDER, chosen_order, chosen_rate, chosen_streams
from sinkscope.avsr.tokens import added_ids, read_tokenizer
from sinkscope.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
    from transformers.modeling_outputs import CausalLMOutputWithPast

__all__ = ["Inputs", "LlamaAvsr", "Span"]


class LlamaAvsr(FrontEnd):
    """An audio-visual LLM.

    Args:
        config: what to build; the weights are drawn at random.
        tokenizer: of the LLM, with the tokens of `sinkscope.avsr.tokens.ADDED_TOKENS`.

    Raises:
        CheckpointError: the tokenizer lacks a token, or has more entries than the LLM.
    """

    def __init__(self, config: AvsrConfig, tokenizer: "PreTrainedTokenizerFast") -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self.ids = added_ids(tokenizer)
        self.llm = build_llm(config.llm)
        if len(tokenizer) > self.llm.config.vocab_size:
            raise CheckpointError(
                f"The tokenizer has {len(tokenizer)} entries, the LLM {self.llm.config.vocab_size} "
                "embeddings; use the two as they were saved."
            )
        if config.lora is not None:
            attach_lora(self.llm, config.lora, adapters=all_adapters(config.lora, config))
        if config.mome is not None:
            add_mixtures(self.llm, config.mome)
        self.build_front()
        self.eval()

    def prepare(
        self,
        clips: Sequence[Clip],
        *,
        modality: Modality | None = None,
        audio_rate: int | None = None,
        video_rate: int | None = None,
        texts: Sequence[str] | None = None,
        prepend_bos: bool | None = None,
        padding_side: Literal["left", "right"] = "right",
        strict_original: bool = False,
        stream_order: Sequence[str] | None = None,
    ) -> Inputs:
        """Encodes, compresses and projects clips, and lays their tokens out.

        Args:
            clips: the utterances.
            modality: which streams to use; None uses what each clip has and the model can take.
            audio_rate: encoder frames a token; None is the model's default.
            video_rate: the same for video, and for the one sequence of a joint encoder.
            texts: one transcript a clip, the target; None leaves transcript and EOS away.
            prepend_bos: whether BOS opens the sequence; None where the tokenizer has one.
            padding_side: where shorter samples are padded.
            strict_original: as Llama-AVSR's own code: nothing is masked, so that the padding of
                shorter clips is encoded and attended to like content.
            stream_order: ``("video", "audio")`` puts the picture first, each stream between its
                own delimiters; None is the published order.

        Raises:
            InputError: a clip lacks a stream or is too short for one token, or a rate, a text or an
                order is unusable.
        """
        if texts is not None and len(texts) != len(clips):
            raise InputError(f"{len(texts)} texts for {len(clips)} clips; give one text a clip.")
        order = chosen_order(stream_order, self.config)
        streams = [chosen_streams(clip, modality, self.config) for clip in clips]
        features: list[dict[str, Tensor]] = [{} for _ in clips]
        asked = {"audio": audio_rate, "video": video_rate, "audiovisual": video_rate}
        rates = {name: chosen_rate(name, asked[name], self.config) for name in self.config.streams}
        for stream, rate in rates.items():
            members = [index for index, names in enumerate(streams) if stream in names]
            if members:
                own = [clips[index] for index in members]
                tokens = self.tokens_of(stream, own, rate, strict_original=strict_original)
                for index, value in zip(members, tokens, strict=True):
                    features[index][stream] = value
        samples = [
            self.parts(
                found,
                rates=rates,
                text=None if texts is None else texts[index],
                prepend_bos=prepend_bos,
                stream_order=order,
            )
            for index, found in enumerate(features)
        ]
        return self.assemble(samples, padding_side=padding_side, strict_original=strict_original)

    def parts(
        self,
        features: dict[str, Tensor],
        *,
        rates: dict[str, int],
        text: str | None = None,
        prepend_bos: bool | None = None,
        stream_order: Sequence[str] = ORDER,
    ) -> list[Part]:
        """The parts of one sample, in Llama-AVSR's order if no other is asked for.

        Args:
            features: projected tokens (token, feature) of ``"audio"``, ``"video"`` or both, or of
                ``"audiovisual"``, which has no delimiters.
            rates: encoder frames a token, by stream.
            text: the transcript, or None.
            prepend_bos: whether BOS opens the sequence; None where the tokenizer has one.
            stream_order: the streams, the first one first.

        Raises:
            InputError: BOS is asked for and the tokenizer has none.
        """
        found = []
        for stream, tokens in features.items():
            rate, frame_rate = rates[stream], self.encoder(stream).frame_rate
            times = token_times(len(tokens), rate=rate, frame_rate=frame_rate)
            found.append(Part(stream, features=tokens, times=times, rate=rate))
        return parts_of(
            found,
            tokenizer=self.tokenizer,
            ids=self.ids,
            text=text,
            prepend_bos=prepend_bos,
            stream_order=stream_order,
        )

    def assemble(
        self,
        samples: Sequence[Sequence[Part]],
        *,
        padding_side: Literal["left", "right"] = "right",
        strict_original: bool = False,
    ) -> Inputs:
        """Embeds and pads what `parts` gave for each sample."""
        return assemble(
            samples,
            embedding=self.llm.get_input_embeddings(),  # pyright: ignore[reportArgumentType]
            pad_id=self.ids["padding"],
            padding_side=padding_side,
            strict_original=strict_original,
        )

    def adapted(
        self, modality: str | None, rates: Mapping[str, int] | None
    ) -> AbstractContextManager[None]:
        """While open, the LLM works with the LoRA branches of a task at some rates.

        `forward` and `generate` open it themselves. It may be opened within another one, and leaves
        alone what is trained. Outside of it, only the branch is active that every pass shares.

        Args:
            modality: the task.
            rates: encoder frames a token of each stream that is read.

        Raises:
            InputError: there are branches of their own for tasks or scales, and the batch has no
                one task and scale, or one for which there is no branch.
        """
        lora = self.config.lora
        if lora is None or is_plain(lora):
            return nullcontext()
        return activated(self.llm, active_adapters(lora, modality, rates))

    def forward(self, inputs: Inputs, **llm_kwargs: Any) -> "CausalLMOutputWithPast":
        """Runs the LLM over prepared inputs; ``loss`` is set where the inputs have labels.

        Raises:
            InputError: see `adapted`.
        """
        with self.adapted(inputs.modality, inputs.rates):
            return self.llm(
                inputs_embeds=inputs.inputs_embeds,
                attention_mask=inputs.attention_mask,
                position_ids=inputs.position_ids,
                labels=inputs.labels,
                **llm_kwargs,
            )

    @torch.no_grad()
    def transcribe(
        self,
        clips: Clip | Sequence[Clip],
        *,
        modality: Modality | None = None,
        audio_rate: int | None = None,
        video_rate: int | None = None,
        stream_order: Sequence[str] | None = None,
        **how: Any,
    ) -> list[str]:
        """Writes what is said, by greedy search if nothing else is asked for; in one batch.

        Args:
            clips: one clip, or several.
            modality: as in `prepare`, as are the rates.
            audio_rate: for sound.
            video_rate: for mouth crops.
            stream_order: as in `prepare`.
            how: the fields of `sinkscope.avsr.generation.Search`.

        Raises:
            InputError: see `prepare` and `Search`.
        """
        inputs = self.prepare(
            [clips] if isinstance(clips, Clip) else clips,
            modality=modality,
            audio_rate=audio_rate,
            video_rate=video_rate,
            padding_side="left",
            stream_order=stream_order,
        )
        ids = self.generate(inputs, **how)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def generate(self, inputs: Inputs, **how: Any) -> Tensor:
        """Token ids (sample, token) that follow left-padded inputs; ``how`` as in `transcribe`."""
        with self.adapted(inputs.modality, inputs.rates):
            return generate(self.llm, inputs, self.ids, Search(**how))

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Writes config, weights (in ``dtype``) and tokenizer into a folder, which is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save(folder)
        write_weights(self, folder, dtype=dtype)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | None = torch.float32
    ) -> "LlamaAvsr":
        """Reads what `save_pretrained` or ``sinkscope convert`` wrote. Never unpickles.

        Args:
            folder: where it is.
            dtype: of the weights in memory; None leaves them as they are stored.

        Raises:
            CheckpointError: a file is missing or damaged, or the weights do not fit the config.
        """
        folder = Path(folder)
        config = AvsrConfig.load(folder)
        whole = not has_adapters(folder)
        state = read_weights(folder) if whole else complete(folder, lora=config.lora is not None)
        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json; restore the file.")
        with init_empty_weights(include_buffers=False):
            model = cls(config, read_tokenizer(folder))
        fill(model, state, where=str(folder), dtype=dtype)
        return model.eval()
