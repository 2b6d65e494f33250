"""Learned sinks: the mass that no token receives is measured, reported and replayed."""

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import SiteError
from sinkscope.probes.replay import replay
from tests.families import batch, build
from tests.full_maps import arriving


@pytest.mark.parametrize("padding", ["none", "left"])
def test_what_the_sink_takes_is_its_share_of_softmax(padding: str) -> None:
    model, inputs = build("gpt_oss"), batch(padding, samples=2)
    with arriving(model) as arrived:
        record = ss.record(model, **inputs, keep=["pattern"])
    for layer, call in enumerate(arrived):
        group = call.query.shape[1] // call.key.shape[1]
        key = call.key.repeat_interleave(group, 1)
        scores = call.query @ key.mT * call.options["scaling"]
        scores = scores.masked_fill(~call.visible()[:, None], float("-inf"))
        sinks = call.options["s_aux"].detach()[None, :, None, None].expand(*scores.shape[:3], 1)
        wanted = torch.softmax(torch.cat([scores, sinks], -1), -1)[..., -1].numpy()
        for sample in range(2):
            length = int(record["length"][sample])
            found = record["learned_sink"][sample, layer, :, :length].values
            assert np.abs(found - wanted[sample][:, -length:]).max() < 1e-6
            assert 0 <= found.min() < 0.1 < found.max() <= 1


def test_the_missing_mass_is_the_tables() -> None:
    model = build("gpt_oss")
    layout = ss.TokenLayout.of(["audio"] * 5 + ["text"] * 7, [""] * 12)
    record = ss.record(model, **batch(samples=1), layout=layout)
    table = ss.learned_sinks(record)
    flow = ss.segment_attention(record, heads=True)
    assert len(table) == 2 * 4 * 2
    for row in table.itertuples():
        cells = (flow["layer"] == row.layer) & (flow["head"] == row.head)
        missing = flow.loc[cells & (flow["query_segment"] == row.query_segment), "missing"]
        assert np.allclose(missing, row.share, atol=1e-5)
        values = record["learned_sink"].sel(layer=row.layer)[0, row.head].values
        assert values[row.largest_token] == pytest.approx(row.largest)
        assert layout.segments[row.largest_token] == row.query_segment
    assert table["queries"].unique().tolist() == [5, 7]


@pytest.mark.parametrize(("logit", "least", "most"), [(-30.0, 0.0, 1e-5), (30.0, 0.999, 1.0)])
def test_a_low_logit_takes_nothing_and_a_high_one_all(
    logit: float, least: float, most: float
) -> None:
    model = build("gpt_oss", scale=0.1)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.sinks.fill_(logit)
    record = ss.record(model, **batch(samples=1))
    assert least <= float(record["learned_sink"].min())
    assert float(record["learned_sink"].max()) <= most
    alpha = ss.key_attention(record)
    assert bool((alpha.sum() < 1e-2).item()) == (logit > 0)


@pytest.mark.parametrize("family", ["gpt_oss", "llama"])
def test_replayed_from_kept_maps(family: str) -> None:
    inputs = batch("left", samples=2)
    reducers = [ss.LearnedSink(), ss.Keep("pattern")]
    record = ss.record(build(family), **inputs, reducers=reducers)
    again = replay(record, [ss.LearnedSink()])
    found = again["learned_sink"].values
    assert np.allclose(found, record["learned_sink"].values, atol=1e-5, equal_nan=True)
    assert bool(np.nan_to_num(found).any()) == (family == "gpt_oss")


def test_models_without_have_no_such_table() -> None:
    record = ss.record(build("llama"), **batch(samples=1))
    with pytest.raises(SiteError, match="learned_sink"):
        ss.learned_sinks(record)
