"""An evaluation at several rates: each case once, with its tokens, and goes on after a stop."""

import csv
import json
from dataclasses import replace

import pytest

import sinkscope as ss
from sinkscope.avsr.decoding import Decoding
from sinkscope.avsr.evaluation import Running, Settings, evaluate, word_errors
from sinkscope.avsr.evaluation.settings import cases_of
from sinkscope.errors import InputError

PAIRS = [(4, 2), (16, 2), (16, 5)]
SETTINGS = Settings(("audio", "video", "audiovisual"), rates=PAIRS, decoding=Decoding(6))
CASES = [("audio", 4, None), ("audio", 16, None), ("video", None, 2), ("video", None, 5)]
CASES += [("audiovisual", *pair) for pair in PAIRS]
FILES = ("evaluation.json", "table.csv", "utterances.csv")


@pytest.fixture(scope="module")
def model():
    return ss.load("tiny-avsr").model


@pytest.fixture(scope="module")
def clips():
    """Two clips; the second has no picture."""
    read = [ss.read_clip(path) for path in ss.bundled_clips()[:2]]
    return [read[0], replace(read[1], frames=None)]


@pytest.fixture(scope="module")
def found(model, clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates") / "out"
    return evaluate(model, clips, folder, settings=SETTINGS), folder


def test_each_stream_alone_is_read_at_each_of_its_rates_once(found):
    table = found[0].to_frame()
    rows = table[["modality", "audio_rate", "video_rate"]].astype(object)
    assert [tuple(row) for row in rows.where(rows.notna(), None).to_numpy()] == CASES
    assert found[0].settings["rates"] == [[4, 2], [16, 2], [16, 5]]
    assert "audio_rate" not in found[0].settings


def test_words_and_tokens_are_those_of_the_rates(found, model, clips):
    result, folder = found
    with (folder / "utterances.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 + 2 + 3
    for row in rows:
        rates = {n: int(row[n]) if row[n] else None for n in ("audio_rate", "video_rate")}
        clip, how = clips[int(row["utterance"])], {"modality": row["modality"], **rates}
        assert [row["hypothesis"]] == model.transcribe(clip, max_new_tokens=6, **how)
        spans = model.prepare([clip], **how).spans[0]
        read = [one for one in spans if one.name in ("audio", "video")]
        assert int(row["tokens"]) == sum(one.stop - one.start for one in read) > 0
    for cell in result.table:
        here = [row for row in rows if row["modality"] == cell.modality]
        for name, rate in zip(("audio_rate", "video_rate"), cell.pair, strict=True):
            here = [row for row in here if row[name] == ("" if rate is None else str(rate))]
        assert cell.tokens == sum(int(row["tokens"]) for row in here) / len(here)
        said = [[row[name] for row in here] for name in ("reference", "hypothesis")]
        assert cell.errors == word_errors(*said)


def test_failures_say_their_rates(found):
    listed = json.loads((found[1] / "evaluation.json").read_text())["failures"]
    places = [(one["modality"], one.get("audio_rate"), one.get("video_rate")) for one in listed]
    assert places == CASES[2:]
    assert all("no picture" in one["error"] for one in listed)


class Stopped(Exception):
    """What stops a run."""


def test_a_stopped_run_ends_with_the_same_files(found, model, clips, tmp_path):
    left = [5]

    def progress(done):
        left[0] -= done
        if left[0] <= 0:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(model, clips, tmp_path, settings=SETTINGS, running=Running(progress=progress))
    assert not (tmp_path / "table.csv").exists()
    evaluate(model, clips, tmp_path, settings=SETTINGS)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (found[1] / name).read_bytes()
    other = replace(SETTINGS, rates=PAIRS[:2])
    with pytest.raises(InputError, match=r"rates = \[\[4, 2\], \[16, 2\], \[16, 5\]\]"):
        evaluate(model, clips, tmp_path, settings=other)


def test_all_is_every_pair_of_the_models_own_rates(model):
    config = replace(model.config, audio_rates=(4, 16), video_rates=(2, 5))
    cases = cases_of(config, Settings(("audiovisual",), rates="all"))
    assert [case.pair for case in cases] == [(4, 2), (4, 5), (16, 2), (16, 5)]
    noisy = Settings(("audio", "video"), "babble", (0,), rates="all")
    assert [(case.pair, case.condition.snr) for case in cases_of(config, noisy)] == [
        ((4, None), None),
        ((4, None), 0),
        ((16, None), None),
        ((16, None), 0),
        ((None, 2), None),
        ((None, 5), None),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rates": []}, "give pairs of an audio rate and a video rate"),
        ({"rates": "every"}, "or 'all'"),
        ({"rates": [(4, 0)]}, "video_rate is 0"),
        ({"decoding": Decoding(audio_rate=4)}, "one audio or video rate beside them"),
    ],
)
def test_impossible_rates_are_refused(model, changes, words):
    with pytest.raises(InputError, match=words):
        cases_of(model.config, replace(SETTINGS, **changes))


def test_a_run_without_rates_has_no_columns_of_rates(model, clips, tmp_path):
    plain = Settings(("audio",), decoding=Decoding(2))
    evaluate(model, clips, tmp_path, settings=plain)
    text = "".join((tmp_path / name).read_text() for name in (*FILES, "rows.jsonl"))
    assert "tokens" not in text.replace("max_new_tokens", "")
    assert '"audio_rate": 4' in text  # among the settings
    assert "audio_rate," not in text
    with (tmp_path / "rows.jsonl").open() as file:
        assert all("audio_rate" not in json.loads(line) for line in file)
