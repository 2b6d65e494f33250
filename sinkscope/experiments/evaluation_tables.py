"""Word error rates of a model: ``python -m sinkscope.experiments.evaluation_tables OUT``.

On the test voices of the synthetic corpus (``--corpus``, as ``sinkscope.experiments.corpus`` makes
it), on clips of one's own (``--clips``, a manifest or a folder), or on both: sound, picture and
both, clean and in babble of the corpus's own voices at 10, 5, 0 and -5 dB. What is in ``OUT``
already is not decoded again. 300 synthetic clips take about six minutes on one core.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sinkscope.avsr.corpora import read_corpus as read_media
from sinkscope.avsr.evaluation import Evaluation, Running, Settings, evaluate
from sinkscope.experiments.corpus import read_corpus as read_shards
from sinkscope.subjects.avsr import AvsrSubject
from sinkscope.subjects.subject import load

__all__ = ["markdown", "tables"]

SETTINGS = Settings(("audio", "video", "audiovisual"), "babble", (10, 5, 0, -5))


def tables(model: str, out: Path, *, corpus: Path | None, clips: Path | None) -> dict[str, str]:
    """Evaluates the model; returns a Markdown table for each corpus that was given.

    Args:
        model: a bundled name or a folder.
        out: where each evaluation's folder goes.
        corpus: folder of the synthetic corpus's shards.
        clips: a manifest or a folder of media.
    """
    subject = load(model)
    if not isinstance(subject, AvsrSubject):
        raise SystemExit(f"{model} takes no clips.")
    corpora: dict[str, Any] = {}
    if corpus is not None:
        corpora["synthetic"] = list(read_shards(corpus, "test"))
    if clips is not None:
        corpora["clips"] = read_media(clips)
    found = {}
    for name, utterances in corpora.items():
        with tqdm(desc=name, unit="utterance", disable=None) as bar:
            done = evaluate(
                subject.model,
                utterances,
                out / name,
                settings=SETTINGS,
                about=subject.provenance(),
                running=Running(progress=partial(_advance, bar)),
            )
        found[name] = markdown(done)
    return found


def _advance(bar: Any, done: int) -> None:
    bar.update(done)


def markdown(found: Evaluation) -> str:
    """The table of an evaluation, a line a condition and a column a modality."""
    modalities = list(dict.fromkeys(cell.modality for cell in found.table))
    conditions = list(dict.fromkeys(cell.condition.name for cell in found.table))
    cells = {(cell.modality, cell.condition.name): cell for cell in found.table}
    lines = [f"| condition | {' | '.join(modalities)} |", "|---" * (len(modalities) + 1) + "|"]
    for condition in conditions:
        row = []
        for modality in modalities:
            cell = cells.get((modality, condition))
            errors = cell.errors if cell else None
            if errors is None:
                row.append("")
                continue
            low, high = errors.interval
            row.append(f"{errors.rate:.1%} ({100 * low:.1f} to {100 * high:.1f})")
        lines.append(f"| {condition} | {' | '.join(row)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny-avsr")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--clips", type=Path)
    given = parser.parse_args(arguments)
    if given.corpus is None and given.clips is None:
        parser.error("give --corpus, --clips or both")
    for name, table in tables(
        given.model, given.out, corpus=given.corpus, clips=given.clips
    ).items():
        print(f"\n{name}\n\n{table}")


if __name__ == "__main__":
    main()
