"""The report in a browser: by mouse, by keyboard, on a phone, and without any network."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from simulations.report.contenders import problems
from simulations.report.made import made, title
from simulations.report.page import page
from simulations.report.section import section
from tests.simulations.report_rows import failed, row

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Debian's chromium and chromium-driver"
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
LONG = "trimmed mean of everything · MAML with learned inner rates · attack: sign flip"
SKILLS = {"fedadam": 0.8, "fedavg": 0.78, "krum": 0.6, "median": 0.7, "q-fair": 0.75, LONG: 0.65}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with two problems, long names and a failed cell."""
    rows = [row(name, seed, skill) for name, skill in SKILLS.items() for seed in range(2)]
    for each, minutes in zip(rows[::2], (9.0, 20.0, 100.0, 3.0, 1.0, 5.0), strict=True):
        each["minutes"] = minutes
    rows += [row(name, 0, measure="loss", problem="sinusoid") for name in ("maml", "reptile")]
    rows.append(failed("bulyan", 0, "ConfigError: " + "a reason without end " * 8))
    found = problems(rows)
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(page(title(found), [section(each, None) for each in found], made(found)))
    return file.as_uri()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def browser(started: webdriver.Chrome, address: str) -> webdriver.Chrome:
    """The page as it opens on a desk, in light."""
    look(started, 1280, "light")
    started.get(address)
    return started


def look(browser: webdriver.Chrome, width: int, scheme: str) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def find(browser: webdriver.Chrome | WebElement, path: str) -> WebElement:
    return browser.find_element(By.XPATH, path)


def table(browser: webdriver.Chrome, heading: str) -> WebElement:
    return find(browser, f"//h3[.='{heading}']/ancestor::div[@class='table']")


def column(box: WebElement, place: int) -> list[str]:
    """The texts of the visible rows."""
    cells = box.find_elements(By.XPATH, f".//tbody/tr/*[{place}]")
    return [cell.text.replace("\n", " ") for cell in cells if cell.is_displayed()]


def header(box: WebElement, name: str) -> WebElement:
    return find(box, f".//th[@scope='col'][button[.='{name}']]")


def test_it_opens_without_an_error_and_without_a_request(
    browser: webdriver.Chrome, address: str
) -> None:
    browser.get_log("performance")
    browser.get(address)
    events: list[Any] = [
        json.loads(e["message"])["message"] for e in browser.get_log("performance")
    ]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert address in asked  # the log does see requests
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    assert browser.get_log("browser") == []


def test_a_click_sorts_by_size_and_another_the_other_way_round(browser: webdriver.Chrome) -> None:
    box = table(browser, "Ranking")
    minutes = header(box, "minutes")
    assert minutes.get_attribute("aria-sort") == "none"
    find(minutes, "button").click()
    shown = [float(text) for text in column(box, 7)]
    assert minutes.get_attribute("aria-sort") == "ascending"
    assert shown == sorted(shown)  # as texts 11.9 would come before 2.4
    assert shown != sorted(shown, reverse=True)
    find(minutes, "button").click()
    assert minutes.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in column(box, 7)] == shown[::-1]
    find(header(box, "contender"), "button").click()  # by rank
    assert column(box, 1)[:2] == ["fedadam", "fedavg"]
    assert minutes.get_attribute("aria-sort") == "none"


def test_what_is_not_reached_comes_last_either_way(browser: webdriver.Chrome) -> None:
    box = find(browser, "//h3[starts-with(., 'Cost to reach')]/ancestor::div[@class='table']")
    for _ in range(2):  # the worst first, who do not reach it
        find(header(box, "contender"), "button").click()
    assert column(box, 3)[0] == "not reached"
    for _ in range(2):
        find(header(box, "rounds"), "button").click()
        reached = [text != "not reached" for text in column(box, 3)]
        assert any(reached)
        assert reached == sorted(reached, reverse=True)
        assert not all(reached)


