from dataclasses import replace

import pytest
from report_toy import collected, gap, paths

from kdbench.core.errors import ConfigError
from kdbench.report.queries import best_paths, choose_assistant, path_groups


def test_assistant_nearest_to_the_mean_wins() -> None:
    accuracies = {"student": 61.37, "low": 65.0, "resnet20": 67.03, "high": 69.0, "teacher": 72.38}
    assert choose_assistant(accuracies, "student", "teacher") == "resnet20"


def test_no_candidate_is_refused() -> None:
    with pytest.raises(ConfigError, match="no candidate between a and b"):
        choose_assistant({"a": 1.0, "b": 2.0}, "a", "b")


def test_tree_of_paths_has_fifteen_taught_chains() -> None:
    assert len(path_groups(collected(paths()))) == 15


def test_direct_chains_alone_are_no_tree() -> None:
    assert path_groups(collected(gap())) == []


def test_students_of_several_teachers_stand_in_no_tree() -> None:
    result = collected(paths())
    dense = replace(result.networks[-1], chain=("plain10", "plain4 (and those above)", "plain2"), variant="dense")
    assert len(path_groups(replace(result, networks=(*result.networks, dense)))) == 15


def test_chain_of_two_settings_has_no_place_in_a_tree() -> None:
    result = collected(paths())
    other = replace(result.networks[-1], variant="hotter", digest="f" * 64)
    assert path_groups(replace(result, networks=(*result.networks, other))) == []


def test_best_path_is_chosen_on_validation_and_never_worsens_with_k() -> None:
    result = collected(paths())
    liar = ("plain10", "plain8", "plain2")  # best on validation, worst on test
    networks = tuple(replace(one, val_acc=99.0, test_acc=1.0) if one.chain == liar else one for one in result.networks)
    answers = best_paths(path_groups(replace(result, networks=networks)), "plain2")
    assert [k for k, _ in answers] == [0, 1, 2, 3]
    assert answers[0][1].first.chain == ("plain10", "plain2")
    assert {one.first.chain for _, one in answers[1:]} == {liar}


def test_best_path_falls_back_to_test_without_validation() -> None:
    result = collected(paths())
    networks = tuple(replace(one, val_acc=None) for one in result.networks)
    (_, best), *_ = reversed(best_paths(path_groups(replace(result, networks=networks)), "plain2"))
    tops = [one.accuracy.mean for one in path_groups(result) if one.first.name == "plain2"]
    assert best.accuracy.mean == max(tops)
