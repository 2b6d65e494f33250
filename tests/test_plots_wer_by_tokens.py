"""Word errors by tokens: each point where its row says, named by its rates; a line a modality."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import sinkscope as ss
from sinkscope.errors import InputError

ROWS = [
    ("audio", 4, None, 37.0, 0.10),
    ("audio", 16, None, 9.0, 0.22),
    ("video", None, 2, 37.0, 0.45),
    ("video", None, 5, 15.0, 0.55),
    ("audiovisual", 4, 2, 74.0, 0.08),
    ("audiovisual", 16, 2, 46.0, 0.12),
    ("audiovisual", 4, 5, 52.0, 0.09),
    ("audiovisual", 16, 5, 24.0, 0.18),
]


def table(**more):
    names = ["modality", "audio_rate", "video_rate", "tokens", "wer"]
    found = pd.DataFrame(ROWS, columns=names)
    found["wer_low"], found["wer_high"] = found["wer"] - 0.02, found["wer"] + 0.03
    return found.assign(**more)


def lines_of(ax):
    return [box.lines[0] for box in ax.containers]


def test_every_point_is_where_its_row_says():
    ax = ss.plots.wer_by_tokens(table())
    drawn = [tuple(point) for line in lines_of(ax) for point in line.get_xydata()]
    assert sorted(drawn) == sorted((row[3], row[4]) for row in ROWS)
    for line in lines_of(ax):
        assert (np.diff(line.get_xdata()) > 0).all()
    named = {text.get_text(): text.xy for text in ax.texts}
    assert named["16:2"] == pytest.approx((46.0, 0.15))
    assert named["4"] == pytest.approx((37.0, 0.13))
    assert set(named) >= {"4", "16", "2", "5", "4:2", "16:2", "4:5", "16:5"}
    plt.close(ax.figure)


def test_one_utterance_has_points_without_bars():
    ax = ss.plots.wer_by_tokens(table(wer_low=np.nan, wer_high=np.nan))
    assert ax.get_ylim()[1] == pytest.approx(1.15 * 0.55)
    assert {text.get_text(): text.xy for text in ax.texts}["5"] == pytest.approx((15.0, 0.55))
    plt.close(ax.figure)


def test_models_have_lines_of_their_own_and_points_one_name():
    both = pd.concat([table(model="one"), table(model="other").assign(wer=0.5, wer_high=0.9)])
    ax = ss.plots.wer_by_tokens(both)
    assert len(lines_of(ax)) == 6
    assert len({line.get_linestyle() for line in lines_of(ax)}) == 2
    names = [text.get_text() for text in ax.texts]
    assert names.count("16:5") == 1
    assert {"one", "other"} <= {text.get_text() for text in ax.get_legend().get_texts()}
    plt.close(ax.figure)


def test_one_condition_is_drawn_on_the_axes_that_were_given():
    noisy = pd.concat([table(condition="clean"), table(condition="babble 0 dB").assign(wer=0.9)])
    _, ax = plt.subplots()
    assert ss.plots.wer_by_tokens(noisy, condition="babble 0 dB", ax=ax) is ax
    assert {y for line in lines_of(ax) for y in line.get_ydata()} == {0.9}
    plt.close(ax.figure)


def test_other_tables_are_refused():
    with pytest.raises(InputError, match="no tokens"):
        ss.plots.wer_by_tokens(table().drop(columns="tokens"))
    with pytest.raises(InputError, match="nothing was scored in the condition 'rain'"):
        ss.plots.wer_by_tokens(table(condition="clean"), condition="rain")
    many = pd.concat([table(model=str(number)) for number in range(5)])
    with pytest.raises(InputError, match="5 models, and 4 can be told apart"):
        ss.plots.wer_by_tokens(many)
