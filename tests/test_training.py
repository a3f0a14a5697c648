"""`loss-search train`: one model, its files, and that a search would have had the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny_family import TINY

from search.cli import main
from search.configuration import Configuration, load_configuration, write_configuration
from search.errors import BadInput, BadSpace, Incomplete, RunFailed
from search.training import train
from trainables.engine import Engine
from trainables.member import Job
from trainables.slots import default_knobs

ROOT = Path(__file__).parents[1]
TINY_CONFIG = Configuration(
    "tiny_family:TINY",
    "trial 7",
    {"source": "synthetic", "path": None, "size": 64, "noise": 0.5, "seed": 0},
    4,
    3,
    {"width": 4, "batch_size": 16},
    default_knobs(TINY),
)


@pytest.fixture
def config(here: Path) -> Path:
    write_configuration(TINY_CONFIG, here / "config.yaml")
    return here / "config.yaml"


def trained_in_an_engine(configuration: Configuration) -> tuple[Engine, list]:
    family = configuration.family
    engine = Engine(family, family.load(configuration.data), configuration.static, 1)
    engine.admit(Job(0, configuration.seed, configuration.epochs, configuration.knobs), 0)
    return engine, [engine.run_epoch()[0] for _ in range(configuration.epochs)]


# ---------------------------------------------------------------------- training


def test_train_leaves_model_configuration_metrics_and_pictures(config: Path, here: Path, capsys) -> None:
    assert main(["train", "tiny_family:TINY", "--config", "config.yaml", "--out", "model"]) == 0
    said = capsys.readouterr().out
    assert "[VISUALIZATION] Saved: model/figures/reconstructions_best.png" in said
    assert "epoch 4/4" in said and "validation        test" in said
    assert not (here / "model" / "last.pt").exists()
    with Image.open(here / "model" / "figures" / "reconstructions_best.png") as picture:
        assert picture.width > 0
    assert load_configuration(here / "model" / "config.yaml", "tiny_family:TINY") == TINY_CONFIG
    state = torch.load(here / "model" / "model.pt", weights_only=True)
    TINY.build(TINY_CONFIG.static, {}).load_state_dict(state)


def test_train_gives_the_numbers_that_the_trial_had_in_a_search(here: Path) -> None:
    train(TINY_CONFIG, here / "model", lambda line: None)
    engine, reports = trained_in_an_engine(TINY_CONFIG)
    found = json.loads((here / "model" / "metrics.json").read_text())
    best = max(reports, key=lambda report: report.row["val.selection_accuracy"])
    assert found["best_epoch"] == best.epoch
    for name in ("selection_accuracy", "error", "reconstruction"):
        assert found["val"][name] == best.row[f"val.{name}"], "bitwise: same seed, one slot, one thread"
    state = torch.load(here / "model" / "model.pt", weights_only=True)
    for name, tensor in engine.stack.as_state(engine.members[0].best_row).items():
        assert torch.equal(state[name], tensor)


def test_test_metrics_are_those_of_the_best_model_on_the_test_split(here: Path) -> None:
    train(TINY_CONFIG, here / "model", lambda line: None)
    found = json.loads((here / "model" / "metrics.json").read_text())
    data = TINY.load(TINY_CONFIG.data)
    model = TINY.build(TINY_CONFIG.static, data.facts).eval()
    model.load_state_dict(torch.load(here / "model" / "model.pt", weights_only=True))
    for split in ("val", "test"):
        batch = data.splits[split]
        with torch.no_grad():
            error = (model(batch, {}, {})["restored"] - batch["clean"]).square().mean()
        assert found[split]["error"] == pytest.approx(error.item(), abs=1e-6)
    assert found["val"]["error"] != found["test"]["error"]


def test_epochs_and_seed_of_the_command_line_replace_those_of_the_file(config: Path, here: Path) -> None:
    options = ["--epochs", "2", "--seed", "9", "--out", "model"]
    assert main(["train", "tiny_family:TINY", "--config", "config.yaml", *options]) == 0
    stored = yaml.safe_load((here / "model" / "config.yaml").read_text())
    assert (stored["epochs"], stored["seed"]) == (2, 9)
    assert json.loads((here / "model" / "metrics.json").read_text())["epochs"] == 2


def test_a_model_that_diverges_is_a_failed_run(here: Path) -> None:
    wild = Configuration(**{**vars(TINY_CONFIG), "data": {**TINY_CONFIG.data, "noise": float("inf")}})
    with pytest.raises(RunFailed, match="not finite in epoch 1"):
        train(wild, here / "model", lambda line: None)


def test_a_directory_with_something_in_it_is_left_alone(config: Path, here: Path, capsys) -> None:
    (here / "model").mkdir()
    (here / "model" / "precious").write_text("precious")
    assert main(["train", "tiny_family:TINY", "--config", "config.yaml", "--out", "model"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in (here / "model").iterdir()] == ["precious"]


def test_an_interrupted_training_continues_to_the_same_model(here: Path) -> None:
    """SIGINT to a real process between two epochs; then the same command, and once without interruption."""
    write_configuration(Configuration(**{**vars(TINY_CONFIG), "epochs": 400}), here / "config.yaml")
    command = [sys.executable, "-m", "search.cli", "train", "tiny_family:TINY", "--config", "config.yaml"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [*command, "--out", "one"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in first.stdout:
        if line.startswith("epoch  20/400"):
            first.send_signal(signal.SIGINT)
            break
    _, complaint = first.communicate(timeout=60)
    assert first.returncode == 3 and "stopped after epoch" in complaint and "--out one" in complaint
    assert (here / "one" / "last.pt").exists() and not (here / "one" / "metrics.json").exists()
    for out in ("one", "whole"):
        done = subprocess.run(
            [*command, "--out", out], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    assert (here / "one" / "metrics.json").read_text() == (here / "whole" / "metrics.json").read_text()


def test_an_interrupted_training_of_another_configuration_is_not_continued(here: Path, monkeypatch) -> None:
    def interrupt(self) -> list:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)  # the handler runs before the next statement
        return epoch(self)

    epoch = Engine.run_epoch
    monkeypatch.setattr(Engine, "run_epoch", interrupt)
    with pytest.raises(Incomplete, match="after epoch 1 of 4"):
        train(TINY_CONFIG, here / "model", lambda line: None)
    monkeypatch.setattr(Engine, "run_epoch", epoch)
    other = Configuration(**{**vars(TINY_CONFIG), "seed": 99})
    with pytest.raises(BadInput, match="another configuration"):
        train(other, here / "model", lambda line: None)
    train(TINY_CONFIG, here / "model", lambda line: None)
    assert (here / "model" / "metrics.json").exists()


def test_the_first_model_of_the_main_family_trains_on_synthetic_grids(here: Path, capsys) -> None:
    (here / "config.yaml").write_text(
        "family: beta_vae\nepochs: 2\ndata: {source: synthetic, size: 128}\n"
        "static: {width: 16, latent_dim: 4, batch_size: 32, augment: none}\n"
    )
    assert main(["train", "beta_vae", "--config", "config.yaml", "--out", "model"]) == 0
    said = capsys.readouterr().out
    assert "pixel_accuracy" in said
    found = json.loads((here / "model" / "metrics.json").read_text())
    assert 0 <= found["test"]["selection_accuracy"] <= 1 and found["examples"]["train"] == 128


# ---------------------------------------------------------------------- the configuration


def test_a_configuration_is_read_back_as_it_was_written(here: Path) -> None:
    write_configuration(TINY_CONFIG, here / "config.yaml", "two\nlines")
    assert load_configuration(here / "config.yaml", "tiny_family:TINY") == TINY_CONFIG
    assert (here / "config.yaml").read_text().startswith("# two\n# lines\nfamily:")


def test_what_a_configuration_leaves_out_has_the_familys_default(here: Path) -> None:
    (here / "config.yaml").write_text("family: beta_vae\nepochs: 3\n")
    read = load_configuration(here / "config.yaml")
    family = read.family
    assert read.knobs == {name: knob.default for name, knob in family.knobs.items()}
    assert read.static == {name: setting.default for name, setting in family.statics.items()}
    assert read.data["source"] == family.sources[0] and read.data["path"] is None and read.seed == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "found an empty file"),
        ("- a\n", "found a list"),
        ("epochs: 3\n", "1: family is missing"),
        ("family: beta_vae\n", "epochs is missing"),
        ("family: beta_vae\nepochs: 0\n", "2: epochs is 0, outside its range"),
        ("family: beta_vae\nepochs: 3\nepoch: 4\n", "3: unknown key 'epoch'"),
        ("family: beta_vae\nepochs: 3\nknobs: {kl.wieght: 1.0}\n", "Did you mean 'kl.weight'?"),
        (
            "family: beta_vae\nepochs: 3\nknobs:\n  kl.weight: 1.0e+9\n",
            "4: knobs.kl.weight is 1.0e\\+9, outside",
        ),
        ("family: beta_vae\nepochs: 3\nstatic: {encoder: off}\n", "YAML reads as false"),
        (
            "family: beta_vae\nepochs: 3\ndata: {source: arc, path: /etc/passwd}\n",
            "no meaning with source arc",
        ),
        ("family: beta_vae\nepochs: 3\ndata: {source: file}\n", "names no file"),
        ("family: beta_vae\nepochs: 3\ndata: {source: internet}\n", "data.source is 'internet'"),
        ("family: beta_vae\nepochs: !!python/name:os.system\n", "2: the YAML tag"),
        ("family: &a beta_vae\nepochs: 3\n", "anchor"),
        ("family: os:system\nepochs: 3\n", "none of selection, multitask, beta_vae"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_line(here: Path, text: str, complaint: str) -> None:
    (here / "config.yaml").write_text(text)
    with pytest.raises(BadSpace, match=complaint) as caught:
        load_configuration(here / "config.yaml")
    assert str(caught.value).startswith(f"{here / 'config.yaml'}:")


def test_the_family_of_the_command_and_of_the_file_must_agree(config: Path, capsys) -> None:
    assert main(["train", "beta_vae", "--config", "config.yaml"]) == 2
    assert "loss-search train tiny_family:TINY" in capsys.readouterr().err
    assert main(["train", "beta_vea", "--config", "config.yaml"]) == 2
    assert "Did you mean 'beta_vae'?" in capsys.readouterr().err
    assert main(["train", "no_such_module:X", "--config", "config.yaml"]) == 2
    assert main(["train", "tiny_family:Tiny", "--config", "config.yaml"]) == 2


@pytest.mark.parametrize("option", [("--epochs", "0"), ("--seed", "-1"), ("--config", "absent.yaml")])
def test_wrong_options_of_train_exit_with_2_and_write_nothing(config: Path, here: Path, option) -> None:
    assert main(["train", "tiny_family:TINY", "--config", "config.yaml", *option]) == 2
    assert [path.name for path in here.iterdir()] == ["config.yaml"]
