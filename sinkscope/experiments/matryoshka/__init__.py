"""One model for many rates, three ways, each without and with the decorrelation loss.

``python -m sinkscope.experiments.matryoshka OUT --report FOLDER``.
"""
