"""Targets by hand and by table: every kind of number is understood, none taken for another."""

import numpy as np
import pandas as pd
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError
from tests.families import batch, tiny

TABLE = pd.DataFrame({"sample": [0], "layer": [0], "token": [3], "feature": [2]})


def seen(*edits, site: str = "resid_post") -> np.ndarray:
    """A site of layer 0 of one sample under edits."""
    ids = batch(samples=1)["input_ids"]
    with ss.intervene(tiny("llama"), edits):
        record = ss.record(tiny("llama"), input_ids=ids, reducers=[ss.Keep(site)])
    return record[site].sel(layer=0).values[0]


@pytest.mark.parametrize("whole", [int, np.int64, np.int32])
def test_numbers_of_a_table_are_numbers(whole) -> None:
    """What is read out of a table's cell is numpy's, and must not be taken for something else."""
    state = seen(ss.Zero(layers=whole(0), tokens=whole(3), features=whole(2)))
    assert state[3, 2] == 0
    act = seen(ss.knock_out(layers=whole(0), neurons=whole(5)), site="mlp_act")
    assert (act[:, 5] == 0).all()
    z = seen(ss.knock_out(layers=whole(0), heads=whole(2)), site="z")
    assert (z[2] == 0).all()
    pattern = seen(ss.BlockAttention(keys=whole(4), heads=whole(1)), site="pattern")
    assert (pattern[1, 5:, 4] == 0).all()
    turned = seen(ss.Rotate(layers=0, tokens=3, toward=whole(7)), site="resid_pre")
    lengths = np.linalg.norm(turned[[3, 7]], axis=1)
    assert np.dot(turned[3], turned[7]) == pytest.approx(np.prod(lengths), rel=1e-5)
    by = seen(ss.ReplaceEmbeddings(whole(3), by=whole(7)), site="resid_pre")
    assert np.array_equal(by[3], by[7])


def test_arrays_name_several() -> None:
    state = seen(ss.Zero(layers=np.array([0]), tokens=np.array([3, 5]), features=np.array([2])))
    assert np.flatnonzero(state[:, 2] == 0).tolist() == [3, 5]


@pytest.mark.parametrize("feature", [-1, 32])
def test_a_feature_that_is_not_there(feature: int) -> None:
    for edit in (
        ss.Zero(layers=0, tokens=3, features=feature),
        ss.Zero(at=TABLE.assign(feature=feature)),
    ):
        with pytest.raises(InputError, match=f"no feature {feature}"):
            seen(edit)


def test_a_feature_is_no_neuron_and_no_head() -> None:
    """A table's features are the stream's: at other sites they would name something else."""
    with pytest.raises(InputError, match="neuron"):
        ss.Zero(site="mlp_act", at=TABLE)
    whole = seen(ss.Zero(site="z", at=TABLE), site="z")
    assert (whole[:, 3] == 0).all()
    assert (np.delete(whole, 3, 1) != 0).any(axis=(1, 2)).all()
    own = seen(ss.Zero(site="mlp_act", at=TABLE, features=[7]), site="mlp_act")
    assert np.argwhere(own == 0).tolist() == [[3, 7]]


def test_a_table_of_neurons_names_them() -> None:
    table = TABLE.assign(neuron=11)
    assert np.argwhere(seen(ss.Zero(site="mlp_act", at=table), site="mlp_act") == 0).tolist() == [
        [3, 11]
    ]
    assert np.argwhere(seen(ss.Zero(at=table)) == 0).tolist() == [[3, 2]]


def test_replacements_belong_to_their_rows() -> None:
    rows = TABLE.assign(replacement=1.5), TABLE.assign(token=4, replacement=-2.5)
    state = seen(ss.Replace(at=pd.concat(rows)))
    assert (state[3, 2], state[4, 2]) == (1.5, -2.5)
    backwards = seen(ss.Replace(at=pd.concat(rows[::-1])))
    assert np.array_equal(state, backwards)
    whole = TABLE.drop(columns="feature").assign(replacement=1.5)
    assert (seen(ss.Replace(at=whole))[3] == 1.5).all()
    crossed = seen(ss.Replace(at=TABLE.assign(replacement=1.5), features=[5, 6]))
    assert (crossed[3, [5, 6]] == 1.5).all()
    assert crossed[3, 2] != 1.5


def test_a_vector_stands_at_each_token() -> None:
    vector = torch.arange(32.0)
    assert np.array_equal(
        seen(ss.Replace(value=vector, layers=0, tokens=[3, 5]))[[3, 5]], [vector] * 2
    )
    some = seen(ss.Replace(value=vector[:2], layers=0, tokens=[3, 5], features=[7, 9]))
    assert np.array_equal(some[np.ix_([3, 5], [7, 9])], [[0, 1], [0, 1]])
    with pytest.raises(InputError, match="3 numbers"):
        seen(ss.Replace(value=vector[:3], layers=0, tokens=3))
    with pytest.raises(InputError, match="3 numbers"):
        seen(ss.Replace(value=vector[:3], layers=0, tokens=3, features=[1, 2]))


def test_a_table_that_names_nothing_here_is_no_edit() -> None:
    with pytest.raises(InputError, match="changed nothing"):
        seen(ss.Zero(at=TABLE.assign(token=50)))
    with pytest.raises(InputError, match="changed nothing"):
        seen(ss.BlockAttention(keys=TABLE.assign(token=50)))
    seen(ss.Zero(at=TABLE.iloc[:0]))
    other = TABLE.assign(sample=1)
    other.attrs = {"samples": 2}
    seen(ss.Zero(at=other))


def test_a_forward_that_failed_does_not_count() -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    table = pd.concat([TABLE, TABLE.assign(sample=1, token=4)])
    broken = model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with ss.intervene(model, ss.Zero(at=table)), ss.probe(model, ["resid_post"]) as probe:
        with pytest.raises(ZeroDivisionError):
            model(ids)
        broken.remove()
        model(ids)
        model(ids)
    found = probe.record["resid_post"].values[:, 0, :, 2]
    assert np.argwhere(found == 0).tolist() == [[0, 3], [1, 4]]


def test_a_table_says_how_many_samples_it_is_of() -> None:
    """Joined tables lose that: whether a third sample is new or the first again, nobody knows."""
    model, rows = tiny("llama"), batch(samples=3)["input_ids"]
    table = pd.concat([TABLE, TABLE.assign(sample=1, token=4)])
    with pytest.raises(InputError, match="attrs"), ss.intervene(model, ss.Zero(at=table)):
        model(rows)
    for samples, tokens in ((2, [3, 4, 3]), (3, [3, 4])):
        table.attrs = {"samples": samples}
        with ss.intervene(model, ss.Zero(at=table)):
            seen = ss.record(model, input_ids=rows, reducers=[ss.Keep("resid_post")])
        found = np.argwhere(seen["resid_post"].values[:, 0, :, 2] == 0)
        assert found.tolist() == [list(pair) for pair in enumerate(tokens)]
    with ss.intervene(model, ss.Zero(at=TABLE)):
        seen = ss.record(model, input_ids=rows, reducers=[ss.Keep("resid_post")])
    assert (seen["resid_post"].values[:, 0, 3, 2] == 0).all()
