"""Analysis and figures of attention in both directions, and the way from a token to its frames."""

from dataclasses import replace

import numpy as np
import pytest

import sinkscope as ss
from sinkscope.analysis.visibility import entropy_share, even_attention, visible_keys
from sinkscope.errors import InputError, SiteError
from sinkscope.plots.maps import attention_grid
from sinkscope.record import Record, merge
from tests.fake_records import av_clip, av_layout, causal, record_from, softmax_map

RATE = 50
FRAMES, SOUNDING = 150, 120
SINK = 41


def encoder_layout(frames: int = FRAMES, sounding: int = SOUNDING) -> ss.TokenLayout:
    edges = np.arange(frames + 1) / RATE
    return ss.TokenLayout.of(
        ["audio"] * sounding + ["appended_silence"] * (frames - sounding),
        [f"f{i}" for i in range(frames)],
        seconds=np.stack([edges[:-1], edges[1:]], axis=1),
    )


def encoder_record(*, sink: int | None = SINK, layout=None, clip=None, layers: int = 3) -> Record:
    """An encoder whose last layers attend to one frame, whose state is massive before."""
    layout = layout or encoder_layout()
    length, rng = len(layout), np.random.default_rng(0)
    scores = rng.normal(0, 0.5, (layers, 2, length, length))
    states = rng.normal(0, 1, (layers, length, 16))
    if sink is not None:
        scores[1:, :, :, sink] += 7
        states[:-1, sink, 3] = 90
    everything = np.ones((length, length), bool)
    pattern = softmax_map(scores, everything)
    made = record_from(
        pattern, states, layout, visible=everything, prepend_bos=False, keep=["pattern"], clip=clip
    )
    provenance = dict(made.provenance) | {"causal": False, "subject": "fake encoder"}
    return replace(made, provenance=provenance)


def llm_record(layout=None, clip=None) -> Record:
    """A decoder whose audio token a10 draws all attention."""
    layout = layout or av_layout(80)
    length, rng = len(layout), np.random.default_rng(1)
    scores = rng.normal(0, 0.5, (2, 2, length, length))
    scores[:, :, :, layout.labels.index("a10")] += 7
    scores[:, :, :, 0] += 7
    states = rng.normal(0, 1, (2, length, 16))
    return record_from(softmax_map(scores, causal(length)), states, layout, clip=clip)


# -- attention in both directions --------------------------------------------------------------


def test_even_attention_of_an_encoder_is_one_share_for_everyone() -> None:
    record = encoder_record(sink=None)
    assert (visible_keys(record) == FRAMES).all()
    assert np.allclose(even_attention(record), 1 / FRAMES)
    assert entropy_share(record).max() <= 1.0
    flat = replace(record, dataset=record.dataset.copy())
    flat.dataset["entropy"] = np.log(FRAMES) * (flat.dataset["entropy"] * 0 + 1)
    assert np.allclose(entropy_share(flat), 1)


def test_a_sink_of_an_encoder_is_found_and_named_by_its_second() -> None:
    found = ss.find_sinks(encoder_record(), ratio=50)
    assert found["layer"].tolist() == [1, 2]
    assert set(found["token"]) == {SINK}
    assert set(found["kind"]) == {"intermediate"}
    assert found["start"].tolist() == pytest.approx([SINK / RATE] * 2)
    assert not found["bos_present"].any()
    assert (found["queries"] == FRAMES).all()
    assert found["massive_entering"].tolist() == [True, True]
    assert ss.find_sinks(encoder_record(sink=None)).empty


def test_a_sink_on_appended_silence_is_not_hidden() -> None:
    record = encoder_record(sink=SOUNDING + 7)
    found = ss.find_sinks(record)
    assert set(found["segment"]) == {"appended_silence"}
    flow = ss.segment_attention(record).query("layer == 2 and query_segment == 'audio'")
    share = dict(zip(flow["key_segment"], flow["attention"], strict=True))
    assert share["appended_silence"] > 0.8
    assert sum(share.values()) == pytest.approx(1, abs=1e-5)


def test_the_kept_map_of_an_encoder_knows_that_it_is_no_causal_one(tmp_path) -> None:
    from tests.encoder_models import encoder

    built = encoder("whisper")
    with ss.probe(built.model, [*ss.DEFAULT, "pattern"]) as probe:
        built.run(None)
    saved = ss.Record.open(probe.record.save(tmp_path / "record"))
    for record in (probe.record, saved, merge([saved, saved]).sample(4)):
        alpha = ss.key_attention(record)
        of_map = ss.key_attention(record["pattern"].sel(layer=1))
        assert np.abs(of_map - alpha.sel(layer=1)).max() < 1e-5
        assert np.abs(ss.key_attention(record["pattern"].values) - alpha).max() > 1e-3


def test_nothing_without_attention_is_a_sink() -> None:
    record = encoder_record()
    bare = replace(record, provenance=dict(record.provenance) | {"n_heads": 0})
    with pytest.raises(SiteError, match="fake encoder has no attention"):
        ss.find_sinks(bare)


# -- figures -----------------------------------------------------------------------------------


def test_the_map_of_an_encoder_is_whole_and_that_of_a_decoder_half() -> None:
    whole = attention_grid(encoder_record(), sample=0, layer=1, head=None)
    assert np.isfinite(whole.values).all()
    assert np.allclose(whole.values.sum(1), 1, atol=1e-5)
    layout = av_layout(60)
    scores = np.random.default_rng(0).normal(size=(1, 2, 60, 60))
    decoder = record_from(
        softmax_map(scores, causal(60)), np.ones((1, 60, 4)), layout, keep=["pattern"]
    )
    half = attention_grid(decoder, sample=0, layer=0, head=None)
    assert np.array_equal(np.isnan(half.values), ~causal(60))


