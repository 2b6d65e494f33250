"""A step over several passes is the mean of the steps over each, whatever is added to the loss."""

import csv
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.corpora import read_corpus
from sinkscope.avsr.manifest import Corpus
from sinkscope.avsr.passes import SampledPair
from sinkscope.errors import InputError
from sinkscope.training.batches import ClipBatches
from sinkscope.training.clip_trainer import WriteFiles
from sinkscope.training.config import TrainConfig
from sinkscope.training.prepared import prepare_for_training
from sinkscope.training.run import _trainer, train
from sinkscope.training.run_folder import RunFolder
from sinkscope.training.step_passes import DrawnPasses, passes_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pin_memory.*")

EVERY = ["audio", "video", "audiovisual"]
TEXTS = ["bin", "set red in j six again", "lay green by k one soon please now again"]
EXPERTS = {"routed": 4, "top_k": 2, "bottleneck": 2, "up_init": "normal", "balance_weight": 3.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The bundled clips with texts of very different lengths."""
    folder = tmp_path_factory.mktemp("clips")
    rows = [(str(path), text) for path, text in zip(ss.bundled_clips(), TEXTS, strict=False)]
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "text"), *rows])
    return folder / "clips.csv"


def config_of(corpus, **changes):
    given = {"model": "tiny-avsr", "train": str(corpus), "llm": "full", "modalities": EVERY}
    given |= {"audio_rates": [4, 16], "video_rates": [2, 5], "passes": "all_pairs"}
    given |= {"noise": {"kind": "babble", "share": 0.5, "snr": [0, 10]}, "batch_frames": 80}
    given |= {"steps": 1, "log_every": 1, "warmup": 0.0, "clip_norm": 0.0, "accumulation": 2}
    return TrainConfig.from_dict(given | changes)


@pytest.fixture(scope="module")
def model():
    return ss.load("tiny-avsr", dtype="float32").model


@pytest.fixture
def step_of(model, corpus, tmp_path, monkeypatch):
    """Gives the gradient and the log of a run's first step."""

    def step(config):
        found = {}

        def take(self, args, state, control, model=None, **kwargs):
            for name, value in model.named_parameters():
                if value.grad is not None:
                    found[name] = value.grad.clone()

        monkeypatch.setattr(WriteFiles, "on_pre_optimizer_step", take)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        trainer = _trainer(
            prepare_for_training(deepcopy(model), config),
            read_corpus(corpus),
            Corpus([], []),
            config=config,
            run=RunFolder(folder, config),
            quiet=True,
        )
        trainer.train()
        row = trainer.state.log_history[0]
        names = ("loss", "cross_entropy", "decorrelation", "balance")
        return found, {name: row[name] for name in names if name in row}

    return step


def difference(one, other):
    """The norm of the difference of two gradients, over the norm of the second."""
    names = one.keys() | other.keys()
    zero = torch.zeros(())
    apart = [(one.get(n, zero) - other.get(n, zero)).double().norm() ** 2 for n in names]
    whole = [value.double().norm() ** 2 for value in other.values()]
    return float((sum(apart) / sum(whole)) ** 0.5)


WEIGHTS = {"audio": 1, "video": 1.5, "audiovisual": 0.25}
FEW = {"modalities": ["audio", "audiovisual"], "video_rates": [2]}
LORA = {"llm": "lora", "lora": {"reduction": 16, "alpha": 8, "scheme": "MSS"}}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"accumulation": 1}, id="plain"),
        pytest.param(
            {"task_weights": WEIGHTS, "decorrelation": {"weight": 20.0}},
            id="weights, decorrelation",
        ),
        pytest.param(
            FEW | {"llm": "frozen", "mome": EXPERTS, "projectors": "per_rate"},
            id="experts, per rate",
        ),
        pytest.param(FEW | LORA | {"accumulation": 1}, id="branches of scales"),
    ],
)
def test_a_step_is_the_mean_of_the_steps_of_its_passes(
    model, corpus, tmp_path, monkeypatch, step_of, changes
):
    config = config_of(corpus, cache=str(tmp_path / "cache"), **changes)
    whole, logged = step_of(config)
    passes = passes_of(model.config, config).possible()
    total, losses = {}, []
    alone = replace(config, passes="drawn")
    for one in passes:
        monkeypatch.setattr(DrawnPasses, "drawn", lambda *_, one=one: one)
        gradient, loss = step_of(alone)
        losses.append(loss)
        for name, value in gradient.items():
            total[name] = total.get(name, 0) + value.double() / len(passes)
    assert difference(whole, total) < 1e-6
    assert logged.keys() == losses[0].keys()
    for name, value in logged.items():
        mean = sum(loss[name] for loss in losses) / len(losses)
        assert value == pytest.approx(mean, rel=2e-6), name


def test_weights_are_not_undone(corpus, step_of):
    """Twice the weight is twice the gradient, and the weights of tasks turn it."""
    plain, _ = step_of(config_of(corpus))
    twice = dict.fromkeys(EVERY, 2)
    double, _ = step_of(config_of(corpus, task_weights=twice))
    assert difference(double, {name: 2 * value for name, value in plain.items()}) < 1e-6
    turned, _ = step_of(config_of(corpus, task_weights=WEIGHTS))
    assert difference(turned, plain) > 0.05


