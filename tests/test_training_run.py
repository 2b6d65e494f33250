"""Training on clips learns, lowers its term, keeps what is frozen, and stops in words."""

import fcntl
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import sinkscope as ss
from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.corpora import read_corpus
from sinkscope.avsr.manifest import Entry
from sinkscope.errors import CheckpointError, InputError
from sinkscope.training.batches import ClipBatches
from sinkscope.training.config import DecorrelationConfig, NoiseConfig, TrainConfig
from sinkscope.training.guard import NotFiniteError, refuse_infinite_weights
from sinkscope.training.prepared import prepare_for_training
from sinkscope.training.run import train
from sinkscope.training.run_folder import RunFolder
from sinkscope.training.unusable import refuse_unusable
from tests.training_corpus import settings, write_corpus

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pin_memory.*")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("clips"))


def config_of(corpus, **changes):
    plain = {"lora": None, "llm": "full", "delimiters": False, "dropout": 0.0, "dev": None}
    plain |= {"noise": None, "audio_rates": None, "accumulation": 1, "save_every": 100}
    return TrainConfig.from_dict(settings(corpus, **(plain | changes)))


def model():
    return ss.load("tiny-avsr", dtype="float32").model


def batches(corpus, count=40, **changes):
    config = config_of(corpus, **changes)
    return ClipBatches(model(), read_corpus(corpus).entries, config=config, count=count)


def log_of(folder):
    import pandas as pd

    return pd.read_csv(folder / "log.csv")


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_it_learns(corpus, tmp_path, weight):
    config = config_of(
        corpus, decorrelation={"weight": weight}, steps=40, dev=str(corpus), watch_every=20
    )
    told = train(config, tmp_path / "out", quiet=True)
    log = log_of(tmp_path / "out")
    loss = log["cross_entropy"].dropna()
    assert loss.iloc[-5:].mean() < 0.6 * loss.iloc[:5].mean()
    cosine = log["mean_cos2"].dropna()
    assert len(cosine) == 3
    if weight:
        term = log["decorrelation"].dropna()
        assert term.iloc[-5:].mean() < 0.7 * term.iloc[:5].mean()
        assert cosine.iloc[-1] < 0.7 * cosine.iloc[0]
    else:
        assert "decorrelation" not in log
    assert told["dev"]["audio"]["wer"] <= 1.5
    assert ss.load(str(tmp_path / "out" / "model")).model.config.massive_ratio == 50


def test_the_loss_is_that_of_the_models_own_batch(corpus):
    """Batches that were put together here give what the model's own prepare and forward give."""
    own = model()
    config = config_of(corpus)
    data = ClipBatches(own, read_corpus(corpus).entries, config=config, count=4)
    wrapped = prepare_for_training(own, config)
    batch = data[1]
    clips = [ss.read_clip(corpus.parent / f"{name}.wav") for name in batch["names"]]
    with torch.no_grad():
        inputs = own.prepare(clips, modality="audio", texts=batch["texts"])
        right = own(inputs).loss
        found = wrapped(batch["streams"], batch["texts"], batch["rates"]).loss
    torch.testing.assert_close(found, right)
    assert batch["targets"] == int((inputs.labels != -100).sum())
    mask = inputs.attention_mask & (inputs.labels == -100)
    mask[:, 0] = False
    assert torch.equal(batch["compared"], mask)