def test_the_map_follows_what_was_visible() -> None:
    """Of a window of 8, keys before it are drawn as unseen, not as weight 0."""
    import xarray as xr

    visible = causal(30, window=8)
    scores = np.random.default_rng(0).normal(size=(1, 2, 30, 30))
    layout = ss.TokenLayout.of_text(["t"] * 30, has_bos=False)
    states = np.ones((1, 30, 4))
    record = record_from(
        softmax_map(scores, visible), states, layout, visible=visible, keep=["pattern"]
    )
    dims = ("sample", "layer", "query", "key")
    record.dataset["visible"] = xr.DataArray(visible[None, None].astype(np.int8), dims=dims)
    grid = attention_grid(record, sample=0, layer=0, head=1)
    assert np.array_equal(np.isnan(grid.values), ~visible)


def test_every_figure_takes_a_record_of_an_encoder() -> None:
    record = encoder_record(clip=av_clip(FRAMES / RATE))
    assert ss.plots.attention_map(record, layer=2).get_title(loc="left") == "Attention map"
    for draw in (ss.plots.sink_rate, ss.plots.sinks_over_time, ss.plots.bos_cosine):
        assert draw(record).figure is not None
    assert ss.plots.segment_flow(ss.segment_attention(record), layer=2).figure is not None


# -- from a token to its frames ----------------------------------------------------------------


def by_hand(token: int, *, rate: int) -> list[int]:
    return list(range(token * rate, (token + 1) * rate))


@pytest.mark.parametrize("rate", [1, 3, 4, 5, 16, 25])
def test_frames_of_token_are_those_that_the_projector_compressed(rate: int) -> None:
    frames = 131
    tokens = frames // rate
    edges = np.arange(tokens + 1) * rate / RATE
    nowhere = np.full((1, 2), np.nan)
    seconds = np.concatenate([nowhere, np.stack([edges[:-1], edges[1:]], axis=1), nowhere])
    llm = ss.TokenLayout.of(
        ["bos", *["audio"] * tokens, "text"], ["x"] * (tokens + 2), seconds=seconds
    )
    found = ss.frames_of_token(llm, encoder_layout(frames, frames))
    assert [one.tolist() for one in found[1:-1]] == [by_hand(i, rate=rate) for i in range(tokens)]
    assert [found[0].tolist(), found[-1].tolist()] == [[], []]
    shifted = replace(llm, seconds=llm.seconds + rate / RATE)
    assert ss.frames_of_token(shifted, encoder_layout(frames, frames))[1].tolist() == by_hand(
        1, rate=rate
    )


def test_frames_of_other_streams_and_appended_silence_belong_to_no_token() -> None:
    layout = av_layout(80)
    found = ss.frames_of_token(layout, encoder_layout())
    made_of = {layout.segments[i] for i, frames in enumerate(found) if len(frames)}
    assert made_of == {"audio"}
    every = np.concatenate(found)
    assert len(set(every.tolist())) == len(every)
    assert every.max() < SOUNDING
    with pytest.raises(InputError, match="no audio or video frame with seconds"):
        ss.frames_of_token(layout, ss.TokenLayout.of_text(["a"], has_bos=False))


def test_a_sink_is_followed_into_the_encoder() -> None:
    """a10 covers 0.8 to 0.88 s: frames 40 to 43, of which 41 is a sink from layer 1 on."""
    clip = av_clip(3.0)
    llm, heard = llm_record(clip=clip), encoder_record(clip=clip)
    sinks = ss.find_sinks(llm)
    table = ss.in_encoder(sinks, llm, heard)
    assert table.attrs["without_frames"] == len({*sinks["token"]}) - 1
    assert set(table["llm_label"]) == {"a10"}
    assert sorted({*table["token"]}) == [40, 41, 42, 43]
    assert len(table) == 4 * 3
    hit = table[table["is_sink"].astype(bool)]
    assert hit[["token", "layer"]].to_numpy().tolist() == [[SINK, 1], [SINK, 2]]
    massive = table[table["ratio"] > 50]
    assert massive[["token", "layer"]].to_numpy().tolist() == [[SINK, 0], [SINK, 1]]
    assert table.columns[:8].tolist() == list(ss.find_sinks(heard).columns[:8])


def test_following_without_attention_leaves_the_verdict_open() -> None:
    clip = av_clip(3.0)
    llm, heard = llm_record(clip=clip), encoder_record(clip=clip)
    kept = ["top_value", "top_feature", "median", "norm", "bos_cosine", "length"]
    table = ss.in_encoder(ss.find_sinks(llm), llm, replace(heard, dataset=heard.dataset[kept]))
    assert table["is_sink"].isna().all()
    assert table["alpha"].isna().all()
    assert (table["ratio"] > 50).sum() == 2


def test_records_of_other_clips_are_not_followed() -> None:
    llm, heard = llm_record(clip=av_clip(3.0)), encoder_record(clip=None)
    with pytest.raises(InputError, match="same clips"):
        ss.in_encoder(ss.find_sinks(llm), llm, heard)
    heard = encoder_record(clip=av_clip(3.0))
    with pytest.raises(InputError, match="same clips"):
        ss.in_encoder(ss.find_sinks(llm), llm, merge([heard, heard]))
    other = ss.find_sinks(llm).assign(token=500)
    with pytest.raises(InputError, match="token 500"):
        ss.in_encoder(other, llm, heard)
