"""The page: what it says, and how it behaves in a real headless browser."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import ENTER, MISSING, SPACE, Browser, browsing
from report_toy import study

from kdbench.report.write import write_report

needs_browser = pytest.mark.skipif(MISSING is not None, reason=f"{MISSING} is not installed")

CONTRAST = """
const channels = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
const light = text => channels(text).map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
return Math.min(...[...document.querySelectorAll("figure text")].map(text =>
  ratio(light(getComputedStyle(text).fill), light(getComputedStyle(text.closest("figure")).backgroundColor))));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(study(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(driver: Browser, page: Path) -> Browser:
    driver.resize(1280, 900)
    driver.prefer("light")
    driver.open(page)
    return driver


def column(browser: Browser, heading: int) -> list[str]:
    return browser.run(f"return [...document.querySelectorAll('#results tbody tr')].map(r => r.cells[{heading}]"
                       ".dataset.value)")  # fmt: skip


def heading(browser: Browser, name: str) -> int:
    texts = "[...document.querySelectorAll('#results thead th')].map(th => th.textContent)"
    return browser.run(f"return {texts}.indexOf('{name}')")


def button(position: int) -> str:
    return f"#results th:nth-child({position + 1}) button"


def test_page_refers_to_nothing_outside_itself(page: Path) -> None:
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page.read_text())
    assert not re.search(r"https?://|@import|src=|<link(?! rel=\"icon\" href=\"data:,\")", text)
    targets = re.findall(r'(?:href=|url\()"?([^")\s>]+)', text)
    assert {target[:1] for target in targets} <= {"#", "d"}
    ids = re.findall(r' id="([^"]+)"', text)
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    assert len(ids) == len(set(ids))


def test_page_is_well_formed(page: Path) -> None:
    void, open_tags = {"meta", "link"}, []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in void:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Parser().feed(page.read_text())
    assert not open_tags


def test_page_shows_flags_claims_sources_digests_and_command(page: Path) -> None:
    text = page.read_text()
    result = study()
    assert "Unequal budgets: training images, whole chain 900k to 2.25M." in text
    assert "<b>Undecided at n=3</b> An assistant of intermediate size helps." in text
    assert "73.51<small>paper: TAKD (arXiv 1902.03393) Fig. 5, paper_text</small>" in text
    assert all(network.digest in text for network in result.networks)
    assert "<pre>kdbench -m study=toy_paths seed=1,2,3</pre>" in text


def test_text_of_users_is_escaped(tmp_path: Path) -> None:
    text = write_report(study(title="<script>alert(1)</script>", command="kdbench 'a=<b>'"), tmp_path).read_text()
    assert "<script>alert" not in text
    assert "a=&lt;b&gt;" in text


@needs_browser
def test_page_loads_nothing_and_complains_of_nothing(browser: Browser) -> None:
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.complaints() == []
    assert browser.run("return document.querySelectorAll('figure svg').length") >= 8


@needs_browser
def test_click_sorts_and_sorts_back(browser: Browser) -> None:
    position = heading(browser, "test %")
    before = column(browser, position)
    browser.click(button(position))
    assert column(browser, position) == sorted(before, key=float, reverse=True) != before
    assert browser.run(f"return document.querySelector('{button(position)}').parentElement.ariaSort") == "descending"
    browser.click(button(position))
    assert column(browser, position) == sorted(before, key=float)
    assert browser.run("return document.querySelectorAll('#results [aria-sort]').length") == 1


@needs_browser
@pytest.mark.parametrize("key", [ENTER, SPACE])
def test_keyboard_sorts(browser: Browser, key: str) -> None:
    position = heading(browser, "arm")
    before = column(browser, position)
    browser.press(button(position), key)
    assert browser.run(f"return document.querySelector('{button(position)}').parentElement.ariaSort") == "ascending"
    assert column(browser, position) != before


@needs_browser
def test_unknown_numbers_stay_last_either_way(browser: Browser) -> None:
    position = heading(browser, "published %")
    for _ in range(2):
        browser.click(button(position))
        assert [bool(value) for value in column(browser, position)] == [True] + [False] * 8


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_its_window(browser: Browser, width: int) -> None:
    browser.resize(width, 844)
    assert browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    smallest = "Math.min(...[...document.querySelectorAll('figure text')].map(t => t.getBoundingClientRect().height))"
    assert browser.run(f"return {smallest}") >= 8


@needs_browser
def test_figures_can_be_read_in_light_and_in_dark(browser: Browser) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        backgrounds.append(browser.run("return getComputedStyle(document.body).backgroundColor"))
        assert browser.run(CONTRAST) >= 4.5, scheme
    assert backgrounds[0] != backgrounds[1]


@needs_browser
def test_networks_are_folded_away_until_asked_for(browser: Browser) -> None:
    visible = "return document.querySelector('#networks').checkVisibility()"
    assert not browser.run(visible)
    browser.press("summary", ENTER)
    assert browser.run(visible)
