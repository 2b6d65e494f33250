"""The story of a model's sinks, tested: ``python -m sinkscope.experiments.origins OUT``.

Finds sinks and massive activations on test utterances of the synthetic corpus (``--corpus``, as
``sinkscope.experiments.corpus`` makes it), traces where they are born, intervenes, and counts the
utterances that agree, with loss and word errors under every intervention. A hundred utterances
take five to fifteen minutes on one core. Writes ``story.txt``, tables and figures.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib as mpl
from tqdm import tqdm

from sinkscope import plots
from sinkscope.experiments.corpus import read_corpus
from sinkscope.interventions.explain import Explanation, explain
from sinkscope.interventions.standard import CONTROLS
from sinkscope.subjects.avsr import AvsrSubject
from sinkscope.subjects.subject import load

__all__ = ["markdown", "write"]

METRICS = ("loss", "wer", "largest_ratio", "largest_sink_rate")


def write(story: Explanation, out: Path) -> None:
    """Write the words, tables and figures of a story to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "story.txt").write_text(story.words + "\n", encoding="utf-8")
    tables = {"causal_tests": story.tests}
    draw = {}
    origin = story.findings.origin
    if origin is not None:
        tables |= {"births": origin.births, "neurons": origin.neurons}
        draw |= {"birth": partial(plots.birth, origin), "neurons": partial(plots.neurons, origin)}
    if story.effects is not None:
        tables |= {"effects": story.effects.summary, "effects_by_clip": story.effects.clips}
        for metric in METRICS:
            how = {"metric": metric, "controls": CONTROLS}
            draw[f"effects_{metric}"] = partial(plots.effects, story.effects.summary, **how)
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False)
    for name, drawn in draw.items():
        drawn().figure.savefig(out / f"{name}.png", dpi=144, bbox_inches="tight")


def markdown(story: Explanation) -> str:
    """The causal tests and what each condition did to recognition, as a table."""
    lines = ["| intervention | claim | holds in | 95 % | loss | WER |", "|---|---|---|---|---|---|"]
    means = {}
    if story.effects is not None:
        rows = story.effects.summary.to_dict("records")
        means = {(row["condition"], row["metric"]): row["after"] for row in rows}
    for row in story.tests.to_dict("records"):
        name = row["condition"]
        holds = f"{row['yes']} of {row['clips']}"
        interval = f"{row['low']:.0%} to {row['high']:.0%}"
        loss, wer = means.get((name, "loss"), float("nan")), means.get((name, "wer"), float("nan"))
        kind = f"*{name}*" if row["control"] else name
        lines.append(f"| {kind} | {row['claim']} | {holds} | {interval} | {loss:.2f} | {wer:.1%} |")
    return "\n".join(lines)


def _advance(bar: Any) -> None:
    bar.update()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", default="tiny-avsr")
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--modality", choices=["audio", "video", "audiovisual"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    subject = load(given.model)
    if not isinstance(subject, AvsrSubject):
        raise SystemExit(f"{given.model} takes no clips.")
    if given.modality:
        subject = subject.with_options(modality=given.modality)
    mpl.use("Agg")
    clips = list(islice(read_corpus(given.corpus, "test"), given.utterances))
    with tqdm(desc="explaining", unit="run", disable=None) as bar:
        story = explain(subject, clips, seed=given.seed, advance=partial(_advance, bar))
    write(story, given.out)
    print(story.words)
    print(f"\n{markdown(story)}")


if __name__ == "__main__":
    main()
