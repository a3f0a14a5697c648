"""Two workers with shares of every batch compute, for each trial, what one worker computes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from families import CASES, POISON, Case, engine_of, ids, job, numbers, state_numbers
from poisoned_family import ticket

from trainables.engine import Engine
from trainables.workers import Group

pytestmark = pytest.mark.slow

WORKERS = 2
DTYPES = {"float64": torch.float64, "float32": torch.float32}
LATE_EXAMPLE = 13  # of 16: the second worker's share


def _trained(case: Case, **settings: Any) -> dict[str, Any]:
    """Three trials in four slots, one of which is replaced; rows by trial, and the state of each slot."""
    jobs = {slot: job(case, slot) for slot in range(3)}
    if case is POISON:
        bad = ticket(jobs[1].seed, 1, 2, LATE_EXAMPLE, batch_size=16, steps=4)
        jobs[1] = job(case, 1, **{"poison.ticket": bad})
    engine = engine_of(case, 4, jobs, **settings)
    reports = engine.run_epoch()
    engine.evict(2)
    engine.admit(job(case, 20), 3)
    reports += engine.run_epoch() + engine.run_epoch()
    rows = [(r.trial, r.epoch, r.diverged, numbers(r)) for r in reports]
    return {"rows": rows, "state": [state_numbers(engine, slot) for slot in (0, 1, 3)]}


def _worker(rank: int, port: int, directory: str) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, WORKERS, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORKERS)
    settings = {"workers": Group(), "wrap": torch.nn.parallel.DistributedDataParallel}
    found = {
        f"{case.name} {name}": _trained(case, dtype=dtype, **settings)
        for case in (*CASES, POISON)
        for name, dtype in DTYPES.items()
    }
    torch.save(found, Path(directory) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two real workers found, on a port that the parent's store chose."""
    directory = tmp_path_factory.mktemp("ddp")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the host's own name need not resolve
    try:
        multiprocessing.spawn(_worker, (store.port, str(directory)), nprocs=WORKERS)
    finally:
        if before is None:
            del os.environ["GLOO_SOCKET_IFNAME"]
        else:
            os.environ["GLOO_SOCKET_IFNAME"] = before
    return [torch.load(directory / f"{rank}.pt", weights_only=True) for rank in range(WORKERS)]


def _check_rows(ours: dict[str, float], alone: dict[str, float], exact: bool) -> None:
    if exact:
        assert ours == pytest.approx(alone, rel=1e-9, abs=1e-9, nan_ok=True)
        return
    # In float32 a rounding may turn an answer that was a draw: metrics that count are left to float64.
    names = [name for name in alone if name.startswith(("weight.", "active.", "lr", "grad_norm"))]
    names += [
        name for name in alone if name.split(".")[-1] in ("reconstruction", "penalty", "kl", "rare", "loss")
    ]
    for name in names:
        assert ours[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-4, nan_ok=True), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", (*CASES, POISON), ids=ids)
def test_two_workers_give_each_trial_what_one_gives(case: Case, dtype: str, found: list[dict[str, Any]]):
    alone = _trained(case, dtype=DTYPES[dtype])
    exact = dtype == "float64"
    limit = 1e-9 if exact else 1e-4
    for results in found:
        ours = results[f"{case.name} {dtype}"]
        for (*which, row), (*expected_which, expected_row) in zip(ours["rows"], alone["rows"], strict=True):
            assert which == expected_which
            _check_rows(row, expected_row, exact)
        for slot, expected in zip(ours["state"], alone["state"], strict=True):
            for name, tensor in expected.items():
                torch.testing.assert_close(slot[name], tensor, rtol=limit, atol=limit)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_both_workers_hold_the_same_bits(case: Case, found: list[dict[str, Any]]):
    first, second = (results[f"{case.name} float32"]["state"] for results in found)
    for ours, theirs in zip(first, second, strict=True):
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name])


def test_a_loss_that_breaks_on_one_worker_ends_the_trial_on_both(found: list[dict[str, Any]]):
    for results in found:
        rows = results["poisoned float64"]["rows"]
        assert [diverged for trial, _, diverged, _ in rows if trial == 1] == [False, True, True]
        assert not any(diverged for trial, _, diverged, _ in rows if trial != 1)
        assert results["poisoned float64"]["state"][1]["step"] == 6


def test_without_wrapping_each_worker_would_train_on_its_share_alone():
    """What the laws above rest on: an engine of two workers does not see the whole batch by itself."""

    class Half:
        rank, count = 1, 2

    case = CASES[0]
    engine = Engine(case.family, case.load(), case.full_static, 1, workers=Half())
    engine.admit(job(case, 0), 0)
    plan = engine._plan()
    assert plan.order.shape == (1, 4, 8)
    whole = engine_of(case, 1, {0: job(case, 0)})._plan()
    assert torch.equal(plan.order, whole.order[:, :, 8:])
    assert torch.equal(plan.noise["code"], whole.noise["code"][:, :, 8:])
