"""Evaluate a model on a corpus: word error rates over modalities, clean and in noise.

Every utterance that is decoded is written down at once, so that a run that was stopped goes on
where it stopped and ends with the same files. A bad clip is counted and listed, and stops nothing::

    found = evaluate(model, read_manifest("test.csv"), Path("out"),
                     settings=Settings(noise="babble", snrs=(10, 0)))
    [(cell.modality, cell.condition.name, cell.errors.rate) for cell in found.table]
"""

from sinkscope.avsr.evaluation.run import evaluate
from sinkscope.avsr.evaluation.settings import Running, Settings
from sinkscope.avsr.evaluation.table import Evaluation
from sinkscope.avsr.scoring import WordErrors, word_errors

__all__ = [
    "Evaluation",
    "Running",
    "Settings",
    "WordErrors",
    "evaluate",
    "word_errors",
]