def test_a_batch_depends_on_its_number_alone(corpus):
    noise = {"kind": "babble", "share": 0.5, "snr": [0, 10]}
    one, other = (batches(corpus, noise=noise, audio_rates=[4, 8]) for _ in range(2))
    forwards = [one[number] for number in range(12)]
    backwards = [other[number] for number in reversed(range(12))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert a["names"] == b["names"]
        assert a["rates"] == b["rates"]
        assert torch.equal(a["streams"]["audio"]["batch"], b["streams"]["audio"]["batch"])
    assert {batch["rates"]["audio"] for batch in forwards} == {4, 8}
    seed = batches(corpus, noise=noise, seed=1)
    assert [seed[i]["names"] for i in range(12)] != [batch["names"] for batch in forwards]


def test_every_clip_comes_once_an_epoch(corpus):
    data = batches(corpus)
    names = [name for number in range(12) for name in data[number]["names"]]
    found = [tuple(sorted(names[start : start + 6])) for start in range(0, 18, 6)]
    assert set(found) == {tuple(f"clip{i}" for i in range(6))}
    orders = {tuple(names[start : start + 6]) for start in range(0, 18, 6)}
    assert len(orders) > 1


def test_noise_changes_some_clips_and_not_others(corpus):
    clean, noised = (
        batches(corpus, noise=noise)
        for noise in (None, {"kind": "babble", "share": 0.5, "snr": [0, 0]})
    )
    changed = []
    for number in range(12):
        one, other = clean[number]["streams"]["audio"], noised[number]["streams"]["audio"]
        rows = (one["batch"] != other["batch"]).flatten(1).any(1)
        changed += rows.tolist()
    assert 0.2 < sum(changed) / len(changed) < 0.8


def test_a_cache_gives_the_same_run(corpus, tmp_path):
    noise = NoiseConfig(share=0.3)
    config = replace(config_of(corpus, steps=6), noise=noise, cache=str(tmp_path / "cache"))
    cold = train(config, tmp_path / "cold", quiet=True)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert 0 < len(files) <= 6
    train(config, tmp_path / "warm", quiet=True)
    assert files == {path: path.stat().st_mtime_ns for path in files}
    one, other = (
        (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("cold", "warm")
    )
    assert one == other
    assert cold["status"] == "finished"


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({"llm": "frozen"}, {"audio_projector", "video_projector"}),
        ({"llm": "full"}, {"audio_projector", "video_projector", "llm"}),
        (
            {"llm": "frozen", "encoders": True},
            {"audio_projector", "video_projector", "audio_encoder", "video_encoder"},
        ),
    ],
)
def test_what_is_trained(corpus, changes, trained):
    wrapped = prepare_for_training(model(), config_of(corpus, **changes))
    learning = {n.split(".")[1] for n, p in wrapped.named_parameters() if p.requires_grad}
    assert learning == trained
    wrapped.train()
    assert wrapped.model.audio_encoder.training == ("audio_encoder" in trained)
    kept = {name.split(".")[1] for name in wrapped.state_dict()}
    assert kept == trained
    with pytest.raises(CheckpointError, match="does not hold what this run trains"):
        wrapped.load_state_dict({})


def test_lora_needs_branches(corpus):
    with pytest.raises(InputError, match="has no LoRA branches"):
        prepare_for_training(model(), config_of(corpus, llm="lora"))
    config = replace(config_of(corpus), llm="lora", lora=LoraSettings(16, 8))
    one, other = (prepare_for_training(model(), config) for _ in range(2))
    named = dict(other.named_parameters())
    drawn = [n for n, p in one.named_parameters() if ".lora_B" in n and torch.equal(p, named[n])]
    assert len(drawn) == 2 * 4


def test_a_loss_that_is_no_number_stops_it(corpus, tmp_path):
    config = config_of(corpus, learning_rate=1e30, warmup=0.0, clip_norm=0.0, steps=20)
    config = replace(config, save_every=1, decorrelation=DecorrelationConfig(1.0))
    with pytest.raises(NotFiniteError, match=r"step \d+ is not finite.*clip\d.*checkpoint"):
        train(config, tmp_path / "out", quiet=True)


@pytest.mark.parametrize("which", ["train", "dev"])
def test_a_bad_clip_is_refused_at_the_start(corpus, tmp_path, which):
    """The one bad clip is the last, and no step is made."""
    clips = tmp_path / "clips"
    shutil.copytree(corpus.parent, clips)
    soundfile.write(clips / "short.wav", np.full(1500, 0.1, np.float32), 16_000)
    shutil.copy(ss.bundled_clips()[0], clips / "both.mp4")
    good = "path,text\nboth.mp4,bin blue at f two now\n"
    cases = [("clip0.wav,bin blue", ["audiovisual"], "row 3: the clip has no video")]
    cases += [("clip0.wav,", ["audio"], "row 3 has no text")]
    if which == "train":
        cases += [("clip0.wav,bin xylophone", ["audio"], "row 3: The tokenizer knows not every")]
        cases += [("short.wav,bin", ["audio"], "row 3: .*less than one token at audio rate 16")]
    for number, (row, modalities, words) in enumerate(cases):
        manifest = clips / "bad.csv"
        manifest.write_text(f"{good}{row}\n")
        fine = clips / "fine.csv"
        fine.write_text(good)
        given = {"train": str(fine), "dev": str(fine)} | {which: str(manifest)}
        config = config_of(corpus, modalities=modalities, audio_rates=[4, 16], **given)
        with pytest.raises(InputError, match=words):
            train(config, tmp_path / str(number), quiet=True)
        assert not (tmp_path / str(number) / "log.csv").exists()


