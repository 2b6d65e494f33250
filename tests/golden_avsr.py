"""The golden audio-visual LLMs: each case's model, inputs and the authors' numbers."""

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sinkscope.avsr.avhubert.config import config_from_fairseq, infer_config
from sinkscope.avsr.avhubert.transformer import named_as_published
from sinkscope.avsr.avhubert.weights import PRETRAINING
from sinkscope.avsr.config import AvsrConfig, EncoderConfig, LoraSettings
from sinkscope.avsr.lora_names import peft_name
from sinkscope.avsr.model import LlamaAvsr
from tests.golden_resnet import resnet_weights
from tests.shared_data import shared

SET = "golden/D_avsr_forward_small"


@dataclass(frozen=True, eq=False)
class Case:
    """One case of the set: what was run, and what came out."""

    name: str
    told: dict[str, Any]
    model: LlamaAvsr
    inputs: dict[str, np.ndarray] = field(repr=False)
    outputs: dict[str, Tensor] = field(repr=False)

    def batch(self, stream: str, samples: int) -> tuple[Any, Tensor]:
        """What the stream's encoder is given: the authors' data set has prepared it already."""
        rows = [
            {kind: self.inputs[f"{self.told['batch']}/{i}/{kind}"] for kind in _KINDS}
            for i in range(samples)
        ]
        sounds = [torch.from_numpy(row["audio"][:, 0]) for row in rows]
        encoder: Any = self.model.encoder(stream)
        if hasattr(encoder, "log_mels"):
            from sinkscope.avsr.encoders.whisper import original_count

            count = original_count(max(map(len, sounds)))
            longest = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)
            return encoder.log_mels(list(longest)), torch.full((samples,), count)
        wanted = {"audio": ("fbank",), "video": ("video",), "audiovisual": ("fbank", "video")}
        batch = {}
        for kind in wanted[stream]:
            values = [torch.from_numpy(row[kind]) for row in rows]
            values = [value[:, 0] if kind == "video" else value for value in values]
            name = "audio" if kind == "fbank" else kind
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        frames = next(iter(batch.values())).shape[1]
        return batch, torch.full((samples,), frames)

    def rates(self) -> dict[str, int]:
        """Encoder frames a token."""
        names = {"audio": "ra", "video": "rv", "audiovisual": "rav"}
        return {stream: self.told[key] for stream, key in names.items()}


_KINDS = ("audio", "video", "fbank")


@cache
def golden_set() -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Tensor]]:
    """The set's description, inputs and outputs."""
    where = shared(SET)
    inputs = np.load(where / "inputs.npz")
    told = json.loads((where / "config.json").read_text())
    outputs = load_file(where / "outputs.safetensors")
    return told, {name: inputs[name] for name in inputs.files}, outputs


def golden_case(name: str) -> Case:
    """A case with the authors' weights in our model."""
    told, inputs, outputs = golden_set()
    case = told["cases"][name]
    model = LlamaAvsr(_config(told, case), tokenizer()).eval()
    model.load_state_dict(_weights(name, case, model))
    return Case(name, case, model, inputs, outputs)


def tokenizer() -> PreTrainedTokenizerFast:
    """The set's word-level tokenizer."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(shared(SET) / "tokenizer.json"),
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        unk_token="<unk>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def published_weights(name: str) -> dict[str, Tensor]:
    """A case's weights under the published names, as in a released checkpoint."""
    told, _, _ = golden_set()
    case, where = told["cases"][name], shared(SET)
    own = load_file(where / "weights_projectors.safetensors")
    state = {k.removeprefix(f"{name}/"): v for k, v in own.items() if k.startswith(f"{name}/")}
    for prefix, kind in _encoders(case).items():
        weights = (
            load_file(where / "weights_whisper.safetensors")
            if kind == "whisper"
            else _avhubert(with_lora=case["lora"])
        )
        state |= {f"{prefix}.{key}": value for key, value in weights.items()}
    for key, value in load_file(where / "weights_llm.safetensors").items():
        if "lora_" not in key or case["peft"]:
            state[f"llm.{key}"] = value
    return state


def _encoders(case: dict[str, Any]) -> dict[str, str]:
    """The kind of each encoder that a case has, by its published prefix."""
    if case["modality"] == "audiovisual_avhubert":
        return {"audiovisual_encoder": "avhubert"}
    sound = "avhubert" if case["aenc"] == "av-hubert" else "whisper"
    found = {"audio_encoder": sound, "video_encoder": "avhubert"}
    wanted = {"audio": ("audio_encoder",), "video": ("video_encoder",)}
    return {k: v for k, v in found.items() if k in wanted.get(case["modality"], tuple(found))}


def _avhubert(*, with_lora: bool) -> dict[str, Tensor]:
    where = shared("golden/B_avhubert_lora_small")
    state = load_file(where / "weights_attached_lnfirst_large.safetensors")
    state |= resnet_weights(shared("golden/resnet_rule.json"))
    kept = {k: v for k, v in state.items() if with_lora or "lora_" not in k}
    return {k: v for k, v in kept.items() if not k.startswith(PRETRAINING)}


def _config(told: dict[str, Any], case: dict[str, Any]) -> AvsrConfig:
    told_hubert = json.loads((shared("golden/A_avhubert_small") / "config.json").read_text())
    cfg = config_from_fairseq(told_hubert["lnfirst_large"]["cfg"])
    hubert = infer_config(
        _avhubert(with_lora=case["lora"]), norm_first=cfg.norm_first, heads=cfg.heads
    )
    settings = {
        "avhubert": lambda kind: EncoderConfig(kind, hubert.to_dict()),
        "whisper": lambda _: EncoderConfig("whisper", {"whisper": told["whisper_config"]}),
    }
    kinds = {"audio": "avhubert-audio", "video": "avhubert-video", "audiovisual": "avhubert-both"}
    encoders = {
        prefix: settings[kind](kinds[prefix.removesuffix("_encoder")])
        for prefix, kind in _encoders(case).items()
    }
    lora = told["lora_config"]
    vocabulary = len(tokenizer())
    return AvsrConfig(
        llm=told["llm_config"] | {"vocab_size": vocabulary},
        **encoders,
        single_projector=case["single"],
        audio_rates=(case["ra"],),
        video_rates=(case["rv"],),
        audiovisual_rates=(case["rav"],),
        compression="stack" if case["mode"] == "stack" else "average",
        projector_width=told["intermediate_size"],
        projector_norm=case["ln"],
        lora=LoraSettings(lora["RANK"], lora["ALPHA"]) if case["peft"] else None,
    )


def _weights(name: str, case: dict[str, Any], model: LlamaAvsr) -> dict[str, Tensor]:
    """The published weights under our names."""
    state: dict[str, Tensor] = {}
    for key, value in published_weights(name).items():
        part, _, rest = key.partition(".")
        if part == "llm":
            state[f"llm.{peft_name(rest) if case['peft'] else rest}"] = value
        elif part.endswith("_proj"):
            state[f"{part}ector.{rest}"] = value
        else:
            state[f"{part}.model.{rest}"] = value
    for stream in ("audio", "video", "audiovisual"):
        state = named_as_published(state, f"{stream}_encoder.model.encoder.pos_conv.0.")
    return state
