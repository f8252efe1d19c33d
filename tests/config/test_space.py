import pytest

from kdbench.config.compose import Composer
from kdbench.config.space import Dimension, split_space
from kdbench.core.errors import ConfigError


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(config_name="search")


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("a=choice(1,2,[x])", Dimension("a", choices=("1", "2", "[x]"))),
        ("a=1,2", Dimension("a", choices=("1", "2"))),
        ("a=range(0.05,1.05,0.05)", Dimension("a", low=0.05, high=1.0, step=0.05)),
        ("a=range(1,4)", Dimension("a", low=1, high=3, step=1)),
        ("a=range(3,0,-1)", Dimension("a", low=1, high=3, step=1)),
        ("a=interval(0,1)", Dimension("a", low=0.0, high=1.0)),
        ("a=int(interval(1,10))", Dimension("a", low=1, high=10)),
        ("a=tag(log,interval(0.001,0.1))", Dimension("a", low=0.001, high=0.1, log=True)),
    ],
)
def test_every_sweep_of_hydras_grammar_is_a_dimension(text: str, dimension: Dimension, composer: Composer) -> None:
    assert split_space(composer, ["b=1", text]) == (["b=1"], [dimension])


def test_a_later_override_replaces_an_earlier_one_of_its_key(composer: Composer) -> None:
    fixed, space = split_space(composer, ["a=1,2", "b=3", "a=4", "b=5,6"])
    assert fixed == ["a=4"]
    assert [dimension.key for dimension in space] == ["b"]


def test_settings_are_numbers_as_people_write_them() -> None:
    assert Dimension("a", low=0.05, high=1.0).setting(0.05 + 0.05 * 2) == "a=0.15"
    assert Dimension("a", low=1, high=3).setting(2) == "a=2"
    assert Dimension("a", choices=("[x]",)).setting("[x]") == "a=[x]"


def test_all_that_is_wrong_is_named_at_once(composer: Composer) -> None:
    with pytest.raises(ConfigError) as caught:
        split_space(composer, ["a=tag(lin,interval(0,1))", "b=tag(log,choice(1,2))", "c=interval(2,1)",
                               "d=tag(log,interval(0,1))", "e"])  # fmt: skip
    assert len(caught.value.problems) == 5
    assert all(word in str(caught.value) for word in ("tag lin", "needs an interval", "smaller", "greater than 0"))