def test_the_keyboard_sorts(browser: webdriver.Chrome) -> None:
    box = table(browser, "Ranking")
    find(header(box, "contender"), "button").send_keys(Keys.TAB)  # to the next header
    after = browser.switch_to.active_element
    assert after.text == "after adaptation"
    after.send_keys(Keys.ENTER)
    assert header(box, "after adaptation").get_attribute("aria-sort") == "ascending"
    assert column(box, 1)[-1] == "fedadam"
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    assert column(box, 1)[0] == "fedadam"


def test_the_filter_keeps_rows_with_all_words(browser: webdriver.Chrome) -> None:
    box = table(browser, "Pairs")
    pairs = len(SKILLS) * (len(SKILLS) - 1) // 2
    assert len(column(box, 1)) == pairs
    words = find(box, ".//input[@type='search']")
    words.send_keys("krum FEDAVG")
    assert list(zip(column(box, 1), column(box, 2), strict=True)) == [("fedavg", "krum")]
    assert find(box, ".//*[@role='status']").text == f"1 of {pairs} rows"
    words.send_keys(Keys.CONTROL, "a")
    words.send_keys(Keys.BACKSPACE)
    assert len(column(box, 1)) == pairs


def test_curves_are_drawn_against_what_is_chosen(browser: webdriver.Chrome) -> None:
    figure = find(browser, "//figure[@class='choice']")

    def shown() -> list[str]:
        labels = figure.find_elements(By.CSS_SELECTOR, ".axes .label")
        return [label.text for label in labels if label.is_displayed()]

    assert shown() == ["rounds"]
    find(figure, ".//label[contains(., 'bytes')]").click()
    assert shown() == ["GB sent and received by all clients"]
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert shown() == ["client updates"]


def test_the_legend_hides_a_contender_in_the_charts_of_its_problem(
    browser: webdriver.Chrome,
) -> None:
    button = find(browser, "//section[@id='p1']//div[@class='legend']/button[1]")
    line = ".figures [data-series='0'] .line"

    def shown(problem: str) -> list[bool]:
        lines = browser.find_elements(By.CSS_SELECTOR, f"#{problem} {line}")
        return [each.is_displayed() for each in lines]

    before, other = shown("p1"), shown("p2")
    assert before.count(True) == 3  # learning against rounds, adaptation, distribution
    button.send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "false"
    assert not any(shown("p1"))
    assert shown("p2") == other
    button.click()
    assert shown("p1") == before


def test_nothing_is_wider_than_a_phone(
    browser: webdriver.Chrome, address: str, tmp_path: Path
) -> None:
    look(browser, 390, "light")
    browser.get(address)
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    assert browser.execute_script(width) == [390, 390]
    assert browser.save_screenshot(str(tmp_path / "phone.png"))
    assert (tmp_path / "phone.png").read_bytes().startswith(b"\x89PNG")
    texts = browser.find_elements(By.CSS_SELECTOR, ".figures .axes .label")
    height = next(text.rect["height"] for text in texts if text.is_displayed())
    assert height >= 10  # pixels: readable


def test_dark_paper_where_the_reader_has_chosen_it(browser: webdriver.Chrome) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert browser.execute_script(colour) == "rgb(255, 255, 255)"
    look(browser, 1280, "dark")
    assert browser.execute_script(colour) == "rgb(21, 24, 28)"


def test_the_parts_are_named_for_who_hears_the_page(browser: webdriver.Chrome) -> None:
    charts = browser.find_elements(By.CSS_SELECTOR, "svg[role=img]")
    names = [chart.accessible_name for chart in charts if chart.is_displayed()]
    assert len(names) == 2 * 3 + len(SKILLS) + 2  # three of each problem, one of each contender
    assert all(names)
    for cell in browser.find_elements(By.CSS_SELECTOR, "table tr > :first-child"):
        assert cell.get_attribute("scope") in ("row", "col")
    for control in browser.find_elements(By.CSS_SELECTOR, "input, .scroll"):
        assert control.accessible_name
