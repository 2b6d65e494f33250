"""Qwen's real processors without a hub: a tokenizer of bytes, and their own extractors."""

from functools import cache
from typing import Any

from tests.adapters.qwen_omni import QWEN2, QWEN3

NAMES = ("image", "audio", "video", "vision_bos", "vision_eos", "audio_bos", "audio_eos")
MARKS = {
    QWEN2: ("<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>", *("<|vision_bos|>", "<|vision_eos|>")),
    QWEN3: (
        "<|image_pad|>",
        "<|audio_pad|>",
        "<|video_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
    ),
}
SOUND_MARKS = {
    QWEN2: ("<|audio_bos|>", "<|audio_eos|>"),
    QWEN3: ("<|audio_start|>", "<|audio_end|>"),
}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}{{ marks[part.type] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Who speaks, as Qwen's templates mark it; ``marks`` is filled in below."""


def tokenizer(special: dict[str, str]) -> Any:
    """Bytes and special tokens, of which those with a name are attributes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    inner.add_special_tokens([*ends, *special.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={f"{name}_token": mark for name, mark in special.items()},
    )


def template(marks: dict[str, str]) -> str:
    """The chat template, with what stands for a sound, a picture and a film."""
    pairs = ", ".join(f"'{kind}': '{mark}'" for kind, mark in marks.items())
    return f"{{% set marks = {{{pairs}}} %}}{CHAT}"


def mel(bands: int) -> Any:
    """Whisper's feature extractor with fewer bands."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=bands)


SIDE = 84
"""Pixels on a side of a film's frame: three squares of two patches, so that nothing is resized."""


@cache
def omni(name: str) -> Any:
    """The processor of an Omni model; its video processor needs torchvision."""
    import transformers

    special = dict(zip(NAMES, (*MARKS[name], *SOUND_MARKS[name]), strict=True))
    picture, sound, film, start, end, first, last = special.values()
    marks = {
        "image": f"{start}{picture}{end}",
        "audio": f"{first}{sound}{last}",
        "video": f"{start}{film}{end}",
    }
    kind: Any = transformers.Qwen2_5OmniProcessor
    if name == QWEN3:
        kind = transformers.Qwen3OmniMoeProcessor
    processor = kind(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=14),
        video_processor=transformers.Qwen2VLVideoProcessor(
            patch_size=14, cap_pixels_per_frame=False
        ),
        feature_extractor=mel(8),
        tokenizer=tokenizer(special),
        chat_template=template(marks),
    )
    processor.videos_kwargs = {"size": {"shortest_edge": 28 * 28, "longest_edge": SIDE * SIDE}}
    return processor


@cache
def sounds(name: str) -> Any:
    """The processor of Qwen2-Audio or Qwen3-ASR."""
    import transformers

    if name == "qwen2_audio":
        kind: Any = transformers.Qwen2AudioProcessor
        extractor, sound, marks = mel(8), "<|AUDIO|>", SOUND_MARKS[QWEN2]
    else:
        kind = transformers.Qwen3ASRProcessor
        extractor = transformers.Qwen3ASRFeatureExtractor(feature_size=8)
        sound, marks = "<|audio_pad|>", SOUND_MARKS[QWEN3]
    special = dict(zip(("audio", "audio_bos", "audio_eos"), (sound, *marks), strict=True))
    return kind(
        feature_extractor=extractor,
        tokenizer=tokenizer(special),
        chat_template=template({"audio": f"{marks[0]}{sound}{marks[1]}"}),
    )
