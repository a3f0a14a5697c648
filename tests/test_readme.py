"""The README says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from search.cli import app
from search.record import schema_markdown
from search.space import load_space, traps

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_every_column_of_the_record():
    assert schema_markdown().strip() in README


def test_the_space_in_the_readme_is_a_space_without_traps(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    path = tmp_path / "readme.yaml"
    path.write_text(text)
    space = load_space(path)
    assert space.family_name == "beta_vae"
    assert [preset.name for preset in space.presets] == ["option_a"]
    assert traps(space) == []


def test_every_command_in_the_readme_exists():
    known = set(typer.main.get_command(app).commands)
    used = set(re.findall(r"loss-search ([a-z]+)", README)) - {"with", "itself"}
    used |= set(re.findall(r"`(show|resume|check|run|train|validate) ", README))
    assert used <= known
    assert {"run", "resume", "train", "show", "check", "validate", "doctor", "export", "tensorboard"} <= used
