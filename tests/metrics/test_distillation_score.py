"""The worked example of the spec (ResNet-44 teacher at 71.76 % on CIFAR-100), and what the formula must refuse."""

import subprocess
import sys

import numpy as np
import pytest

from kdbench.core.errors import ConfigError
from kdbench.metrics.distillation_score import distillation_score

SIZES = np.array([0.6284, 0.3536, 0.1525, 0.0374])
ACCURACIES = np.array([69.12, 67.04, 62.87, 43.11])
TEACHER = 71.76
PRINTED = {
    0.0: (0.0368, 0.0658, 0.1239, 0.3992),
    0.25: (0.1847, 0.1377, 0.1310, 0.3088),
    0.5: (0.3326, 0.2097, 0.1382, 0.2183),
    0.75: (0.4805, 0.2816, 0.1453, 0.1279),
    1.0: (0.6284, 0.3536, 0.1525, 0.0374),
}


@pytest.mark.parametrize(("alpha", "printed"), PRINTED.items())
def test_score_reproduces_the_worked_example(alpha: float, printed: tuple[float, ...]) -> None:
    assert distillation_score(SIZES, 1.0, ACCURACIES, TEACHER, alpha=alpha) == pytest.approx(printed, abs=6e-5)


@pytest.mark.parametrize(("alpha", "best"), [(0.0, 0), (0.25, 2), (0.5, 2), (0.75, 3), (1.0, 3)])
def test_best_student_depends_on_alpha(alpha: float, best: int) -> None:
    assert np.argmin(distillation_score(SIZES, 1.0, ACCURACIES, TEACHER, alpha=alpha)) == best


@pytest.mark.parametrize(("accuracy", "score"), [(61.37, 0.1002), (61.41, 0.0999), (61.82, 0.0971)])
def test_score_of_takd_resnet8(accuracy: float, score: float) -> None:
    assert distillation_score(83_892, 1_736_564, accuracy, 72.38) == pytest.approx(score, abs=6e-5)


def test_vectorised_equals_scalar_and_scale_cancels() -> None:
    together = distillation_score(SIZES, 1.0, ACCURACIES, TEACHER, alpha=0.3)
    pairs = zip(SIZES, ACCURACIES, strict=True)
    alone = [distillation_score(float(size), 1.0, float(acc), TEACHER, alpha=0.3) for size, acc in pairs]
    assert together == pytest.approx(alone)
    assert together == pytest.approx(distillation_score(SIZES * 7, 7.0, ACCURACIES / 100, TEACHER / 100, alpha=0.3))


def test_gain_at_equal_size_is_the_difference_of_scores() -> None:
    gain = distillation_score(2.0, 9.0, 63.0, 72.0, alpha=0.4) - distillation_score(2.0, 9.0, 61.0, 72.0, alpha=0.4)
    assert gain == pytest.approx(-0.6 * 2 / 72)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_acc": 0.0}, "teacher_acc"),
        ({"teacher_acc": float("nan")}, "teacher_acc"),
        ({"student_size": 0.0}, "student_size"),
        ({"teacher_size": float("nan")}, "teacher_size"),
        ({"student_acc": -1.0}, "student_acc"),
        ({"alpha": 1.1}, "alpha"),
        ({"alpha": -0.1}, "alpha"),
        ({"higher_is_better": False}, "accuracy, not the error"),
    ],
)
def test_guards(changes: dict[str, float], message: str) -> None:
    given = {"student_size": 1.0, "teacher_size": 2.0, "student_acc": 60.0, "teacher_acc": 70.0, **changes}
    with pytest.raises(ConfigError, match=message):
        distillation_score(**given)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_score_needs_no_torch() -> None:
    code = "import sys, kdbench.metrics.distillation_score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
