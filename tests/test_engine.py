"""The laws of stacked training: stack equals alone, neighbours do not matter, refilling harms nobody."""

from __future__ import annotations

import pytest
import torch
from families import (
    CASES,
    POISON,
    Case,
    bits,
    by_name,
    engine_of,
    ids,
    job,
    numbers,
    run,
    state_bits,
    state_numbers,
)

from trainables.engine import Engine
from trainables.errors import BadData
from trainables.member import Job

EPOCHS = 5  # of four steps: 20 steps
every_family = pytest.mark.parametrize("case", CASES, ids=ids)


@every_family
def test_a_stack_trains_its_trials_as_they_would_train_alone(case: Case):
    jobs = {slot: job(case, slot, epochs=EPOCHS) for slot in range(len(case.knob_sets))}
    stack = engine_of(case, len(jobs), jobs, dtype=torch.float64)
    together = run(stack, EPOCHS)
    assert stack.steps * EPOCHS == 20
    for slot, one in jobs.items():
        alone = engine_of(case, 1, {0: one}, dtype=torch.float64)
        reports = run(alone, EPOCHS)[one.trial]
        for ours, theirs in zip(together[one.trial], reports, strict=True):
            assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-10, abs=1e-10, nan_ok=True)
            assert ours.vectors.keys() == theirs.vectors.keys()
            for name, vector in ours.vectors.items():
                assert vector == pytest.approx(theirs.vectors[name], rel=1e-10, abs=1e-10, nan_ok=True)
        expected = state_numbers(alone, 0)
        assert expected["step"] == 20
        for name, tensor in state_numbers(stack, slot).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-10)


@every_family
def test_the_knob_sets_of_a_case_make_a_difference(case: Case):
    """Without it the laws above could hold because the knobs are ignored."""
    seed, final = 7, set()
    for number in range(len(case.knob_sets)):
        engine = engine_of(case, 1, {0: Job(0, seed, 4, case.knobs(number))})
        run(engine, 4)
        final.add(state_bits(engine, 0)["row"])
    assert len(final) == len(case.knob_sets)


def _watched(case: Case, num_slots: int, slot: int, neighbours: dict[int, int], wait: int = 0) -> tuple:
    """Trial 0's bits over three epochs in `slot`, beside trials by slot, admitted after `wait` epochs."""
    engine = engine_of(case, num_slots, {place: job(case, number) for place, number in neighbours.items()})
    run(engine, wait)
    engine.admit(job(case, 0), slot)
    return bits(run(engine, 3)[0]), state_bits(engine, slot)


@every_family
@pytest.mark.parametrize("num_slots", [2, 4])
def test_a_trial_is_the_same_to_the_bit_in_any_slot_beside_any_neighbours(case: Case, num_slots: int):
    last = num_slots - 1
    expected = _watched(case, num_slots, 0, {place: place for place in range(1, num_slots)})
    others = {place: 50 + place for place in range(last)}
    assert _watched(case, num_slots, last, others) == expected
    assert _watched(case, num_slots, 0, {}) == expected
    assert _watched(case, num_slots, last, {}) == expected
    assert _watched(case, num_slots, last, {0: 9}, wait=2) == expected


@every_family
def test_refilling_a_slot_leaves_the_neighbours_as_they_were(case: Case):
    plain = engine_of(case, 3, {slot: job(case, slot) for slot in range(3)})
    undisturbed = run(plain, 4)
    engine = engine_of(case, 3, {slot: job(case, slot) for slot in range(3)})
    first = run(engine, 2)
    assert engine.evict(1).job.trial == 1
    assert engine.free_slots == [1]
    engine.admit(job(case, 40), 1)
    assert (engine.free_slots, engine.slot_of(40)) == ([], 1)
    second = run(engine, 2)
    for trial in (0, 2):
        assert bits(first[trial] + second[trial]) == bits(undisturbed[trial])
        assert state_bits(engine, trial) == state_bits(plain, trial)
    alone = engine_of(case, 3, {1: job(case, 40)})
    assert bits(second[40]) == bits(run(alone, 2)[40]), "nothing of the evicted trial stays behind"
    assert state_bits(engine, 1) == state_bits(alone, 1)


def test_an_evicted_slot_left_empty_leaves_the_neighbours_as_they_were():
    case = by_name("beta_vae")
    plain, engine = (engine_of(case, 2, {0: job(case, 0), 1: job(case, 1)}) for _ in range(2))
    undisturbed = run(plain, 3)
    first = run(engine, 1)
    engine.evict(1)
    second = run(engine, 2)
    assert 1 not in second
    assert bits(first[0] + second[0]) == bits(undisturbed[0])


@every_family
def test_the_global_random_stream_is_neither_read_nor_moved(case: Case):
    results = []
    for seed in (1, 2):
        engine = engine_of(case, 2, {})
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        engine.admit(job(case, 0), 0)
        results.append(bits(run(engine, 1)[0]))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert results[0] == results[1]


def test_trials_with_other_seeds_differ_in_their_first_model():
    case = by_name("tiny")
    engine = engine_of(case, 2, {0: Job(0, 1, 4, case.knobs(0)), 1: Job(1, 2, 4, case.knobs(0))})
    rows = engine.stack.rows.detach()
    assert rows.any(1).all() and not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("stopped_at", [1, 3])
def test_a_trial_stopped_early_is_a_prefix_of_the_trial_run_to_its_end(stopped_at: int):
    for name in ("choosy", "beta_vae"):
        case = by_name(name)
        jobs = {slot: job(case, slot, epochs=6) for slot in range(3)}
        whole = run(engine_of(case, 3, jobs), 6)
        early = run(engine_of(case, 3, jobs), stopped_at)
        for trial, reports in whole.items():
            assert bits(early[trial]) == bits(reports[:stopped_at])
            assert [report.done for report in reports] == [False] * 5 + [True]


def test_a_slot_that_is_taken_is_not_given_twice():
    case = by_name("tiny")
    engine = engine_of(case, 2, {0: job(case, 0)})
    with pytest.raises(AssertionError, match="slot 0 is occupied"):
        engine.admit(job(case, 1), 0)
    with pytest.raises(AssertionError, match="slot 1 is empty"):
        engine.evict(1)
    with pytest.raises(KeyError):
        engine.slot_of(1)


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers():
    case = by_name("tiny")
    with pytest.raises(BadData, match=r"batch_size 65 .*64 examples"):
        Engine(case.family, case.load(), {"width": 4, "batch_size": 65}, 1)


def test_a_batch_that_the_workers_cannot_share_is_refused_with_both_numbers():
    case = by_name("tiny")

    class Three:
        rank, count = 0, 3

    with pytest.raises(BadData, match=r"batch_size 16 .*3 workers"):
        Engine(case.family, case.load(), case.full_static, 1, workers=Three())


def test_a_diverged_neighbour_is_part_of_no_other_law():
    """The poisoned family without poison is the tiny one: what the tests of divergence see is the poison."""
    tiny, poison = by_name("tiny"), POISON
    ours = run(engine_of(poison, 2, {0: job(poison, 0)}), 2)[0]
    theirs = run(engine_of(tiny, 2, {0: job(tiny, 0)}), 2)[0]
    assert bits(ours) == bits(theirs)
