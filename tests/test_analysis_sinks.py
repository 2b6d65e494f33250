"""find_sinks and its neighbours: planted things are found exactly, decoys are not."""

import numpy as np
import pandas as pd
import pytest

from sinkscope.analysis import describe, detector_agreement, find_sinks, sink_heads, sink_summary
from sinkscope.analysis.criteria import value_norm_ratio
from sinkscope.analysis.sinks import key_attention
from sinkscope.analysis.visibility import entropy_share, even_attention
from sinkscope.errors import InputError
from sinkscope.glossary import TABLE_COLUMNS
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge
from tests.fake_records import (
    PLANTED,
    av_layout,
    causal,
    fake_av_record,
    record_from,
    softmax_map,
    uniform_map,
)


def states_of(length: int, *, layers: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(layers, length, 64))


def locked(
    length: int, token: int, *, weight: float = 0.6, heads: int = 2, seen: int | None = None
):
    """Even attention in which every query from ``token`` on gives ``weight`` to it."""
    pattern = np.repeat(uniform_map(length)[None], heads, 0)
    rows = slice(token + 1, None if seen is None else token + seen)
    pattern[:, rows] *= 1 - weight
    pattern[:, rows, token] += weight
    return pattern


def text(length: int, *, has_bos: bool = True) -> TokenLayout:
    return TokenLayout.of_text([f"t{i}" for i in range(length)], has_bos=has_bos)


@pytest.mark.parametrize("n_tokens", [60, 300])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_was_planted_is_found_and_nothing_else(n_tokens: int, seed: int) -> None:
    record = fake_av_record(n_tokens, seed=seed)
    sinks = find_sinks(record)
    sink = record.layouts[0].labels.index(PLANTED.sink)
    wanted = {(layer, token) for layer in PLANTED.sink_layers for token in (0, sink)}
    assert set(zip(sinks["layer"], sinks["token"], strict=True)) == wanted
    assert tuple(sinks.columns[: len(TABLE_COLUMNS)]) == TABLE_COLUMNS
    assert sinks.columns[-1] == "bos_present"
    assert (sinks["paper_layer"] == sinks["layer"] + 1).all()
    assert (sinks["kind"] == np.where(sinks["token"] == 0, "bos", "intermediate")).all()
    assert (sinks["segment"] == np.where(sinks["token"] == 0, "bos", "delimiter")).all()
    assert (sinks["queries"] == n_tokens - sinks["token"]).all()
    massive = sinks["layer"].isin(PLANTED.massive_layers)
    assert (sinks["massive"].to_numpy(bool) == massive).all()
    assert (sinks["massive_entering"]).all()
    assert (sinks["value_drain"]).all()
    assert (sinks["twin"].to_numpy(bool) == massive & (sinks["token"] != 0)).all()


@pytest.mark.parametrize("token", [0, 7, 19])
def test_a_sink_anywhere_is_found_there(token: int) -> None:
    length = 30
    pattern = np.stack([np.repeat(uniform_map(length)[None], 2, 0), locked(length, token)])
    sinks = find_sinks(record_from(pattern, states_of(length), text(length)))
    assert sinks[["layer", "token"]].to_numpy().tolist() == [[1, token]]
    expected = pattern[1, 0, token:, token].mean()
    assert sinks["alpha"].item() == pytest.approx(expected, abs=1e-6)
    assert sinks["kind"].item() == ("bos" if token == 0 else "intermediate")


def test_a_key_that_few_queries_see_never_counts() -> None:
    """The last tokens of a text give themselves a large share: two or three see them."""
    length = 30
    scores = np.zeros((1, 2, length, length))
    scores[..., -7:] = 8.0
    record = record_from(softmax_map(scores, causal(length)), states_of(length)[:1], text(length))
    assert find_sinks(record).empty
    loose = find_sinks(record, min_queries=3)
    assert loose["token"].tolist() == [23]
    assert loose["queries"].tolist() == [7]


