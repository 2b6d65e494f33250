import numpy as np
import pytest

from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout


def audio_visual() -> TokenLayout:
    segments = ["padding", "bos", "delimiter", "audio", "audio", "delimiter", "instruction"]
    seconds = np.full((7, 2), np.nan)
    seconds[3:5] = [[0.0, 0.32], [0.32, 0.64]]
    loudness = np.full(7, np.nan)
    loudness[3:5] = [-20.0, -40.0]
    phoneme = np.array(["", "", "", "b", "ih", "", ""])
    return TokenLayout.of(
        segments,
        ["<pad>", "<s>", "<audio>", "a0", "a1", "</audio>", "Transcribe"],
        seconds=seconds,
        descriptors={"loudness_db": loudness, "phoneme": phoneme},
    )


def test_bos_is_looked_up_not_assumed() -> None:
    layout = audio_visual()
    assert layout.reference == 1
    assert layout.has_bos
    without = TokenLayout.of(["padding", "text", "text"], ["", "a", "b"])
    assert without.reference == 1
    assert not without.has_bos


def test_padding_is_left_out_and_the_reference_moves_along() -> None:
    layout = audio_visual().without_padding()
    assert layout.segments[0] == "bos"
    assert layout.reference == 0
    assert layout.seconds[2].tolist() == [0.0, 0.32]
    assert layout.descriptors["phoneme"].tolist() == ["", "", "b", "ih", "", ""]


def test_json_round_trip_keeps_everything() -> None:
    import json

    layout = audio_visual()
    again = TokenLayout.from_dict(json.loads(json.dumps(layout.to_dict(), allow_nan=False)))
    assert again.segments == layout.segments
    assert again.labels == layout.labels
    assert again.reference == layout.reference
    np.testing.assert_array_equal(again.seconds, layout.seconds)
    for name, values in layout.descriptors.items():
        np.testing.assert_array_equal(again.descriptors[name], values)


def test_a_response_grows_at_the_end() -> None:
    layout = audio_visual().extend("response", ["bin", "blue"])
    assert layout.segments[-2:] == ("response", "response")
    assert np.isnan(layout.seconds[-2:]).all()
    assert np.isnan(layout.descriptors["loudness_db"][-1])
    assert layout.descriptors["phoneme"][-1] == ""


@pytest.mark.parametrize(
    ("segments", "labels", "reference", "message"),
    [
        (["bos", "text"], ["<s>"], None, "labels has 1 entries, not 2"),
        (["bos", "sound"], ["<s>", "a"], None, "unknown segment 'sound'"),
        (["bos", "text"], ["<s>", "a"], 2, "reference token 2 is outside 0 to 1"),
    ],
)
def test_bad_layouts_are_refused(segments, labels, reference, message) -> None:
    with pytest.raises(InputError, match=message):
        TokenLayout.of(segments, labels, reference=reference)


def test_take_must_keep_the_reference() -> None:
    with pytest.raises(InputError, match="reference token 1 was left out"):
        audio_visual().take([3, 4])
