"""What the end of a search says and writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from toy_run import message, toy_run, toy_space

from search import console
from search.configuration import load_configuration
from search.errors import BadSpace
from search.run import Run
from search.summary import Rows, collapse_of, read_rows, reason_in_words, summarise, write
from search.summary_files import page_of, write_summary
from search.summary_lines import next_steps, print_summary


def summary_of(directory, space, chance: float | None = 0.5) -> dict:
    return summarise(read_rows(directory), space, directory.name, chance)


def said_at_the_end(directory, space, capsys, chance: float | None = 0.5) -> str:
    print_summary(summary_of(directory, space, chance), space, directory)
    return capsys.readouterr().out


# ---------------------------------------------------------------------- figures


def test_the_best_is_the_best_complete_trial(here: Path) -> None:
    best = summary_of(*toy_run(here / "runs"))["best"]
    assert (best["trial"], best["value"], best["epoch"], best["state"]) == (2, 0.9, 3, "COMPLETE")
    assert best["at_best"]["error"] == pytest.approx(0.1)
    assert best["at_end"]["error"] == pytest.approx(0.15)


def test_a_pruned_trial_is_the_best_only_while_none_is_complete(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs", trials=1)
    best = summary_of(directory, space)["best"]
    assert (best["trial"], best["state"]) == (0, "PRUNED")
    assert "No trial is complete yet; this one is pruned after 4 epochs." in said_at_the_end(
        directory, space, capsys
    )


def test_only_searched_parameters_in_force_are_named_with_the_best(here: Path) -> None:
    directory, space = toy_run(here / "runs")
    rows = read_rows(directory)
    for trial in rows.trials:
        searched = summarise(Rows([trial], rows.last), space, "toy")["best"]
        if searched is None:
            continue
        schedule = trial["knob.penalty.schedule"]
        expected = {"penalty.weight", "penalty.schedule"} | (
            {"penalty.start"} if schedule == "delayed" else set()
        )
        assert searched["searched"].keys() == expected


def test_a_preset_that_collapsed_is_seen_to_have(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs")
    habit, bold = summary_of(directory, space)["presets"]
    assert habit["collapsed"] == ["code"] and habit["reason"] == "collapse:code"
    assert bold["collapsed"] == [] and bold["state"] == "COMPLETE"
    line = next(
        line for line in said_at_the_end(directory, space, capsys).splitlines() if line.startswith("habit")
    )
    assert "collapsed (code)" in line and "0.5000" in line


def test_a_preset_that_ran_to_its_end_is_seen_as_collapsed_by_its_last_epoch(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs", stop={"prune": "off", "plateau": "off", "collapse": "off"})
    habit = summary_of(directory, space)["presets"][0]
    assert (habit["state"], habit["reason"], habit["collapsed"]) == ("COMPLETE", "completed", ["code"])


def test_collapse_that_was_not_judged_is_none() -> None:
    row = {"collapsed.mode": True, "collapsed.posterior": None, "collapsed.other": False, "epoch": 3}
    assert collapse_of(row) == ["mode"]


def test_the_gain_is_over_the_best_preset(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs")
    gain = summary_of(directory, space)["gain"]
    assert gain["over"] == "bold [red]" and gain["value"] == pytest.approx(0.2)
    said = said_at_the_end(directory, space, capsys)
    assert "Gain of the best trial over the best preset, bold [red]: 0.2000" in said
    assert "one seed" in said


def test_for_an_objective_that_is_minimised_less_is_better(here: Path) -> None:
    directory, space = toy_run(here / "runs", objective="error")
    summary = summary_of(directory, space)
    assert (summary["direction"], summary["best"]["trial"]) == ("minimize", 2)
    assert summary["best"]["value"] == pytest.approx(0.1)
    assert summary["gain"]["value"] == pytest.approx(0.2), "positive: the best trial is better"
    assert summary["chance"] is None, "guessing is known for selection_accuracy alone"


def test_a_search_that_no_other_trial_won_says_so(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs", trials=2)
    assert "No other trial beat preset bold [red]." in said_at_the_end(directory, space, capsys)


def test_presets_that_were_not_reached_are_named(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs", trials=1)
    said = said_at_the_end(directory, space, capsys)
    assert next(line for line in said.splitlines() if line.startswith("bold [red]")).endswith("not tried yet")


def test_every_reason_is_counted_once_for_each_trial(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs")
    summary = summary_of(directory, space)
    assert summary["reasons"] == {
        "completed": 2, "collapse:code": 1, "diverged": 1, "raised": 1, "successive_halving": 1
    }  # fmt: skip
    said = said_at_the_end(directory, space, capsys)
    assert "2  had their whole budget" in said and "1  collapsed (code)" in said


def test_a_reason_without_words_is_said_as_it_is() -> None:
    assert reason_in_words("all(plateau+target_reached)") == "all(plateau+target_reached)"


def test_a_search_without_a_value_says_that_no_trial_finished(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs", trials=0)
    summary = summary_of(directory, space)
    assert summary["best"] is None and summary["gain"] is None
    assert "No trial finished" in said_at_the_end(directory, space, capsys)
    write(summary, read_rows(directory), directory)
    assert not (directory.report / "recommended.yaml").exists()
    assert json.loads((directory.report / "summary.json").read_text())["best"] is None


def test_an_objective_that_was_never_a_number_is_no_best(here: Path) -> None:
    space = toy_space(here)
    directory = Run.create(space, here / "runs")
    with directory.locked(), Run(directory, space) as run:
        number = run.next_trial().number
        run.receive(message(number, 1, float("nan")))
        run.close()
    assert summary_of(directory, space)["best"] is None


def test_a_trial_that_no_engine_took_in_is_queued_and_not_in_progress(here: Path, capsys) -> None:
    space = toy_space(here)
    directory = Run.create(space, here / "runs")
    with directory.locked(), Run(directory, space) as run:
        asked = [run.next_trial().number for _ in range(3)]
        (directory.trial(asked[0]) / "run.log").touch()
        run.receive(message(asked[1], 1, 0.7))
        run.close()
    assert "0 of 6 trials ended (2 in progress, 1 queued)" in said_at_the_end(directory, space, capsys)


def test_a_running_trial_counts_and_is_no_ended_one(here: Path) -> None:
    space = toy_space(here)
    directory = Run.create(space, here / "runs")
    with directory.locked(), Run(directory, space) as run:
        number = run.next_trial().number
        run.receive(message(number, 1, 0.7))
        run.close()
    summary = summary_of(directory, space)
    assert summary["reasons"] == {} and summary["best"]["state"] == "RUNNING"


# ---------------------------------------------------------------------- files


def test_the_recommended_configuration_is_that_of_the_best_trial(here: Path) -> None:
    directory, space = toy_run(here / "runs")
    write(summary_of(directory, space), read_rows(directory), directory)
    recommended = load_configuration(directory.report / "recommended.yaml", "tiny_family:TINY")
    assert recommended == load_configuration(directory.trial(2) / "config.yaml", "tiny_family:TINY")
    assert recommended.plain() == yaml.safe_load((directory.trial(2) / "config.yaml").read_text())
    head = (directory.report / "recommended.yaml").read_text().splitlines()[0]
    assert head.startswith("# Trial 2 of toy-") and "0.9000" in head


def test_the_summary_files_say_what_was_printed(here: Path) -> None:
    directory, space = toy_run(here / "runs")
    summary = summary_of(directory, space)
    write(summary, read_rows(directory), directory)
    assert json.loads((directory.report / "summary.json").read_text()) == json.loads(json.dumps(summary))
    with open(directory.report / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert rows[0]["collapsed"] == "code" and rows[2]["objective"] == "0.9" and rows[4]["objective"] == ""


def test_a_number_that_is_not_finite_becomes_null_in_json(here: Path) -> None:
    space = toy_space(here)
    directory = Run.create(space, here / "runs")
    with directory.locked(), Run(directory, space) as run:
        number = run.next_trial().number
        row = message(number, 1, 0.7)
        row["row"]["val.error"] = float("inf")
        run.receive(row)
        run.close()
    write(summary_of(directory, space), read_rows(directory), directory)
    text = (directory.report / "summary.json").read_text()
    assert json.loads(text)["best"]["at_best"]["error"] is None
    assert "Infinity" not in text


def test_a_hostile_configuration_in_a_run_is_never_executed(here: Path) -> None:
    directory, space = toy_run(here / "runs")
    summary, rows = summary_of(directory, space), read_rows(directory)
    config = directory.trial(2) / "config.yaml"
    config.write_text(f"family: !!python/object/apply:os.system ['touch {here / 'executed'}']\n")
    with pytest.raises(BadSpace, match="config.yaml:1: the YAML tag"):
        write(summary, rows, directory)
    assert not (here / "executed").exists()


# ---------------------------------------------------------------------- what to do next


def test_the_next_steps_are_commands_for_this_run(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs")
    next_steps(summary_of(directory, space), space, directory)
    said = capsys.readouterr().out
    run = f"runs/{directory.name}"
    for command in (
        f"loss-search train tiny_family:TINY --config {run}/report/recommended.yaml",
        f"loss-search tensorboard {run}",
        f"loss-search show {run} 2",
        f"loss-search resume {run} --trials +8",
    ):
        assert command in said


def test_of_a_run_in_a_store_the_report_is_fetched_first(here: Path, capsys, monkeypatch) -> None:
    directory, space = toy_run(here / "copy")
    (directory.report / "index.html").parent.mkdir(exist_ok=True)
    (directory.report / "index.html").write_text("a page")
    monkeypatch.setattr(console, "_SHOWN_AS", {directory.path.absolute(): "s3://bucket/toy"})
    summary = summary_of(directory, space)
    print_summary(summary, space, directory)
    next_steps(summary, space, directory)
    said = capsys.readouterr().out
    assert "for a browser once it is fetched" in said and "  loss-search fetch s3://bucket/toy\n" in said


def test_a_grid_is_not_offered_more_trials(here: Path, capsys) -> None:
    knobs = {"penalty.schedule": {"choice": ["constant", "delayed"]}}
    grid = {"search": {"sampler": "grid", "seed": 0}, "knobs": knobs, "start_from": []}
    directory, space = toy_run(here / "runs", trials=1, **grid)
    next_steps(summary_of(directory, space), space, directory)
    assert "resume" not in capsys.readouterr().out


def test_a_path_with_a_space_in_it_can_be_pasted_into_a_shell(here: Path, capsys) -> None:
    directory, space = toy_run(here / "my runs", trials=1)
    next_steps(summary_of(directory, space), space, directory)
    assert f"'my runs/{directory.name}'" in capsys.readouterr().out


def test_the_page_of_a_finished_search_is_written_and_named(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs")
    write_summary(directory, space)
    assert "report/index.html" not in said_at_the_end(directory, space, capsys)
    page_of(directory, space)
    assert "The search is finished: 6 of 6" in (directory.report / "index.html").read_text()
    assert "  report/index.html  " in said_at_the_end(directory, space, capsys)
