"""How the tables of an experiment are printed and stand in a page."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
from test_experiments import BY_PRESET, full_grid, grid, row, space_with
from toy_run import toy_run

from search import page
from search.cli import main
from search.experiment_page import experiment_section
from search.experiment_tables import experiment_of, print_experiment
from search.experiments import experiment_values

# ---------------------------------------------------------------------- what is printed


def test_show_prints_the_tables_of_a_run_and_json_can_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    directory, space = toy_run(tmp_path / "runs", experiment=BY_PRESET)
    figures = directory.trial(0) / "figures"
    figures.mkdir()
    (figures / f"{space.family.picture.name}_best.png").write_bytes(b"picture")
    assert main(["show", directory.name]) == 0
    printed = capsys.readouterr().out
    lines = [line.split("  ") for line in printed.splitlines()]
    assert [part.strip() for part in lines_of(lines, "no (0.5000)")] == ["habit", "no (0.5000)", "yes (0)"]
    assert "held" in printed and "habit is behind" in printed and "0.5000 -> 0.6600" in printed
    assert f"runs/{directory.name}/trials/0/figures/{space.family.picture.name}_best.png" in printed
    values = experiment_of(directory, space)
    assert values["cells"][0]["collapsed"] == {"code": 1}
    assert "collapsed (code)" in printed


def test_a_cell_whose_trial_failed_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    space = space_with(tmp_path, BY_PRESET)
    trials = [row(0, 0.7, preset="habit"), row(1, 0.4, preset="bold [red]", state="FAIL", epochs=0)]
    print_experiment(experiment_values(space, trials, []), directory=None)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bold [red]")]
    assert lines[0].split()[2:] == ["-", "-", "0", "1", "failed"]
    assert lines[1].split()[2:] == ["no", "data", "no", "data"]


def lines_of(lines: list[list[str]], word: str) -> list[str]:
    return next([part for part in line if part] for line in lines if any(word in part for part in line))


def test_a_matrix_is_printed_with_its_marks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    space = grid(tmp_path, {"compare": ["width", "penalty.weight"]})
    print_experiment(experiment_values(space, full_grid(), []), directory=None)
    printed = capsys.readouterr().out
    assert "width  penalty.weight 0  penalty.weight 1  penalty.weight 10" in printed
    assert ["8", "0.4000", "0.9000", "rc", "0.7000"] in [line.split() for line in printed.splitlines()]
    assert "runs" not in printed  # matrices of one run each say all
    print_experiment(experiment_values(space, full_grid()[:-1], []), directory=None)
    assert "no trial yet" in capsys.readouterr().out


# ---------------------------------------------------------------------- the section of a page


def rendered(values: dict[str, Any], directory: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    body = (
        '{% extends "base.html" %}{% import "experiment.html" as experiment %}'
        "{% block body %}{{ experiment.section(shown) }}{% endblock %}"
    )
    templates = page._templates()
    both = jinja2.ChoiceLoader([templates.loader, jinja2.DictLoader({"bare.html": body})])
    monkeypatch.setattr(templates, "loader", both)
    return page.render("bare.html", title="An experiment", shown=experiment_section(values, directory))


def test_a_page_shows_the_matrix_with_the_best_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = grid(tmp_path, {"compare": ["width", "penalty.weight"]})
    text = rendered(experiment_values(space, full_grid(), []), None, monkeypatch)
    rows = re.findall(r'<th scope="row">8</th>(.*?)</tr>', text)
    cells = [re.sub("<[^>]*>", "", cell).split() for cell in re.findall(r"<td.*?</td>", rows[0])]
    assert cells == [["0.4000"], ["0.9000", "r", "c"], ["0.7000"]]


def test_names_of_others_are_text_in_the_page_and_pictures_are_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "<script>alert(1)</script>"
    presets = [{"name": hostile, "penalty.weight": 0.1, "penalty.schedule": "constant"}]
    check = {"says": hostile, "value": "error", "at_most": 1.0}
    section = {"compare": "preset", "checks": [check], "expect": [dict(check)]}
    directory, space = toy_run(tmp_path / "runs", experiment=section, start_from=presets)
    figures = directory.trial(0) / "figures"
    figures.mkdir()
    (figures / f"{space.family.picture.name}_best.png").write_bytes(b"picture")
    text = rendered(experiment_of(directory, space), directory, monkeypatch)
    assert "<script>alert" not in text and text.count("&lt;script&gt;alert") >= 4
    assert base64.b64encode(b"picture").decode() in text


def test_a_picture_that_is_a_link_is_not_shown(tmp_path: Path) -> None:
    directory, space = toy_run(tmp_path / "runs", experiment=BY_PRESET)
    figures = directory.trial(0) / "figures"
    figures.mkdir()
    (tmp_path / "secret").write_bytes(b"of the reader's")
    (figures / f"{space.family.picture.name}_best.png").symlink_to(tmp_path / "secret")
    values = experiment_of(directory, space)
    assert all(cell["pictures"] == [] for cell in values["cells"])
