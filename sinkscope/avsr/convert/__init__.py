"""Released Llama-AVSR checkpoints become folders that this package reads."""

from sinkscope.avsr.convert.convert import Converted, convert
from sinkscope.avsr.convert.sources import Answers

__all__ = ["Answers", "Converted", "convert"]
