from pathlib import Path

import pytest

import kdbench

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("file", "text"), [("CHANGELOG.md", "## [{}]"), ("CITATION.cff", "\nversion: {}\n")], ids=["changelog", "citation"]
)
def test_version_is_the_same_everywhere(file, text):
    assert text.format(kdbench.__version__) in (ROOT / file).read_text()


def test_changelog_has_a_numerics_heading_in_every_version():
    versions = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]
    assert all("\n### Numerics\n" in version for version in versions)


def test_contributing_stays_within_60_lines():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60
