"""Pre-train the tiny language model: ``python -m sinkscope.experiments.tiny_lm OUT``.

Most windows are bigram-backcopy text (`sinkscope.experiments.backcopy`), one in eight holds
sentences of the spoken grammar. At first triggers are frequent, so that copying is learned; later
they are rare, so that most heads are idle at most tokens. What idle heads do is left to gradient
descent: after 12,000 steps, about 11 minutes on one core, most of them rest on BOS. The bundled
model's language model was trained by this recipe with its vocabulary in another order, so the same
seed gives a model of the same kind, not the same numbers. Depends on torch.

What was compared, one seed each: the share of heads above .3 on BOS in blocks 0 to 3 (windows of 64
tokens), and the largest activation over the median in any block:

====================================================  ================  =====
12,000 steps, a fifth of them 256 long, decay .05      0, 1, 1, .75       30
the same, 70 % of the steps 256 long, decay .2         0, .25, .5, .75    49
the first, and 2,000 steps more at decay .3            0, .5, 1, .25      24
====================================================  ================  =====
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn
from torch.nn import functional
from tqdm import trange

from sinkscope.avsr.synthetic import random_text, vocabulary
from sinkscope.avsr.tokens import added_ids, text_ids, word_tokenizer
from sinkscope.experiments.backcopy import Backcopy, symbols

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["Pretraining", "batch_of", "llm_config", "pretrain", "tiny_tokenizer"]

EVERY = 500
"""Steps from checkpoint to checkpoint."""

SENTENCE_SHARE = 0.12
REPEAT_SHARE = 0.5


@dataclass(frozen=True)
class Pretraining:
    """The schedule.

    Attributes:
        steps: optimiser steps.
        windows: windows of 64 tokens a step; a long step has a quarter of them.
        long_share: share of the steps with windows of 256 tokens, 0 to 1.
        rate: highest learning rate; a cosine leads down to a tenth.
        decay: weight decay of matrices.
        early: lowest and highest share of triggers at first.
        late: the same from half of the training on; between .3 and .5 one passes into the other.
        seed: of every draw.
    """

    steps: int = 12_000
    windows: int = 14
    long_share: float = 0.2
    rate: float = 3e-3
    decay: float = 0.05
    early: tuple[float, float] = (0.15, 0.35)
    late: tuple[float, float] = (0.02, 0.2)
    seed: int = 0

    def triggers(self, step: int) -> tuple[float, float]:
        """Lowest and highest share of triggers at a step.

        >>> [Pretraining(steps=100).triggers(step)[1] for step in (0, 30, 50, 99)]
        [0.35, 0.35, 0.2, 0.2]
        """
        late = min(1.0, max(0.0, (step / self.steps - 0.3) / 0.2))
        low, high = ((1 - late) * a + late * b for a, b in zip(self.early, self.late, strict=True))
        return low, high

    def rate_at(self, step: int, *, warm: int = 200) -> float:
        """The learning rate at a step: a linear warm-up, then a cosine."""
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / self.steps)))


def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    """One token for each word of the grammar and of the prompts, and for each of 96 syllables."""
    return word_tokenizer([*vocabulary(), *symbols()])


def llm_config(tokenizer: "PreTrainedTokenizerFast") -> dict:
    """The fields of the tiny model's ``LlamaConfig``: 4 blocks of 4 heads, 128 features."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 2048,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }


def batch_of(
    task: Backcopy,
    tokenizer: "PreTrainedTokenizerFast",
    *,
    count: int,
    length: int,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "sample token"]:
    """Windows of the task, some of them replaced by sentences; every one begins with BOS."""
    spoken = int(rng.binomial(count, SENTENCE_SHARE))
    windows = task.windows(count - spoken, length, rng=rng)
    rows = [_sentences(tokenizer, length, rng) for _ in range(spoken)]
    return np.concatenate([windows, np.array(rows, dtype=np.int64).reshape(spoken, length)])


def pretrain(out: Path, plan: Pretraining) -> "LlamaForCausalLM":
    """Trains the language model; goes on from the last checkpoint in ``out``.

    Args:
        out: folder of ``state.pt`` (the checkpoint) and ``log.jsonl`` (step, loss, seconds).
        plan: the schedule.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    tokenizer = tiny_tokenizer()
    llm = LlamaForCausalLM(LlamaConfig(**llm_config(tokenizer)))
    llm.set_attn_implementation("eager")  # the faster one on a CPU, forward and back
    optimizer = torch.optim.AdamW(_groups(llm, plan.decay), betas=(0.9, 0.99), fused=True)
    first, state = 0, out / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        llm.load_state_dict(saved["llm"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    losses, start = [], time.monotonic()
    for step in trange(first, plan.steps, initial=first, total=plan.steps, desc="tiny LM"):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate_at(step)
        loss = _loss(llm, tokenizer, plan, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(llm.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % EVERY == 0 or step + 1 == plan.steps:
            entry = {"step": step + 1, "loss": float(np.mean(losses[-EVERY:]))}
            entry["seconds"] = round(time.monotonic() - start)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry | asdict(plan)) + "\n")
            saved = {"llm": llm.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(saved, out / "new.pt")
            (out / "new.pt").replace(state)
    return llm.eval()


def _loss(
    llm: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", plan: Pretraining, step: int
) -> torch.Tensor:
    """The cross-entropy of one step's windows; every draw comes from (seed, step)."""
    rng = np.random.default_rng([plan.seed, step])
    task = Backcopy(
        added_ids(tokenizer)["bos"],
        [tokenizer.get_vocab()[symbol] for symbol in symbols()],
        trigger_share=plan.triggers(step),
        repeat_share=REPEAT_SHARE,
    )
    long = rng.random() < plan.long_share
    count = max(2, plan.windows // 4) if long else plan.windows
    windows = batch_of(task, tokenizer, count=count, length=256 if long else 64, rng=rng)
    ids = torch.from_numpy(windows)
    with torch.autocast("cpu", torch.bfloat16):
        logits = llm(input_ids=ids, use_cache=False).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def _sentences(
    tokenizer: "PreTrainedTokenizerFast", length: int, rng: np.random.Generator
) -> list[int]:
    """BOS, then utterances of two to four sentences with EOS after each, cut to a length."""
    special = added_ids(tokenizer)
    ids = [special["bos"]]
    while len(ids) < length:
        ids += text_ids(tokenizer, random_text(rng, int(rng.integers(2, 5))))
        ids.append(special["eos"])
    return ids[:length]


def _groups(llm: nn.Module, decay: float) -> list[dict]:
    matrices = [value for value in llm.parameters() if value.ndim > 1]
    vectors = [value for value in llm.parameters() if value.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=Pretraining.steps)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    pretrain(given.out, Pretraining(steps=given.steps, seed=given.seed))


if __name__ == "__main__":
    main()
