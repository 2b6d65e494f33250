"""MoME, mixtures of Matryoshka experts beside the blocks of a frozen LLM (arXiv 2510.04136)."""

from sinkscope.avsr.mome.attach import LLAMA, Places, add_mixtures, attach_experts, mixtures
from sinkscope.avsr.mome.experts import Mome, Routing
from sinkscope.avsr.mome.routing import HeldForward, balance_loss, hold_routing
from sinkscope.avsr.mome_settings import ExpertCount, MomeSettings, count_experts

__all__ = [
    "LLAMA",
    "ExpertCount",
    "HeldForward",
    "Mome",
    "MomeSettings",
    "Places",
    "Routing",
    "add_mixtures",
    "attach_experts",
    "balance_loss",
    "count_experts",
    "hold_routing",
    "mixtures",
]
