"""What is drawn is what was recorded: artists are compared with arrays and tables."""

from collections.abc import Iterator
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

from tests.fake_records import (
    PLANTED,
    av_layout,
    fake_av_arrays,
    fake_av_record,
    record_from,
)

mpl.use("Agg")

import matplotlib.pyplot as plt
from hypothesis import given
from hypothesis import strategies as st

from sinkscope import plots
from sinkscope.analysis import (
    bos_similarity,
    key_attention,
    massive_layers,
    segment_attention,
)
from sinkscope.errors import InputError
from sinkscope.plots.segments import runs
from sinkscope.plots.spread import spread
from sinkscope.plots.style import SCORES, SEGMENT_COLORS
from sinkscope.record import Record, merge


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return fake_av_arrays(av_layout(60))


@pytest.fixture(scope="module")
def record(arrays: dict[str, np.ndarray]) -> Record:
    """Layers 2 to 7, so that a layer's number is not its place."""
    return record_from(
        arrays["pattern"],
        arrays["states"],
        av_layout(60),
        value_norm=arrays["value_norm"],
        keep=["pattern", "resid_post"],
        first_layer=2,
    )


def image(axes: plt.Axes) -> np.ndarray:
    (drawn,) = axes.images
    return np.ma.filled(np.ma.asarray(drawn.get_array()).astype(float), np.nan)


def test_attention_map_shows_the_layer_and_the_mean_over_heads(record, arrays) -> None:
    shown = image(plots.attention_map(record, layer=5))
    seen = np.tri(60, dtype=bool)
    np.testing.assert_allclose(shown[seen], arrays["pattern"][3].mean(0)[seen], rtol=1e-5)
    assert np.isnan(shown[~seen]).all()
    one = image(plots.attention_map(record, layer=5, head=2))
    np.testing.assert_allclose(one[seen], arrays["pattern"][3, 2][seen], rtol=1e-5)


