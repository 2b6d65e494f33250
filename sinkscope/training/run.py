"""A whole training run from its settings: ``train(config, folder)``. Depends on torch and avsr.

Called again after it was stopped, at whatever moment, it goes on from its last whole checkpoint and
ends with the parameters of an unbroken run (to the bit on a CPU).
"""

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from sinkscope.avsr.corpora import read_corpus
from sinkscope.avsr.loading import load_clip
from sinkscope.avsr.manifest import Corpus
from sinkscope.avsr.mome_settings import MomeSettings
from sinkscope.avsr.streams import MODALITIES
from sinkscope.errors import InputError
from sinkscope.subjects.avsr import AvsrSubject, avsr_subject
from sinkscope.subjects.subject import load
from sinkscope.training.batches import ClipBatches
from sinkscope.training.callbacks import SinkCallback
from sinkscope.training.clip_trainer import ClipTrainer, WriteFiles
from sinkscope.training.config import TrainConfig
from sinkscope.training.dev import LogErrors, dev_errors
from sinkscope.training.features import origin_of
from sinkscope.training.prepared import prepare_for_training
from sinkscope.training.run_folder import RunFolder
from sinkscope.training.schedule import WeightSchedule
from sinkscope.training.spoken import SpokenModel
from sinkscope.training.step_passes import trained_modalities
from sinkscope.training.unusable import refuse_unusable

__all__ = ["train"]

WATCHED = 4
"""Clips of dev whose sinks are watched."""


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    quiet: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Train an audio-visual LLM, or go on with a run that was stopped.

    Args:
        config: of the run.
        folder: where everything goes; see `RunFolder`. ``model`` in it is what `ss.load` takes.
        quiet: whether to draw no bar.
        say: told at the start how many rows of a corpus were left out, if any.

    Returns:
        What ``run.json`` says: the word errors on dev among it.

    Raises:
        InputError: the folder, the corpus or a setting cannot be used.
        NotFiniteError: the loss or the gradient became NaN or infinite.
    """
    _refuse_processes()
    run = RunFolder(folder, config)
    if run.finished:
        return run.told or {}
    with run.running():
        _train(config, run, quiet=quiet, say=say)
    return run.told or {}


def _train(
    config: TrainConfig, run: RunFolder, *, quiet: bool, say: Callable[[str], object]
) -> None:
    """Train in a folder that is held."""
    set_seed(config.seed)
    subject = load(config.model, dtype="float32")
    if not isinstance(subject, AvsrSubject):
        raise InputError(f"train: {subject.name} takes no clips; give an audio-visual LLM.")
    corpus, dev = _corpus(config, config.train), _corpus(config, config.dev)
    for name, one in (("train", corpus), ("dev", dev)):
        if one.failures:
            rows = len(one.entries) + len(one.failures)
            left = f"{name}: {len(one.failures)} of {rows} rows were left out"
            say(f"{left}: {one.failures[0].reason}")
    model = subject.model
    refuse_unusable(model, corpus.entries, config=config)
    refuse_unusable(model, dev.entries, config=config, learned=False)
    run.start(origin_of(model, train=corpus.entries, dev=dev.entries))
    wrapped = prepare_for_training(model, config)
    checkpoint = run.last_checkpoint()
    start = time.monotonic()
    if checkpoint is not None and checkpoint.name == f"checkpoint-{config.steps}":
        wrapped.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
    else:
        trainer = _trainer(wrapped, corpus, dev, config=config, run=run, quiet=quiet)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    model.eval()
    _save(wrapped, run)
    run.finish(
        {
            "steps": config.steps,
            "seconds_since_last_start": round(time.monotonic() - start, 1),
            "device": str(next(model.parameters()).device),
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "unreadable": [failure.reason for failure in corpus.failures],
            **dev_errors(wrapped, dev.entries, config),
        }
    )


def _refuse_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "train: it was started in several processes, and a run is one; start it plainly, or "
            "use SinkTrainer in a script of your own."
        )
    if torch.cuda.device_count() > 1:
        raise InputError(
            f"train: there are {torch.cuda.device_count()} GPUs and a run uses one; start it as "
            "CUDA_VISIBLE_DEVICES=0 sinkscope train CONFIG -o OUTPUT."
        )


def _corpus(config: TrainConfig, source: str | None) -> Corpus:
    if source is None:
        return Corpus([], [])
    return read_corpus(source, root=config.root, landmarks=config.landmarks)


def _trainer(
    model: SpokenModel,
    corpus: Corpus,
    dev: Corpus,
    *,
    config: TrainConfig,
    run: RunFolder,
    quiet: bool,
) -> ClipTrainer:
    count = config.steps * config.accumulation
    data = ClipBatches(model.model, corpus.entries, config=config, count=count)
    arguments = _arguments(config, run, quiet, parts=config.accumulation * data.passes)
    own = config.decorrelation
    callbacks = [WriteFiles(run, model), TensorBoardCallback(_writer(run))]
    if config.watch_every:
        clips = [load_clip(entry) for entry in dev.entries[:WATCHED]]
        widest = max(
            trained_modalities(model.model.config, config), key=lambda one: len(MODALITIES[one])
        )
        watched = avsr_subject(model.model).with_options(modality=widest)
        callbacks.append(SinkCallback(clips, every=config.watch_every, subject=watched))
    trainer = ClipTrainer(
        model,
        arguments,
        weight=WeightSchedule(own.weight, warmup=own.warmup, decay=own.decay),
        loss={"power": own.power, "layers": own.layers, "detach_bos": own.detach_bos},
        balance=_balance(model),
        train_dataset=data,
        data_collator=_only,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if config.evaluate_every:
        trainer.add_callback(LogErrors(trainer, dev.entries, config))
    return trainer


def _arguments(
    config: TrainConfig, run: RunFolder, quiet: bool, *, parts: int
) -> TrainingArguments:
    return TrainingArguments(
        str(run.checkpoints),
        max_steps=config.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=parts,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup * config.steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip_norm,
        bf16=config.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        logging_steps=config.log_every,
        save_steps=config.save_every,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to=[],
        disable_tqdm=quiet,
    )


def _balance(model: SpokenModel) -> MomeSettings | None:
    """What the balance loss follows; None where no routed experts are trained."""
    learning = [name for name, one in model.named_parameters() if one.requires_grad]
    routed = any(".mome.router." in name for name in learning)
    return model.model.config.mome if routed else None


def _only(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The one batch that the data set gave."""
    return rows[0]


def _writer(run: RunFolder) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    last = run.last_checkpoint()
    purge = None if last is None else int(last.name.rpartition("-")[2]) + 1
    return SummaryWriter(str(run.path / "tensorboard"), purge_step=purge)


def _save(model: SpokenModel, run: RunFolder) -> None:
    """Write the model's folder, whole or not at all."""
    part, folder = run.path / "model.part", run.path / "model"
    for path in (part, folder):
        shutil.rmtree(path, ignore_errors=True)
    with torch.no_grad():
        model.model.save_pretrained(part)
    part.rename(folder)
