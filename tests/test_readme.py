"""The README says what is so."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from searches import only_run, run

from search.cli import app
from search.parameter_lines import RANGES
from search.record import schema_markdown
from search.space import SECTIONS, load_space, traps
from search.space_keys import space_keys, space_keys_markdown
from search.stop_lines import GROUPS, RULES, WORDS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_every_column_of_the_record():
    assert schema_markdown().strip() in README


def test_the_readme_lists_every_key_of_a_space():
    assert space_keys_markdown() in README, "put the output of search.space_keys.space_keys_markdown() there"


def test_the_table_of_keys_has_each_section_and_each_key_that_the_reader_takes():
    named = {name for key in space_keys() for name in key.name.split(", ")}
    assert {name.partition(".")[0] for name in named} == {*SECTIONS, "NAME"}
    assert {f"NAME.{key}" for key in (*RANGES, "log", "when")} <= named
    for rule, keys in WORDS.items():
        assert {f"stop.{rule}.{key}" for key in keys} <= named
    assert {name.split(".")[1] for name in named if name.startswith("stop.")} == {"prune", *RULES, *GROUPS}


def test_the_space_in_the_readme_is_a_space_without_traps(tmp_path):
    text, *_ = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    path = tmp_path / "readme.yaml"
    path.write_text(text)
    space = load_space(path)
    assert space.family_name == "beta_vae"
    assert [preset.name for preset in space.presets] == ["option_a"]
    assert traps(space) == []


def test_the_experiment_in_the_readme_is_one_for_the_space_that_it_speaks_of(tmp_path):
    [section] = [text for text in re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
                 if text.startswith("experiment:")]  # fmt: skip
    space = load_space("compare_globals_heads").text.partition("\nexperiment:")[0]
    path = tmp_path / "readme.yaml"
    path.write_text(f"{space}\n{section}")
    found = load_space(path).experiment
    assert found.compare == ("latent", "globals.weight") and len(found.expect) == 2


def test_every_command_in_the_readme_exists():
    known = set(typer.main.get_command(app).commands)
    used = set(re.findall(r"loss-search ([a-z]+)", README)) - {"with", "itself"}
    used |= set(re.findall(r"`(show|resume|check|run|train|validate) ", README))
    assert used <= known
    assert {"run", "resume", "train", "show", "check", "validate", "doctor", "export", "tensorboard"} <= used


def test_the_family_in_the_readme_is_short_and_its_space_is_valid(tmp_path):
    code = _own_family(tmp_path)
    assert sum(bool(line.strip()) for line in code.splitlines()) < 70
    said = run("validate", "moons.yaml", cwd=tmp_path)
    assert "family moons, two half circles" in said
    assert "warning" not in said


@pytest.mark.slow
def test_the_family_in_the_readme_is_searched_in_a_stack_like_any_other(tmp_path):
    _own_family(tmp_path)
    run("run", "moons.yaml", "--trials", 4, "--epochs", 6, "--engines", 1, "--slots", 2, cwd=tmp_path)
    run("check", only_run(tmp_path), cwd=tmp_path)
    trials = pq.read_table(only_run(tmp_path) / "trials.parquet").to_pylist()
    assert len(trials) == 4 and {trial["state"] for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert max(trial["objective"] for trial in trials) > 0.7, "guessing scores 0.5"
    rows = pq.read_table(only_run(tmp_path) / "epochs.parquet").to_pylist()
    assert {row["slot"] for row in rows} == {0, 1}
    assert 10 < rows[0]["active.labels"] < 60 and rows[0]["active.consistency"] == 1024
    assert list((only_run(tmp_path) / "trials").glob("*/figures/moons_best.png"))
    said = _use(only_run(tmp_path) / "trials" / "0", "moons:MOONS")
    assert "logits (8, 2)" in said


def _use(trial: Path, family: str) -> str:
    """The outputs of this trial's model by the README's lines about `model.pt`, run as they stand."""
    code, _ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    code = textwrap.dedent("  " + code.lstrip(" "))
    code = code.replace("runs/beta_vae-20260131-120000/trials/26", str(trial)).replace(
        '"beta_vae"', repr(family)
    )
    code += "\nfor name, tensor in outputs.items():\n    print(name, tuple(tensor.shape))\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=trial.parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _own_family(directory: Path) -> str:
    """Save the README's own family and its space, as the README says."""
    _, code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    *_, space = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (directory / "moons.py").write_text(code)
    (directory / "moons.yaml").write_text(space)
    return code
