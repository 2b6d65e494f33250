"""What is asked about a released checkpoint, because its names and shapes do not tell it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sinkscope.avsr.convert.infer import Encoding, Told
from sinkscope.avsr.lora import lora_rank
from sinkscope.errors import CheckpointError, InputError

__all__ = ["Answers", "reduction_of", "refuse_contradictions", "refuse_unanswered"]


@dataclass(frozen=True)
class Answers:
    """What the user says of a released checkpoint.

    Attributes:
        llm: folder, hub id or ``config.json`` of the LLM before it was fine-tuned.
        encoder: the same of Whisper or WavLM; where AV-HuBERT listens, as ``video_encoder``.
        video_encoder: AV-HuBERT: ``"large"``, ``"base"``, the ``.pt`` file, or a JSON file of its
            configuration.
        tokenizer: folder or hub id; that of ``llm`` by default.
        audio_rate: encoder frames a token, where frames were averaged.
        video_rate: the same for video.
        audio_rates: several of them, of a model that was trained at several; in the authors' order
            where each has a projector.
        video_rates: the same for video.
        compression: ``"average"`` or ``"stack"``, where the shapes leave it open.
        lora_alpha: the authors' ``alpha``.
        lora_reduction: the authors' reduction factor, where the rank does not tell it.
    """

    llm: str | None = None
    encoder: str | None = None
    video_encoder: str | None = None
    tokenizer: str | None = None
    audio_rate: int | None = None
    video_rate: int | None = None
    audio_rates: tuple[int, ...] | None = None
    video_rates: tuple[int, ...] | None = None
    compression: str | None = None
    lora_alpha: float | int | None = None
    lora_reduction: float | int | None = None

    def rates(self, stream: str) -> tuple[int, ...] | None:
        """What was said of a stream's rates; both at once are those of the picture."""
        heard = stream == "audio"
        one = self.audio_rate if heard else self.video_rate
        several = self.audio_rates if heard else self.video_rates
        return several if one is None else (one,)

    def option(self, stream: str) -> str:
        """The option that said a stream's rates."""
        heard = "audio" if stream == "audio" else "video"
        several = getattr(self, f"{heard}_rates") is not None
        return f"--{heard}-rates" if several else f"--{heard}-rate"

    def hubert(self, kinds: Collection[str]) -> str | None:
        """Where AV-HuBERT is, among encoders of these kinds."""
        alone = set(kinds) == {"avhubert"}
        return self.video_encoder or (self.encoder if alone else None)


def refuse_unanswered(told: Told, answers: Answers) -> None:
    """Asks in one sentence for everything that the checkpoint does not tell.

    Raises:
        InputError: naming the options.
    """
    missing = []
    if answers.llm is None:
        missing.append("--llm (folder, hub id or config.json of its LLM)")
    kinds = {encoding.kind for encoding in told.streams.values()}
    for kind in sorted(kinds - {"avhubert"}):
        if answers.encoder is None:
            missing.append(f"--encoder (folder, hub id or config.json of its {kind})")
    if "avhubert" in kinds and answers.hubert(kinds) is None:
        missing.append("--video-encoder (AV-HuBERT's .pt file, its config.json, large or base)")
    if told.llm.rank is not None and answers.lora_alpha is None:
        missing.append(f"--lora-alpha (the authors' alpha; its LoRA has rank {told.llm.rank})")
    if told.llm.rank is not None and reduction_of(told, answers) is None:
        missing.append("--lora-reduction (the authors' factor; the rank leaves it open)")
    missing += _unsaid_rates(told.streams, answers)
    if answers.tokenizer is None and str(answers.llm).endswith(".json"):
        missing.append("--tokenizer (folder or hub id of the LLM's tokenizer)")
    if missing:
        raise InputError(f"The checkpoint does not tell everything; give {', '.join(missing)}.")