def binned(record: Record, width: int, bins: int) -> Record:
    """The record with its maps in squares in place of whole maps, as a long input has them."""
    maps = record["pattern"].values
    length = maps.shape[-1]
    sums = np.zeros((*maps.shape[:3], bins, bins))
    pairs = np.zeros((*maps.shape[:2], bins, bins), np.int64)
    for query in range(length):
        for key in range(query + 1):
            cell = (query // width, key // width)
            sums[..., *cell] += maps[..., query, key]
            pairs[..., *cell] += 1
    layers = {"layer": record["pattern"]["layer"].values}
    axes = ("sample", "layer", "head", "query_bin", "key_bin")
    more = {
        "pattern_bins": xr.DataArray(sums, dims=axes, coords=layers),
        "pattern_bin_pairs": xr.DataArray(pairs, dims=(*axes[:2], *axes[3:]), coords=layers),
        "pattern_bin_width": xr.DataArray(
            np.full(maps.shape[:2], width), dims=axes[:2], coords=layers
        ),
    }
    kept = {name: record[name] for name in record if name not in ("pattern", "length")}
    return Record.of(kept | more, record.layouts, record.provenance, clips=record.clips)


def test_attention_map_of_bins_is_the_mean_over_visible_pairs(record, arrays) -> None:
    axes = plots.attention_map(binned(record, 8, 16), layer=5, head=1)
    shown = image(axes)
    assert shown.shape == (8, 8)
    assert axes.images[0].get_extent() == [-0.5, 63.5, 63.5, -0.5]
    assert axes.get_xlim() == (-0.5, 59.5)
    whole = np.where(np.tri(60, dtype=bool), arrays["pattern"][3, 1], np.nan)
    padded = np.pad(whole, (0, 4), constant_values=np.nan).reshape(8, 8, 8, 8)
    for row, column in np.ndindex(8, 8):
        cell = padded[row, :, column]
        if row < column:
            assert np.isnan(shown[row, column])
        else:
            assert shown[row, column] == pytest.approx(np.nanmean(cell), rel=1e-5)
    assert any("8 × 8 tokens" in text.get_text() for text in axes.texts)


def test_attention_map_of_a_head_mean_names_no_head(record) -> None:
    bins = binned(record, 8, 16)
    mean = bins["pattern_bins"].mean("head")
    kept = {name: bins[name] for name in bins if name not in ("pattern_bins", "length")}
    only = Record.of(kept | {"pattern_bins": mean}, bins.layouts, bins.provenance)
    np.testing.assert_allclose(
        image(plots.attention_map(only, layer=5)), image(plots.attention_map(bins, layer=5))
    )
    with pytest.raises(InputError, match="only the mean over heads"):
        plots.attention_map(only, layer=5, head=0)


def test_attention_map_places_each_token_in_the_middle_of_its_cell(record) -> None:
    axes = plots.attention_map(record, layer=5)
    assert axes.images[0].get_extent() == [-0.5, 59.5, 59.5, -0.5]
    assert axes.get_ylim() == (59.5, -0.5)


def test_bands_cover_every_token_of_their_segment(record) -> None:
    axes = plots.attention_map(record, layer=5)
    top = axes.collections[0]
    layout = record.layouts[0]
    for run, path, color in zip(runs(layout), top.get_paths(), top.get_colors(), strict=True):
        (left, _), (right, _) = path.vertices
        assert (left, right) == (run.start - 0.5, run.stop - 0.5)
        assert set(layout.segments[run.start : run.stop]) == {run.segment}
        np.testing.assert_allclose(color, mpl.colors.to_rgba(SEGMENT_COLORS[run.segment]))


def test_sink_rate_shows_alpha_of_bos_and_frames_what_passes(record) -> None:
    axes = plots.sink_rate(record)
    alpha = key_attention(record).isel(sample=0, key=0).values
    np.testing.assert_allclose(image(axes), alpha)
    framed = {(round(p.get_y() + 0.46), round(p.get_x() + 0.46)) for p in axes.patches}
    assert framed == {tuple(cell) for cell in np.argwhere(alpha > 0.3).tolist()}
    shares = [text.get_text() for text in axes.texts if text.get_text().endswith("%")]
    assert shares == [f"{share:.0%}" for share in (alpha > 0.3).mean(1)]
    other = plots.sink_rate(record, token=25)
    np.testing.assert_allclose(image(other), key_attention(record).isel(sample=0, key=25).values)
    assert "</audio>" in other.get_title("left")


def test_sink_rate_averages_the_samples() -> None:
    both = merge([fake_av_record(60), fake_av_record(80, seed=3)])
    alpha = key_attention(both).isel(key=0).mean("sample").values
    np.testing.assert_allclose(image(plots.sink_rate(both)), alpha)
    one = key_attention(both).isel(key=0, sample=1).values
    np.testing.assert_allclose(image(plots.sink_rate(both, sample=1)), one)


def test_segment_flow_shows_the_table(record) -> None:
    table = segment_attention(record)
    axes = plots.segment_flow(table, layer=4)
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    shown = image(axes)
    rows = table[table["layer"] == 4].set_index(["query_segment", "key_segment"])["attention"]
    for (query, key), share in rows.items():
        assert shown[names.index(query), names.index(key)] == pytest.approx(share)
    assert np.isfinite(shown).sum() == len(rows)
    assert np.isnan(shown[names.index("audio"), names.index("video")])
    np.testing.assert_allclose(image(plots.segment_flow(record, layer=4)), shown)
    mean = table.groupby(["query_segment", "key_segment"])["attention"].mean()
    whole = image(plots.segment_flow(table))
    video = whole[names.index("video"), names.index("audio")]
    assert video == pytest.approx(mean["video", "audio"])


def test_layer_magnitudes_draws_the_table(record) -> None:
    table = massive_layers(record)
    axes = plots.layer_magnitudes(table, ratio=40)
    lines = {line.get_label(): line for line in axes.get_lines()}
    for label, values in {
        "largest |x|": table["top1"],
        "2nd largest |x|": table["top2"],
        "3rd largest |x|": table["top3"],
        "median |x|": table["median"],
        "40 × median": 40 * table["median"],
    }.items():
        np.testing.assert_allclose(lines[label].get_xdata(), table["layer"])
        np.testing.assert_allclose(lines[label].get_ydata(), values)
    assert axes.get_yscale() == "log"
    assert "50 × median" in plots.layer_magnitudes(record).get_legend_handles_labels()[1]


def test_bos_cosine_draws_sinks_twins_and_the_rest(record) -> None:
    axes = plots.bos_cosine(record)
    table = bos_similarity(record)
    dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    names = {text.get_text() for text in axes.texts}
    assert "</audio> (25): sink" in names
    assert "a5 (7): twin, no sink" in names
    for token, style in ((25, "-"), (7, "--")):
        values = table[table["token"] == token].sort_values("layer")["cosine"].to_numpy()
        same = [x for x in axes.get_lines() if _equals(x.get_ydata(), values)]
        assert [line.get_linestyle() for line in same] == [style]
    assert len(dashed) == 1
    others = table[~table["token"].isin([0, 7, 25])].groupby("layer")["cosine"].median()
    assert any(_equals(line.get_ydata(), others) for line in axes.get_lines())


def _equals(a: object, b: object) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and bool(np.allclose(a, b))


@pytest.mark.parametrize("kept", [True, False])
def test_magnitudes_show_what_is_known(kept: bool, arrays) -> None:
    record = fake_av_record(60, keep=("resid_post",) if kept else ())
    states = np.abs(arrays["states"][3])
    axes = plots.magnitudes(record, layer=3)
    features = [int(text.get_text()) for text in axes.get_yticklabels()]
    assert set(PLANTED.features) <= set(features)
    shown = image(axes)
    known = np.isfinite(shown)
    np.testing.assert_allclose(shown[known], states[:, features].T[known], rtol=1e-5)
    if kept:
        assert known.all()
    else:
        largest = np.argsort(-states, axis=1)[:, :8]
        expected = [[feature in largest[token] for token in range(60)] for feature in features]
        np.testing.assert_array_equal(known, expected)
    bold = {int(t.get_text()) for t in axes.get_yticklabels() if t.get_fontweight() == "bold"}
    assert bold == set(PLANTED.features)
    labels = {text.get_text() for text in axes.texts if text.get_fontweight() == "bold"}
    assert {"<s> (0)", "</audio> (25)", "a5 (7)"} <= labels


def test_bars_stand_at_their_token_and_feature(arrays) -> None:
    axes = plots.magnitudes_3d(fake_av_record(60, keep=()), layer=3)
    axes.figure.canvas.draw()
    (bars,) = axes.collections
    corners = np.array([np.asarray(face)[:, :3] for face in _faces(bars)])
    boxes = corners.reshape(-1, 6, 4, 3)
    tops = boxes[..., 2].max((1, 2))
    states = np.abs(arrays["states"][3])
    order = np.argsort(-tops)[:9]
    middle = (boxes.max((1, 2)) + boxes.min((1, 2)))[order] / 2
    found = {(round(x), round(y)) for x, y, _ in middle.tolist()}
    assert found == {(token, f) for token in (0, 7, 25) for f in PLANTED.features}
    np.testing.assert_allclose(np.sort(tops)[-9:], np.sort(states.ravel())[-9:], rtol=1e-5)


def _faces(bars: object) -> list[np.ndarray]:
    faces = bars._faces  # pyright: ignore[reportAttributeAccessIssue]
    return list(np.asarray(faces))


def test_time_traces_stand_at_the_seconds_of_their_tokens() -> None:
    record = fake_av_record(60, keep=())
    axes = plots.sinks_over_time(record, layer=4)
    alpha = key_attention(record).isel(sample=0).sel(layer=4).mean("head").values
    layout = record.layouts[0]
    for bars, segment in zip(axes.collections, ("audio", "video"), strict=True):
        tokens = np.flatnonzero(layout.mask(segment))
        ends = np.array([path.vertices for path in bars.get_paths()])
        np.testing.assert_allclose(ends[:, :, 0], layout.seconds[tokens])
        np.testing.assert_allclose(ends[:, 0, 1], alpha[tokens])
    strip = next(panel for panel in axes.figure.axes if panel.get_title() == "without seconds")
    places, heights = np.asarray(strip.collections[0].get_offsets()).T
    untimed = np.flatnonzero(np.isnan(layout.seconds[:, 0]))
    np.testing.assert_allclose(heights, alpha[untimed])
    np.testing.assert_allclose(places, np.arange(len(untimed)))
    names = [text.get_text() for text in strip.texts]
    assert names == [f"{layout.labels[token]} ({token})" for token in untimed]
    bold = [text.get_text() for text in strip.texts if text.get_fontweight() == "bold"]
    assert bold == ["<s> (0)", "</audio> (25)"]


def test_waveform_lies_under_its_own_seconds() -> None:
    record = fake_av_record(60, keep=())
    axes = plots.sinks_over_time(record)
    wave = next(panel for panel in axes.figure.axes if panel.get_ylabel() == "sound")
    assert wave.get_xlim() == axes.get_xlim()
    vertices = wave.collections[0].get_paths()[0].vertices
    clip = record.clips[0]
    assert clip is not None
    heights = np.array(clip.envelope)[:, 1]
    time = (np.arange(len(heights)) + 0.5) / 100
    upper = {round(float(x), 3): float(y) for x, y in vertices if y > 0}
    loud = heights > 0
    assert upper == {
        round(float(t), 3): pytest.approx(float(h))
        for t, h in zip(time[loud], heights[loud], strict=True)
    }


def test_the_strongest_intermediate_sink_chooses_the_layer() -> None:
    record = fake_av_record(60, keep=())
    alpha = key_attention(record).isel(sample=0, key=25).mean("head")
    strongest = int(alpha["layer"].values[int(alpha.values.argmax())])
    axes = plots.sinks_over_time(record)
    assert any(f"layer {strongest} (" in " ".join(t.get_text().split()) for t in axes.texts)


def seen_by(color: str, matrix: np.ndarray) -> np.ndarray:
    """What a dichromat sees, in linear light (Machado, Oliveira and Fernandes 2009, severity 1)."""
    rgb = np.array(mpl.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.clip(matrix @ linear, 0, 1)


DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)


def lightness_ab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB (D65)."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear / np.array([0.9505, 1.0, 1.089]), 1e-4))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("matrix", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_segments_can_be_told_apart(matrix: np.ndarray) -> None:
    names = [name for name in SEGMENT_COLORS if name != "padding"]
    seen = {name: lightness_ab(seen_by(SEGMENT_COLORS[name], matrix)) for name in names}
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    distances = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in pairs}
    assert min(distances.values()) > 15, min(distances, key=lambda pair: distances[pair])


