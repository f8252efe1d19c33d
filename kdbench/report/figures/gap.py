"""A student against the size of its teacher: the gap that assistants are meant to bridge (TAKD, Fig. 2)."""

from __future__ import annotations

from kdbench.report.figures._style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    Drawing,
    by_size,
    direct,
    error_line,
    panel,
    sizes_axis,
    unique,
)
from kdbench.report.results import StudyResult
from kdbench.report.summary import Group, group, scratch


def fixed_student(result: StudyResult) -> list[Group]:
    """The students of one name and method with the most teachers, taught directly; the smallest teacher first."""
    families: dict[tuple[str, str | None], list[Group]] = {}
    for one in direct(result):
        families.setdefault((one.first.name, one.first.method), []).append(one)
    best = max((family for family in families.values() if unique(family)), key=len, default=[])
    teachers = {one.first.digest: result.root(one.first) for one in best}
    known = [one for one in best if teachers[one.first.digest] is not None]
    return sorted(known, key=lambda one: getattr(teachers[one.first.digest], "parameters", 0))


def draw_gap(result: StudyResult) -> Drawing | None:
    """Student accuracy on the left axis, the teacher's own on the right; needs two teachers of one student."""
    students = fixed_student(result)
    if len(students) < 2:
        return None
    roots = [root for one in students if (root := result.root(one.first))]
    variants = {root.variant for root in roots}
    teachers = by_size(one for one in group(result.networks) if one.first.variant in variants)
    figure, left = panel()
    places = range(len(students))
    right = left.twinx()
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    if len(teachers) == len(students):
        error_line(right, places, teachers, color=ORANGE, marker="s", linestyle="--")
    error_line(left, places, students, color=BLUE, marker="o")
    name = students[0].first.name
    if alone := scratch(result, students[0].first):
        left.axhline(alone.accuracy.mean, color=GREY, linewidth=1, linestyle=":")
        left.annotate(f"{name} alone", (0.5, alone.accuracy.mean), xytext=(0, 3), textcoords="offset points",
                      ha="center", color=GREY, fontsize=8)  # fmt: skip
    sizes_axis(left, roots)
    left.set_xlabel("teacher", color=INK)
    left.set_ylabel(f"{name}, taught: test accuracy, %", color=BLUE)
    right.set_ylabel("teacher itself: test accuracy, %", color=ORANGE)
    return Drawing(figure, "A student and the size of its teacher",
                   f"Left axis, solid: {name} taught directly by {students[0].first.method}. Right axis, dashed: its "
                   "teacher's own accuracy. Means over seeds with 95 % intervals. The scales differ.")  # fmt: skip