def refuse_contradictions(told: Told, answers: Answers) -> None:
    """Refuses answers that the checkpoint contradicts.

    Raises:
        CheckpointError: naming the option and what the checkpoint holds.
    """
    if answers.compression not in (None, "average", "stack"):
        raise CheckpointError(
            f"--compression is {answers.compression!r}; use average or stack, or leave it out."
        )
    if told.llm.rank is None and (answers.lora_alpha, answers.lora_reduction) != (None, None):
        raise CheckpointError(
            "The checkpoint's LLM has no LoRA branches; leave --lora-alpha and --lora-reduction "
            "out."
        )
    for one, several in (("audio_rate", "audio_rates"), ("video_rate", "video_rates")):
        if getattr(answers, one) is not None and getattr(answers, several) is not None:
            raise CheckpointError(
                f"Both --{one.replace('_', '-')} and --{several.replace('_', '-')} were given; "
                "give one of them."
            )
    for stream, encoding in told.streams.items():
        _refuse_other_rates(stream, encoding, answers)
    for stream, takers in {"audio": {"audio"}, "video": {"video", "audiovisual"}}.items():
        if answers.rates(stream) is not None and not told.streams.keys() & takers:
            raise CheckpointError(
                f"The checkpoint has no {stream} projector; leave {answers.option(stream)} out."
            )


def _refuse_other_rates(stream: str, encoding: Encoding, answers: Answers) -> None:
    """Refuses rates and a compression that do not fit the projectors of a stream."""
    said, there = answers.rates(stream), encoding.stacked
    rates = " and ".join(map(str, there))
    has = f"The {stream} projector{'s take' if len(there) > 1 else ' takes'}"
    if encoding.is_stacked and answers.compression == "average":
        raise CheckpointError(
            f"{has} {rates} stacked frames, and --compression is average; leave it out."
        )
    if encoding.is_stacked and said not in (None, there):
        raise CheckpointError(
            f"{has} {rates} stacked frames, and {answers.option(stream)} is "
            f"{', '.join(map(str, said or ()))}; leave it out."
        )
    if not encoding.is_stacked and len(there) > 1 and answers.compression == "stack":
        raise CheckpointError(f"{has} one frame each, and --compression is stack; leave it out.")
    if said is not None and len(there) > 1 and len(said) != len(there):
        raise CheckpointError(
            f"There are {len(there)} {stream} projectors, one for each rate, and "
            f"{answers.option(stream)} is {', '.join(map(str, said))}; name every rate with "
            f"{answers.option(stream).removesuffix('s')}s, in the authors' order."
        )


def reduction_of(told: Told, answers: Answers) -> float | int | None:
    """The reduction factor R of Llama-AVSR's LoRA, of which the rank is ``round(H / R)``.

    Where the rank divides the hidden size H, R is taken to be their quotient, as in every published
    recipe; otherwise it is the one whole number that gives the rank.

    Returns:
        None where there is no LoRA, or where several factors give the rank and none was said.

    Raises:
        CheckpointError: the one that was said gives another rank.
    """
    rank, hidden, said = told.llm.rank, told.llm.hidden_size, answers.lora_reduction
    if rank is None:
        return None
    if said is None:
        if hidden % rank == 0:
            return hidden // rank
        able = [factor for factor in range(1, hidden + 1) if round(hidden / factor) == rank]
        return able[0] if len(able) == 1 else None
    if lora_rank(hidden, reduction=said) != rank:
        raise CheckpointError(
            f"--lora-reduction {said} means a rank of {lora_rank(hidden, reduction=said)}, and the "
            f"checkpoint's is {rank}; correct it or leave it out."
        )
    return said


def _unsaid_rates(streams: Mapping[str, Encoding], answers: Answers) -> list[str]:
    """What must be said of compression: one frame a token may be an average of several."""
    if any(encoding.is_stacked for encoding in streams.values()):
        return []
    several = any(len(encoding.stacked) > 1 for encoding in streams.values())
    if answers.compression is None and not several:
        return ["--compression (average, or stack for a rate of 1)"]
    if answers.compression == "stack":
        return []
    return [
        _asked_rates("audio" if stream == "audio" else "video", len(encoding.stacked))
        for stream, encoding in streams.items()
        if answers.rates(stream) is None
    ]


def _asked_rates(stream: str, projectors: int) -> str:
    if projectors == 1:
        return f"--{stream}-rate (frames that were averaged into a token)"
    return (
        f"--{stream}-rates (frames that were averaged into a token, one number for each of its "
        f"{projectors} projectors, in the authors' order)"
    )
