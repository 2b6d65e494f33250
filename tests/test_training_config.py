"""A configuration that is wrong is refused in one sentence that says where and what to do."""

from pathlib import Path

import pytest
import yaml

from sinkscope.avsr.mome_settings import MomeSettings
from sinkscope.errors import InputError
from sinkscope.training.config import DecorrelationConfig, NoiseConfig, TaskWeights, TrainConfig

LEAST = {"model": "tiny-avsr", "train": "clips"}


def test_what_is_written_is_read_again(tmp_path):
    config = TrainConfig(
        **LEAST,
        audio_rates=(4, 16),
        decorrelation=DecorrelationConfig(weight=10.0, layers=(0, 1)),
        noise=NoiseConfig(snr=(-5.0, 5.0)),
    )
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert TrainConfig.read(path) == config


def test_the_example_is_right():
    config = TrainConfig.read(Path(__file__).parents[1] / "examples" / "train.yaml")
    assert config.decorrelation.weight == 1
    assert config.learning_rate == 0.001


def test_the_example_of_many_rates_is_right():
    config = TrainConfig.read(Path(__file__).parents[1] / "examples" / "train_many_rates.yaml")
    assert (config.passes, config.projectors) == ("all_pairs", "per_rate")
    assert config.task_weights == TaskWeights(video=1.5)
    assert config.mome == MomeSettings()
    assert TrainConfig.from_dict(yaml.safe_load(config.to_yaml())) == config


def test_numbers_that_yaml_takes_for_text(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: tiny-avsr\ntrain: clips\nlearning_rate: 1e-3\nsteps: 7\n")
    config = TrainConfig.read(path)
    assert config.learning_rate == 0.001
    assert config.steps == 7


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lerning_rate": 1}, r"no key 'lerning_rate'; did you mean 'learning_rate'\?"),
        ({"xyz": 1}, "no key 'xyz'; known are model, train"),
        ({"noise": {"snrs": [0, 1]}}, r"noise: there is no key 'snrs'; did you mean 'snr'\?"),
        ({"decorrelation": {"wieght": 1}}, "did you mean 'weight'"),
        ({"steps": "many"}, "steps: 'many' was found; give a whole number"),
        ({"steps": 2.5}, "steps: 2.5 was found; give a whole number"),
        ({"steps": True}, "steps: True was found"),
        ({"steps": 0}, "steps is 0; give 1 or more"),
        ({"noise": 3}, "noise: 3 was found; give a section with kind, share, snr or null"),
        ({"audio_rates": 4}, "audio_rates: 4 was found; give a list or null"),
        ({"audio_rates": [0]}, "a rate is 0"),
        ({"lora": {"reduction": 4}}, "lora: the key 'alpha' is missing"),
        ({"lora": {"reduction": 4, "alpha": 1}, "llm": "full"}, "llm is 'full'; use llm: lora"),
        ({"llm": "half"}, "llm is 'half'; give one of lora, full, frozen"),
        ({"modalities": ["smell"]}, "modalities is 'smell'"),
        ({"noise": {"snr": [5, 1]}}, "give the lowest and highest dB"),
        ({"warmup": 5}, "warmup is 5.0; give a share"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"delimiters": True, "weight_decay": 0.1}, "leave weight_decay at 0"),
        ({"watch_every": 5}, "need the key dev"),
        ({"modalities": []}, "modalities is an empty list"),
        ({"audio_rates": []}, "audio_rates is an empty list"),
        ({"video_rates": []}, "video_rates is an empty list"),
        ({"seed": 2**32}, "seed is 4294967296; give one from 0 to 4294967295"),
        ({"seed": -1}, "seed is -1"),
        ({"decorrelation": {"weight": -1}}, "decorrelation, weight is -1.0; give 0 or more"),
        ({"decorrelation": {"weight": float("inf")}}, "decorrelation, weight is inf"),
        ({"decorrelation": {"power": 0.5}}, "decorrelation, power is 0.5; give 1 or more"),
        ({"decorrelation": {"warmup": 0.7, "decay": 0.7}}, "decorrelation: .*at most 1"),
        ({"decorrelation": {"layers": []}}, "layers is an empty list"),
        ({"cache": "x", "encoders": True}, "leave one of them out"),
        ({"delimiters": True, "llm": "full"}, "leave delimiters out"),
        ({"noise": {}, "modalities": ["video"]}, "no sound is heard"),
        ({"passes": "some"}, "passes is 'some'; give one of drawn, sampled_pair, all_pairs"),
        ({"projectors": "two"}, "projectors is 'two'; give one of shared, per_rate"),
        ({"task_weights": {"both": 2}}, "task_weights: there is no key 'both'"),
        ({"task_weights": {"video": -1}}, "task_weights, video is -1.0; give 0 or more"),
        ({"mome": {}}, "mome is given, but llm is 'lora'.*use llm: frozen"),
        ({"mome": {"top_k": 50}, "llm": "frozen"}, "mome: top_k is 50 of 23 routed experts"),
        ({"mome": {"rooted": 5}, "llm": "frozen"}, "did you mean 'routed'"),
    ],
)
def test_what_is_wrong_is_named(changed, words):
    with pytest.raises(InputError, match=words) as error:
        TrainConfig.from_dict(LEAST | changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("- 1\n", "holds no settings"), ("a: [1\n", "is not YAML"), ("", "holds no settings")],
)
def test_files_that_are_no_configuration(tmp_path, text, words):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        TrainConfig.read(path)
    with pytest.raises(InputError, match="does not exist"):
        TrainConfig.read(tmp_path / "other.yaml")
    with pytest.raises(InputError, match="'model' is missing"):
        TrainConfig.from_dict({"train": "x"})


def test_a_pickle_in_yaml_makes_no_object(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="is not YAML"):
        TrainConfig.read(path)
