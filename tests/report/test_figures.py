import re
from dataclasses import replace

import pytest
from report_toy import collected, gap, paths, study

from kdbench.report.figures import FIGURES, draw_all
from kdbench.report.figures.gain import relative_gain
from kdbench.report.figures.gap import fixed_student
from kdbench.report.figures.pareto import front
from kdbench.report.figures.paths import layout
from kdbench.report.scores import against_parent, against_root
from kdbench.report.summary import group
from kdbench.report.svg import as_svg, inlined


def test_each_figure_is_drawn_where_the_data_allow() -> None:
    drawn = draw_all(collected(paths())).keys() | draw_all(collected(gap())).keys()
    assert drawn == FIGURES.keys()


@pytest.mark.parametrize(
    ("chains", "absent"),
    [
        (paths(), {"gap"}),
        (gap(), {"gain", "paths", "score", "ranks", "levels"}),
        ([("plain4",)], FIGURES.keys() - {"seeds", "landscape", "curves"}),
        ([("plain4", "plain2")], FIGURES.keys() - {"seeds", "landscape", "curves"}),
    ],
)
def test_figure_is_left_out_where_the_data_lack_something(chains: list[tuple[str, ...]], absent: set[str]) -> None:
    assert FIGURES.keys() - draw_all(collected(chains)).keys() == absent


def test_datasets_never_share_a_line() -> None:
    result = collected(gap())
    mixed = (replace(result.networks[0], dataset="other"), *result.networks[1:])
    assert draw_all(replace(result, networks=mixed)).keys() == {"seeds", "landscape", "curves"}


def test_gap_orders_teachers_by_size() -> None:
    teachers = [one.first.chain[0] for one in fixed_student(collected(gap()))]
    assert teachers == ["plain4", "plain6", "plain8", "plain10"]


def test_gain_is_relative_and_paired_by_seed() -> None:
    taught, alone = group(collected([("plain4", "plain2"), ("plain2",)]).networks)
    assert alone.first.chain == ("plain2",)
    halves = type(alone)(tuple(replace(one, test_acc=one.test_acc / 2) for one in taught.networks))
    gain = relative_gain(taught, halves)
    assert gain is not None
    assert (gain.mean, gain.n) == (pytest.approx(100), 3)
    assert gain.sd == pytest.approx(0)
    assert (unpaired := relative_gain(taught, type(alone)(halves.networks[:2]))) is not None
    assert unpaired.n == 1


def test_students_that_are_never_right_alone_have_no_gain_and_spoil_no_figure() -> None:
    result = collected(paths())
    wrong = replace(result, networks=tuple(replace(one, test_acc=0.0) for one in result.networks))
    assert draw_all(result).keys() - draw_all(wrong).keys() == {"gain", "levels", "ranks", "score"}


def test_front_keeps_what_nothing_matches() -> None:
    assert front([(3, 90), (1, 70), (1, 72), (2, 71), (4, 90), (5, 91)]) == [2, 0, 5]


def test_layout_puts_each_chain_in_the_column_of_its_last_network() -> None:
    places = layout([("a",), ("a", "b"), ("a", "c"), ("a", "b", "c")], ["a", "b", "c"])
    assert {chain: column for chain, (column, _) in places.items()} == {
        ("a",): 0, ("a", "b"): 1, ("a", "c"): 2, ("a", "b", "c"): 2
    }  # fmt: skip
    assert places["a", "b", "c"][1] < places["a", "c"][1]


def test_scores_against_root_and_parent() -> None:
    result = collected(paths())
    chain = ("plain10", "plain4", "plain2")
    root, parent = (next(one for one in scored if one.group.first.chain == chain)
                    for scored in (against_root(result), against_parent(result)))  # fmt: skip
    assert root.size == pytest.approx(13_082 / 2_487_850)
    assert parent.size == pytest.approx(13_082 / 37_338)
    assert root.score(1.0) == pytest.approx(root.size)
    assert root.score(0.0) == pytest.approx(1 - root.accuracy)


def test_published_values_stand_in_full_studies_only() -> None:
    full, smoke = (draw_all(study(size=size))["seeds"] for size in ("full", "smoke"))
    assert "published" in full.caption
    assert "published" not in smoke.caption


def test_file_is_the_same_every_time_and_has_no_date() -> None:
    first, second = (as_svg(draw_all(study())["paths"]) for _ in range(2))
    assert first == second
    assert "dc:date" not in first


def test_inlined_figure_takes_the_colours_and_the_text_of_the_page() -> None:
    drawing = draw_all(study())["seeds"]
    inside = inlined(as_svg(drawing), "seeds", 'a "caption"')
    assert not re.search("#[0-9a-f]{6}", inside)
    assert "var(--ink)" in inside
    assert 'aria-label="a &quot;caption&quot;"' in inside
    assert "DejaVu" not in inside
    assert "<metadata" not in inside


def test_landscape_has_a_panel_for_each_arm_that_was_measured() -> None:
    result = collected(gap())
    drawing = draw_all(result)["landscape"]
    assert len([axes for axes in drawing.figure.axes if axes.get_visible()]) == len(result.arms)
    bare = tuple(replace(arm, networks=tuple(replace(one, evals={}) for one in arm.networks)) for arm in result.arms)
    assert "landscape" not in draw_all(replace(result, arms=bare))
    (axes,) = draw_all(replace(result, arms=result.arms[:1]))["landscape"].figure.axes
    assert axes.get_title()


def test_students_that_have_learned_nothing_are_drawn() -> None:
    result = collected(paths())
    none = tuple(replace(one, test_acc=0.0) if one.teacher_digest else one for one in result.networks)
    assert "levels" in draw_all(replace(result, networks=none))
