"""Training on clips learns, lowers its term, keeps what is frozen, and stops in words."""

from dataclasses import replace

import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.corpora import read_corpus
from sinkscope.avsr.manifest import Entry
from sinkscope.errors import CheckpointError, InputError
from sinkscope.training.batches import ClipBatches
from sinkscope.training.config import DecorrelationConfig, LoraConfig, NoiseConfig, TrainConfig
from sinkscope.training.guard import NotFiniteError
from sinkscope.training.run import train
from sinkscope.training.spoken import prepare_for_training
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
    config = replace(config_of(corpus), llm="lora", lora=LoraConfig(16, 8))
    one, other = (prepare_for_training(model(), config) for _ in range(2))
    named = dict(other.named_parameters())
    drawn = [n for n, p in one.named_parameters() if ".lora_B" in n and torch.equal(p, named[n])]
    assert len(drawn) == 2 * 4


def test_a_loss_that_is_no_number_stops_it(corpus, tmp_path):
    config = config_of(corpus, learning_rate=1e30, warmup=0.0, clip_norm=0.0, steps=20)
    config = replace(config, save_every=1, decorrelation=DecorrelationConfig(1.0))
    with pytest.raises(NotFiniteError, match=r"step \d+ is not finite.*clip\d.*checkpoint"):
        train(config, tmp_path / "out", quiet=True)


def test_corpora_that_cannot_be_learned_from(corpus, tmp_path):
    bare = corpus.parent / "bare.csv"
    bare.write_text("path,text\nclip0.wav,\n")
    with pytest.raises(InputError, match="has no text to learn"):
        train(config_of(bare), tmp_path / "a", quiet=True)
    config = config_of(corpus, modalities=["video"])
    with pytest.raises(InputError, match="has no video, which this run needs"):
        train(config, tmp_path / "b", quiet=True)
    entry = Entry(corpus.parent / "clip0.wav", text="bin blue", frames=20)
    data = ClipBatches(model(), [entry], config=config_of(corpus, audio_rates=[200]), count=1)
    with pytest.raises(InputError, match="less than one token"):
        data[0]
