"""AV-HuBERT: an encoder of sound and lips."""

from sinkscope.avsr.avhubert.config import AvHubertConfig
from sinkscope.avsr.avhubert.model import AvHubert

__all__ = ["AvHubert", "AvHubertConfig"]
