"""The distillation score: size against accuracy in one number. Alkhulaifi et al. 2021. Needs no torch."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kdbench.core.errors import ConfigError

Numbers = TypeVar("Numbers", float, NDArray[np.float64])

ALPHAS = (0.25, 0.5, 0.75)  # one alpha alone hides that the ranking depends on it


def distillation_score(
    student_size: Numbers,
    teacher_size: float,
    student_acc: Numbers,
    teacher_acc: float,
    *,
    alpha: float = 0.5,
    higher_is_better: bool = True,
) -> Numbers:
    r"""How small and how accurate a student is beside its teacher; lower is better.

    .. math:: \alpha \frac{s_S}{s_T} + (1 - \alpha) \Bigl(1 - \frac{a_S}{a_T}\Bigr)

    Only ratios enter, so any unit of size and either scale of accuracy serve, as long as both networks share it. Scores
    of students of different teachers are not comparable: a weaker teacher improves them all. Of two students of one
    size, the scores differ by :math:`-(1 - \alpha)` times the gain over the teacher's accuracy.

    Args:
        student_size: Parameters, bytes or non-zeros, positive; one number or an array of any shape.
        teacher_size: Of the teacher, in the same unit.
        student_acc: Accuracy, from 0; shaped as ``student_size``.
        teacher_acc: Of the teacher, on the same samples and scale.
        alpha: Weight of size, 0 to 1; above 0.5 prefers small students, below it accurate ones.
        higher_is_better: Of the accuracy. With an error or a loss in its place the meaning would flip silently.

    Returns:
        0 at the unreachable ideal; negative only where the student outdoes its teacher; shaped as ``student_size``.

    Raises:
        ConfigError: A size or the teacher's accuracy is missing or not positive, ``alpha`` is outside 0 to 1, or lower
            values of the metric are better.

    Source: Alkhulaifi et al. 2021, arXiv:2007.09029 (PeerJ CS 7:e474).
    """
    if not higher_is_better:
        raise ConfigError(
            "distillation score: needs a metric of which more is better; give the accuracy, not the error"
        )
    if not 0 <= alpha <= 1:
        raise ConfigError(f"distillation score: alpha={alpha} must lie between 0 and 1")
    for name, value in (("student_size", student_size), ("teacher_size", teacher_size), ("teacher_acc", teacher_acc)):
        if not np.all(np.asarray(value, float) > 0):  # a missing number is NaN here, and not above 0 either
            raise ConfigError(f"distillation score: {name}={value} must be known and above 0")
    if not np.all(np.asarray(student_acc, float) >= 0):
        raise ConfigError(f"distillation score: student_acc={student_acc} must be known and not below 0")
    return alpha * (student_size / teacher_size) + (1 - alpha) * (1 - student_acc / teacher_acc)
