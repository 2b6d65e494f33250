"""What a record keeps closes the books of the residual stream, in every family and padding.

The sites themselves are tested beside the anatomy table; here, what comes out of a recording:
samples of several lengths, padding cut off, states joined.
"""

import numpy as np
import pytest

import sinkscope as ss
from tests.families import CONFIGURATIONS, batch, tiny

SITES = ("resid_pre", "attn_out", "mlp_out", "resid_post")


def kept(name: str, padding: str) -> dict[str, np.ndarray]:
    """Each site ``(sample, layer, token, feature)``, NaN behind a sample's end."""
    record = ss.record(tiny(name), **batch(padding), keep=SITES, reducers=[])
    return {
        site: record[site].transpose("sample", "layer", "token", "feature").values.astype(float)
        for site in SITES
    }


def gap(get: dict[str, np.ndarray]) -> float:
    """How far the parts are from the stream's change, relative to the stream, at the worst."""
    added, change = get["attn_out"] + get["mlp_out"], get["resid_post"] - get["resid_pre"]
    scale = np.nanmax(np.abs(get["resid_post"]), axis=(2, 3), keepdims=True)
    return float(np.nanmax(np.abs(added - change) / scale))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_parts_make_the_stream(name: str) -> None:
    for padding in ("left", "right"):
        get = kept(name, padding)
        real = ~np.isnan(get["resid_post"]).any(-1)
        assert real.sum((1, 2)).tolist() == [real.shape[1] * n for n in (12, 9, 6)]
        assert gap(get) < 1e-5
        assert np.nanmax(np.abs(get["mlp_out"])) > 0.1, "the weights are not trivial"
        following = get["resid_pre"][:, 1:], get["resid_post"][:, :-1]
        assert np.array_equal(*following, equal_nan=True)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox", "granite"])
def test_a_shift_by_one_would_show(name: str) -> None:
    for site in SITES:
        for axis in (0, 1, 2):
            get = kept(name, "left")
            get[site] = np.roll(get[site], 1, axis=axis)
            assert gap(get) > 1e-2, (site, axis)
