"""Published weights into an AV-HuBERT: every name accounted for."""

from collections.abc import Mapping

from torch import Tensor

from sinkscope.avsr.avhubert.model import AvHubert
from sinkscope.avsr.avhubert.transformer import named_as_published
from sinkscope.avsr.checkpoint import load_weights

__all__ = ["PRETRAINING", "load_published"]

PRETRAINING = ("mask_emb", "label_embs_concat", "final_proj.")
"""What names of weights begin with that pre-training alone uses."""


def load_published(model: AvHubert, state: Mapping[str, Tensor], *, where: str) -> list[str]:
    """Copies a published state dict into a model, in the model's own dtype.

    BatchNorm's running statistics are among the weights: those of a fine-tuned checkpoint may
    differ from the original's.

    Args:
        model: what is filled, in place.
        state: tensors by their published names, the positional kernel weight-normed or folded.
        where: the file, for the message.

    Returns:
        The names that were left out because pre-training alone uses them.

    Raises:
        CheckpointError: names are missing or unexpected, or shapes differ; all are listed.
    """
    left_out = sorted(name for name in state if name.startswith(PRETRAINING))
    used = {name: value for name, value in state.items() if name not in left_out}
    load_weights(model, named_as_published(used, "encoder.pos_conv.0."), where=where)
    return left_out
