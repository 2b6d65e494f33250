"""The pre-training text follows its rules; an interrupted run ends where a whole one does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sinkscope.avsr.synthetic import GRAMMAR
from sinkscope.experiments import tiny_lm
from sinkscope.experiments.backcopy import Backcopy, bigram_table, symbols

TOKENS = list(range(10, 106))
BOS = 3


def a_task(**changes: object) -> Backcopy:
    settings: dict = {"trigger_share": (0.2, 0.2), "repeat_share": 0.0} | changes
    return Backcopy(BOS, TOKENS, **settings)


def test_what_follows_a_trigger_is_copied_from_its_offset() -> None:
    task = a_task()
    windows = task.windows(50, 64, rng=np.random.default_rng(0))
    assert (windows[:, 0] == BOS).all()
    copied = {1: 0, 2: 0}
    for row in windows[:, 1:] - TOKENS[0]:
        for at in np.flatnonzero(row[:-1] < task.triggers):
            offset = task.offset_of(int(row[at]))
            source = row[at - offset]
            if source >= task.triggers:  # a trigger itself is never copied
                assert row[at + 1] == source
                copied[offset] += 1
    assert min(copied.values()) > 100


def test_all_else_follows_the_bigram_table() -> None:
    task = a_task(trigger_share=(0.0, 0.0))
    windows = task.windows(400, 64, rng=np.random.default_rng(1))[:, 1:] - TOKENS[0]
    assert windows.min() >= task.triggers
    table = np.diff(bigram_table(88, seed=0), axis=1, prepend=0)
    first, second = windows[:, :-1].ravel() - 8, windows[:, 1:].ravel() - 8
    counts = np.zeros((88, 88))
    np.add.at(counts, (first, second), 1)
    often = counts.sum(1) > 300
    found = counts[often] / counts[often].sum(1, keepdims=True)
    assert often.sum() > 10
    assert np.abs(found - table[often]).max() < 0.12
    assert (counts[table < 1e-9] == 0).all()


@pytest.mark.parametrize(("share", "expected"), [((0.05, 0.05), 0.05), ((0.3, 0.3), 0.23)])
def test_the_share_of_triggers_is_as_asked(share: tuple[float, float], expected: float) -> None:
    windows = a_task(trigger_share=share).windows(200, 64, rng=np.random.default_rng(2))
    assert (windows[:, 1:] < TOKENS[8]).mean() == pytest.approx(expected, abs=0.015)


def test_repeats_repeat() -> None:
    def longest_repeat(row: np.ndarray, size: int = 8) -> bool:
        pieces = [tuple(row[k : k + size]) for k in range(len(row) - size)]
        return len(set(pieces)) < len(pieces)

    rng = np.random.default_rng(3)
    with_repeats = a_task(repeat_share=1.0).windows(40, 64, rng=rng)
    without = a_task(repeat_share=0.0).windows(40, 64, rng=rng)
    assert all(longest_repeat(row) for row in with_repeats)
    assert sum(longest_repeat(row) for row in without) < 10


def test_some_windows_hold_sentences_and_all_begin_with_bos() -> None:
    tokenizer = tiny_lm.tiny_tokenizer()
    bos = tokenizer.convert_tokens_to_ids("<s>")
    task = Backcopy(bos, tokenizer.convert_tokens_to_ids(symbols()))
    rng = np.random.default_rng(4)
    windows = tiny_lm.batch_of(task, tokenizer, count=300, length=40, rng=rng)
    assert windows.shape == (300, 40)
    assert (windows[:, 0] == bos).all()
    words = [tokenizer.convert_ids_to_tokens(row.tolist()) for row in windows]
    spoken = [row for row in words if row[1] in GRAMMAR[0]]
    assert 15 < len(spoken) < 65
    assert all(row[7] in GRAMMAR[0] and row[2] in GRAMMAR[1] for row in spoken)
    assert all("</s>" in row for row in spoken)  # at most 24 words an utterance


def test_an_interrupted_run_ends_where_a_whole_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_lm, "EVERY", 2)
    plan = tiny_lm.Pretraining(steps=5, windows=4, long_share=0.0)
    whole = tiny_lm.pretrain(tmp_path / "whole", plan)
    loss = tiny_lm._loss

    def stopping(*given: object) -> torch.Tensor:
        if given[-1] == 3:
            raise KeyboardInterrupt
        return loss(*given)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(tiny_lm, "_loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            tiny_lm.pretrain(tmp_path / "cut", plan)
    again = tiny_lm.pretrain(tmp_path / "cut", plan)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
