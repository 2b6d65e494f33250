"""Why a key is preferred: its q·k against that of other keys, split into length and angle.

Numpy only, one layer of one sample at a time. Memory is linear in the number of tokens: means over
the keys that a query sees are differences of running sums.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["KeysSeen", "key_advantage", "key_directions"]


@dataclass(frozen=True, eq=False)
class KeysSeen:
    """The run of keys that each query sees, both ends included.

    Attributes:
        first: the first key of every query, shape (query,).
        last: the last key of every query, shape (query,).
    """

    first: Int[np.ndarray, " query"]
    last: Int[np.ndarray, " query"]

    @classmethod
    def of(cls, keys: Float[np.ndarray, " query"]) -> "KeysSeen | None":
        """From the number of keys that each query sees (``visible_keys``); None if not known.

        They end at the query itself, or are all of them.

        Examples:
            >>> KeysSeen.of(np.array([1.0, 2.0, 2.0])).first.tolist()
            [0, 0, 1]
        """
        if np.isnan(keys).any():
            return None
        last = np.arange(len(keys))
        if len(keys) and keys[0] == len(keys):
            last = np.full(len(keys), len(keys) - 1)
        return cls(last - keys.astype(np.int64) + 1, last)

    def mean(
        self, values: Float[np.ndarray, "kv_head token width"], among: Bool[np.ndarray, " token"]
    ) -> Float[np.ndarray, "kv_head token width"]:
        """For every query the mean over those of its keys that are ``among``; NaN without any."""
        total = _running(np.where(among[:, None], values, 0.0))
        difference = total[:, self.last + 1] - total[:, self.first]
        count = self.count(among)[:, None].astype(np.float64)
        return np.divide(difference, count, out=np.full_like(difference, np.nan), where=count > 0)

    def count(self, among: Bool[np.ndarray, " token"]) -> Int[np.ndarray, " token"]:
        """How many of its keys are ``among``, for every query."""
        total = np.concatenate([[0], np.cumsum(among)])
        return total[self.last + 1] - total[self.first]

    def see(self, key: int | np.integer) -> Bool[np.ndarray, " query"]:
        """Which queries see a key."""
        return np.asarray((self.first <= key) & (key <= self.last))


def key_advantage(
    queries: Float[np.ndarray, "head token feature"],
    keys: Float[np.ndarray, "kv_head token feature"],
    *,
    seen: KeysSeen,
    sinks: Int[np.ndarray, " sink"],
    others: Bool[np.ndarray, " token"],
) -> dict[str, Float[np.ndarray, "sink head"]]:
    r"""How far q·k of each sink is above that of the other keys, and by what.

    Compared are pairs of a query i that sees the sink s and another key j that the same query
    sees; every query counts alike. ``q·k = |q| |k| cos`` (the key-bias view of Gu et al., arXiv
    2410.10781), and the difference of each pair splits into two parts, in each of which one factor
    changes while the other is at its mean: ``|q_i| (|k_s| - |k_j|) (cos_is + cos_ij) / 2``, the
    part of the key's norm, and ``|q_i| (|k_s| + |k_j|) (cos_is - cos_ij) / 2``, that of the angle.
    They sum to the difference exactly, and the mean over the pairs keeps that.

    Args:
        queries: as they enter attention.
        keys: as they enter attention; consecutive heads share one.
        seen: which keys each query sees.
        sinks: the tokens to explain.
        others: the tokens with which they are compared.

    Returns:
        ``queries`` (number compared), ``query_norm``, ``logit``, ``logit_others``, ``advantage``,
        ``norm_part``, ``cosine_part``, ``cosine``, ``cosine_others``, ``query_alignment`` and
        ``key_to_query``; NaN where no query sees both the sink and another key.
    """
    group = len(queries) // len(keys)
    units, lengths = _unit(keys), np.linalg.norm(keys, axis=-1)
    per_head = [np.repeat(array, group, axis=0) for array in (keys, units, lengths)]
    means = [seen.mean(array, others) for array in (keys, units, lengths[..., None])]
    mean_key, mean_unit, mean_length = (np.repeat(mean, group, axis=0) for mean in means)
    logit_others = (queries * mean_key).sum(-1)
    along_others = (queries * mean_unit).sum(-1)
    comparable = seen.count(others) > 0
    rows = []
    for sink in sinks:
        chosen = seen.see(sink) & comparable
        rows.append(
            _against(
                queries[:, chosen],
                key=per_head[0][:, sink],
                direction=per_head[1][:, sink],
                length=per_head[2][:, sink, None],
                logit_others=logit_others[:, chosen],
                along_others=along_others[:, chosen],
                length_others=mean_length[:, chosen, 0],
            )
        )
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def key_directions(
    keys: Float[np.ndarray, "kv_head token feature"],
    *,
    sinks: Int[np.ndarray, " sink"],
    others: Bool[np.ndarray, " token"],
) -> dict[str, Float[np.ndarray, "sink kv_head"]]:
    """Length of each sink's key, and its angle to the other keys, beside what these have.

    Args:
        keys: as they enter attention.
        sinks: the tokens to explain.
        others: the tokens with which they are compared.

    Returns:
        ``key_norm``, ``key_norm_others`` (median), ``key_to_keys`` (cosine to the mean direction
        of the others) and ``key_to_keys_others`` (the median cosine of one of them to the mean
        direction of the rest); NaN where there is nothing to compare with.
    """
    units, lengths = _unit(keys), np.linalg.norm(keys, axis=-1)
    total = units[:, others].sum(1)
    rest = _unit(total[:, None] - units[:, others])
    own = np.einsum("kof,kof->ko", rest, units[:, others])
    alone = others.sum() < 2
    medians = {
        "key_norm_others": _median(lengths[:, others]),
        "key_to_keys_others": _median(own[:, :0] if alone else own),
    }
    to_mean = np.einsum("ksf,kf->sk", units[:, sinks], _unit(total))
    return {
        "key_norm": lengths[:, sinks].T,
        "key_to_keys": to_mean if others.any() else np.full_like(to_mean, np.nan),
        **{name: np.tile(value, (len(sinks), 1)) for name, value in medians.items()},
    }


def _unit(vectors: Float[np.ndarray, "*axes feature"]) -> Float[np.ndarray, "*axes feature"]:
    """The vectors at length 1; one of length 0 stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths != 0)


