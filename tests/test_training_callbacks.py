"""SinkCallback sees what record sees, and the run does not notice."""

import random

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.training.callbacks import sink_numbers
from tests.families import build
from tests.planted import planted
from tests.test_training_trainer import arguments, collate, same, samples

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")

IDS = torch.stack([row["input_ids"] for row in samples(2, 20)])


class Draws(TrainerCallback):
    """Writes down what every generator would draw next."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, **kwargs):
        state_of = torch.random.get_rng_state().sum().item()
        self.seen.append((state_of, random.getstate()[1][:3], *_numpys()))


def _numpys():
    return np.random.get_state()[1:3][1:]  # noqa: NPY002


def run(folder, *, callbacks, kind=ss.SinkTrainer, steps=6, dropout=0.1):
    model = build("llama", num_hidden_layers=3, scale=0.2, attention_dropout=dropout)
    own = {"weight": 1.0} if kind is ss.SinkTrainer else {}
    trainer = kind(
        model,
        arguments(folder, batch=2, steps=steps, learning_rate=0.01),
        train_dataset=samples(16),
        data_collator=collate if own else plain,
        callbacks=callbacks,
        **own,
    )
    trainer.train()
    return trainer


def plain(rows):
    return {k: v for k, v in collate(rows).items() if k in ("input_ids", "labels")}


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("kind", [ss.SinkTrainer, Trainer])
def test_the_run_is_the_same_to_the_bit(tmp_path, kind):
    watched, unwatched = Draws(), Draws()
    callback = ss.SinkCallback({"input_ids": IDS}, every=2)
    one = run(tmp_path / "a", kind=kind, callbacks=[callback, watched])
    other = run(tmp_path / "b", kind=kind, callbacks=[unwatched])
    assert losses(one) == losses(other)
    assert watched.seen == unwatched.seen
    same(one.model, other.model, rtol=0, atol=0)
    assert [row["step"] for row in callback.history] == [0, 2, 4, 6]
    assert one.model.training == other.model.training
    logged = [row for row in one.state.log_history if "twins" in row]
    assert [row["step"] for row in logged] == [0, 2, 4, 6]


def test_the_numbers_are_those_of_the_record(tmp_path):
    callback = ss.SinkCallback({"input_ids": IDS}, every=3)
    trainer = run(tmp_path, callbacks=[callback], steps=3)
    record = ss.record(trainer.model.eval(), input_ids=IDS)
    numbers = sink_numbers(record)
    last = {name: callback.history[-1][name] for name in numbers}
    assert last == pytest.approx(numbers, rel=1e-5)
    with torch.no_grad():
        states = trainer.model(IDS, output_hidden_states=True).hidden_states
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[:, 0] = False
    right = ss.decorrelation_loss(states, mask, weight=1)
    assert numbers["mean_cos2"] == pytest.approx(float(right), rel=1e-4)
    assert list(callback.frame()["step"]) == [0, 3]


def test_planted_sinks_are_counted():
    plant = planted(heads=(0, 1, 2, 4, 5, 6))
    ids = torch.cat([plant.ids(40, sinks=[0, 7]), plant.ids(40, sinks=[0, 7, 20], seed=1)])
    numbers = sink_numbers(ss.record(plant.model, input_ids=ids))
    assert numbers["intermediate_sinks"] == 1.5
    assert numbers["twins"] == 1.5
    assert numbers["largest_ratio"] > 1000
    assert numbers["bos_sink_rate"] == pytest.approx(len(plant.heads) / 8)
    bare = sink_numbers(ss.record(plant.model, input_ids=plant.ids(40, sinks=[0])))
    assert bare["intermediate_sinks"] == bare["twins"] == bare["other_sink_rate"] == 0


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(InputError, match="every is 0"):
        ss.SinkCallback([], every=0)
