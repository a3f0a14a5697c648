"""Where messages go while a run is open."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from search import logs

ROOT = Path(__file__).parents[1]


def test_the_log_gets_everything_of_ours_and_the_terminal_only_warnings(tmp_path: Path, capsys) -> None:
    with logs.configure(tmp_path / "run.log", verbose=False):
        logging.getLogger("loss_search.run").info("trial 3 ended")
        logging.getLogger("loss_search.run").warning("a torn part")
        logging.getLogger("optuna.storages").warning("of Optuna")
        logging.getLogger("ray").info("chatter")
    logging.getLogger("loss_search.run").error("after the run")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split("Z ", 1)[1] for line in lines] == [
        "INFO loss_search.run: trial 3 ended",
        "WARNING loss_search.run: a torn part",
        "WARNING optuna.storages: of Optuna",
    ]
    assert time.strptime(lines[0].split("Z ")[0], "%Y-%m-%d %H:%M:%S")
    assert capsys.readouterr().err.splitlines()[0] == "warning: a torn part"


def test_verbose_shows_what_others_say(tmp_path: Path, capsys) -> None:
    with logs.configure(tmp_path / "run.log", verbose=True):
        logging.getLogger("of.others").info("chatter")
        logging.getLogger("loss_search.run").info("trial 3 ended")
    assert capsys.readouterr().err == "chatter\ntrial 3 ended\n"


def test_what_ray_says_of_its_own_processes_is_shown_only_when_asked_for() -> None:
    script = (
        "import sys; from search.cluster import set_environment\n"
        "set_environment(verbose=sys.argv[1] == '-v')\n"
        "from ray._private.worker import print_to_stdstream\n"
        "said = {'lines': ['A worker died', ''], 'pid': 'raylet', 'is_err': False}\n"
        "print_to_stdstream(said, ignore_prefix=False)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script, option],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for option in ("-q", "-v")
    ]
    assert said[0] == "" and "A worker died" in said[1]


def test_pythons_warnings_go_to_the_log(tmp_path: Path) -> None:
    script = (
        "import sys, warnings; from pathlib import Path; from search import logs\n"
        "with logs.configure(Path(sys.argv[1]), False): warnings.warn('beware')\n"
    )
    log = tmp_path / "run.log"
    done = subprocess.run(
        [sys.executable, "-c", script, log],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "UserWarning: beware" in log.read_text()
