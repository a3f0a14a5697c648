"""The commands: what they print, what they write, and the exit code that a shell sees."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_family import TINY
from toy_run import toy_run, toy_space

from search import commands_run
from search.cli import main
from search.cluster import EnginePlan, RayOptions, connect
from search.driver import Options
from search.errors import BadInput, RunFailed
from trainables.errors import BadCheckpoint, BadData

ROOT = Path(__file__).parents[1]
PROGRAM = (sys.executable, "-m", "search.cli")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


def call(*arguments: object, **more) -> subprocess.CompletedProcess:
    """The program in a process of its own."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, **more)


def one_engine(*_: object) -> Options:
    """In the place of `options_of`: what fits this machine is not what is tested."""
    return Options(engines=1, slots=1)


# ---------------------------------------------------------------------- usage


def test_help_comes_without_the_heavy_libraries() -> None:
    script = (
        "import sys; from search.cli import main; code = main(['--help']); "
        "heavy = {'torch', 'ray', 'optuna', 'pyarrow', 'numpy'} & set(sys.modules); "
        "sys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "loss-search run beta_vae --quick-test" in done.stdout


@pytest.mark.parametrize(
    "command",
    ["run", "resume", "validate", "train", "show", "explain", "check", "export", "tensorboard"]
    + ["families", "spaces", "doctor"],
)
def test_every_command_has_an_example_in_its_help(command: str, capsys) -> None:
    assert main([command, "--help"]) == 0
    assert f"  loss-search {command}" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "loss-search 0.1.0\n"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run"], ["show", "x", "not-a-number"], ["run", "x", "--no"]]
)
def test_bad_usage_exits_with_2(arguments: list[str], capsys) -> None:
    assert main(arguments) == 2
    assert "Error" in capsys.readouterr().err


# ---------------------------------------------------------------------- errors


def test_a_shell_sees_2_and_one_clear_line_for_a_space_that_does_not_exist(here: Path) -> None:
    done = call("run", "beta_vea", cwd=here)
    assert done.returncode == 2
    assert "Did you mean 'beta_vae'?" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not (here / "runs").exists()


def test_traceback_shows_where_an_error_came_from(here: Path, capsys) -> None:
    assert main(["--traceback", "validate", "nothing_of_this_name"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(BadData("a.npz: row 3"), 2), (BadCheckpoint("last.pt: torn"), 4), (BadInput("--trials 0"), 2)],
)
def test_an_error_of_the_user_has_its_own_exit_code(error: Exception, code: int, capsys, monkeypatch) -> None:
    def raises() -> None:
        raise error

    monkeypatch.setattr("search.space.shipped_spaces", raises)
    assert main(["spaces"]) == code
    assert capsys.readouterr().err == f"{error}\n"


def test_what_nobody_foresaw_is_called_a_bug_and_its_traceback_goes_to_the_log(
    here, capsys, monkeypatch
) -> None:
    directory, space = toy_run(here / "runs", trials=1)
    monkeypatch.setattr("search.driver.Driver.work", lambda *_: 1 / 0)
    monkeypatch.setattr(commands_run, "options_of", one_engine)
    assert main(["resume", directory.name]) == 1
    complaint = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in complaint and "this is a bug" in complaint
    assert "Traceback" not in complaint and f"runs/{directory.name}/run.log" in complaint
    assert "ZeroDivisionError" in directory.log.read_text()


def test_a_full_disk_says_how_to_go_on(here: Path, capsys, monkeypatch) -> None:
    directory, _ = toy_run(here / "runs", trials=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(directory.events))

    monkeypatch.setattr("search.driver.Driver.work", full)
    monkeypatch.setattr(commands_run, "options_of", one_engine)
    assert main(["resume", directory.name]) == 3
    complaint = capsys.readouterr().err
    assert "no space left" in complaint and f"loss-search resume runs/{directory.name}" in complaint
    assert "bug" not in complaint


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_run_that_cannot_be_written_is_refused_by_name_and_is_no_bug(
    here: Path, capsys, monkeypatch, number: int
) -> None:
    directory, _ = toy_run(here / "runs", trials=1)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(directory.log))

    monkeypatch.setattr("search.logs.configure", refuse)
    monkeypatch.setattr(commands_run, "options_of", one_engine)
    assert main(["resume", directory.name]) == 3
    said = capsys.readouterr().err
    assert f"{directory.log}: cannot be used ({os.strerror(number)})" in said
    assert "bug" not in said and f"loss-search resume runs/{directory.name}" in said
    monkeypatch.setattr("search.run.Run.stored_space", refuse)
    assert main(["resume", directory.name]) == 2


