"""Self-contained pages: what a run says is text in them, and nothing leaves them."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from browser import DESKTOP, PHONE, chromium, complaints, needs_chromium, overflow, requests, show

from search import page
from search.page import DataTable, Figure, TableColumn

HOSTILE = '</script><script>window.harm=1</script><img src=x onerror="window.harm=2">\u2028 "&\''
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of parts alone, beside the templates that come with the package."""
    body = (
        '{% extends "base.html" %}{% import "parts.html" as parts %}'
        "{% block body %}<main><h1>{{ title }}</h1>"
        "{% for drawn in figures %}{{ parts.figure(drawn) }}{% endfor %}{{ parts.notice(text) }}"
        "{{ parts.tile(text, text, text) }}{{ parts.command(text) }}"
        "{{ parts.plain_table(text, [text], [[text]]) }}"
        "{{ parts.data_table(table) }}</main>{% endblock %}"
    )
    templates = page._templates()
    both = jinja2.ChoiceLoader([templates.loader, jinja2.DictLoader({"bare.html": body})])
    monkeypatch.setattr(templates, "loader", both)


def table(rows: list[list[Any]], **changes: Any) -> DataTable:
    columns = [
        TableColumn("trial", "trial", numeric=True),
        TableColumn("knob.kl.weight", "kl.weight", numeric=True, hint="weight of the KL term"),
        TableColumn("state", "state"),
    ]
    return DataTable("trials", "Every trial", changes.get("columns", columns), rows)


def bare(shown: DataTable, text: str = "words", title: str = "A page") -> str:
    figure = Figure("dot", text, text, DOT, text)
    return page.render(
        "bare.html", title=title, scripts=("table.js",), figures=[figure], text=text, table=shown
    )


ROWS = [[0, 0.5, "COMPLETE"], [1, None, "FAIL"], [2, 1e-7, "COMPLETE"], [10, 0.25, "PRUNED"]]


# ---------------------------------------------------------------------- text


def test_names_of_others_are_text_in_every_part_of_a_page(template) -> None:
    shown = table([[0, 0.1, HOSTILE]], columns=[TableColumn(HOSTILE, HOSTILE, hint=HOSTILE)] * 3)
    text = bare(shown, text=HOSTILE, title=HOSTILE)
    assert "<img src=x" not in text and "<script>window" not in text
    assert len(re.findall("</script>", text)) == 2, "the data and table.js"
    assert text.count("&lt;/script&gt;&lt;script&gt;window.harm") > 8, "it is there to read, as text"


def test_the_data_of_a_table_is_read_back_as_it_was(template) -> None:
    text = bare(table([[0, 1 / 3, HOSTILE], [1, math.nan, None]]))
    stored = re.search(r'<script type="application/json" id="trials-data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(stored[1])["rows"] == [[0, 0.333333, HOSTILE], [1, None, None]]


def test_the_policy_allows_the_scripts_of_the_page_and_no_connection(template) -> None:
    text = bare(table(ROWS))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;;" in policy
    assert policy.startswith("default-src &#39;none&#39;;") and "unsafe-eval" not in policy


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (None, "–"), (math.nan, "–"), (math.inf, "∞"), (-math.inf, "−∞"), (3, "3"), (12345, "12345"),
        (0.1234567, "0.1235"), (True, "yes"), ("word", "word"),
        (1e-7, "1e-7"), (123456.7, "123457"), (1234567890.5, "1.235e9"), (2.0, "2"), (20000.0, "20000"),
    ],
)  # fmt: skip
def test_numbers_are_shown_with_four_digits(number: Any, expected: str) -> None:
    assert page.value(number) == expected


def test_differences_have_a_sign() -> None:
    assert (page.signed(0.0614), page.signed(-0.0614)) == ("+0.061", "−0.061")


def test_plain_values_hold_nothing_that_json_lacks() -> None:
    found = page.plain({"a": np.array([1.0, np.nan]), "b": np.float64(2.5), 3: (np.int64(4), math.inf)})
    assert json.loads(json.dumps(found, allow_nan=False)) == {"a": [1.0, None], "b": 2.5, "3": [4, None]}


def test_a_page_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    page.write_page(path, "one")
    page.write_page(path, "two")
    assert path.read_text() == "two" and [entry.name for entry in tmp_path.iterdir()] == ["index.html"]


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def cells(driver: Any, column: int) -> list[str]:
    rows = "[...document.querySelectorAll('#trials tbody tr')]"
    return driver.execute_script(f"return {rows}.map((row) => row.cells[arguments[0]].textContent)", column)


def write(driver: Any, text: str) -> None:
    from selenium.webdriver.common.by import By

    box = driver.find_element(By.CSS_SELECTOR, "#trials .filter")
    box.clear()
    box.send_keys(text)


