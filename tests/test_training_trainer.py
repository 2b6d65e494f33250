"""SinkTrainer steps as one would by hand, whatever accumulates, resumes or goes wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.training.guard import NotFiniteError
from tests.families import VOCABULARY, build

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*", "ignore:.*use_reentrant.*")

TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
ROOT = Path(__file__).parents[1]
SIZES = [5, 9, 4, 7, 9, 6, 8, 5]


def samples(count=8, tokens=12):
    """Samples whose first ``SIZES`` tokens are compared and whose others are the response."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for number in range(count):
        ids = torch.randint(3, VOCABULARY, (tokens,), generator=generator)
        size = SIZES[number % len(SIZES)]
        places = torch.arange(tokens)
        labels = torch.where(places >= size, ids, -100)
        compared = (places > 0) & (places < size)
        found.append({"input_ids": ids, "labels": labels, "compared": compared})
    return found


def collate(rows):
    names = [f"clip{int(row['input_ids'][1])}" for row in rows]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} | {"names": names}


def arguments(folder, *, batch=4, accumulation=1, steps=1, **changes):
    given = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(str(folder), **given | changes)


def trained(
    folder, *, model=None, weight=2.0, data=None, callbacks=(), kind=None, loss=None, **how
):
    """The trainer after its run."""
    model = build("llama", num_hidden_layers=3, scale=0.2) if model is None else model
    own = {} if kind else {"weight": weight, "loss": loss}
    trainer = (kind or ss.SinkTrainer)(
        model,
        arguments(folder, **how),
        train_dataset=samples() if data is None else data,
        data_collator=collate,
        callbacks=list(callbacks),
        **own,
    )
    trainer.train()
    return trainer


def same(one, other, **tolerance):
    other = dict(other.named_parameters())
    for name, value in one.named_parameters():
        torch.testing.assert_close(other[name], value, msg=name, **tolerance)


def by_hand(rows, *, weight=2.0, rate=0.1):
    """One step of gradient descent on the whole batch."""
    model = build("llama", num_hidden_layers=3, scale=0.2).train()
    batch = collate(rows)
    output = model(input_ids=batch["input_ids"], labels=batch["labels"], output_hidden_states=True)
    term = ss.decorrelation_loss(output.hidden_states, batch["compared"], weight=weight)
    (output.loss + term).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
    return model, float(output.loss.detach()), float(term.detach())


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (2, 4), (1, 8), (3, 3)])
def test_a_step_is_the_step_of_the_whole_batch(tmp_path, batch, accumulation):
    trainer = trained(tmp_path, batch=batch, accumulation=accumulation)
    model, loss, term = by_hand(samples())
    same(model, trainer.model, rtol=1e-4, atol=1e-6)
    first = trainer.state.log_history[0]
    assert first["cross_entropy"] == pytest.approx(loss, rel=1e-5)
    assert first["decorrelation"] == pytest.approx(term, rel=1e-5)
    assert first["loss"] == pytest.approx(loss + term, rel=1e-5)


def test_the_term_matters_and_its_scale_is_seen(tmp_path):
    """The test above would not pass with a term that is off by the number of batches."""
    model, _, _ = by_hand(samples(), weight=8.0)
    trainer = trained(tmp_path, batch=2, accumulation=4)
    with pytest.raises(AssertionError):
        same(model, trainer.model, rtol=1e-4, atol=1e-6)


def test_where_the_trainer_divides_itself(tmp_path):
    """Without labels counted the Trainer takes the mean of the batches' means."""

    class Dividing(ss.SinkTrainer):
        def __init__(self, *args, **more):
            super().__init__(*args, weight=2.0, **more)
            self.model_accepts_loss_kwargs = False

    even = [samples()[0]] * 2 + [samples()[7]] * 2
    trainer = trained(tmp_path, kind=Dividing, data=even, batch=1, accumulation=4)
    model, loss, term = by_hand(even)
    same(model, trainer.model, rtol=1e-4, atol=1e-6)
    first = trainer.state.log_history[0]
    assert first["cross_entropy"] == pytest.approx(loss, rel=1e-5)
    assert first["decorrelation"] == pytest.approx(term, rel=1e-5)


