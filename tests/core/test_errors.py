import pickle

import pytest

from kdbench.core.errors import ConfigError, Problems, nearest


def test_nearest_names_the_likely_word_else_what_there_is() -> None:
    assert nearest("temprature", ["temperature", "reduction"]) == "; did you mean 'temperature'?"
    assert nearest("KD", ["kd", "at"]) == "; did you mean 'kd'?"
    assert nearest("zzz", ["b", "a"]) == "; there is: a, b"
    assert nearest("zzz", []) == ""


def test_a_long_list_of_options_is_cut_and_counted() -> None:
    assert nearest("?", map(str, range(100, 200)), limit=2) == "; there is: 100, 101, ... (100 in all)"


def test_errors_survive_the_way_from_a_worker() -> None:
    error = ConfigError(["one", "two"])
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, ConfigError)
    assert again.problems == ("one", "two")


def test_problems_are_collected_once_each_and_raised_together() -> None:
    problems = Problems()
    problems.check()
    with problems.catching():
        raise ConfigError(["a", "b"])
    problems.add("b", "c")
    with pytest.raises(ConfigError, match="a\nb\nc"):
        problems.check()


def test_other_errors_are_not_collected() -> None:
    problems = Problems()
    with pytest.raises(KeyError), problems.catching():
        raise KeyError("x")
