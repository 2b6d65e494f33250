import json

import numpy as np
import pytest
import xarray as xr

from sinkscope.errors import CheckpointError, InputError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.record import ClipSummary, Record, merge


def make(length: int, *, seed: int = 0, subject: str = "tiny", layers=(0, 1, 2)) -> Record:
    rng = np.random.default_rng(seed)
    layer = {"layer": list(layers)}

    def array(shape, dims, coords=None) -> xr.DataArray:
        return xr.DataArray(rng.random(shape, np.float32), dims=dims, coords=coords)

    n = len(layers)
    variables = {
        "norm": array((1, n, length), ("sample", "layer", "token"), layer),
        "queries": xr.DataArray(
            np.ones((1, n, 8, length), np.int32),
            dims=("sample", "layer", "segment", "key"),
            coords=layer,
        ),
        "pattern": array(
            (1, 1, 2, length, length), ("sample", "layer", "head", "query", "key"), {"layer": [1]}
        ),
        "resid_post": array(
            (1, 1, length, 6), ("sample", "layer", "token", "feature"), {"layer": [1]}
        ),
        "q": array(
            (1, 1, 2, length, 3), ("sample", "layer", "head", "token", "feature"), {"layer": [1]}
        ),
    }
    layout = TokenLayout.of_text([f"t{i}" for i in range(length)], has_bos=True)
    clip = ClipSummary("clip", duration=1.5, envelope=[[-0.5, 0.5]])
    return Record.of(variables, [layout], {"subject": subject}, clips=[clip])


def test_variables_keep_their_plain_axes_though_sizes_differ() -> None:
    record = make(4)
    assert record["pattern"].dims == ("sample", "layer", "head", "query", "key")
    assert record["pattern"]["layer"].values.tolist() == [1]
    assert record["resid_post"].sizes["feature"] == 6
    assert record["q"].sizes["feature"] == 3
    assert record.layers == [0, 1, 2]


def test_a_missing_variable_says_how_to_get_it() -> None:
    with pytest.raises(SiteError, match=r"no 'mlp_act'.*keep=\['mlp_act'\]"):
        _ = make(4)["mlp_act"]


def test_merging_pads_with_nan_and_loses_nothing() -> None:
    short, long = make(4, seed=1), make(6, seed=2)
    both = merge([short, long])
    assert len(both) == 2
    assert both["queries"].dtype.kind == "i"
    assert both["queries"].values[0, 0, 0].tolist() == [1, 1, 1, 1, 0, 0]
    assert np.isnan(both["norm"].values[0, :, 4:]).all()
    for index, record in enumerate([short, long]):
        alone = both.sample(index)
        for name in record:
            np.testing.assert_array_equal(alone[name].values, record[name].values)
        assert alone.layouts[0].labels == record.layouts[0].labels


def test_saving_and_opening_gives_the_same(tmp_path) -> None:
    record = merge([make(4, seed=1), make(6, seed=2)])
    opened = Record.open(record.save(tmp_path / "record"))
    assert opened.dataset.identical(record.dataset)
    assert opened.clips == record.clips
    assert opened.provenance == record.provenance
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_saving_twice_replaces_the_older(tmp_path) -> None:
    make(4).save(tmp_path / "record")
    make(6).save(tmp_path / "record")
    assert len(Record.open(tmp_path / "record").layouts[0]) == 6


def test_records_of_different_models_are_not_merged() -> None:
    with pytest.raises(InputError, match="differ in subject: 'tiny' and 'large'"):
        merge([make(4), make(4, subject="large")])
    with pytest.raises(InputError, match="differ in layers"):
        merge([make(4), make(4, layers=(0, 1))])
    with pytest.raises(InputError, match="no record to merge"):
        merge([])


def test_damaged_and_foreign_records_are_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="not a whole record"):
        Record.open(tmp_path)
    folder = make(4).save(tmp_path / "record")
    content = json.loads((folder / "record.json").read_text())
    content["provenance"]["schema_version"] = 99
    (folder / "record.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="schema 99"):
        Record.open(folder)
    (folder / "record.nc").write_bytes(b"not netcdf")
    content["provenance"]["schema_version"] = 1
    (folder / "record.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="not a whole record"):
        Record.open(folder)


def test_a_layout_for_every_sample() -> None:
    record = make(4)
    variables = {name: record[name] for name in ("norm", "queries")}
    with pytest.raises(InputError, match="2 layouts for 1 samples"):
        Record.of(variables, [record.layouts[0]] * 2, {})


def test_bins_of_unequal_samples_line_up() -> None:
    def binned(bins: int) -> Record:
        square = xr.DataArray(
            np.ones((1, 1, bins, bins), np.float32),
            dims=("sample", "layer", "query_bin", "key_bin"),
        )
        layout = TokenLayout.of_text(["t"] * bins, has_bos=False)
        return Record.of({"pattern_bins": square.assign_coords(layer=[0])}, [layout], {})

    both = merge([binned(2), binned(3)])["pattern_bins"]
    assert both.shape == (2, 1, 3, 3)
    assert np.isnan(both.values[0, 0, 2]).all()
    assert both.values[1].sum() == 9
