"""Sinks followed back to their frames: planted encoders, entrances and layers, counted by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import sinkscope as ss
from sinkscope import plots
from sinkscope.analysis.ancestry import sink_ancestry
from sinkscope.analysis.frames import frames_of_tokens
from sinkscope.analysis.high_norm import ENTRANCE
from sinkscope.errors import InputError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record
from tests.fake_records import record_from, softmax_map

LAYERS, TOKENS, FRAMES = 3, 24, 40
SOUND = range(2, 22)
"""Two frames of 40 ms become each of the 20 audio tokens."""


def llm_layout() -> TokenLayout:
    segments = ["bos", "delimiter", *["audio"] * 20, "delimiter", "instruction"]
    seconds = np.full((TOKENS, 2), np.nan)
    seconds[2:22, 0] = np.arange(20) * 0.08
    seconds[2:22, 1] = seconds[2:22, 0] + 0.08
    return TokenLayout.of(segments, [f"t{i}" for i in range(TOKENS)], seconds=seconds)


def llm(sinks: list[int], *, entering: dict[int, float], leaving: dict[int, float]) -> Record:
    """An LLM whose later layers attend to ``sinks``; some tokens have long states."""
    seen = np.tril(np.ones((TOKENS, TOKENS), bool))
    scores = np.zeros((LAYERS, 2, TOKENS, TOKENS))
    scores[1:, :, :, sinks] = 6.0
    states = np.random.default_rng(0).normal(size=(LAYERS, TOKENS, 16))
    states /= np.linalg.norm(states, axis=-1, keepdims=True)
    for token, size in leaving.items():
        states[:, token] *= size
    record = record_from(softmax_map(scores, seen), states, llm_layout())
    first = np.ones((1, 1, TOKENS))
    for token, size in entering.items():
        first[0, 0, token] *= size
    array = xr.DataArray(first, dims=("sample", "layer", "token"), coords={"layer": [0]})
    variables = {name: record[name] for name in record} | {ENTRANCE: array}
    variables.pop("length")
    return Record.of(variables, record.layouts, record.provenance, clips=record.clips)


def encoder(high: dict[int, float], *, shift: float = 0.0) -> Record:
    start = np.arange(FRAMES) * 0.04 + shift
    layout = TokenLayout.of(
        ["audio"] * FRAMES,
        [f"a{i}" for i in range(FRAMES)],
        seconds=np.stack([start, start + 0.04], axis=1),
    )
    states = np.ones((2, FRAMES, 16))
    for frame, size in high.items():
        states[1, frame] *= size
    even = np.full((2, 1, FRAMES, FRAMES), 1 / FRAMES)
    return record_from(even, states, layout, visible=np.ones((FRAMES, FRAMES), bool))


def followed(record: Record, heard: Record, **options) -> pd.DataFrame:
    return sink_ancestry(record, ss.find_sinks(record, threshold=0.2), {"audio": heard}, **options)


def test_each_sink_is_followed_to_where_its_norm_first_shows() -> None:
    record = llm([5, 9, 12, 14], entering={5: 9, 9: 9}, leaving={5: 9, 9: 9, 12: 9})
    table = followed(record, encoder({7: 8.0}))  # frame 7 is the second half of token 5
    assert table["token"].tolist() == [5, 9, 12, 14]
    assert table["first_shown"].tolist() == ["encoder", "projector", "llm", "attention"]
    assert table["first_sink_layer"].tolist() == [1, 1, 1, 1]
    assert table["encoder_layer"].tolist() == [1, pd.NA, pd.NA, pd.NA]
    assert table["llm_layer"].tolist() == [0, 0, 0, pd.NA]
    assert np.allclose(table["encoder_ratio"], [8, 1, 1, 1])
    assert table["carried"].tolist() == [True, pd.NA, pd.NA, pd.NA]


def test_a_shift_of_one_frame_pair_would_show() -> None:
    record = llm([5], entering={}, leaving={})
    assert followed(record, encoder({6: 8.0}))["first_shown"].tolist() == ["encoder"]
    assert followed(record, encoder({8: 8.0}))["first_shown"].tolist() == ["attention"]
    late = encoder({6: 8.0}, shift=0.08)
    assert followed(record, late)["first_shown"].tolist() == ["attention"]


def test_what_becomes_of_the_encoders_tokens() -> None:
    record = llm([5], entering={9: 9}, leaving={})
    table = followed(record, encoder({6: 8.0, 20: 8.0}), which="high_norm")
    assert table["token"].tolist() == [5, 9, 12]
    assert table["first_sink_layer"].tolist() == [1, pd.NA, pd.NA]
    assert table["carried"].tolist() == [False, pd.NA, False]


def test_the_control_counts_random_tokens() -> None:
    record = llm([5, 9], entering={}, leaving={})
    chance = followed(record, encoder(dict.fromkeys(range(0, 18), 8.0)), draws=20_000)
    found = chance.attrs["control"]["audio"]
    assert found["tokens"] == 20
    assert found["high_tokens"] == 9
    assert found["from_encoder"] == 2
    assert found["expected"] == pytest.approx(2 * 9 / 20, abs=0.02)
    assert found["p"] == pytest.approx(9 / 20 * 8 / 19, abs=0.02)


def test_patches_are_matched_on_the_finer_grid() -> None:
    """A film of 2 frames: 4 x 4 patches in the encoder, 2 x 2 tokens in the LLM."""

    def grid(side: int) -> TokenLayout:
        frame, row, column = (axis.reshape(-1) for axis in np.indices((2, side, side)))
        seconds = np.stack([frame, frame + 1], axis=1).astype(float)
        known = {"row": row.astype(float), "column": column.astype(float)}
        known["item"] = np.zeros(len(row))
        return TokenLayout.of(
            ["video"] * len(row), [""] * len(row), seconds=seconds, descriptors=known
        )

    covers = frames_of_tokens(grid(2), "video", [grid(4)], sample=3)[0]
    fine = grid(4)
    for token, (frame, row, column) in enumerate(np.ndindex(2, 2, 2)):
        mine = np.flatnonzero(covers[token])
        assert len(mine) == 4
        assert set(fine.seconds[mine, 0]) == {frame}
        assert set(fine.descriptors["row"][mine] // 2) == {row}
        assert set(fine.descriptors["column"][mine] // 2) == {column}


def patches(grids: list[tuple[float, int, int]]) -> TokenLayout:
    """A picture in several views: (view, rows, columns) of each."""
    parts = [(view, *place) for view, rows, columns in grids for place in np.ndindex(rows, columns)]
    view, row, column = np.array(parts, float).T
    known = {"view": view, "row": row, "column": column, "item": np.zeros(len(view))}
    return TokenLayout.of(["image"] * len(view), [""] * len(view), descriptors=known)


def test_views_and_odd_grids() -> None:
    """The whole picture keeps its 2 x 2; its detail of 5 x 3 is joined by twos."""
    llm, fine = patches([(0, 2, 2), (1, 2, 1)]), patches([(1, 5, 3), (0, 2, 2)])
    covers = frames_of_tokens(llm, "image", [fine], sample=0)[0]
    assert [int(row.sum()) for row in covers] == [1, 1, 1, 1, 4, 4]
    assert set(fine.descriptors["view"][covers[:4].any(0)]) == {0}
    assert fine.descriptors["row"][covers[5]].tolist() == [2, 2, 3, 3]
    assert fine.descriptors["column"][covers[5]].tolist() == [0, 1, 0, 1]


def test_other_items_and_samples_are_kept_apart() -> None:
    one = TokenLayout.of(["audio"], ["a0"], descriptors={"item": np.array([1.0])})
    two = TokenLayout.of(["audio"] * 2, ["a0", "a1"], descriptors={"item": np.array([0.0, 1.0])})
    assert frames_of_tokens(one, "audio", [two], sample=0)[0].tolist() == [[False, True]]
    plain = TokenLayout.of(["audio"], ["a0"])
    covers = frames_of_tokens(plain, "audio", [plain, plain], sample=1)
    assert [one.tolist() for one in covers] == [[[False]], [[True]]]


def test_a_picture_and_a_film_keep_grids_of_their_own() -> None:
    """Both are the first of their kind: 4 x 4 patches become 2 x 2, 6 x 6 become 2 x 2."""

    def beside(*sides: int) -> TokenLayout:
        names = [
            name for name, n in zip(("image", "video"), sides, strict=True) for _ in range(n**2)
        ]
        places = np.concatenate([np.array([*np.ndindex(n, n)], float) for n in sides])
        known = {"row": places[:, 0], "column": places[:, 1], "item": np.zeros(len(names))}
        return TokenLayout.of(names, [""] * len(names), descriptors=known)

    llm, fine = beside(2, 2), beside(4, 6)
    pictures = frames_of_tokens(llm, "image", [fine], sample=0)[0]
    films = frames_of_tokens(llm, "video", [fine], sample=0)[0]
    assert pictures.sum(axis=1).tolist() == [4] * 4
    assert films.sum(axis=1).tolist() == [9] * 4


def test_frames_without_a_place_make_no_token_that_has_one() -> None:
    blank = TokenLayout.of(["image"] * 3, [""] * 3, descriptors={"item": np.zeros(3)})
    covers = frames_of_tokens(patches([(0, 2, 2)]), "image", [blank], sample=0)[0]
    assert not covers.any()


def test_high_norm_tokens() -> None:
    table = ss.find_high_norm(encoder({7: 8.0, 9: 2.0}))
    assert table[["layer", "token"]].to_numpy().tolist() == [[1, 7]]
    assert table["norm_ratio"].tolist() == pytest.approx([8.0])
    assert "1 token of high norm" in ss.describe(table)
    none = ss.find_high_norm(encoder({7: 2.0}))
    assert "the largest ratio is 2" in ss.describe(none)


def test_words_and_figure() -> None:
    record = llm([5, 9, 12, 14], entering={5: 9, 9: 9}, leaving={5: 9, 9: 9, 12: 9})
    table = followed(record, encoder({7: 8.0}))
    said = ss.describe(table)
    assert "Of 4 sinks" in said
    assert "1 at the encoder's output" in said
    assert "1 of 4 sinks" in said
    axes = plots.sink_ancestry(table)
    assert axes.get_ylabel()
    assert sum(line.get_marker() == "o" for line in axes.lines) == 4
    assert plots.sink_ancestry(table.iloc[:0]).texts
    with pytest.raises(InputError, match="give the table"):
        plots.sink_ancestry(ss.find_sinks(record))


def test_what_is_refused() -> None:
    record, heard = llm([5], entering={}, leaving={}), encoder({})
    sinks = ss.find_sinks(record, threshold=0.2)
    with pytest.raises(InputError, match="no token of video"):
        sink_ancestry(record, sinks, {"video": heard})
    with pytest.raises(InputError, match="which is 'all'"):
        sink_ancestry(record, sinks, {"audio": heard}, which="all")
    with pytest.raises(InputError, match="must be what find_sinks"):
        sink_ancestry(record, ss.find_high_norm(heard), {"audio": heard})
    far = replace(heard.layouts[0], seconds=heard.layouts[0].seconds + 100)
    moved = Record(heard.dataset, (far,), heard.provenance, heard.clips)
    with pytest.raises(InputError, match="covers a frame"):
        sink_ancestry(record, sinks, {"audio": moved})
    with pytest.raises(SiteError, match="resid_pre_norm"):
        sink_ancestry(encoder({}), ss.find_sinks(encoder({})), {"audio": heard})


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("token", 99, "token 99"), ("sample", 1, "sample 1"), ("label", "x", "'x'")],
)
def test_sinks_of_another_record_are_refused(column: str, value: object, said: str) -> None:
    record = llm([5], entering={}, leaving={})
    sinks = ss.find_sinks(record, threshold=0.2)
    sinks[column] = value
    with pytest.raises(InputError, match=said):
        sink_ancestry(record, sinks, {"audio": encoder({})})


def test_items_of_several_forwards_are_refused() -> None:
    """The first sound of each: merged, the two cannot be told apart."""
    record = llm([5], entering={}, leaving={})
    first = {"item": np.where(record.layouts[0].mask("audio"), 0.0, np.nan)}
    layout = replace(record.layouts[0], descriptors=first)
    one = Record(record.dataset, (layout,), record.provenance, record.clips)
    both = ss.merge([one, one])
    heard = ss.merge([encoder({}), encoder({7: 8.0})])
    with pytest.raises(InputError, match="several forwards"):
        sink_ancestry(both, ss.find_sinks(both, threshold=0.2), {"audio": heard})


def test_the_bundled_model_is_followed() -> None:
    clip = ss.read_clip(ss.bundled_clips()[0])
    table = ss.follow_sinks("tiny-avsr", clip, which="high_norm", ratio=1.5)
    assert set(table["segment"]) <= {"audio", "video"}
    heard = ss.record(ss.load("tiny-avsr").encoder("audio"), clip)
    high = ss.find_high_norm(heard, ratio=1.5)
    last = high[high["layer"] == high["layer"].max()]
    ends = table.loc[table["segment"] == "audio", ["start", "end"]].to_numpy()
    middles = last[["start", "end"]].to_numpy().mean(axis=1)
    middles = middles[middles < 56 * 0.08]  # an odd last frame becomes no token
    assert len(middles) > 5
    assert all(any(start <= middle <= end for start, end in ends) for middle in middles)
    with pytest.raises(InputError, match="has no encoder"):
        ss.follow_sinks(ss.load("tiny-avsr").text, "a text")


def test_several_clips_are_followed_one_at_a_time() -> None:
    clips = [ss.read_clip(path) for path in ss.bundled_clips()[:2]]
    asked = {"which": "high_norm", "ratio": 1.5}
    both = ss.follow_sinks("tiny-avsr", clips, **asked)
    each = [ss.follow_sinks("tiny-avsr", clip, **asked) for clip in clips]
    for sample, own in enumerate(each):
        found = both[both["sample"] == sample].reset_index(drop=True)
        pd.testing.assert_frame_equal(found.assign(sample=0), own)
    for stream, control in both.attrs["control"].items():
        alone = [own.attrs["control"][stream] for own in each]
        for name in ("sinks", "from_encoder", "high_tokens", "tokens"):
            assert control[name] == sum(one[name] for one in alone)
    assert both.attrs["samples"] == 2
    assert both.attrs["skipped"] == {}
