"""The ledger between trials and slots, by itself, and the broker around it without Ray."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from search.broker import MAX_SKIPS, Broker, Ledger
from trainables import static_key
from trainables.decisions import CONTINUE, FINISH, PAUSE

SMALL, LARGE = {"width": 4}, {"width": 8}
KEY = static_key(SMALL)


def job(trial: int, static: dict[str, int] | None = None, **more: Any) -> dict[str, Any]:
    return {"trial": trial, "static": static or SMALL, **more}


def row(trial: int, epoch: int) -> dict[str, Any]:
    return {"trial": trial, "epoch": epoch}


def ledger_with(*jobs: dict[str, Any], **settings: Any) -> Ledger:
    ledger = Ledger(**settings)
    for one in jobs:
        ledger.submit(one)
    return ledger


def given(
    ledger: Ledger, engine: str = "a", current: str | None = None, free: int = 4, busy: int = 0
) -> list:
    return [one["trial"] for one in ledger.assign(engine, current, free, busy)]


# ---- the queue


def test_jobs_leave_the_queue_in_the_order_in_which_they_came():
    ledger = ledger_with(*(job(trial) for trial in (3, 1, 2)))
    assert given(ledger, free=2) == [3, 1]
    assert given(ledger, current=KEY, free=1, busy=2) == [2]
    assert given(ledger, current=KEY, free=1, busy=3) == []
    occupancy = ledger.occupancy()
    assert (occupancy["busy"], occupancy["queued"]) == (3, 0)


def test_a_job_carries_the_epochs_that_were_reported():
    ledger = ledger_with(job(1, reported=5, seed=3))
    assert ledger.assign("a", None, 1, 0) == [{"trial": 1, "static": SMALL, "seed": 3, "reported": 5}]


def test_a_trial_cannot_be_submitted_twice():
    ledger = ledger_with(job(1))
    with pytest.raises(AssertionError, match="trial 1 is submitted twice"):
        ledger.submit(job(1))


def test_a_stack_holds_jobs_of_one_static_setting():
    ledger = ledger_with(job(1), job(2, LARGE), job(3), job(4, LARGE))
    assert given(ledger) == [1, 3]
    assert given(ledger, current=KEY, free=2, busy=2) == []
    assert given(ledger, "b") == [2, 4]


def test_an_empty_engine_takes_the_first_job_whatever_it_trained_before():
    ledger = ledger_with(job(1, LARGE), job(2))
    assert given(ledger, current=KEY, free=4, busy=0) == [1]


@pytest.mark.parametrize("alone", [False, True])
def test_a_job_that_needs_an_empty_engine_is_overtaken_a_limited_number_of_times(alone: bool):
    waiting = job(0, alone=True) if alone else job(0, LARGE)
    ledger = ledger_with(job(1), waiting, *(job(trial) for trial in range(2, 100)))
    assert given(ledger, free=1) == [1]
    overtook = 0
    while passing := given(ledger, current=KEY, free=1, busy=1):
        overtook += len(passing)
    assert overtook == MAX_SKIPS
    assert given(ledger, current=KEY, free=2, busy=0) == [0], "a drained engine takes it"


def test_waiting_without_being_overtaken_costs_nothing():
    ledger = ledger_with(job(1), job(0, LARGE))
    given(ledger)
    for _ in range(3 * MAX_SKIPS):
        assert given(ledger, current=KEY, free=3, busy=1) == []
    ledger.submit(job(2))
    assert given(ledger, current=KEY, free=3, busy=1) == [2]


# ---- rows


def test_a_row_is_delivered_once_and_answered_by_coming_back():
    ledger = ledger_with(job(1))
    given(ledger)
    assert ledger.row_for(1) is None
    ledger.post("a", [row(1, 1)])
    assert ledger.decisions("a", [1]) is None
    assert ledger.row_for(1) == row(1, 1)
    assert ledger.row_for(1) is None
    assert ledger.decisions("a", [1]) is None, "delivered is not answered"
    ledger.acknowledge(1)
    assert ledger.decisions("a", [1]) == {1: CONTINUE}
    assert ledger.entries[1].acknowledged == 1


def test_coming_back_before_a_row_was_delivered_answers_nothing():
    ledger = ledger_with(job(1))
    given(ledger)
    ledger.post("a", [row(1, 1)])
    ledger.acknowledge(1)
    assert ledger.row_for(1) == row(1, 1)


def test_a_restarted_proxy_gets_the_unanswered_row_again():
    ledger = ledger_with(job(1))
    given(ledger)
    ledger.post("a", [row(1, 1)])
    ledger.row_for(1)
    ledger.join(1)
    ledger.acknowledge(1)
    assert ledger.row_for(1) == row(1, 1)
    assert ledger.row_for(1) is None
    ledger.acknowledge(1)
    ledger.join(1)
    assert ledger.row_for(1) is None, "an answered row is not delivered again"
    ledger.join(99)
    assert 99 not in ledger.entries


def test_rows_of_epochs_that_were_answered_are_not_delivered_again():
    ledger = ledger_with(job(1, reported=3))
    given(ledger)
    for epoch in (2, 3):
        ledger.post("a", [row(1, epoch)])
        assert ledger.row_for(1) is None
        assert ledger.decisions("a", [1]) == {1: CONTINUE}
    ledger.post("a", [row(1, 4)])
    assert ledger.row_for(1) == row(1, 4)


def test_a_delivered_row_is_not_delivered_again_when_a_restarted_engine_trains_its_epoch_anew():
    ledger = ledger_with(job(1))
    given(ledger)
    ledger.post("a", [row(1, 1)])
    assert ledger.row_for(1) == row(1, 1)
    ledger.attach("a", {"slots": 4})
    given(ledger)
    ledger.post("a", [row(1, 1)])
    assert ledger.row_for(1) is None
    ledger.acknowledge(1)
    assert ledger.decisions("a", [1]) == {1: CONTINUE}


def test_a_row_of_an_engine_that_no_longer_holds_the_trial_is_ignored_and_its_copy_paused():
    ledger = ledger_with(job(1))
    given(ledger)
    ledger.attach("a", {"slots": 4})
    assert given(ledger, "b") == [1]
    ledger.post("a", [row(1, 1)])
    assert ledger.row_for(1) is None
    assert ledger.decisions("a", [1, 77]) == {1: PAUSE, 77: PAUSE}
    ledger.withdraw(1, FINISH)
    ledger.released("a", [1])
    assert ledger.decisions("b", [1]) == {1: FINISH}, "only the engine that holds it releases it"


# ---- withdrawing


def test_withdrawn_while_it_waits_a_trial_never_starts():
    ledger = ledger_with(job(1), job(2))
    ledger.withdraw(1, PAUSE)
    ledger.withdraw(99, PAUSE)
    assert given(ledger) == [2]
    assert 1 not in ledger.entries


@pytest.mark.parametrize("how", [FINISH, PAUSE])
@pytest.mark.parametrize("pending", [False, True])
def test_withdrawn_in_its_slot_a_trial_leaves_at_the_engines_next_turn(how: str, pending: bool):
    ledger = ledger_with(job(1), job(2))
    given(ledger)
    if pending:
        ledger.post("a", [row(1, 1)])
    ledger.withdraw(1, how)
    assert ledger.row_for(1) is None
    ledger.post("a", [row(1, 2)])
    assert ledger.decisions("a", [1, 2]) == {1: how, 2: CONTINUE}
    ledger.released("a", [1, 2])
    assert list(ledger.entries) == [2], "what was not withdrawn stays"


def test_a_withdrawn_trial_is_not_queued_again_when_its_engine_dies():
    ledger = ledger_with(job(1))
    given(ledger)
    ledger.withdraw(1, FINISH)
    ledger.attach("a", {"slots": 1})
    assert not ledger.entries and not ledger.queue


# ---- engines that die


def test_an_engine_that_restarts_finds_its_trials_at_the_front_in_their_order_each_to_be_tried_alone():
    ledger = ledger_with(*(job(trial) for trial in (1, 2, 3, 4)))
    ledger.attach("a", {"slots": 2})
    assert given(ledger, free=2) == [1, 2]
    ledger.attach("a", {"slots": 2})
    assert ledger.engines["a"] == {"slots": 2, "restarts": 1}
    assert ledger.queue == [1, 2, 3, 4]
    (first,) = ledger.assign("a", None, 2, 0)
    assert (first["trial"], first["resume"], first["alone"], first["retries"]) == (1, True, True, 1)
    assert given(ledger, current=KEY, free=1, busy=1) == [], "nobody joins a trial that is tried alone"
    assert given(ledger, "b", free=2) == [2]
    assert given(ledger, "c", free=2) == [3, 4]


def test_an_engine_that_is_gone_for_good_leaves_its_trials_to_others():
    ledger = ledger_with(job(1))
    ledger.attach("a", {"slots": 3})
    given(ledger)
    assert (ledger.occupancy()["slots"], ledger.occupancy()["busy"]) == (3, 1)
    ledger.detach("a")
    occupancy = ledger.occupancy()
    assert (occupancy["slots"], occupancy["busy"], occupancy["queued"]) == (0, 0, 1)
    assert given(ledger, "b") == [1]


def test_an_engine_that_has_saved_all_at_the_end_is_gone_and_its_trials_are_no_failures():
    ledger = ledger_with(job(1))
    ledger.attach("a", {"slots": 1})
    given(ledger)
    ledger.closed = True
    ledger.ended("a")
    assert ledger.occupancy()["engines"] == []
    assert ledger.queue == [] and ledger.entries[1].failures == 0


def test_a_trial_that_has_had_its_retries_fails_with_the_reason_and_the_number_of_retries():
    ledger = ledger_with(job(1), max_failures=2)
    for _ in range(2):
        assert given(ledger) == [1]
        ledger.requeue([1], error="Traceback", reason="raised")
        assert ledger.row_for(1) is None
    assert given(ledger) == [1]
    ledger.requeue([1], error="Traceback: it broke", reason="raised")
    assert given(ledger) == []
    failed = {"trial": 1, "failed": "raised", "error": "Traceback: it broke", "retries": 2}
    assert ledger.row_for(1) == failed
    ledger.join(1)
    assert ledger.row_for(1) == failed
    ledger.withdraw(1, FINISH)
    assert not ledger.entries


def test_without_retries_a_trial_of_a_stack_is_still_tried_alone_once_before_it_fails():
    """Its neighbour may have broken the stack."""
    ledger = ledger_with(job(1), job(2), max_failures=0)
    assert given(ledger) == [1, 2]
    ledger.requeue([1, 2], error="", reason="raised")
    assert given(ledger) == [1]
    ledger.requeue([1], error="", reason="raised")
    assert ledger.row_for(1)["failed"] == "raised"
    assert given(ledger) == [2]


def test_the_unanswered_row_of_a_trial_that_is_queued_again_is_still_answered():
    ledger = ledger_with(job(1))
    given(ledger)
    ledger.post("a", [row(1, 1)])
    ledger.attach("a", {"slots": 4})
    assert ledger.row_for(1) == row(1, 1)
    ledger.acknowledge(1)
    assert ledger.assign("b", None, 1, 0)[0]["reported"] == 1


# ---- the broker, waiting


def _run(coroutine: Any) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(coroutine, 10)

    return asyncio.run(limited())


def test_a_post_returns_when_every_row_has_its_answer():
    async def scene() -> None:
        broker = Broker()
        for trial in (1, 2):
            await broker.submit(job(trial))
        assert await broker.next_jobs("a", None, 2, 0, 1.0) == (
            False,
            [{**job(1), "reported": 0}, {**job(2), "reported": 0}],
        )
        post = asyncio.create_task(broker.post("a", [row(1, 1), row(2, 1)], 5.0))
        assert await broker.take(1, 5.0) == row(1, 1)
        assert await broker.take(2, 5.0) == row(2, 1)
        again = asyncio.create_task(broker.take(1, 5.0))
        await asyncio.sleep(0.02)
        assert not post.done()
        await broker.withdraw(2, FINISH)
        assert await post == {1: CONTINUE, 2: FINISH}
        await broker.released("a", [2])
        await broker.post("a", [row(1, 2)], 0.0)
        assert await again == row(1, 2)
        assert (await broker.occupancy())["busy"] == 1

    _run(scene())


def test_what_does_not_come_in_time_is_none_and_may_be_asked_for_again():
    async def scene() -> None:
        broker = Broker()
        assert await broker.next_jobs("a", None, 1, 0, 0.01) == (False, [])
        assert await broker.next_jobs("a", None, 1, 1, 60.0) == (False, []), "a busy engine does not wait"
        await broker.submit(job(1))
        await broker.next_jobs("a", None, 1, 0, 1.0)
        assert await broker.take(1, 0.01) is None
        assert await broker.post("a", [row(1, 1)], 0.01) is None
        assert await broker.wait(1, 0.01) == row(1, 1)
        assert await broker.decisions("a", [1], 0.01) is None
        assert await broker.take(1, 0.01) is None
        assert await broker.decisions("a", [1], 0.01) == {1: CONTINUE}
        assert await broker.published("slots") is None

    _run(scene())


def test_an_idle_engine_wakes_when_a_job_comes_and_a_published_fact_wakes_who_waits_for_it():
    async def scene() -> None:
        broker = Broker()
        idle = asyncio.create_task(broker.next_jobs("a", None, 1, 0, 60.0))
        fact = asyncio.create_task(broker.published("slots", 60.0))
        await asyncio.sleep(0.01)
        await broker.submit(job(1))
        await broker.publish("slots", 4)
        assert [one["trial"] for one in (await idle)[1]] == [1]
        assert await fact == 4

    _run(scene())


def test_closing_pauses_what_waits_for_an_answer_and_ends_the_engines():
    async def scene() -> None:
        broker = Broker()
        await broker.submit(job(1))
        await broker.submit(job(2, LARGE))
        await broker.next_jobs("a", None, 1, 0, 1.0)
        waiting = asyncio.create_task(broker.post("a", [row(1, 1)], 60.0))
        idle = asyncio.create_task(broker.next_jobs("b", KEY, 0, 0, 60.0))
        await asyncio.sleep(0.01)
        await broker.close()
        assert await waiting == {1: PAUSE}
        assert await idle == (True, [])
        assert await broker.next_jobs("a", KEY, 1, 0, 60.0) == (True, [])

    _run(scene())


def test_an_exception_is_counted_against_the_trials_that_the_engine_holds_and_no_others():
    async def scene() -> None:
        broker = Broker(max_failures=0)
        for trial in (1, 2):
            await broker.submit(job(trial))
        await broker.next_jobs("a", None, 1, 0, 1.0)
        await broker.raised("a", [1, 2, 99], "Traceback", "raised")
        assert broker.ledger.queue == [1, 2]
        await broker.raised("a", [1], "Traceback", "raised")
        assert broker.ledger.queue == [1, 2], "said twice"
        assert (broker.ledger.entries[1].failures, broker.ledger.entries[2].failures) == (1, 0)
        await broker.attach("a", {"slots": 1})
        await broker.detach("a")
        await broker.join(1)
        await broker.next_jobs("a", None, 1, 0, 1.0)
        await broker.raised("a", [1], "Traceback", "out_of_memory")
        assert (await broker.take(1, 1.0))["failed"] == "out_of_memory"

    _run(scene())


def test_a_row_that_still_waits_is_delivered_before_the_message_that_its_trial_failed():
    ledger = Ledger(max_failures=0)
    ledger.submit({"trial": 1, "static": {}})
    ledger.attach("a", {"slots": 1})
    ledger.assign("a", None, 1, 0)
    ledger.requeue([1], error="", reason="engine_died")  # from now on it is tried alone
    ledger.assign("a", None, 1, 0)
    ledger.post("a", [{"trial": 1, "epoch": 1}])
    ledger.requeue([1], error="gone", reason="engine_died")
    assert ledger.row_for(1)["epoch"] == 1
    ledger.acknowledge(1)
    assert ledger.row_for(1)["failed"] == "engine_died"
    assert ledger.entries[1].acknowledged == 1
