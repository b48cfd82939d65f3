"""Floors: what models without a transformer reach on a task, with its own score on the parts that trials get.

    rows        which models there are, and what a row of the table `floors` says
    linear kernels neighbours boosting constant     the models
    compute     from a task to its rows

Names and rows import nothing heavy; numpy, scikit-learn and torch, which the scores are written in, are loaded by `compute`.
"""
