"""Whether two records say the same, up to rounding and to the order of equal magnitudes."""

import numpy as np
import xarray as xr

import sinkscope as ss

_BIN_AXES = ("query_bin", "key_bin")


def check_same(found: ss.Record, expected: ss.Record, *, tolerance: float = 1e-5) -> None:
    """Every variable equal to ``tolerance``, relative where values exceed 1."""
    assert set(found) == set(expected)
    for name in expected:
        if name.endswith(("top_token", "top_feature")):
            _check_places(found, expected, name)
        else:
            _check_values(name, _cut(found[name], expected[name]), expected[name], tolerance)


def _check_values(name: str, one: xr.DataArray, two: xr.DataArray, tolerance: float) -> None:
    assert one.dims == two.dims, name
    assert one.shape == two.shape, name
    if one.dtype.kind in "iub":
        assert (one.values == two.values).all(), name
        return
    assert (one.isnull().values == two.isnull().values).all(), name
    size = max(1.0, float(np.abs(two.fillna(0)).max()))
    off = float(np.abs((one.values - two.values)[two.notnull().values]).max(initial=0))
    assert off <= tolerance * size, f"{name} is off by {off} where values reach {size}"


def _check_places(found: ss.Record, expected: ss.Record, name: str) -> None:
    """Where the largest are, except among magnitudes that are the same but for rounding."""
    stem = name.rpartition("_")[0]
    sizes = np.abs(expected[f"{stem}_value"].values)
    gaps = np.abs(np.diff(sizes, axis=-1))
    clear = np.ones(sizes.shape, bool)
    clear[..., 1:] &= gaps > 1e-4
    clear[..., :-1] &= gaps > 1e-4
    clear[..., -1] = False  # what comes after the last is unknown
    assert (found[name].values == expected[name].values)[clear].all(), name


def _cut(one: xr.DataArray, two: xr.DataArray) -> xr.DataArray:
    """Without the squares that only a longer sample of the same record has."""
    for axis in _BIN_AXES:
        if axis in one.dims and one.sizes[axis] > two.sizes[axis]:
            beyond = one.isel({axis: slice(two.sizes[axis], None)})
            assert not beyond.fillna(0).any()
            one = one.isel({axis: slice(0, two.sizes[axis])})
    return one
