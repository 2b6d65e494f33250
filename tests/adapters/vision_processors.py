"""Real processors of models that see, without a hub; their video processors need torchvision."""

from functools import cache
from typing import Any

from tests.adapters import gemma4, llava_onevision, qwen_vl
from tests.adapters.qwen_processors import template, tokenizer

PATCH = 4
BLOCKS = {"shortest_edge": 8 * 8, "longest_edge": 48 * 48 * 256}
"""Room in which no frame of 48 x 48 pixels is resized."""


@cache
def qwen(name: str) -> Any:
    """The processor of Qwen2-VL, Qwen2.5-VL or Qwen3-VL."""
    import transformers

    stem = qwen_vl.FAMILIES[name][0].removesuffix("Moe")
    picture, film, start, end = qwen_vl.MARKS
    sizes = {"patch_size": PATCH, "merge_size": 2, "size": BLOCKS}
    kind: Any = transformers.Qwen2VLVideoProcessor
    if name.startswith("qwen3"):
        kind = transformers.Qwen3VLVideoProcessor
    marks = {"image": f"{start}{picture}{end}", "video": f"{start}{film}{end}"}
    if name.startswith("qwen3"):
        marks["video"] = film
    return getattr(transformers, f"{stem}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        video_processor=kind(**sizes, cap_pixels_per_frame=False),
        tokenizer=tokenizer({"image": picture, "video": film, "start": start, "end": end}),
        chat_template=template(marks),
    )


@cache
def llava() -> Any:
    import transformers

    side = llava_onevision.PATCH * llava_onevision.SIDE
    size = {"height": side, "width": side}
    return transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=llava_onevision.SHAPES
        ),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        tokenizer=tokenizer({"image": "<image>", "video": "<video>"}),
        num_image_tokens=llava_onevision.SIDE**2,
        vision_feature_select_strategy="full",
        chat_template=template({"image": "<image>\n", "video": "<video>\n"}),
    )


@cache
def video_llama() -> Any:
    import transformers

    picture, film = qwen_vl.MARKS[:2]
    sizes = {"patch_size": PATCH, "merge_size": 2, "size": BLOCKS}
    return transformers.VideoLlama3Processor(
        image_processor=transformers.VideoLlama3ImageProcessor(**sizes | {"merge_size": 1}),
        video_processor=transformers.VideoLlama3VideoProcessor(**sizes),
        tokenizer=tokenizer({"image": picture, "video": film}),
        chat_template=template({"image": f"{picture}\n", "video": f"{film}\n"}),
    )


@cache
def gemma() -> Any:
    """Gemma 4's, which hears too."""
    import transformers

    names = ("audio", "image", "video", "boi", "eoi", "boa", "eoa")
    special = dict(zip(names, gemma4.MARKS, strict=True))
    turns = {"turn": "<|turn>", "end_of_turn": "<turn|>", "bos": "<bos>"}
    sizes = {"patch_size": gemma4.PATCH, "pooling_kernel_size": gemma4.POOL}
    chat = template({name: special[name] for name in ("audio", "image", "video")})
    chat = chat.replace("<|im_start|>", "<|turn>").replace("<|im_end|>", "<turn|>")
    return transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(feature_size=gemma4.MELS),
        image_processor=transformers.Gemma4ImageProcessor(**sizes, max_soft_tokens=70),
        video_processor=transformers.Gemma4VideoProcessor(
            **sizes, max_soft_tokens=70, do_resize=False, num_frames=4
        ),
        tokenizer=tokenizer(special | turns),
        chat_template="<bos>" + chat,
    )