def test_the_passes_of_a_step_are_over_the_same_clips_in_the_same_noise(model, corpus):
    config = config_of(corpus)
    entries = read_corpus(corpus).entries
    data = ClipBatches(model, entries, config=config, count=4)
    assert (data.passes, len(data)) == (8, 32)
    drawn = ClipBatches(model, entries, config=replace(config, passes="drawn"), count=4)
    for group in range(4):
        batches = [data[8 * group + place] for place in range(8)]
        assert {tuple(batch["names"]) for batch in batches} == {tuple(drawn[group]["names"])}
        found = [
            (tuple(b["streams"]), b["rates"].get("audio"), b["rates"].get("video")) for b in batches
        ]
        assert found[:4] == [
            (("audio",), 4, None),
            (("audio",), 16, None),
            (("video",), None, 2),
            (("video",), None, 5),
        ]
        assert [rates[1:] for rates in found[4:]] == [(4, 2), (16, 2), (4, 5), (16, 5)]
        for batch in batches:
            for stream, given in batch["streams"].items():
                first = batches[4]["streams"][stream]["frames"]
                assert torch.equal(given["frames"], first)
        assert len({batch["targets"] for batch in batches}) == 1
        assert [batch["pass"].number for batch in batches] == list(range(8))


def test_a_drawn_pair_holds_for_the_whole_step(model, corpus):
    config = config_of(corpus, passes="sampled_pair", seed=4, task_weights=WEIGHTS)
    data = ClipBatches(model, read_corpus(corpus).entries, config=config, count=12)
    schedule = SampledPair((4, 16), (2, 5), tuple(EVERY), WEIGHTS, seed=4)
    pairs = set()
    for number in reversed(range(36)):
        batch, (step, place) = data[number], (number // 6, number % 3)
        right = schedule.passes(step)[place]
        assert batch["rates"] == right.rates
        assert batch["pass"].weight == right.weight == WEIGHTS[EVERY[place]]
        pairs.add(tuple(schedule.passes(step)[2].rates.values()))
    assert len(pairs) > 1


def test_fresh_parts_change_nothing_at_first(corpus, step_of):
    """Experts begin at zero, projectors of a rate as copies of the shared one."""
    plain = {"llm": "frozen", "accumulation": 1}
    experts = EXPERTS | {"up_init": "zeros", "balance_weight": 0.0}
    _, before = step_of(config_of(corpus, **plain))
    config = config_of(corpus, **plain, mome=experts, projectors="per_rate")
    gradient, after = step_of(config)
    assert after["cross_entropy"] == before["cross_entropy"]
    kinds = {name.split(".")[1] for name in gradient}
    assert kinds == {"llm", "audio_projector", "video_projector"}
    assert all(".mome." in name for name in gradient if ".llm." in name)
    rates = {name.split(".")[2] for name in gradient if "audio_projector" in name}
    assert rates == {"4", "16"}


def test_what_goes_on_from_such_a_model(model, corpus):
    model = deepcopy(model)
    config = config_of(corpus, llm="frozen", mome=EXPERTS, projectors="per_rate")
    prepare_for_training(model, config)
    plain = {"llm": "frozen", "mome": None, "projectors": None}
    again = prepare_for_training(model, config_of(corpus, **plain, audio_rates=[16]))
    assert model.config.audio_rates == (16, 4)
    assert any(".mome." in name for name in again.state_dict())
    with pytest.raises(InputError, match="projectors is 'shared', but"):
        prepare_for_training(model, config_of(corpus, llm="frozen", projectors="shared"))
    with pytest.raises(InputError, match=r"audio rate 8 is to be trained, but .* for 16, 4 alone"):
        prepare_for_training(model, config_of(corpus, llm="frozen", audio_rates=[8]))
    with pytest.raises(InputError, match="lora is given, but the model has mome already"):
        prepare_for_training(model, config_of(corpus, **LORA))
    with pytest.raises(InputError, match="has mixtures of experts already"):
        prepare_for_training(model, config)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"llm": "frozen", "mome": EXPERTS, "projectors": "per_rate"}, id="experts"),
        pytest.param(
            LORA | {"passes": "sampled_pair", "projectors": "per_rate"}, id="branches, drawn pairs"
        ),
    ],
)
def test_a_stopped_run_ends_where_an_unbroken_one_does(corpus, tmp_path, monkeypatch, changes):
    how = {"steps": 4, "save_every": 2, "decorrelation": {"weight": 1.0}, "dropout": 0.1}
    config = config_of(corpus, **how, **changes)
    train(config, tmp_path / "whole", quiet=True)
    own = RunFolder.mark_complete

    def mark(self, step):
        own(self, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "mark_complete", mark)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "model").exists()
    train(config, tmp_path / "out", quiet=True)
    saved = ss.load(str(tmp_path / "out" / "model")).model.config
    assert (saved.projectors, saved.audio_rates) == ("per_rate", (4, 16))
    assert (saved.lora or saved.mome) == (config.lora or config.mome)
    for name in ("model/model.safetensors", "log.csv"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("whole", "out"))
        assert one == other, name