def test_a_window_hides_a_key_from_the_count() -> None:
    window = causal(30, window=6)
    scores = np.zeros((1, 2, 30, 30))
    scores[..., 10] = 9.0
    pattern = softmax_map(scores, window)
    record = record_from(pattern, states_of(30)[:1], text(30), visible=window)
    assert find_sinks(record).empty
    sinks = find_sinks(record, min_queries=6)
    assert sinks["token"].tolist() == [0, 10]
    # even attention gives the first key of a window of 6 as much by itself: 2.45 / 6
    assert sinks["even_alpha"].iloc[0] == pytest.approx(2.45 / 6)
    assert sinks["alpha"].iloc[0] == pytest.approx(2.45 / 6)
    assert sinks["even_alpha"].iloc[1] == pytest.approx(1 / 6)
    assert sinks["alpha"].iloc[1] > 0.99


def test_half_of_the_heads_are_enough_without_the_mean() -> None:
    length = 40
    weak, strong = np.full(2, 0.0), np.full(2, 0.34)
    heads = [locked(length, 12, weight=w, heads=1)[0] for w in (*weak, *strong)]
    record = record_from(np.stack(heads)[None], states_of(length)[:1], text(length))
    sinks = find_sinks(record)
    assert sinks["token"].tolist() == [12]
    assert sinks["alpha"].item() < 0.3
    assert sinks["sink_rate"].item() == 0.5
    assert find_sinks(record, min_heads=0.75).empty


def test_the_mean_is_enough_without_the_heads() -> None:
    length = 40
    heads = [locked(length, 12, weight=w, heads=1)[0] for w in (0.0, 0.0, 0.0, 1.0)]
    record = record_from(np.stack(heads)[None], states_of(length)[:1], text(length))
    assert find_sinks(record).empty
    sinks = find_sinks(record, threshold=0.2)
    assert sinks["token"].tolist() == [12]
    assert sinks["sink_rate"].item() == 0.25


def test_massive_or_alike_without_attention_is_no_sink() -> None:
    """A twin, and an outlier feature that every token has, draw no attention here."""
    record = fake_av_record(60, bos=False, sink=False, twin=True)
    assert find_sinks(record).empty
    states = states_of(30)
    states[..., 5] = 4000.0
    everywhere = record_from(np.stack([[uniform_map(30)]] * 2), states, text(30))
    assert find_sinks(everywhere).empty


def test_none_found_says_how_close_it_came() -> None:
    length = 20
    pattern = np.repeat(uniform_map(length)[None, None], 2, 0)
    table = find_sinks(record_from(pattern, states_of(length), text(length, has_bos=False)))
    full = find_sinks(fake_av_record(60))
    assert table.empty
    assert table.columns.tolist() == full.columns.tolist()
    assert table.dtypes.tolist() == full.dtypes.tolist()
    closed = sum(1 / (q + 1) for q in range(length)) / length
    assert table.attrs["largest_alpha"] == pytest.approx(closed, abs=1e-6)
    assert table.attrs["largest_alpha_at"] == {"sample": 0, "layer": 0, "token": 0, "label": "t0"}
    assert table.attrs["tokens"] == [length]
    assert table.attrs["bos_present"] == [False]
    said = describe(table)
    assert "No attention sink found" in said
    assert "0.18" in said
    assert "There is no BOS" in said


def test_too_short_to_judge_is_said() -> None:
    short = record_from(uniform_map(5)[None, None], states_of(5)[:1], text(5))
    table = find_sinks(short)
    assert table.empty
    assert table.attrs["judged"] == 0
    assert "no token is seen by enough queries" in describe(table)
    assert sink_heads(short).empty


def test_bos_elsewhere_or_absent() -> None:
    """Left of BOS stand tokens that are not BOS; the kind follows the layout, not the place."""
    length = 30
    layout = TokenLayout.of(
        ["text"] * 4 + ["bos"] + ["text"] * (length - 5), [f"t{i}" for i in range(length)]
    )
    record = record_from(locked(length, 4)[None], states_of(length)[:1], layout)
    assert find_sinks(record)["kind"].tolist() == ["bos"]
    absent = record_from(
        locked(length, 4)[None], states_of(length)[:1], text(length, has_bos=False)
    )
    sinks = find_sinks(absent)
    assert sinks["kind"].tolist() == ["intermediate"]
    assert sinks["bos_present"].tolist() == [False]


