"""The report in a real browser: Debian's chromium and chromium-driver, and selenium."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from lightweight_decoder.evaluation.html_report import render_report
from lightweight_decoder.evaluation.summary import summarize_predictions

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1280,1000"),
)
HOSTILE = '</script><img src=x onerror="console.error(1)"><b>bold</b>'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and CHROMEDRIVER),
        reason="no Chromium: apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def report(browser, make_predictions, tmp_path):
    """Opens a fresh report; the test fails if the console said anything at all."""
    text = [f"what is number {row}" for row in range(200)]
    predictions = make_predictions(out_of_bank=20, text=[HOSTILE, *text[1:]])
    path = tmp_path / "report.html"
    metrics = summarize_predictions(predictions, num_resamples=50)
    page = render_report(metrics, predictions, title="A run", latencies_ms=np.linspace(1, 2, 50))
    path.write_text(page, encoding="utf-8")
    browser.get(path.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def cells(browser, section, column):
    """Texts of one column, read in one call: a call a cell takes seconds."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.innerText)",
        f"#{section} tbody td:nth-child({column})",
    )


def click(browser, selector, text):
    button = next(b for b in browser.find_elements(By.CSS_SELECTOR, selector) if b.text == text)
    browser.execute_script("arguments[0].click()", button)
    return button


def count(browser):
    return browser.find_element(By.ID, "count").text


def test_the_page_draws_everything(report):
    assert report.title == "A run"
    assert len(report.find_elements(By.CSS_SELECTOR, "figure svg")) == 5
    assert len(report.find_elements(By.CSS_SELECTOR, "#metrics tbody tr")) > 15
    assert cells(report, "examples", 1)
    assert cells(report, "slices", 1)


def test_examples_sort_both_ways_by_a_click(report):
    click(report, "#views button", "All")
    for expected in ("ascending", "descending"):
        click(report, "#examples th button", "Rank")
        ranks = [int(text.replace(",", "")) for text in cells(report, "examples", 4)]
        assert len(ranks) == 50
        assert ranks == sorted(ranks, reverse=expected == "descending")
        header = report.find_element(By.CSS_SELECTOR, "#examples th:nth-child(4)")
        assert header.get_attribute("aria-sort") == expected
    click(report, "#examples th button", "Query")
    numbers = [int(text.split()[3]) for text in cells(report, "examples", 1) if "what" in text]
    assert numbers == sorted(numbers)


def test_views_show_what_they_say(report):
    click(report, "#views button", "Surest mistakes")
    confidence = [float(text) for text in cells(report, "examples", 6)]
    assert confidence == sorted(confidence, reverse=True)
    assert "1" not in cells(report, "examples", 4)
    button = click(report, "#views button", "Out of bank")
    assert button.get_attribute("aria-pressed") == "true"
    assert count(report) == "20 of 200"
    assert set(cells(report, "examples", 4)) == {"\u2013"}


def test_the_filter_filters_and_the_rest_comes_back(report):
    click(report, "#views button", "All")
    search = report.find_element(By.ID, "search")
    search.send_keys("NUMBER 17")
    assert count(report) == "11 of 200"
    assert all("number 17" in text for text in cells(report, "examples", 1))
    search.clear()
    search.send_keys("no such thing")
    assert cells(report, "examples", 1) == []
    search.clear()
    search.send_keys(" ")
    assert count(report) == "200 of 200"


def test_more_rows_come_on_demand(report):
    click(report, "#views button", "All")
    more = report.find_element(By.ID, "more")
    for expected in (50, 100, 150, 200):
        assert len(cells(report, "examples", 1)) == expected
        assert more.is_displayed() == (expected < 200)
        report.execute_script("arguments[0].click()", more)


def test_slices_change_and_sort(report):
    Select(report.find_element(By.ID, "slice")).select_by_visible_text("part of speech")
    assert cells(report, "slices", 1) == ["noun", "verb", "(none)"]
    click(report, "#slices th button", "Queries")
    counts = [int(text) for text in cells(report, "slices", 2)]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == 180


def test_hostile_text_is_shown_as_it_is(report):
    click(report, "#views button", "All")
    report.find_element(By.ID, "search").send_keys("onerror")

    (shown,) = cells(report, "examples", 1)
    assert shown.startswith(HOSTILE)
    assert report.find_elements(By.CSS_SELECTOR, "img, #examples td b") == []


def test_light_and_dark_are_one_click_apart(report):
    def ground():
        return report.execute_script("return getComputedStyle(document.body).backgroundColor")

    before = ground()
    button = report.find_element(By.ID, "theme")
    button.click()
    assert ground() != before
    button.click()
    assert ground() == before
