"""Records at several rates are compared only where they differ in their rates alone."""

from dataclasses import replace

import pytest

from sinkscope.analysis.rate_similarity import rate_similarity
from sinkscope.analysis.rates import check_rates, own_rate
from sinkscope.errors import InputError
from tests.planted_rates import rate_record

FINE, COARSE = (4, 2), (16, 5)
RECORDS = {pair: rate_record(pair, clips=2) for pair in (FINE, COARSE)}


def test_a_fused_stream_has_the_video_rate() -> None:
    assert [own_rate(FINE, one) for one in ("audio", "video", "audiovisual", "bos", "all")] == [
        4, 2, 2, None, None,
    ]  # fmt: skip


def test_a_record_under_another_pair_is_refused() -> None:
    check_rates(RECORDS, where="here")
    with pytest.raises(InputError, match=r"under \(4, 2\) stands a record of rates \(16, 5\)"):
        check_rates({FINE: RECORDS[COARSE], COARSE: RECORDS[FINE]}, where="here")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modality", "audio"),
        ("stream_order", ["video", "audio"]),
        ("prepend_bos", False),
        ("with_transcript", True),
        ("dtype", "bfloat16"),
        ("model_hash", "1"),
    ],
)
def test_records_that_were_made_in_another_way_are_refused(name: str, value: object) -> None:
    said = {**RECORDS[COARSE].provenance, name: value}
    other = replace(RECORDS[COARSE], provenance=said)
    with pytest.raises(InputError, match=f"differ in {name}"):
        check_rates({FINE: RECORDS[FINE], COARSE: other}, where="here")
    with pytest.raises(InputError, match=f"differ in {name}"):
        rate_similarity(RECORDS[FINE], other)
