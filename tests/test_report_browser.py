"""The page of a report in a real browser: sorted, filtered, brushed, on a phone and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import DESKTOP, PHONE, chromium, complaints, needs_chromium, overflow, requests, show
from test_report import hostile_study

from search.findings import gather
from search.record import read_trials
from search.report import write_report


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def rows_shown(driver: Any) -> int:
    return driver.execute_script("return document.querySelectorAll('#trials tbody tr').length")


def drag(driver: Any, axis: str, low: float, high: float) -> None:
    """Drag on an axis from `low` to `high`, as shares of its height from below."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    area = driver.find_element(By.CSS_SELECTOR, f'.area[data-axis="{axis}"]')
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", area)
    height = area.rect["height"] - 16
    moves = ActionChains(driver, duration=50)
    moves.move_to_element_with_offset(area, 0, round(height * (0.5 - low)))
    moves.click_and_hold().move_by_offset(0, -round(height * (high - low) / 2))
    moves.move_by_offset(0, -round(height * (high - low) / 2)).release().perform()


def inked(driver: Any) -> int:
    """Pixels of the canvas that are of a colour, not of the grey of what was brushed away."""
    return driver.execute_script(
        """const drawn = document.querySelector('.stage canvas'), canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [drawn.width, drawn.height];
        const pen = canvas.getContext('2d', {willReadFrequently: true});
        pen.drawImage(drawn, 0, 0);
        const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
        let found = 0;
        for (let at = 0; at < data.length; at += 4) {
          if (data[at + 3] > 60 && data[at + 2] - data[at] > 40) found += 1;
        }
        return found;"""
    )


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_range_dragged_on_an_axis_keeps_its_trials_in_lines_and_table(study, driver, size) -> None:
    from selenium.webdriver.common.by import By

    directory, _ = study
    show(driver, directory.report / "index.html", size)
    before = inked(driver)
    assert rows_shown(driver) == 28 and before > 500
    drag(driver, "kl.weight", 0.0, 0.4)
    rows = read_trials(directory.path).to_pylist()
    low, high = 1e-3, 4.0
    edge = low * (high / low) ** 0.4
    kept = {row["trial"] for row in rows if row["knob.kl.weight"] <= edge * 1.1}
    sure = {row["trial"] for row in rows if row["knob.kl.weight"] <= edge / 1.1}
    shown = {int(text) for text in column(driver, 0)}
    assert sure <= shown <= kept and 0 < len(shown) < 28
    assert 0 < inked(driver) < before
    counts = driver.find_elements(By.CSS_SELECTOR, ".count")
    assert [count.text for count in counts] == [
        f"{len(shown)} of 28 trials",
        f"{len(shown)} of 28 rows, brushed",
    ]
    driver.execute_script("arguments[0].click()", driver.find_element(By.CSS_SELECTOR, "#trials .reset"))
    assert rows_shown(driver) == 28 and inked(driver) == before
    assert complaints(driver) == [] and requests(driver) == []


def column(driver: Any, index: int) -> list[str]:
    rows = "[...document.querySelectorAll('#trials tbody tr')]"
    return driver.execute_script(f"return {rows}.map((row) => row.cells[arguments[0]].textContent)", index)


@needs_chromium
@pytest.mark.slow
def test_ranges_on_two_axes_and_a_filter_all_hold_and_a_click_frees_an_axis(study, driver) -> None:
    from selenium.webdriver.common.by import By

    show(driver, study[0].report / "index.html")
    drag(driver, "kl.weight", 0.0, 0.5)
    one = set(column(driver, 0))
    drag(driver, "optim.lr", 0.2, 0.9)
    both = set(column(driver, 0))
    assert both < one
    driver.find_element(By.CSS_SELECTOR, "#trials .filter").send_keys("state=complete")
    assert set(column(driver, 0)) < both and set(column(driver, 1)) == {"COMPLETE"}
    drag(driver, "optim.lr", 0.5, 0.5)
    driver.find_element(By.CSS_SELECTOR, "#trials .filter").clear()
    driver.execute_script("document.querySelector('#trials .filter').dispatchEvent(new Event('input'))")
    assert set(column(driver, 0)) == one


@needs_chromium
@pytest.mark.slow
def test_a_range_can_be_set_with_the_keyboard(study, driver) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(driver, study[0].report / "index.html")
    area = driver.find_element(By.CSS_SELECTOR, '.area[data-axis="kl.weight"]')
    area.send_keys(*[Keys.ARROW_UP] * 6)
    assert 0 < rows_shown(driver) < 28 and area.get_attribute("aria-valuetext") == "30 to 100 % of the axis"
    area.send_keys(Keys.ESCAPE)
    assert rows_shown(driver) == 28


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_no_page_is_wider_than_its_window_complains_or_asks_for_anything(study, driver, size) -> None:
    show(driver, study[0].report / "index.html", size)
    assert overflow(driver) == 0
    assert complaints(driver) == [] and requests(driver) == []
    broken = "return [...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert driver.execute_script(broken) == 0


@needs_chromium
@pytest.mark.slow
def test_on_paper_controls_go_and_nothing_is_cut_off(study, driver) -> None:
    show(driver, study[0].report / "index.html")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        parts = "[...document.querySelectorAll('nav, .controls input, .more')]"
        assert driver.execute_script(f"return {parts}.every((part) => part.offsetHeight === 0)")
        assert overflow(driver) == 0, "A4 less margins is 718 pixels wide"
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@needs_chromium
@pytest.mark.slow
def test_hostile_names_run_nothing(driver, tmp_path) -> None:
    directory, space = hostile_study(tmp_path)
    write_report(gather(directory, space))
    show(driver, directory.report / "index.html", PHONE)
    assert driver.execute_script("return window.harm") is None
    assert overflow(driver) == 0
    assert complaints(driver) == [] and requests(driver) == []
