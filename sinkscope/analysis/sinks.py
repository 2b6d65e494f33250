"""Attention sinks: which tokens, in which layers and heads, and which other signs agree.

The words are those of the glossary: a sink is a token in a layer that enough queries see, and
whose key attention averaged over heads, or whose sink rate, passes. This file only gathers what
its neighbours define.

Example:
    >>> import numpy as np
    >>> uniform = np.tril(np.ones((2, 4, 4))) / np.arange(1, 5)[:, None]
    >>> sink_rate(key_attention(uniform))
    array([1., 1., 0., 0.])
"""

from sinkscope.analysis.attention import key_attention, sink_rate
from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.heads import sink_heads
from sinkscope.analysis.summary import sink_summary

__all__ = ["find_sinks", "key_attention", "sink_heads", "sink_rate", "sink_summary"]