def test_samples_of_unequal_length_and_their_seconds() -> None:
    short, long = fake_av_record(60), fake_av_record(80, seed=3, sink=False)
    both = merge([short, long])
    sinks = find_sinks(both)
    for index, record in enumerate([short, long]):
        own = sinks[sinks["sample"] == index].drop(columns="sample").reset_index(drop=True)
        alone = find_sinks(record).drop(columns="sample")
        pd.testing.assert_frame_equal(own, alone, check_exact=False, atol=1e-6)
    layout = av_layout(60)
    frames = locked(60, layout.labels.index("a5"))
    table = find_sinks(record_from(frames[None], states_of(60)[:1], layout))
    assert table[["label", "start", "end", "silence", "phoneme"]].to_numpy().tolist() == [
        ["a5", 0.4, 0.48, 1.0, "sil"]
    ]
    assert table["loudness_db"].item() == -60.0
    assert np.isnan(table["motion"].item())


def test_the_table_says_what_was_asked() -> None:
    attrs = find_sinks(fake_av_record(60), threshold=0.25, min_queries=5).attrs
    assert (attrs["threshold"], attrs["min_queries"], attrs["min_heads"]) == (0.25, 5, 0.5)
    assert (attrs["ratio_threshold"], attrs["ratio_source"]) == (50.0, "the subject's own")
    assert (attrs["subject"], attrs["prepend_bos"]) == ("fake-avsr", True)
    other = find_sinks(fake_av_record(60), ratio=1000)
    assert other.attrs["ratio_source"] == "given"
    assert not other["massive"].any()


def test_what_was_not_recorded_is_missing_and_not_false() -> None:
    record = fake_av_record(60)
    gone = ["top_value", "bos_cosine", "value_norm"]
    less = Record(record.dataset.drop_vars(gone), record.layouts, record.provenance)
    sinks = find_sinks(less)
    assert len(sinks) == len(find_sinks(record))
    for name in ("massive", "massive_entering", "twin", "value_drain", "ratio"):
        assert sinks[name].isna().all()
    assert describe(sinks).startswith("Attention sinks in layers 2 to 5")
    first = find_sinks(record_from(locked(30, 0)[None], states_of(30)[:1], text(30)))
    assert first["massive_entering"].isna().all()
    assert first["massive"].notna().all()


def test_impossible_thresholds_are_refused() -> None:
    record = fake_av_record(60)
    with pytest.raises(InputError, match=r"threshold is 1\.5"):
        find_sinks(record, threshold=1.5)
    with pytest.raises(InputError, match="min_heads is 0"):
        find_sinks(record, min_heads=0.0)
    with pytest.raises(InputError, match="min_queries is 0"):
        find_sinks(record, min_queries=0)
    with pytest.raises(InputError, match="ratio is -1"):
        find_sinks(record, ratio=-1)


def test_the_summary_has_one_row_a_token() -> None:
    record = fake_av_record(60)
    sinks = find_sinks(record)
    table = sink_summary(sinks)
    pd.testing.assert_frame_equal(table, sink_summary(record))
    assert table["label"].tolist() == ["<s>", "</audio>"]
    assert table["layers"].tolist() == ["2-5", "2-5"]
    assert table["massive_layers"].tolist() == ["2-4", "2-4"]
    assert table["twin_layers"].tolist() == ["", "2-4"]
    strongest = sinks.loc[sinks.groupby("token")["alpha"].idxmax()]
    assert table["layer"].tolist() == strongest["layer"].tolist()
    assert tuple(table.columns[: len(TABLE_COLUMNS)]) == TABLE_COLUMNS
    assert table.columns[-1] == "bos_present"
    with pytest.raises(InputError, match="cannot be applied to a finished table"):
        sink_summary(sinks, threshold=0.2)
    with pytest.raises(InputError, match="not one of find_sinks"):
        sink_summary(sink_heads(record))
    none = sink_summary(fake_av_record(60, bos=False, sink=False))
    assert none.empty
    assert none.columns.tolist() == table.columns.tolist()
    assert "No attention sink found" in describe(none)