def test_the_edge_of_a_token_is_exact(corpus, tmp_path):
    """What is refused at the start is what the batch would refuse, and no more."""
    own, said = model(), []
    config = config_of(corpus, audio_rates=[16])
    for samples in range(4320, 5920, 80):
        path = tmp_path / f"{samples}.wav"
        soundfile.write(path, np.full(samples, 0.1, np.float32), 16_000)
        entry = Entry(path, text="bin blue")
        outcomes = []
        for attempt in (
            lambda entry=entry: refuse_unusable(own, [entry], config=config),
            lambda entry=entry: ClipBatches(own, [entry], config=config, count=1)[0],
        ):
            try:
                attempt()
                outcomes.append(True)
            except InputError:
                outcomes.append(False)
        said.append(outcomes)
    assert all(one == other for one, other in said)
    assert {one for one, _ in said} == {True, False}


def test_what_is_watched_and_saved_is_what_was_trained(corpus, tmp_path, monkeypatch):
    from sinkscope.training import run

    seen = []
    own = run.SinkCallback

    def callback(clips, **given):
        seen.append(given["subject"])
        return own(clips, **given)

    monkeypatch.setattr(run, "SinkCallback", callback)
    config = config_of(corpus, audio_rates=[8, 4], dev=str(corpus), watch_every=1, steps=1)
    train(config, tmp_path / "out", quiet=True)
    assert seen[0].modality == "audio"
    assert seen[0].model.config.audio_rates == (8, 4)
    saved = ss.load(str(tmp_path / "out" / "model")).model.config
    assert saved.audio_rates == (8, 4)
    assert saved.video_rates == ss.load("tiny-avsr").model.config.video_rates


def test_an_evaluation_that_fails_leaves_a_finished_run(corpus, tmp_path, monkeypatch):
    from sinkscope.training import dev

    def fail(*args, **kwargs):
        raise InputError("None of the clips could be evaluated.")

    monkeypatch.setattr(dev, "evaluate", fail)
    told = train(config_of(corpus, dev=str(corpus), steps=1), tmp_path / "out", quiet=True)
    assert told["status"] == "finished"
    assert told["dev"] is None
    assert "None of the clips" in told["dev_error"]


def stopped(config, folder, monkeypatch, *, after):
    """A run that is interrupted once the checkpoint of a step is whole."""
    own = RunFolder.mark_complete

    def mark(self, step):
        own(self, step)
        if step >= after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "mark_complete", mark)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder, quiet=True)


def told_in(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_folder_with_beginnings_is_taken_and_others_are_not(corpus, tmp_path):
    config = config_of(corpus, steps=1)
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text(config.to_yaml())
    (out / "run.json.part").write_text("{")
    assert train(config, out, quiet=True)["status"] == "finished"
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.yaml").write_text("# my settings\nmodel: tiny-avsr\ntrain: clips\n")
    with pytest.raises(InputError, match="no training run"):
        train(config, own, quiet=True)
    assert (own / "config.yaml").read_text().startswith("# my settings")


def test_half_precision(corpus, tmp_path):
    config = config_of(corpus, precision="bfloat16", steps=12)
    train(config, tmp_path / "out", quiet=True)
    loss = log_of(tmp_path / "out")["cross_entropy"].dropna()
    assert loss.iloc[-1] < loss.iloc[0]


def test_a_failed_start_can_be_mended(corpus, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="nowhere"):
        train(config_of(corpus, train="nowhere.csv"), out, quiet=True)
    told = told_in(out)
    assert told["status"] == "stopped"
    assert "nowhere" in told["why"]
    told = train(config_of(corpus, steps=1), out, quiet=True)
    assert told["status"] == "finished"
    assert "why" not in told
    assert TrainConfig.read(out / "config.yaml").train == str(corpus)
    with pytest.raises(InputError, match="another configuration"):
        train(config_of(corpus, steps=2), out, quiet=True)


def test_a_log_with_gaps_is_the_same_after_a_stop(corpus, tmp_path, monkeypatch):
    import pandas as pd

    config = config_of(corpus, steps=8, log_every=5, save_every=3)
    train(config, tmp_path / "whole", quiet=True)
    stopped(config, tmp_path / "out", monkeypatch, after=3)
    train(config, tmp_path / "out", quiet=True)
    whole, out = (log_of(tmp_path / name) for name in ("whole", "out"))
    assert list(whole["step"]) == [3, 5, 6, 8]
    assert "epoch" not in whole
    pd.testing.assert_frame_equal(whole, out, check_exact=True)


def test_weights_that_are_no_numbers_are_not_saved(corpus, tmp_path, monkeypatch):
    from sinkscope.training.clip_trainer import ClipTrainer

    own = ClipTrainer.compute_loss

    def spoil(self, model, *args, **kwargs):
        if self.state.global_step == 3:
            with torch.no_grad():
                model.model.video_projector[0].weight[0, 0] = float("inf")  # sound alone is read
        return own(self, model, *args, **kwargs)

    monkeypatch.setattr(ClipTrainer, "compute_loss", spoil)
    out = tmp_path / "out"
    with pytest.raises(NotFiniteError, match=r"not finite.*in a new folder"):
        train(config_of(corpus, save_every=2, steps=6), out, quiet=True)
    told = told_in(out)
    assert told["status"] == "stopped"
    assert "not finite" in told["why"]
    assert not (out / "checkpoints" / "checkpoint-4").exists()


def test_only_finite_weights_pass():
    from torch import nn

    layer = nn.Linear(2, 2)
    refuse_infinite_weights(layer, step=4, folder=None)
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="after step 4, first weight"):
        refuse_infinite_weights(layer, step=4, folder=None)
    layer.weight.requires_grad_(False)
    refuse_infinite_weights(layer, step=4, folder=None)


