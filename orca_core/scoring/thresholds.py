"""Scores over all thresholds of a yes-or-no output: area under the ROC curve, average precision.

To the bits `roc_auc_score` and `average_precision_score` of scikit-learn, which sum the same numbers in the same order. Those sort with
their targets what is sorted here together with them, as one integer, and check what is checked here before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def area_under_roc(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Area under the ROC curve.

    Args:
        truth: (n,) numbers 0 or 1, both of which occur.
        outputs: (n,) finite numbers, float32 or float64.

    Returns:
        In [0, 1].

    >>> round(area_under_roc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8], dtype=np.float32)), 12)
    0.75
    """
    hits, alarms = _count_above(truth, outputs)
    if len(hits) > 2:  # points between others on a line do not change the area, but the rounding of its sum
        corner = np.concatenate([[True], (np.diff(alarms, 2) != 0) | (np.diff(hits, 2) != 0), [True]])
        hits, alarms = hits[corner], alarms[corner]
    hits, alarms = (np.concatenate([[0.0], counts]) for counts in (hits, alarms))
    return float(np.trapezoid(hits / hits[-1], alarms / alarms[-1]))


def average_precision(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Sum over thresholds of the precision there times the recall that is gained; as for `area_under_roc`, but 0 need not occur.

    >>> round(average_precision(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8], dtype=np.float32)), 12)
    0.833333333333
    """
    hits, alarms = _count_above(truth, outputs)
    precision = (hits / (hits + alarms))[::-1]
    recall = np.concatenate([(hits / hits[-1])[::-1], [0.0]])
    return float(max(0.0, -np.sum(np.diff(recall) * precision)))


def _count_above(truth: np.ndarray, outputs: np.ndarray) -> tuple[Floats, Floats]:
    """How many ones and how many zeros have at least each output, from the highest of all different outputs to the lowest."""
    if outputs.dtype == np.float32:
        # Of floats of one sign, the bits are in the order of the values; of negative ones in the opposite order. -0 becomes 0.
        bits = (outputs + np.float32(0)).view(np.int32)
        keys = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64) * 2 + (truth == 1)
        keys.sort()
        keys = keys[::-1]
        values, is_one = keys >> 1, keys & 1
    else:
        order = np.argsort(outputs, kind="stable")[::-1]
        values, is_one = outputs[order], (truth == 1)[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    hits = np.cumsum(is_one, dtype=np.int64)[last]
    return hits.astype(np.float64), (1 + last - hits).astype(np.float64)
