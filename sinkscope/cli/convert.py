"""``sinkscope convert``: a released Llama-AVSR or Omni-AVSR becomes a folder to scan."""

from pathlib import Path
from typing import Annotated

import typer

from sinkscope.errors import InputError

__all__ = ["convert"]


def convert(
    released: Annotated[Path, typer.Argument(metavar="RELEASED", help="The .pth or .ckpt file.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    llm: Annotated[
        str | None, typer.Option(help="Folder, hub id or config.json of the LLM it was made from.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Folder, hub id or config.json of its Whisper or WavLM.")
    ] = None,
    video_encoder: Annotated[
        str | None,
        typer.Option(help="Its AV-HuBERT: the .pt file, its config.json, large or base."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id of the tokenizer; default that of --llm.")
    ] = None,
    audio_rate: Annotated[
        int | None, typer.Option(min=1, help="Audio frames averaged into a token.")
    ] = None,
    video_rate: Annotated[
        int | None, typer.Option(min=1, help="Video frames averaged into a token.")
    ] = None,
    audio_rates: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="The same, of several projectors in their order."),
    ] = None,
    video_rates: Annotated[
        str | None, typer.Option(metavar="N,N", help="The same for video, such as 2,5.")
    ] = None,
    compression: Annotated[
        str | None, typer.Option(help="average or stack, where the shapes leave it open.")
    ] = None,
    lora_alpha: Annotated[
        float | None,
        typer.Option("--lora-alpha", "--alpha", help="The authors' alpha, 4 or 8 as published."),
    ] = None,
    lora_reduction: Annotated[
        float | None,
        typer.Option(help="The authors' reduction factor, if the rank leaves it open."),
    ] = None,
    adapters_only: Annotated[
        bool, typer.Option(help="Keep what was trained; refer to the base models, by their hash.")
    ] = False,
) -> None:
    """Convert a RELEASED checkpoint of Llama-AVSR or Omni-AVSR for load and scan.

    What names and shapes tell is inferred; what they do not is asked for, all at once. Nothing in
    the file is run, and no weight is dropped in silence.
    """
    from sinkscope.avsr.convert import Answers
    from sinkscope.avsr.convert import convert as convert_released

    done = convert_released(
        released,
        output,
        Answers(
            llm=llm,
            encoder=encoder,
            video_encoder=video_encoder,
            tokenizer=tokenizer,
            audio_rate=audio_rate,
            video_rate=video_rate,
            audio_rates=_numbers("--audio-rates", audio_rates),
            video_rates=_numbers("--video-rates", video_rates),
            compression=compression,
            lora_alpha=lora_alpha,
            lora_reduction=lora_reduction,
        ),
        adapters_only=adapters_only,
    )
    typer.echo(f"wrote {done.folder} ({done.weights} weights): {done.summary}")
    if done.left_out:
        typer.echo(f"left out, because they play no part: {', '.join(done.left_out)}")


def _numbers(option: str, said: str | None) -> tuple[int, ...] | None:
    """Whole numbers with commas between them."""
    if said is None:
        return None
    try:
        return tuple(int(one) for one in said.split(","))
    except ValueError as error:
        raise InputError(
            f"{option} is {said!r}; give whole numbers with commas between them, such as 4,16."
        ) from error