def test_two_processes_step_as_one(tmp_path):
    trainer = trained(tmp_path / "one", batch=8, steps=2, data=samples(16))
    done = subprocess.run(
        [sys.executable, *TORCHRUN, "-m", "tests.two_processes", str(tmp_path / "two")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    from safetensors.torch import load_file

    other = load_file(tmp_path / "two" / "model.safetensors")
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6, msg=name)
    logged = torch.load(tmp_path / "two" / "logs.pt")
    assert logged == pytest.approx(trainer.state.log_history[0]["decorrelation"], rel=1e-5)


def test_weight_0_is_the_trainer_itself(tmp_path):
    how = {"batch": 2, "accumulation": 2, "steps": 4, "optim": "adamw_torch"}
    ours = trained(tmp_path / "a", weight=0, **how)

    def without(rows):
        return {k: v for k, v in collate(rows).items() if k not in ("compared", "names")}

    model = build("llama", num_hidden_layers=3, scale=0.2)
    plain = Trainer(
        model,
        arguments(tmp_path / "b", **how),
        train_dataset=[dict(row) for row in samples()],
        data_collator=without,
    )
    plain.args.remove_unused_columns = False
    plain.train()
    same(plain.model, ours.model, rtol=0, atol=0)
    assert "decorrelation" not in ours.state.log_history[0]


def test_the_weight_follows_its_schedule(tmp_path):
    schedule = ss.WeightSchedule(2.0, warmup=0.5)
    trainer = trained(
        tmp_path, weight=schedule, batch=8, steps=4, learning_rate=0.0, data=samples()
    )
    _, _, term = by_hand(samples())
    found = [row.get("decorrelation", 0.0) for row in trainer.state.log_history[:4]]
    assert found == pytest.approx([0, term / 2, term, term], rel=1e-5)


def test_compared_tokens_may_come_from_a_function(tmp_path):
    data = [{k: v for k, v in row.items() if k != "compared"} for row in samples()]

    def before_response(batch):
        mask = batch["labels"] == -100
        mask[:, 0] = False
        return mask

    trainer = ss.SinkTrainer(
        build("llama", num_hidden_layers=3, scale=0.2),
        arguments(tmp_path, batch=8),
        weight=2.0,
        compared=before_response,
        train_dataset=data,
        data_collator=collate,
    )
    trainer.train()
    same(by_hand(samples())[0], trainer.model, rtol=1e-4, atol=1e-6)
    silent = ss.SinkTrainer(
        build("llama"),
        arguments(tmp_path),
        weight=1.0,
        train_dataset=data,
        data_collator=collate,
    )
    with pytest.raises(InputError, match="no entry 'compared'"):
        silent.train()


def test_evaluation_is_the_models_own_loss(tmp_path):
    trainer = trained(tmp_path, learning_rate=0.0)
    found = trainer.evaluate(samples())
    assert found["eval_loss"] == pytest.approx(by_hand(samples())[1], rel=1e-3)


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    how = {"batch": 2, "steps": 6, "optim": "adamw_torch", "save_strategy": "steps"}
    how |= {"save_steps": 2, "data": samples(24), "train_sampling_strategy": "random"}
    whole = trained(tmp_path / "a", **how)
    again = ss.SinkTrainer(
        build("llama", num_hidden_layers=3, scale=0.2, seed=5),
        whole.args,
        weight=2.0,
        train_dataset=samples(24),
        data_collator=collate,
    )
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    same(whole.model, again.model, rtol=0, atol=0)
    logged = [row.get("decorrelation") for row in whole.state.log_history[:6]]
    assert [row.get("decorrelation") for row in again.state.log_history[:6]] == logged


class Poison(TrainerCallback):
    """Makes a weight, or a gradient, NaN in a step."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step and self.what == "weight":
            model.model.norm.weight.data[0] = float("nan")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step and self.what == "gradient":
            model.model.norm.weight.register_hook(lambda g: g * float("inf"))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            "weight",
            r"The loss of step 4 is not finite \(cross_entropy nan.*Batch: clip\d+, clip\d+",
        ),
        ("gradient", r"The gradient of step 4 is not finite\. Batch: clip\d+, clip\d+"),
    ],
)
def test_nan_stops_the_run_and_leaves_a_good_checkpoint(tmp_path, what, words):
    how = {"batch": 2, "steps": 8, "save_strategy": "steps", "save_steps": 1, "data": samples(24)}
    with pytest.raises(NotFiniteError, match=words) as error:
        trained(tmp_path, callbacks=[Poison(3, what)], **how)
    assert "checkpoint-3" in str(error.value)
    from safetensors.torch import load_file

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"checkpoint-{n}" for n in (1, 2, 3)
    ]
    kept = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(bool(value.isfinite().all()) for value in kept.values())


def test_before_any_checkpoint_the_message_says_so(tmp_path):
    with pytest.raises(NotFiniteError, match="No checkpoint was written yet"):
        trained(tmp_path / "new", callbacks=[Poison(0, "weight")])


def test_a_compiled_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="torch_compile"):
        trained(tmp_path, torch_compile=True)


def test_left_padding_is_refused_where_a_mask_means_position_0(tmp_path):
    def padded(rows):
        batch = collate(rows)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch["attention_mask"][0, 0] = 0
        return batch

    trainer = ss.SinkTrainer(
        build("llama", num_hidden_layers=3),
        arguments(tmp_path),
        train_dataset=samples(),
        data_collator=padded,
        weight=1.0,
    )
    with pytest.raises(InputError, match="padded on the left"):
        trainer.train()