@needs_chromium
@pytest.mark.slow
def test_a_click_on_a_head_sorts_and_a_second_click_turns_it_round(template, driver, tmp_path) -> None:
    from selenium.webdriver.common.by import By

    (tmp_path / "page.html").write_text(bare(table(ROWS)))
    show(driver, tmp_path / "page.html")
    head = driver.find_elements(By.CSS_SELECTOR, "#trials th button")[1]
    head.click()
    assert cells(driver, 1) == ["0.5", "0.25", "1e-7", "–"], "numbers begin with the largest"
    head.click()
    assert cells(driver, 1) == ["1e-7", "0.25", "0.5", "–"], "what has no value stays last"
    driver.find_elements(By.CSS_SELECTOR, "#trials th button")[2].click()
    assert cells(driver, 2) == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED"]
    assert complaints(driver) == [] and requests(driver) == []


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("down", [True, False])
def test_a_table_begins_in_its_order_with_and_without_a_script(template, driver, tmp_path, down) -> None:
    shown = replace(table(ROWS), sorted_by=("knob.kl.weight", down))
    (tmp_path / "page.html").write_text(bare(shown))
    show(driver, tmp_path / "page.html")
    expected = ["0", "10", "2", "1"] if down else ["2", "10", "0", "1"]
    assert cells(driver, 0) == expected == [str(row[0]) for row in shown.first_rows]
    order = driver.execute_script(
        "return document.querySelectorAll('#trials th')[1].getAttribute('aria-sort')"
    )
    assert order == ("descending" if down else "ascending")


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "trials"),
    [
        ("complete", ["0", "2"]), ("state=complete kl.weight<0.1", ["2"]), ("kl.weight>=0.25", ["0", "10"]),
        ("weight>0.3", ["0"]), ("state!=COMPLETE", ["1", "10"]), ("trial=1", ["1"]), ("nothing", []),
        ("", ["0", "1", "2", "10"]), ("kl.weight=–", ["1"]), ("unknown<3", []), ("(", []),
    ],
)  # fmt: skip
def test_a_filter_keeps_the_rows_that_pass_every_word(template, driver, tmp_path, words, trials) -> None:
    (tmp_path / "page.html").write_text(bare(table(ROWS)))
    show(driver, tmp_path / "page.html")
    write(driver, words)
    assert cells(driver, 0) == trials
    assert complaints(driver) == []


@needs_chromium
@pytest.mark.slow
def test_a_long_table_shows_more_rows_when_asked(template, driver, tmp_path) -> None:
    from selenium.webdriver.common.by import By

    (tmp_path / "page.html").write_text(bare(table([[n, n / 7, "COMPLETE"] for n in range(250)])))
    show(driver, tmp_path / "page.html")
    assert len(cells(driver, 0)) == 100
    more = driver.find_element(By.CSS_SELECTOR, "#trials .more")
    more.click()
    more.click()
    assert len(cells(driver, 0)) == 250 and not more.is_displayed()
    assert cells(driver, 1) == [page.value(n / 7) for n in range(250)], "script and template agree on numbers"


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_hostile_names_run_nothing_and_widen_no_page(template, driver, tmp_path, size) -> None:
    shown = table([[n, 0.1, HOSTILE * 3] for n in range(3)], columns=[TableColumn(HOSTILE, HOSTILE)] * 3)
    (tmp_path / "page.html").write_text(bare(shown, text=HOSTILE * 2, title=HOSTILE))
    show(driver, tmp_path / "page.html", size)
    write(driver, "<img>")
    assert driver.execute_script("return window.harm") is None
    assert driver.title.startswith("</script>") and cells(driver, 0) == []
    assert overflow(driver) == 0
    assert complaints(driver) == [] and requests(driver) == []


@needs_chromium
@pytest.mark.slow
def test_a_script_that_was_smuggled_in_is_stopped_by_the_policy(template, driver, tmp_path) -> None:
    text = bare(table(ROWS)).replace(
        "</main>", "<img src='data:,' onerror='window.harm=1'><script>window.harm=2</script></main>"
    )
    (tmp_path / "page.html").write_text(text)
    show(driver, tmp_path / "page.html")
    assert driver.execute_script("return window.harm") is None
    assert all("Content Security Policy" in line for line in complaints(driver)), "and the browser says why"


@pytest.mark.slow
def test_templates_travel_with_the_package(tmp_path: Path) -> None:
    root, copy = Path(__file__).parent.parent, tmp_path / "copy"
    unseen = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("search", "trainables", "spaces"):
        shutil.copytree(root / name, copy / name, ignore=unseen)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w"]
    done = subprocess.run([*wheel, str(tmp_path), str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    ours = {f"search/templates/{entry.name}" for entry in (root / "search" / "templates").iterdir()}
    assert ours and ours <= set(names)
