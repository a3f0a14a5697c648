"""What is settled before a run directory is made: quick tests, batches and cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import toy_space

from search.errors import BadInput
from search.preflight import check_data, cost_of, quick_space


def test_workers_must_be_able_to_share_a_batch(here: Path) -> None:
    space = toy_space(here, static={"batch_size": 15})
    with pytest.raises(BadInput, match="cannot share evenly"):
        check_data(space, workers_per_engine=2)
    check_data(space, workers_per_engine=3)


def test_a_quick_test_scales_the_stop_rules_and_leaves_what_was_said_explicitly(here: Path) -> None:
    stop = {
        "prune": {"rule": "successive_halving", "min_epochs": 8, "reduction": 3},
        "plateau": "off",
        "all": [{"collapse": {"warmup": 10, "patience": 6}}, {"plateau": {"patience": 20, "warmup": 0}}],
    }
    toy_space(here, budget={"trials": 40, "epochs": 20}, stop=stop)
    quick = quick_space("toy.yaml", {})
    assert (quick.budget.trials, quick.budget.epochs) == (8, 5)
    assert quick.stop.prune == {"rule": "successive_halving", "min_epochs": 2, "reduction": 3}
    settings = {rule.name: rule.settings for rule in quick.stop.flat()}
    assert (settings["collapse"]["warmup"], settings["collapse"]["patience"]) == (3, 2)
    assert (settings["plateau"]["warmup"], settings["plateau"]["patience"]) == (0, 5)
    explicit = quick_space("toy.yaml", {"stop.prune.min_epochs": "4"}, trials=3, epochs=10)
    assert (explicit.budget.trials, explicit.budget.epochs, explicit.stop.prune["min_epochs"]) == (3, 10, 4)


def test_a_quick_test_never_enlarges_a_space(here: Path) -> None:
    toy_space(here, budget={"trials": 2, "epochs": 3})
    quick = quick_space("toy.yaml", {})
    assert (quick.budget.trials, quick.budget.epochs) == (2, 3)


def test_the_cost_without_pruning_is_exact_and_with_it_below_the_bound(here: Path) -> None:
    assert cost_of(toy_space(here)).expected == cost_of(toy_space(here)).most == 24
    pruned = toy_space(
        here,
        budget={"trials": 30, "epochs": 9},
        start_from=[],
        stop={"prune": {"rule": "successive_halving", "min_epochs": 1, "reduction": 3}, "plateau": "off"},
    )
    cost = cost_of(pruned)
    assert cost.most == 270
    # Rungs after 1 and 3 epochs: all 30 do 1, about a third 2 more, about a ninth the last 6.
    assert 30 + 20 + 6 * 30 / 9 <= cost.expected < 30 + 2 * 14 + 6 * 8


def test_the_cost_estimate_is_what_optuna_does_on_the_average(here: Path) -> None:
    """Trials of random constant values through Optuna's own pruner; 40 repetitions, 4 standard errors."""
    import random

    import optuna

    stop = {"prune": {"rule": "successive_halving", "min_epochs": 2, "reduction": 3}, "plateau": "off"}
    space = toy_space(here, budget={"trials": 20, "epochs": 10}, start_from=[], stop=stop)
    draw, spent = random.Random(0), []
    for _ in range(40):
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        epochs = 0
        for _ in range(20):
            trial, value = study.ask(), draw.random()
            for epoch in range(1, 11):
                trial.report(value, epoch)
                epochs += 1
                if epoch < 10 and trial.should_prune():
                    break
            study.tell(trial, value)
        spent.append(epochs)
    mean = sum(spent) / len(spent)
    error = (sum((value - mean) ** 2 for value in spent) / len(spent) / (len(spent) - 1)) ** 0.5
    assert abs(mean - cost_of(space).expected) < 4 * error + 0.5
