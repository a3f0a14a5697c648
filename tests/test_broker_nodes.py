"""The ledger when nodes of a cluster die, or say that they will."""

from __future__ import annotations

import asyncio

from test_broker import KEY, given, job, ledger_with, row

from search.broker import Broker, Ledger
from trainables.decisions import CONTINUE, PAUSE


def held(*engines: str) -> Ledger:
    """Each engine on a node of its own, `node-<engine>`, holds two trials of three."""
    ledger = ledger_with(*(job(trial) for trial in range(3 * len(engines))))
    for engine in engines:
        ledger.attach(engine, {"slots": 2, "nodes": [f"node-{engine}"]})
        ledger.assign(engine, None, 2, 0)
    return ledger


def test_a_node_that_dies_leaves_its_trials_to_others_and_none_is_to_blame():
    ledger = held("a", "b")
    ledger.gone(["node-a"])
    assert ledger.queue == [0, 1, 4, 5]
    assert ledger.occupancy()["engines"] == ["b"]
    for trial in (0, 1):
        assert ledger.entries[trial].failures == 0
        assert ledger.entries[trial].job["resume"] and not ledger.entries[trial].job.get("alone")
    assert ledger.entries[2].engine == "b"


def test_a_failure_counted_before_the_death_of_the_node_was_known_is_taken_back():
    ledger = held("a")
    for _ in range(2):  # a worker that dies by itself, then one with its node
        ledger.attach("a", {"slots": 2, "nodes": ["node-a"]})
        assert given(ledger) == [0]
    ledger.attach("a", {"slots": 2, "nodes": ["node-new"]})
    assert ledger.entries[0].failures == 3
    ledger.gone(["node-a"])
    assert ledger.entries[0].failures == 2 and ledger.entries[0].job["alone"]
    ledger.gone(["node-a"])
    assert ledger.entries[0].failures == 2, "taken back once"


def test_the_death_of_a_node_of_no_engine_changes_nothing():
    ledger = held("a")
    ledger.gone(["node-z"])
    assert ledger.queue == [2] and ledger.entries[0].engine == "a"


def test_an_engine_whose_node_will_go_saves_its_trials_and_gets_no_more():
    ledger = held("a", "b")
    ledger.post("a", [row(0, 1)])
    ledger.leave("a")
    assert ledger.decisions("a", [0, 1]) is None, "a row that waits is answered first"
    assert ledger.row_for(0) == row(0, 1)
    ledger.acknowledge(0)
    assert ledger.decisions("a", [0, 1]) == {0: PAUSE, 1: PAUSE}
    ledger.released("a", [0, 1])
    assert given(ledger, "a") == []
    assert given(ledger, "b", current=KEY, free=4) == [0, 1, 4, 5]
    assert ledger.entries[0].failures == 0
    assert ledger.decisions("b", [2]) == {2: CONTINUE}


def test_an_engine_that_leaves_ends_when_it_holds_nothing():
    async def scene() -> None:
        broker = Broker()
        await broker.submit(job(0))
        await broker.attach("a", {"slots": 1, "nodes": ["node-a"]})
        await broker.leave("a")
        assert await broker.next_jobs("a", None, 1, 0, 0.01) == (True, [])
        await broker.attach("a", {"slots": 1, "nodes": ["node-b"]})  # restarted on another node
        assert (await broker.next_jobs("a", None, 1, 0, 0.01))[1] != []

    asyncio.run(scene())
