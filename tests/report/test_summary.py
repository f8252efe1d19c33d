import pytest
from report_toy import collected, network, paths

from kdbench.report.summary import group, scratch, student_t, summarise

# two-sided 5 % points as printed in every table of Student's t
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("df", "point"), TABLE.items())
def test_student_t_agrees_with_the_printed_table(df: int, point: float) -> None:
    assert student_t(df) == pytest.approx(point, abs=6e-4)


def test_summary_of_three_replicates() -> None:
    summary = summarise([70.0, 71.0, 72.0])
    assert (summary.mean, summary.sd, summary.n) == (71.0, 1.0, 3)
    assert summary.low == pytest.approx(71 - 4.3027 / 3**0.5, abs=1e-3)
    assert summary.high == pytest.approx(71 + 4.3027 / 3**0.5, abs=1e-3)


def test_one_replicate_has_no_spread() -> None:
    summary = summarise([70.0])
    assert (summary.sd, summary.low, summary.high) == (None, None, None)


def test_replicates_are_grouped_by_variant() -> None:
    groups = group(collected(paths()).networks)
    assert len(groups) == 20
    assert {len(one.networks) for one in groups} == {3}


def test_scratch_counterpart_has_the_same_budget_or_there_is_none() -> None:
    taught = network(("plain10", "plain2"), 1)
    result = collected([("plain2",), ("plain10", "plain2")])
    found = scratch(result, taught)
    assert found is not None
    assert {one.chain for one in found.networks} == {("plain2",)}
    assert scratch(result, network(("plain10", "plain2"), 1, epochs=20)) is None
    assert scratch(result, network(("plain10", "plain2"), 1, dataset="other")) is None
