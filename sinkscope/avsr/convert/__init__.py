"""Released Llama-AVSR checkpoints become folders that this package reads."""

from sinkscope.avsr.convert.answers import Answers
from sinkscope.avsr.convert.convert import Converted, convert
from sinkscope.avsr.convert.released import read_released

__all__ = ["Answers", "Converted", "convert", "read_released"]
