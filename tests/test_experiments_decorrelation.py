"""The experiment on the decorrelation loss: what its arms share, its intervals, its whole chain."""

import ctypes
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sinkscope.experiments import tiny_avsr
from sinkscope.experiments.decorrelation import __main__ as command
from sinkscope.experiments.decorrelation.arms import begin, with_lora
from sinkscope.experiments.decorrelation.plan import (
    CONTROLS,
    LEVELS,
    Arm,
    Cell,
    Sizes,
    cells_of,
    own,
    shared,
)
from sinkscope.experiments.decorrelation.results import Sample, difference, sample_of, wer_table
from sinkscope.experiments.tiny_encoders import KINDS, Plan
from sinkscope.experiments.tiny_lm import Pretraining


def test_two_arms_of_a_seed_differ_in_the_loss_alone() -> None:
    base, tuned = Arm(1), Arm(1, weight=0.5)
    pairs = [(shared(base, steps=8), shared(tuned, steps=8))]
    pairs += [
        (own(one, steps=8), own(other, steps=8))
        for one, other in zip(cells_of([base]), cells_of([tuned]), strict=True)
    ]
    for without, with_loss in pairs:
        assert asdict(without) | {"decorrelation": 0.5} == asdict(with_loss)


def test_lora_cells_begin_from_the_arm_without_the_loss() -> None:
    assert Arm(2, "lora", 1.0).start == Arm(2)
    assert Arm(2, "full", 1.0).start == Arm(2, "full", 1.0)


def test_no_two_folders_share_a_name() -> None:
    arms = [Arm(s, scheme, w) for s in (0, 1) for scheme in ("full", "lora") for w in (0.0, 1.0)]
    arms += [Arm(0, control=control) for control in CONTROLS]
    names = [arm.name for arm in arms] + [cell.name for cell in cells_of(arms)]
    assert len(set(names)) == len(names)


def test_the_highest_rates_leave_eight_tokens_of_a_long_utterance() -> None:
    from sinkscope.experiments.decorrelation.plan import LONG_ENOUGH

    audio, video = LEVELS["high"]
    assert LONG_ENOUGH * 50 // audio >= 8
    assert LONG_ENOUGH * 25 // video >= 8


def sample(rates: list[float], *, words: int = 10, utterances: int = 40) -> Sample:
    """Utterances with errors drawn at these rates, one for each seed."""
    rng = np.random.default_rng(len(rates))
    errors = np.stack([rng.binomial(words, rate, utterances) for rate in rates])
    return Sample(errors.astype(float), np.full(utterances, float(words)))


def test_a_difference_is_that_of_the_means_over_seeds() -> None:
    before, after = sample([0.2, 0.3, 0.4]), sample([0.1, 0.2, 0.3])
    point, low, high = difference(after, before)
    right = np.mean(after.above.sum(1) / 400) - np.mean(before.above.sum(1) / 400)
    assert point == pytest.approx(right)
    assert low < point < high
    assert difference(before, before) == (0.0, 0.0, 0.0)


def test_seeds_that_disagree_widen_the_interval() -> None:
    alike, apart = sample([0.3, 0.3, 0.3]), sample([0.1, 0.3, 0.5])
    widths = [high - low for _, low, high in (difference(alike), difference(apart))]
    assert widths[1] > 2 * widths[0]


def test_the_interval_covers_what_it_should() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        rates = np.clip(rng.normal(0.3, 0.02, 3), 0, 1)
        _, low, high = difference(sample(rates.tolist()), draws=400, seed=trial)
        covered += low <= rates.mean() <= high
    assert covered >= 48


def written(folder: Path, wrong: list[int]) -> None:
    folder.mkdir(parents=True)
    (folder / "errors.json").write_text(json.dumps([[10, one, 0, 0] for one in wrong]))
    (folder / "sinks.csv").write_text("sample\n")


