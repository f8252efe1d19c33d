import pytest

from kdbench.cli import main
from tests.conftest import REPO


def test_the_page_of_methods_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--markdown"]) == 0
    assert (REPO / "docs" / "methods.md").read_text() == capsys.readouterr().out, (
        "kdbench methods --markdown > docs/methods.md"
    )
