"""An evaluation that is stopped, that meets bad clips, and that is asked for something else."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.decoding import Decoding
from sinkscope.avsr.evaluation import Running, Settings, evaluate, word_errors
from sinkscope.avsr.manifest import Entry
from sinkscope.errors import InputError

FILES = ("evaluation.json", "table.csv", "utterances.csv")
SETTINGS = Settings(
    modalities=("audio", "video"),
    noise="babble",
    snrs=(5.0,),
    decoding=Decoding(max_new_tokens=8, audio_rate=16, video_rate=5),
)


@pytest.fixture(scope="module")
def model():
    return ss.load("tiny-avsr").model


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Five clips; the fourth has no picture and the last no word."""
    read = [ss.read_clip(path) for path in ss.bundled_clips()]
    return [*read, replace(read[0], frames=None), replace(read[1], text=" ")]


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(model, clips, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    evaluate(model, clips, folder, settings=SETTINGS)
    return folder


def test_what_is_written_agrees_with_itself(whole: Path, model, clips) -> None:
    said = json.loads((whole / "evaluation.json").read_text())
    with (whole / "utterances.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (whole / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [(line["modality"], line["condition"]) for line in table]
    assert names == [("audio", "clean"), ("audio", "babble 5 dB"), ("video", "clean")]
    assert [int(line["utterances"]) for line in table] == [4, 4, 3]
    assert [int(line["failures"]) for line in table] == [1, 1, 2]
    for line, cell in zip(table, said["table"], strict=True):
        here = [r for r in rows if (r["modality"], r["condition"]) == tuple(line.values())[:2]]
        errors = word_errors([r["reference"] for r in here], [r["hypothesis"] for r in here])
        assert float(line["wer"]) == pytest.approx(errors.rate, abs=1e-6) == cell["wer"]
        assert sum(int(r["substitutions"]) for r in here) == errors.substitutions
        assert float(line["wer_low"]) <= float(line["wer"]) <= float(line["wer_high"])
    assert said["settings"]["audio_rate"] == 16
    clean = model.transcribe(
        clips[0], modality="audio", audio_rate=16, video_rate=5, max_new_tokens=8
    )
    assert rows[0]["hypothesis"] == clean[0]
    assert rows[0]["hypothesis"] != rows[1]["hypothesis"]  # noise


def test_bad_clips_are_counted_and_listed(whole: Path) -> None:
    said = json.loads((whole / "evaluation.json").read_text())
    assert said["failed_clips"] == 2
    found = [(row["utterance"], row["modality"], row["condition"]) for row in said["failures"]]
    assert found == [(3, "video", "clean"), (4, None, None)]
    assert "no picture" in said["failures"][0]["error"]
    assert "no text" in said["failures"][1]["error"]


class Stopped(Exception):
    """What stops a run."""


def stop_after(count: int) -> Running:
    left = [count]

    def progress(done: int) -> None:
        left[0] -= done
        if left[0] <= 0:
            raise Stopped

    return Running(batch_frames=200, progress=progress)


@pytest.mark.parametrize("count", [1, 4, 8, 11])
def test_a_stopped_run_goes_on_and_ends_with_the_same_files(
    model, clips, whole, tmp_path, count
) -> None:
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        evaluate(model, clips, folder, settings=SETTINGS, running=stop_after(count))
    kept = (folder / "rows.jsonl").read_bytes()
    lines = kept.splitlines()
    assert count // 3 <= len(lines) < 13
    assert not (folder / "evaluation.json").exists()
    (folder / "rows.jsonl").write_bytes(kept + b'{"utterance": 2, "pa')
    evaluate(model, clips, folder, settings=SETTINGS, running=Running(batch_frames=300))
    assert files_of(folder) == files_of(whole)
    rows = (folder / "rows.jsonl").read_bytes()
    assert rows.startswith(kept)
    cells = [tuple(json.loads(row).values())[:4] for row in rows.splitlines()]
    scored = [
        cell for row, cell in zip(rows.splitlines(), cells, strict=True) if b'"error": null' in row
    ]
    assert len(scored) == len(set(scored)) == 11


def test_a_finished_run_decodes_nothing_again(model, clips, tmp_path, monkeypatch) -> None:
    evaluate(model, clips[:3], tmp_path / "run", settings=SETTINGS)
    before = files_of(tmp_path / "run")

    def never(*arguments: object, **options: object) -> list[str]:
        raise AssertionError("decoded again")

    monkeypatch.setattr(type(model), "prepare", never)
    done: list[int] = []
    running = Running(progress=done.append)
    evaluate(model, clips[:3], tmp_path / "run", settings=SETTINGS, running=running)
    assert sum(done) == 9
    assert files_of(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed = 0, and now it is 1"),
        ({"snrs": (0.0,)}, "snrs = "),
        ({"decoding": Decoding(num_beams=2)}, "max_new_tokens = 8.*num_beams"),
    ],
)
def test_another_setting_is_refused(model, clips, whole, changes, message) -> None:
    before = files_of(whole)
    with pytest.raises(InputError, match=message):
        evaluate(model, clips, whole, settings=replace(SETTINGS, **changes))
    assert files_of(whole) == before


def test_another_model_or_corpus_is_refused(model, clips, whole) -> None:
    with pytest.raises(InputError, match="model_hash"):
        evaluate(model, clips, whole, settings=SETTINGS, about={"model_hash": "other"})
    with pytest.raises(InputError, match="corpus_hash"):
        evaluate(model, [*clips[:-1], clips[0]], whole, settings=SETTINGS)


def test_a_folder_with_something_else_is_refused(model, clips, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        evaluate(model, clips, tmp_path, settings=SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_line_is_named(model, clips, whole, tmp_path) -> None:
    for name in ("settings.json", "rows.jsonl"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    lines[1] = lines[1][:20]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2"):
        evaluate(model, clips, tmp_path, settings=SETTINGS)


def test_a_mended_file_is_tried_again(model, tmp_path) -> None:
    good, bad = ss.bundled_clips()[0], tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:2000])
    corpus = [Entry(good, "a b"), Entry(bad, "c d")]
    settings = Settings(modalities=("audio",), decoding=Decoding(max_new_tokens=2))
    first = evaluate(model, corpus, tmp_path / "run", settings=settings)
    assert [row.utterance for row in first.failures] == [1]
    assert "bad.mp4" in (first.failures[0].error or "")
    bad.write_bytes(good.read_bytes())
    second = evaluate(model, corpus, tmp_path / "run", settings=settings)
    assert not second.failures
    assert [cell.utterances for cell in second.table] == [2]


def test_clips_that_are_cut_are_counted(model, clips, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(model.audio_encoder, "longest_seconds", 0.5)
    found = evaluate(model, clips[:2], tmp_path / "run", settings=SETTINGS)
    assert found.cut_clips == 2
    with (tmp_path / "run" / "utterances.csv").open(newline="") as file:
        notes = {(row["modality"], bool(row["note"])) for row in csv.DictReader(file)}
    assert notes == {("audio", True), ("video", False)}
    again = evaluate(model, clips[:2], tmp_path / "run", settings=SETTINGS)
    assert again.to_dict() == found.to_dict()


def test_where_every_clip_is_bad_the_run_is_an_error(model, clips, tmp_path) -> None:
    mute = [replace(clip, waveform=np.zeros(100, np.float32)) for clip in clips[:2]]
    with pytest.raises(InputError, match="None of the 2 clips"):
        evaluate(model, mute, tmp_path, settings=Settings(modalities=("audio",)))
    assert not (tmp_path / "evaluation.json").exists()


def test_impossible_settings_are_refused_before_anything_is_written(model, clips, tmp_path) -> None:
    folder = tmp_path / "run"
    for settings, message in (
        (Settings(modalities=("smell",)), "smell"),
        (Settings(noise="babble"), "without a signal-to-noise"),
        (Settings(snrs=(0,)), "without a noise"),
        (Settings(noise="no-such.wav", snrs=(0,)), "no-such.wav"),
        (Settings(noise="babble", snrs=(0, 0.0)), "once"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(model, clips, folder, settings=settings)
    with pytest.raises(InputError, match="empty"):
        evaluate(model, [], folder)
    assert not folder.exists()