def test_scores_rise_in_lightness() -> None:
    colors = mpl.colormaps[SCORES](np.linspace(0, 1, 64))[:, :3]
    lightness = [lightness_ab(seen_by(mpl.colors.to_hex(c), np.eye(3)))[0] for c in colors]
    assert (np.diff(lightness) > -0.5).all()


@given(
    st.lists(st.tuples(st.floats(-50, 150), st.floats(0.5, 10)), min_size=1, max_size=12).map(
        sorted
    )
)
def test_spread_keeps_order_and_distance(labels: list[tuple[float, float]]) -> None:
    places, sizes = map(list, zip(*labels, strict=True))
    put = spread(places, sizes, low=0, high=200)
    gaps = [(a + b) / 2 for a, b in pairwise(sizes)]
    assert all(b - a >= gap - 1e-6 for (a, b), gap in zip(pairwise(put), gaps, strict=True))
    assert put[0] >= sizes[0] / 2 - 1e-6
    assert put[-1] <= 200 - sizes[-1] / 2 + 1e-6


def test_spread_moves_only_what_collides() -> None:
    assert spread([10, 50, 52, 90], [4, 4, 4, 4], low=0, high=100) == [10, 49, 53, 90]
    assert spread([0, 100], [4, 4], low=0, high=100) == [2, 98]
    assert spread([], [], low=0, high=1) == []
