"""What each rate of a many-rates model costs: ``python -m sinkscope.experiments.elastic OUT``.

Of a bundled model (``--model``), on test voices of the synthetic corpus (``--corpus``): tokens,
floating-point operations of projectors and LLM before the first word, seconds, and word errors. Of
models of published size, without their weights, tokens and operations alone. Writes two CSV files,
a figure and a page.

Operations are counted by PyTorch (``torch.utils.flop_counter``) while the real modules run, those
of published size on the meta device: a multiplication and an addition are two, and attention is
counted whole, not its causal half.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.evaluation import word_errors
from sinkscope.avsr.llm import build_llm
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import MomeSettings, add_mixtures
from sinkscope.avsr.projector import Projector
from sinkscope.experiments.corpus import read_corpus
from sinkscope.experiments.elastic_page import write_page
from sinkscope.subjects.avsr import AvsrSubject
from sinkscope.subjects.subject import load

__all__ = ["PUBLISHED", "REPORTED", "SIZES", "count_llm", "measured", "published"]

CONTENT = ("audio", "video", "audiovisual")
COUNTED = (Projector.__name__, f"{LlamaAvsr.__name__}.llm")

_LLAMA = {"vocab_size": 128_256 + 5, "num_key_value_heads": 8}
SIZES: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": _LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
    },
    "Llama-3.2-3B": _LLAMA
    | {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
    },
    "Llama-3.1-8B": _LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}
"""Published sizes of the LLMs, by their names."""

PUBLISHED = ((1, 1), (4, 2), (4, 5), (16, 2), (16, 5))
SECONDS, OTHERS = 10, 7
"""Length of the clip, and tokens that are neither sound nor picture, for which the tokens reported
for Llama-MTSK (757, 257, 182, 163, 88) come out: our reading, the paper's clip is not known to
us."""

REPORTED = {(1, 1): 11.40, (4, 2): 3.87, (4, 5): 2.74, (16, 2): 2.46, (16, 5): 1.33}
"""Tera-operations of Llama-MTSK with Llama-3.1-8B, as its Table 4 is quoted by a secondary source
(arXiv 2503.06362)."""


def count_llm(llm: torch.nn.Module, tokens: int, *, hidden_size: int) -> int:
    """Operations of one forward of a language model over so many embedded tokens.

    Attention is run eagerly: the counter does not know every fused kernel.
    """
    device = next(llm.parameters()).device
    states = torch.zeros(1, tokens, hidden_size, device=device)
    mask = torch.zeros(1, 1, tokens, tokens, device=device)  # whole, so that none is made of values
    with torch.no_grad(), eager(llm), FlopCounterMode(display=False) as counter:
        llm(inputs_embeds=states, attention_mask=mask, use_cache=False)
    return counter.get_total_flops()


@contextmanager
def eager(llm: Any) -> Iterator[None]:
    """While open, attention is computed by plain products of matrices."""
    before = llm.config._attn_implementation
    llm.set_attn_implementation("eager")
    try:
        yield
    finally:
        llm.set_attn_implementation(before)


def published() -> pd.DataFrame:
    """Tokens and operations at published sizes: ``llm experts audio_rate video_rate tokens tera``.

    ``experts`` is whether MoME-23/4 stands beside every layer: all 24 experts are computed here,
    and 5 of them are used. ``reported`` is `REPORTED`, where there is one.
    """
    rows = []
    for name, fields in SIZES.items():
        for with_experts in (False, True):
            with torch.device("meta"):
                llm = build_llm(fields).eval()
                if with_experts:
                    add_mixtures(llm, MomeSettings(placement="layer"))
            for audio, video in PUBLISHED:
                tokens = SECONDS * 50 // audio + SECONDS * 25 // video + OTHERS
                count = count_llm(llm, tokens, hidden_size=fields["hidden_size"])
                row = {"llm": name, "experts": with_experts, "audio_rate": audio}
                row |= {"video_rate": video, "tokens": tokens, "tera": count / 1e12}
                known = name == "Llama-3.1-8B" and not with_experts
                rows.append(row | {"reported": REPORTED[audio, video] if known else None})
    return pd.DataFrame(rows)


def measured(subject: AvsrSubject, clips: Sequence[Clip], *, rounds: int = 3) -> pd.DataFrame:
    """What each of a model's rates costs and gives, a row a modality and pair.

    Args:
        subject: a model of many rates.
        clips: with texts.
        rounds: how often the seconds are taken; the median counts.

    Returns:
        ``modality audio_rate video_rate``; ``tokens`` of sound and picture and ``mega`` operations
        of projectors and LLM before the first word, means over clips; ``seconds`` that the LLM
        takes for a clip, from its projected tokens to the last word (reading and encoders take the
        same at every rate); ``wer wer_low wer_high``.
    """
    rows = []
    for modality, audio, video in _settings(subject.model):
        own = {"modality": modality, "audio_rate": audio, "video_rate": video}
        tokens, operations = zip(*(_count(subject.model, clip, own) for clip in clips), strict=True)
        said, seconds = _transcribed(subject.model, clips, own, rounds)
        errors = word_errors([clip.text or "" for clip in clips], said)
        rows.append(
            own
            | {
                "tokens": statistics.mean(tokens),
                "mega": statistics.mean(operations) / 1e6,
                "seconds": seconds / len(clips),
                "wer": errors.rate,
                "wer_low": errors.interval[0],
                "wer_high": errors.interval[1],
            }
        )
    return pd.DataFrame(rows)


def _settings(model: LlamaAvsr) -> Iterator[tuple[str, int, int]]:
    audio, video = model.config.audio_rates, model.config.video_rates
    yield from (("audio", rate, video[0]) for rate in audio)
    yield from (("video", audio[0], rate) for rate in video)
    yield from (("audiovisual", one, other) for one in audio for other in video)


def _count(model: LlamaAvsr, clip: Clip, own: dict[str, Any]) -> tuple[int, int]:
    """Tokens of sound and picture, and operations of projectors and LLM before the first word."""
    with torch.no_grad(), eager(model.llm), FlopCounterMode(display=False, depth=2) as counter:
        inputs = model.prepare([clip], **own)
        model(inputs, use_cache=False)
    counts = counter.get_flop_counts()
    counted = [sum(counts[name].values()) for name in COUNTED if name in counts]
    spans = [span for span in inputs.spans[0] if span.name in CONTENT]
    return sum(span.stop - span.start for span in spans), sum(counted)


def _transcribed(
    model: LlamaAvsr, clips: Sequence[Clip], own: dict[str, Any], rounds: int
) -> tuple[list[str], float]:
    """What is said in the clips, and the LLM's seconds from their tokens to their words."""
    inputs = [model.prepare([clip], padding_side="left", **own) for clip in clips]
    taken, said = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        ids = [model.generate(one, max_new_tokens=30) for one in inputs]
        taken.append(time.perf_counter() - start)
        said = [model.tokenizer.batch_decode(row, skip_special_tokens=True)[0] for row in ids]
    return said, statistics.median(taken)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny-mome")
    parser.add_argument("--corpus", type=Path, help="the synthetic corpus; default OUT/corpus")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1, help="of the seconds; the median counts")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    subject = load(given.model)
    if not isinstance(subject, AvsrSubject):
        raise SystemExit(f"{given.model} takes no clips.")
    clips = list(read_corpus(given.corpus or given.out / "corpus", "test", limit=given.clips))
    tables = {"published": published(), "elastic": measured(subject, clips, rounds=given.rounds)}
    given.out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(given.out / f"{name}.csv", index=False, float_format="%.5g")
    said = {"model": given.model, "clips": len(clips), "rounds": given.rounds}
    said |= {"seconds": SECONDS, "others": OTHERS}
    write_page(given.out, tables["elastic"], tables["published"], said=said)


if __name__ == "__main__":
    main()