def test_a_run_name_of_thousands_of_letters_is_no_run(here: Path, capsys) -> None:
    assert main(["show", "x" * 5000]) == 2
    assert "no such run directory" in capsys.readouterr().err


def test_a_name_that_is_no_run_is_answered_with_the_newest_runs(here: Path, capsys) -> None:
    for age, name in enumerate(("b-3", "z-1", "a-2")):
        (here / "runs" / name).mkdir(parents=True)
        (here / "runs" / name / "environment.json").touch()
        os.utime(here / "runs" / name / "environment.json", (1000 - age, 1000 - age))
    (here / "runs" / "notes").mkdir()
    assert main(["show", "nowhere"]) == 2
    said = "nowhere: no such run directory; runs in runs, newest first: b-3, z-1, a-2"
    assert said in capsys.readouterr().err


def test_a_full_directory_for_temporary_files_is_named_before_ray_starts(monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    with (
        pytest.raises(RunFailed, match="1 MiB free, and Ray needs 64 .* set TMPDIR"),
        connect(RayOptions(None, EnginePlan(1, 1, 1, use_gpu=False), verbose=False)),
    ):
        pass


def test_a_message_cannot_steer_the_terminal(here: Path, capsys) -> None:
    assert main(["show", "evil\x1b[31m"]) == 2
    complaint = capsys.readouterr().err
    assert "\x1b" not in complaint and "evil\\x1b[31m" in complaint


# ---------------------------------------------------------------------- before a run


@pytest.mark.parametrize(
    ("option", "word"),
    [
        (("--slots", "many"), "--slots many"),
        (("--slots", "0"), "--slots 0"),
        (("--engines", "9999"), "--engines 9999"),
        (("--workers-per-engine", "0"), "--workers-per-engine 0"),
        (("--set", "no_equals_sign"), "KEY=VALUE"),
        (("--set", "budget.epochs=1", "--set", "budget.epochs=2"), "given twice"),
        (("--trials", "0"), "budget.trials is 0"),
        (("--set", "static.batch_size=256"), "64 training examples"),
        (("--set", "knobs.penalty.wieght=1"), "Did you mean 'penalty.weight'?"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(here, capsys, option, word) -> None:
    toy_space(here)
    assert main(["run", "toy.yaml", *option]) == 2
    assert word in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_bad_data_is_refused_before_anything_is_written(here: Path, capsys, monkeypatch) -> None:
    def load(self, settings):
        raise BadData("toy.npz: 'x' row 3 holds nan")

    monkeypatch.setattr(type(TINY), "load", load)
    toy_space(here)
    assert main(["run", "toy.yaml"]) == 2
    assert "toy.yaml: toy.npz: 'x' row 3 holds nan" in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_a_dry_run_describes_the_search_and_writes_nothing(here: Path, capsys) -> None:
    toy_space(here)
    assert main(["run", "toy.yaml", "--dry-run", "--set", "stop.plateau={patience: 2}"]) == 0
    said = capsys.readouterr().out
    for part in (
        "maximize selection_accuracy",
        "64 train, 32 val, 32 test",
        "penalty.weight    0.001 to 1         log",
        "penalty.schedule is delayed",
        "bold [red]: penalty.weight=0.5",
        "at most 24 in all",
        "plateau: patience 2",
    ):
        assert part in said, part
    assert sorted(path.name for path in here.iterdir()) == ["toy.yaml"]
    assert main(["validate", "toy.yaml", "--set", "stop.plateau={patience: 2}"]) == 0
    assert capsys.readouterr().out == said


# ---------------------------------------------------------------------- what there is


def test_families_and_spaces_list_what_is_shipped(capsys) -> None:
    assert main(["families"]) == 0 and main(["spaces"]) == 0
    assert capsys.readouterr().out.count("beta_vae") >= 3
    assert main(["families", "beta_vae"]) == 0
    said = capsys.readouterr().out
    assert "reconstruction.gamma" in said and "pixel_accuracy" in said
    assert main(["families", "beta_vea"]) == 2
    assert "Did you mean 'beta_vae'?" in capsys.readouterr().err


def test_doctor_says_bad_when_a_package_is_missing(capsys, monkeypatch) -> None:
    assert main(["doctor"]) == 0
    assert "A search can run here." in capsys.readouterr().out
    monkeypatch.setattr("search.doctor.PACKAGES", ("torch", "a-package-that-is-not-there"))
    assert main(["doctor"]) == 1
    assert "pip install a-package-that-is-not-there" in capsys.readouterr().out