def test_the_table_reads_its_own_cells(tmp_path: Path) -> None:
    base, tuned = [Arm(0), Arm(1)], [Arm(0, weight=1.0), Arm(1, weight=1.0)]
    for arms, wrong in ((base, [4, 2]), (tuned, [2, 2])):
        for arm in arms:
            written(tmp_path / Cell(arm, "audio", "high").name, [one + arm.seed for one in wrong])
    table = wer_table(tmp_path, {"full": (base, tuned)})
    assert table[["task", "level"]].to_numpy().tolist() == [["ASR", "high"]]
    row = table.iloc[0]
    assert row["without"] == pytest.approx(0.35)
    assert row["with"] == pytest.approx(0.25)
    assert row["difference"] == pytest.approx(-0.1)
    assert (row["without_lowest_seed"], row["without_highest_seed"]) == pytest.approx((0.3, 0.4))
    lacking = [*base, Arm(2)]
    how = {"stage": "own", "number": "wer"}
    assert sample_of(tmp_path, lacking, "audio", "high", **how) is None


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained encoders and a language model that saw no step, in their files."""
    from safetensors.torch import save_file

    from sinkscope.avsr.encoders import build_encoder
    from sinkscope.experiments.tiny_lm import pretrain

    out = tmp_path_factory.mktemp("experiment")
    (out / "encoders").mkdir()
    torch.manual_seed(0)
    for stream, kind in KINDS.items():
        encoder = build_encoder(kind, {})
        save_file(dict(encoder.state_dict()), out / "encoders" / f"{stream}.safetensors")
    pretrain(out / "lm-0", Pretraining(steps=1))
    return out


def one_step(model, delimiters: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The embedding table before and after a step on everything it holds."""
    table = model.llm.get_input_embeddings().weight
    before = table.detach().clone()
    trained = [p for n, p in model.named_parameters() if p.requires_grad and "encoder" not in n]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.0)
    ids = torch.tensor([[1, *delimiters, 20, 21, 22]])
    model.llm(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    return before, table.detach()


@pytest.mark.parametrize("control", ["frozen delimiters", "mean delimiters", ""])
def test_delimiters_are_trained_only_where_they_should_be(prepared: Path, control: str) -> None:
    model = begin(prepared, Arm(0, control=control)).train()
    rows = [index for name, index in model.ids.items() if name.endswith(("open", "close"))]
    assert len(rows) == 4
    before, after = one_step(model, rows)
    frozen = torch.equal(before[rows], after[rows])
    assert frozen == bool(control)
    assert not torch.equal(before[[20, 21]], after[[20, 21]])
    if control == "mean delimiters":
        assert torch.equal(before[rows[0]], before[rows[1]])


def test_lora_trains_branches_and_projectors_alone(prepared: Path) -> None:
    model = with_lora(begin(prepared, Arm(0, "lora")), seed=0)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name or "_projector" in name for name in trained)


def test_a_layer_norm_is_the_only_difference_of_its_control(prepared: Path) -> None:
    plain = begin(prepared, Arm(0)).state_dict()
    normed = begin(prepared, Arm(0, control="layer norm")).state_dict()
    more = normed.keys() - plain.keys()
    assert {name.rsplit(".", 2)[0] for name in more} == {"audio_projector", "video_projector"}
    assert all(name.split(".")[1] == "3" for name in more)


@pytest.mark.slow
def test_the_whole_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        ctypes.CDLL("libespeak-ng.so.1")
    except OSError:
        pytest.skip("espeak-ng's library is not installed (Debian: libespeak-ng1)")
    monkeypatch.setattr(tiny_avsr, "SIZES", {"dev": 40, "test": 20, "train": 100})
    monkeypatch.setattr(command, "Plan", lambda stream: Plan(stream, steps=3, batch=4))
    monkeypatch.setattr(command, "Pretraining", lambda seed: Pretraining(steps=4, seed=seed))
    monkeypatch.setattr(command, "Sizes", lambda: Sizes(4, 2, 2, 2))
    report = tmp_path / "report"
    arguments = [str(tmp_path / "out"), "--report", str(report), "--seeds", "0", "1"]
    command.main(arguments)
    page = (report / "README.md").read_text()
    assert "| C9 |" in page
    assert "{" not in page
    wer = pd.read_csv(report / "wer.csv")
    assert len(wer) == 18
    for name in ("wer", "numbers", "curves", "controls", "places"):
        assert (report / f"{name}.png").stat().st_size > 10_000
    first = (report / "wer.csv").read_text()
    command.main(arguments)
    assert (report / "wer.csv").read_text() == first
    assert replace(Arm(0), seed=1).name in {path.name for path in (tmp_path / "out").iterdir()}