def _against(
    queries: Float[np.ndarray, "head query feature"],
    *,
    key: Float[np.ndarray, "head feature"],
    direction: Float[np.ndarray, "head feature"],
    length: Float[np.ndarray, "head 1"],
    logit_others: Float[np.ndarray, "head query"],
    along_others: Float[np.ndarray, "head query"],
    length_others: Float[np.ndarray, "head query"],
) -> dict[str, Float[np.ndarray, " head"]]:
    """One sink against the other keys of the queries that see both, in every head.

    ``along_others`` is the mean of ``|q| cos`` over the other keys of a query.
    """
    logit = np.einsum("hqf,hf->hq", queries, key)
    along = np.einsum("hqf,hf->hq", queries, direction)
    swapped = length * along_others - length_others * along
    norms = np.linalg.norm(queries, axis=-1)
    mean_unit = _mean(_unit(queries), axis=1)
    alignment = np.linalg.norm(mean_unit, axis=-1)
    return {
        "queries": np.full(len(queries), float(queries.shape[1])),
        "query_norm": _mean(norms),
        "logit": _mean(logit),
        "logit_others": _mean(logit_others),
        "advantage": _mean(logit) - _mean(logit_others),
        "norm_part": _mean(logit - logit_others + swapped) / 2,
        "cosine_part": _mean(logit - logit_others - swapped) / 2,
        "cosine": _mean(_over(along, norms)),
        "cosine_others": _mean(_over(along_others, norms)),
        "query_alignment": alignment,
        "key_to_query": np.einsum("hf,hf->h", _unit(mean_unit), direction),
    }


def _running(values: Float[np.ndarray, "kv_head token width"]) -> np.ndarray:
    """Sums over the tokens before each place, one place more than there are tokens."""
    return np.concatenate([np.zeros_like(values[:, :1]), np.cumsum(values, axis=1)], axis=1)


def _mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean, NaN over nothing."""
    if not values.shape[axis]:
        return np.full(np.delete(values.shape, axis), np.nan)
    return values.mean(axis)


def _median(values: Float[np.ndarray, "kv_head other"]) -> Float[np.ndarray, " kv_head"]:
    """The median over the others, NaN over nothing."""
    return np.median(values, axis=1) if values.shape[1] else np.full(len(values), np.nan)


def _over(values: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Quotients, 0 where the divisor is."""
    return np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
