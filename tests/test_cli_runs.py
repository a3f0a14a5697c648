"""The commands on a run: show, check, resume, export, tensorboard."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from toy_run import message, toy_run, toy_space

from search import commands_run
from search.cli import main
from search.driver import Options
from search.run import Run
from search.run_directory import version
from search.space import load_space
from search.standing import is_worked_on, standing_of


def one_engine(*_: object) -> Options:
    """In the place of `options_of`: what fits this machine is not what is tested."""
    return Options(engines=1, slots=1)


# ---------------------------------------------------------------------- reading a run


def test_show_lists_every_trial_with_its_state_and_reason(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    assert main(["show", directory.name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{directory.name}: finished, 6 of 6 trials ended")
    rows = {line.split()[0]: line for line in lines[2:]}
    assert "collapse:code" in rows["0"] and "habit" in rows["0"]
    assert "bold [red]" in rows["1"], "a preset's name is text, never markup"
    assert "0.9000" in rows["2"] and "diverged" in rows["3"] and "fail" in rows["4"]


def test_a_run_is_read_where_its_data_file_is_not_and_resume_names_the_file(here: Path, capsys) -> None:
    np.savez("grids.npz", grids=np.random.default_rng(0).integers(0, 4, (300, 4, 4), np.uint8))
    Path("space.yaml").write_text(
        "family: beta_vae\ndata: {source: file, path: grids.npz}\nbudget: {trials: 2, epochs: 2}\n"
        "knobs:\n  kl.weight: {float: [0.001, 0.1]}\n"
    )
    space = load_space("space.yaml")
    directory = Run.create(space, here / "runs")
    with directory.locked(), Run(directory, space) as run:
        run.close()
    Path("grids.npz").unlink()
    assert main(["show", directory.name]) == 0
    assert main(["check", directory.name]) == 3, "whole, and not finished"
    capsys.readouterr()
    assert main(["resume", directory.name]) == 2
    assert capsys.readouterr().err.startswith(f"{here / 'grids.npz'}: does not exist")
    assert main(["validate", "space.yaml"]) == 2


def test_a_trial_is_called_running_only_while_a_search_works_on_the_run(here: Path, capsys) -> None:
    space = toy_space(here)
    directory = Run.create(space, here / "runs")
    with directory.locked(), Run(directory, space) as run:
        run.receive(message(run.next_trial().number, 1, 0.5))
        run.close()
        assert main(["show", directory.name]) == 0
        assert "  running  " in capsys.readouterr().out
    assert main(["show", directory.name]) == 0
    assert "  interrupted  " in capsys.readouterr().out


def test_a_trial_that_waits_for_a_slot_is_called_queued(here: Path, capsys) -> None:
    space = toy_space(here)
    directory = Run.create(space, here / "runs")
    with directory.locked(), Run(directory, space) as run:
        for _ in range(3):
            number = run.next_trial().number
        run.receive(message(0, 1, 0.5))
        (directory.trial(1) / "run.log").write_text("trial 1 starts on engine-0\n")
        run.flush()
        assert main(["show", directory.name]) == 0
        shown = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert number == 2
        states = {words[0]: words for words in shown if words and words[0] in ("0", "1", "2")}
    assert [next(w for w in words if w in ("running", "queued")) for words in states.values()] == [
        "running",
        "running",
        "queued",
    ]


def test_presets_beyond_the_budget_wait_nowhere_and_come_first_when_it_grows(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs", trials=1, budget={"trials": 1, "epochs": 4})
    assert main(["check", directory.name]) == 0
    assert main(["show", directory.name]) == 0
    assert "waiting" not in capsys.readouterr().out
    more = Run.stored_space(directory, extra_trials=2)
    with directory.locked(), Run(directory, more) as run:
        assert [run.next_trial().preset for _ in range(2)] == [
            "bold [red]",
            None,
        ]


def test_show_of_a_trial_gives_knobs_curves_and_files(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    assert main(["show", directory.name, "2"]) == 0
    said = capsys.readouterr().out
    assert "best selection_accuracy 0.9000 at epoch 3" in said
    assert "penalty.start     -         not in force" in said
    assert "val.selection_accuracy" in said and "0.8500" in said
    assert f"runs/{directory.name}/trials/2/config.yaml" in said
    assert main(["show", directory.name, "77"]) == 2
    assert "its trials are 0 to 5" in capsys.readouterr().err


def test_the_error_of_a_failed_trial_is_shown_without_its_escape_sequences(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    assert main(["show", directory.name, "4"]) == 0
    said = capsys.readouterr().out
    assert "ValueError: the family" in said and "\x1b" not in said


def test_check_finds_a_finished_run_whole(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    assert main(["check", str(directory.path)]) == 0
    assert "whole; finished, 6 of 6 trials ended" in capsys.readouterr().out


def test_check_of_a_stopped_run_says_that_it_can_be_resumed_and_exits_with_3(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs", trials=2)
    assert main(["check", directory.name]) == 3
    said = capsys.readouterr().out
    assert "2 of 6 trials ended" in said and f"loss-search resume runs/{directory.name}" in said


def test_rows_that_only_the_event_log_has_are_damage_only_once_the_run_is_finished(
    here: Path, capsys
) -> None:
    space = toy_space(here)
    directory = Run.create(space, here / "runs")
    with directory.locked(), Run(directory, space) as run:
        number = run.next_trial().number
        run.receive(message(number, 1, 0.5))  # and then the process is killed: nothing was flushed
    assert main(["check", directory.name]) == 3
    assert "1 reported epoch(s) are in the event log" in capsys.readouterr().out


def test_check_finds_a_lost_epoch_and_exits_with_4(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    (directory.path / "epochs.parquet").unlink()
    assert main(["check", directory.name]) == 4
    complaint = capsys.readouterr().err
    assert "acknowledged row missing from Parquet" in complaint and "loss-search resume" in complaint


def test_check_finds_a_flipped_byte(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    path = directory.path / "trials.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["check", directory.name]) == 4
    assert "trials.parquet: torn or damaged" in capsys.readouterr().err


def test_reading_a_run_changes_nothing_in_it(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs", trials=2)
    before = {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}
    for command in ("show", "check"):
        main([command, directory.name])
    assert {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()} == before


def test_a_run_is_worked_on_exactly_while_its_lock_is_held(here: Path) -> None:
    directory, space = toy_run(here / "runs", trials=2)
    assert not is_worked_on(directory)
    with directory.locked():
        assert is_worked_on(directory) and standing_of(directory, space).word == "running"
    assert standing_of(directory, space).word == "stopped, resumable"


def test_a_directory_that_is_no_run_is_said_to_be_none(here: Path, capsys) -> None:
    (here / "runs" / "other").mkdir(parents=True)
    assert main(["show", "other"]) == 4
    assert "is no run directory" in capsys.readouterr().err
    assert main(["check", "absent"]) == 2


def test_a_run_with_an_edited_space_is_refused(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    directory.space.write_text(
        directory.space.read_text().replace("high: 1", "high: 2").replace("1.0", "2.0")
    )
    assert main(["show", directory.name]) == 4
    assert "was edited" in capsys.readouterr().err


# ---------------------------------------------------------------------- resume


def test_a_finished_run_is_not_resumed_but_says_what_to_do_next(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    events = directory.events.read_bytes()
    assert main(["resume", directory.name]) == 0
    said = capsys.readouterr().out
    assert "is finished" in said and f"loss-search resume runs/{directory.name} --trials +8" in said
    assert directory.events.read_bytes() == events
    assert (directory.report / "recommended.yaml").is_file()


def test_resume_under_other_versions_names_both_and_what_follows(here: Path, capsys, monkeypatch) -> None:
    directory, _ = toy_run(here / "runs", trials=2)
    monkeypatch.setattr(commands_run, "options_of", one_engine)
    asked = []
    monkeypatch.setattr(commands_run, "_search", lambda *given: asked.append(given[4].warnings))
    assert main(["resume", directory.name]) == 0
    about = json.loads(directory.environment.read_text())
    about["versions"] |= {"loss-search": "0.0.1", "torch": "1.0"}
    directory.environment.write_text(json.dumps(about))
    assert main(["resume", directory.name]) == 0
    assert asked[0] == ()
    (warning,) = asked[1]
    assert f"loss-search 0.0.1 (now {version()}), torch 1.0 (now " in warning
    assert "start again from their seed" in warning


@pytest.mark.parametrize("more", ["8", "+0", "-3", "+x", "+1.5"])
def test_resume_wants_to_know_how_many_trials_more(here: Path, capsys, more: str) -> None:
    directory, _ = toy_run(here / "runs", trials=1)
    assert main(["resume", directory.name, f"--trials={more}"]) == 2
    assert "--trials +16" in capsys.readouterr().err


def test_resume_with_more_trials_keeps_the_new_number_with_the_run(here: Path, monkeypatch) -> None:
    directory, _ = toy_run(here / "runs")
    monkeypatch.setattr(commands_run, "options_of", one_engine)
    asked = []
    monkeypatch.setattr(commands_run, "_search", lambda *given: asked.append(given[2].budget.trials))
    assert main(["resume", directory.name, "--trials", "+4"]) == 0
    assert asked == [10] and Run.stored_space(directory).budget.trials == 10
    assert main(["resume", directory.name]) == 0
    assert asked == [10, 10]


def test_a_run_that_another_process_works_on_is_not_enlarged(here: Path, capsys, monkeypatch) -> None:
    directory, _ = toy_run(here / "runs")
    monkeypatch.setattr(commands_run, "options_of", one_engine)
    with directory.locked():
        assert main(["resume", directory.name, "--trials", "+4"]) == 2
    assert "works on this run" in capsys.readouterr().err
    assert Run.stored_space(directory).budget.trials == 6


# ---------------------------------------------------------------------- export and tensorboard


def test_export_writes_every_trial_and_epoch_as_csv_and_refuses_to_overwrite(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    (directory.trial(2) / "model.pt").write_bytes(b"the best model")
    assert main(["export", directory.name, "--to", "given"]) == 0
    with open(here / "given" / "epochs.csv", newline="") as file:
        epochs = list(csv.DictReader(file))
    with open(here / "given" / "trials.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    assert len(epochs) == 16 and len(trials) == 6
    assert epochs[0]["vector.errors"] == "[0.1, 0.2]"
    assert trials[0]["knob.penalty.start"] == "" and trials[1]["preset"] == "bold [red]"
    assert (here / "given" / "model.pt").read_bytes() == b"the best model"
    assert "trial 2" in (here / "given" / "config.yaml").read_text()
    assert main(["export", directory.name, "--to", "given"]) == 2
    assert "not empty" in capsys.readouterr().err


def test_export_follows_no_link_out_of_the_run(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    (here / "secret").write_text("secret")
    (directory.trial(2) / "model.pt").symlink_to(here / "secret")
    assert main(["export", directory.name, "--to", "given"]) == 0
    assert not (here / "given" / "model.pt").exists()


def test_a_taken_port_is_named(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs", trials=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["tensorboard", directory.name, "--port", str(port)]) == 2
    assert f"port {port} is taken" in capsys.readouterr().err
