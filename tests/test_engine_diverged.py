"""A broken trial ends with its last good numbers, and its neighbours have those they would have had."""

from __future__ import annotations

import math

import pytest
import torch
from families import POISON, bits, by_name, engine_of, job, run, state_bits
from poisoned_family import IN_EVALUATION, ticket

from trainables.engine import Engine
from trainables.member import Job, Report

EPOCHS, STEPS, BATCH = 3, 4, 16


def _trial(epoch: int, step: int, kind: str, example: int = 5) -> Job:
    """Trial 1, poisoned at one step of one of its epochs (from 0)."""
    poison = ticket(1001, epoch, step, example, batch_size=BATCH, steps=STEPS)
    return job(POISON, 1, **{"poison.ticket": poison, "poison.kind": kind})


def _stack(one: Job) -> Engine:
    return engine_of(POISON, 3, {0: job(POISON, 0), 1: one, 2: job(POISON, 2)})


def _check_neighbours(engine: Engine, reports: dict[int, list[Report]], epochs: int) -> None:
    clean = _stack(job(POISON, 1))
    expected = run(clean, epochs)
    for trial in (0, 2):
        assert not any(report.diverged for report in reports[trial])
        assert bits(reports[trial]) == bits(expected[trial])
        assert state_bits(engine, trial) == state_bits(clean, trial)


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_trial_whose_loss_or_gradient_breaks_ends_and_keeps_its_last_good_numbers(kind: str, epoch: int):
    """At the first step of an epoch: the last good numbers are those of the epoch before."""
    engine = _stack(_trial(epoch, 0, kind))
    reports = run(engine, epoch + 1)
    assert [report.diverged for report in reports[1]] == [False] * epoch + [True]
    assert [report.done for report in reports[1]] == [False] * epoch + [True]
    clean = _stack(job(POISON, 1))
    assert bits(run(clean, epoch).get(1, [])) == bits(reports[1][:epoch])
    assert state_bits(engine, 1) == state_bits(clean, 1)
    _check_neighbours(engine, reports, epoch + 1)


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_a_trial_that_breaks_within_an_epoch_takes_no_further_step(kind: str):
    engine = _stack(_trial(1, 2, kind))
    reports = run(engine, 2)
    assert [report.diverged for report in reports[1]] == [False, True]
    assert engine.optimiser.steps.tolist() == [8, 6, 8]
    assert torch.isfinite(engine.stack.rows).all()
    _check_neighbours(engine, reports, 2)
    frozen = state_bits(engine, 1)
    other = _stack(_trial(1, 2, "nan", example=9))
    run(other, 2)
    assert state_bits(other, 1) == frozen, "what broke it leaves no trace"


def test_a_trial_that_breaks_in_evaluation_only_ends_too():
    engine = _stack(job(POISON, 1, **{"poison.ticket": IN_EVALUATION}))
    reports = run(engine, 1)
    (report,) = reports[1]
    assert report.diverged and report.done
    assert math.isfinite(report.row["train.loss"]) and math.isnan(report.row["val.loss"])
    _check_neighbours(engine, reports, 1)


def test_a_diverged_trial_that_stays_in_its_slot_is_left_as_it_is():
    for poison in (_trial(0, 1, "nan"), job(POISON, 1, **{"poison.ticket": IN_EVALUATION})):
        engine = _stack(poison)
        first = run(engine, 1)
        frozen = state_bits(engine, 1)
        second = run(engine, 2)
        assert [report.diverged for report in second[1]] == [True, True]
        assert state_bits(engine, 1) == frozen
        _check_neighbours(engine, {trial: first[trial] + second[trial] for trial in first}, 3)


def test_a_learning_rate_that_overflows_ends_its_own_trial_only():
    engine = _stack(job(POISON, 1, **{"optim.lr": 1e30, "optim.clip": 1e6}))
    reports = run(engine, 2)
    assert reports[1][0].diverged
    assert torch.isfinite(engine.stack.rows).all()
    _check_neighbours(engine, reports, 2)


def test_the_slot_of_a_diverged_trial_is_as_good_as_new():
    engine = _stack(_trial(0, 0, "gradient"))
    run(engine, 1)
    engine.evict(1)
    engine.admit(job(POISON, 30), 1)
    fresh = engine_of(POISON, 3, {1: job(POISON, 30)})
    assert bits(run(engine, 2)[30]) == bits(run(fresh, 2)[30])
    assert state_bits(engine, 1) == state_bits(fresh, 1)


def test_an_epoch_that_diverged_is_never_the_best():
    engine = _stack(_trial(2, 0, "nan"))
    run(engine, 3)
    member = engine.members[1]
    assert member.best_epoch in (1, 2) and torch.isfinite(member.best_row).all()
    at_once = _stack(_trial(0, 0, "nan"))
    run(at_once, 1)
    assert (at_once.members[1].best_epoch, at_once.members[1].best_row) == (0, None)


def test_every_member_may_diverge_at_once():
    case = by_name("tiny")
    engine = engine_of(case, 2, {slot: job(case, slot, **{"optim.lr": 1e30}) for slot in range(2)})
    assert all(report.diverged and report.done for report in engine.run_epoch())