def test_heads_and_where_they_rest() -> None:
    length = 30
    heads = [locked(length, t, weight=w, heads=1)[0] for t, w in ((0, 0.9), (9, 0.4), (0, 0.0))]
    record = record_from(np.stack(heads)[None], states_of(length)[:1], text(length))
    table = sink_heads(record)
    assert table["head"].tolist() == [0, 1, 2]
    assert table["token"].tolist() == [0, 9, 0]
    assert table["is_bos"].tolist() == [True, False, True]
    assert table["sink"].tolist() == [True, True, False]
    assert table["dormant"].tolist() == [True, False, False]
    even = sum(1 / (q + 1) for q in range(length)) / length
    assert table["alpha_reference"].iloc[2] == pytest.approx(even, abs=1e-6)
    assert table["entropy_share"].iloc[2] == pytest.approx(1, abs=1e-6)
    assert table["entropy_share"].iloc[0] < 0.5
    assert (sink_heads(record, dormant=0.35)["dormant"]).tolist() == [True, True, False]


def test_detectors_agree_where_they_should() -> None:
    table = detector_agreement(fake_av_record(300)).set_index(["first", "second"])
    assert table.loc[("attention", "value_drain"), "jaccard"] == 1
    # the twin has the features and the direction, and draws no attention: 8 of 12
    assert table.loc[("attention", "massive"), "jaccard"] == pytest.approx(8 / 12)
    assert table.loc[("attention", "massive"), "jaccard_without_reference"] == 0.5
    assert table.loc[("massive", "cosine"), "jaccard_without_reference"] == 1
    assert table.loc[("massive", "cosine"), "n_first"] == 12
    alone = detector_agreement(fake_av_record(300, twin=False)).set_index(["first", "second"])
    assert alone.loc[("attention", "massive"), "jaccard"] == 1
    leaving = detector_agreement(fake_av_record(300, twin=False), state="leaving")
    assert leaving.set_index(["first", "second"]).loc[("attention", "massive"), "jaccard"] == 6 / 10
    nothing = detector_agreement(fake_av_record(60, bos=False, sink=False, twin=False))
    row = nothing.set_index(["first", "second"]).loc[("attention", "massive")]
    assert row["n_union"] == 0
    assert np.isnan(row["jaccard"])


def test_detectors_a_layer_and_the_phi_of_the_planted_features() -> None:
    record = fake_av_record(300)
    table = detector_agreement(record, per_layer=True, phi=4)
    assert sorted(set(table["layer"])) == [1, 2, 3, 4, 5]
    pair = table[(table["first"] == "massive") & (table["second"] == "phi")]
    assert pair.set_index("layer")["jaccard"].loc[2:].tolist() == [1.0] * 4
    apart = Record(record.dataset.sel(layer=[1, 4]), record.layouts, record.provenance)
    with pytest.raises(InputError, match="no layer of \\[1, 4\\] has the one before it"):
        detector_agreement(apart)
    assert len(detector_agreement(apart, state="leaving"))


def test_even_attention_is_known_for_every_shape_of_mask() -> None:
    for visible in (causal(12), causal(12, window=5), np.ones((12, 12), bool)):
        pattern = uniform_map(12, visible)
        record = record_from(pattern[None, None], states_of(12)[:1], text(12), visible=visible)
        even = even_attention(record).values[0, 0]
        np.testing.assert_allclose(even, key_attention(pattern, visible=visible), atol=1e-12)
        np.testing.assert_allclose(entropy_share(record).max(), 1, atol=1e-6)
    holes = causal(12)
    holes[:, 3] = False
    holes[3, 3] = True
    record = record_from(
        uniform_map(12, holes)[None, None], states_of(12)[:1], text(12), visible=holes
    )
    assert even_attention(record).isnull().all()
    assert entropy_share(record).isnull().all()


@pytest.mark.parametrize("length", [2, 3, 8, 9])
def test_the_value_norm_is_compared_with_the_other_tokens(length: int) -> None:
    norms = np.random.default_rng(length).uniform(0.1, 2, (2, length))
    norms[1, :2] = norms[1, 1]  # equal values change nothing
    record = record_from(
        np.stack([[uniform_map(length)]] * 2), states_of(length), text(length), value_norm=norms
    )
    found = value_norm_ratio(record).values[0]
    for layer, token in np.ndindex(2, length):
        others = np.delete(norms[layer], token)
        assert found[layer, token] == pytest.approx(norms[layer, token] / np.median(others))
