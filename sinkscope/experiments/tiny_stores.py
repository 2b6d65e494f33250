"""What an experiment on tiny models trains and tests on, read once a process. Depends on torch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sinkscope.avsr.clip import Clip
from sinkscope.experiments import tiny_avsr
from sinkscope.experiments.corpus import read_corpus
from sinkscope.experiments.tiny_features import FeatureStore

__all__ = ["Stores", "long_ones", "stores_of", "unseen_clips", "unseen_store"]


@dataclass(frozen=True)
class Stores:
    """Cached features of the training and the development voices, all and the long ones."""

    train: FeatureStore
    dev: FeatureStore

    def longer(self, seconds: float) -> "Stores":
        """The utterances that last so long."""
        return Stores(long_ones(self.train, seconds), long_ones(self.dev, seconds))


def long_ones(store: FeatureStore, seconds: float) -> FeatureStore:
    """The utterances of a store that last so many seconds."""
    kept = [i for i, one in enumerate(store.clean) if len(one["audio"]) >= 50 * seconds]
    return FeatureStore(
        [store.clean[i] for i in kept],
        [store.noisy[i] for i in kept],
        [store.texts[i] for i in kept],
        [store.words[i] for i in kept],
    )


@cache
def stores_of(out: Path) -> Stores:
    """The features in a folder of results, encoded where they are not there."""
    model = tiny_avsr.join(out)
    train = tiny_avsr.cached_features(model, out, "train", tiny_avsr.HEARD)
    return Stores(train, tiny_avsr.cached_features(model, out, "dev", None))


@cache
def unseen_store(out: Path) -> FeatureStore:
    """The features of all utterances of the test voices."""
    return tiny_avsr.cached_features(tiny_avsr.join(out), out, "test", None)


@cache
def unseen_clips(out: Path, count: int, seconds: float) -> list[Clip]:
    """The first test utterances that last so many seconds, as clips."""
    found: list[Clip] = []
    for clip in read_corpus(out / "corpus", "test"):
        if clip.duration >= seconds:
            found.append(clip)
        if len(found) == count:
            break
    return found