def test_quiet_is_quiet(corpus, tmp_path, capsys):
    train(config_of(corpus, steps=2), tmp_path / "out", quiet=True)
    assert capsys.readouterr().out == ""


def test_what_changed_since_the_stop_is_refused(corpus, tmp_path, monkeypatch):
    clips = tmp_path / "clips"
    shutil.copytree(corpus.parent, clips)
    manifest = clips / corpus.name
    config = config_of(manifest, steps=4, save_every=2)
    out = tmp_path / "out"
    stopped(config, out, monkeypatch, after=2)
    text, run = manifest.read_text(), (out / "run.json").read_text()
    manifest.write_text(text.replace("bin blue", "bin red"))
    with pytest.raises(InputError, match="clips or texts of train changed"):
        train(config, out, quiet=True)
    manifest.write_text(text)
    for changed, words in (
        ({"versions": {"torch": "0.1"}}, r"a run of torch 0\.1, and this is"),
        ({"origin": {"model": "other"}}, "weights of the model changed"),
    ):
        (out / "run.json").write_text(json.dumps(json.loads(run) | changed))
        with pytest.raises(InputError, match=words):
            train(config, out, quiet=True)
    (out / "run.json").write_text(run)
    assert train(config, out, quiet=True)["status"] == "finished"
    shutil.rmtree(out / "model")
    assert train(config, out, quiet=True)["status"] == "finished"
    assert (out / "model").is_dir()


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe", b"{"])
def test_a_damaged_run_file_is_refused(corpus, tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json (is damaged|holds a list)"):
        train(config_of(corpus), tmp_path, quiet=True)


def test_a_damaged_checkpoint_is_refused_and_others_are_left(corpus, tmp_path, monkeypatch):
    config = config_of(corpus, steps=8, save_every=2)
    stopped(config, tmp_path, monkeypatch, after=2)
    old = tmp_path / "checkpoints" / "checkpoint-old"
    old.mkdir()
    weights = tmp_path / "checkpoints" / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged \(1000 bytes of"):
        train(config, tmp_path, quiet=True)
    shutil.rmtree(weights.parent)
    assert train(config, tmp_path, quiet=True)["status"] == "finished"
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"checkpoint-old", "checkpoint-6", "checkpoint-8"}


def test_a_second_start_is_refused(corpus, tmp_path):
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="by another process"):
            train(config_of(corpus), tmp_path, quiet=True)


def test_several_devices_are_refused(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=0 sinkscope train"):
        train(config_of(corpus), tmp_path, quiet=True)


def test_corpora_that_cannot_be_learned_from(corpus, tmp_path):
    bare = corpus.parent / "bare.csv"
    bare.write_text("path,text\nclip0.wav,\n")
    with pytest.raises(InputError, match="has no text to learn"):
        train(config_of(bare), tmp_path / "a", quiet=True)
    config = config_of(corpus, modalities=["video"])
    with pytest.raises(InputError, match="has no video, which this run needs"):
        train(config, tmp_path / "b", quiet=True)
    with pytest.raises(InputError, match="has no video, which this run needs"):
        ClipBatches(model(), read_corpus(corpus).entries, config=config, count=1)[0]
    entry = Entry(corpus.parent / "clip0.wav", text="bin blue", frames=20)
    data = ClipBatches(model(), [entry], config=config_of(corpus, audio_rates=[200]), count=1)
    with pytest.raises(InputError, match="less than one token"):
        data[0]
