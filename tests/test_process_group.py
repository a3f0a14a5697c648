"""How the workers of an engine meet: two real processes at an address."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from searches import listening_beyond_loopback

from search.cluster import LOOPBACK
from search.process_group import _join, _meet, _Meeting, interface_of

TIMEOUT_S = 3.0
MEETINGS = 40


def _join_at(place: Path, rank: int, timeout_s: float) -> None:
    """Meet as the workers of an engine do; the offer goes through a file instead of Ray."""
    if rank == 0:
        place.with_suffix(".tmp").write_text(str(_meet(LOOPBACK).port))
        place.with_suffix(".tmp").rename(place)
    while not place.exists():
        time.sleep(0.01)
    meeting = _Meeting(LOOPBACK, int(place.read_text()))
    _join(rank, 2, meeting, LOOPBACK, backend="gloo", timeout_s=timeout_s)


def _sum(rank: int, folder: str, hangs: bool) -> None:
    """Meet, and add up; with `hangs` the second worker never comes to the sum."""
    _join_at(Path(folder) / "meeting", rank, TIMEOUT_S if hangs else 60)
    if hangs and rank == 1:
        time.sleep(5 * TIMEOUT_S)
        return
    found = torch.tensor(rank + 1.0)
    began, error = time.monotonic(), ""
    try:
        dist.all_reduce(found)
    except RuntimeError as caught:
        error = str(caught)
    listening = listening_beyond_loopback([multiprocessing.current_process().pid])
    torch.save([found, listening, error, time.monotonic() - began], Path(folder) / f"{rank}.pt")
    if not error:
        dist.destroy_process_group()


def _meet_again(rank: int, folder: str) -> None:
    for meeting in range(MEETINGS):
        _join_at(Path(folder) / str(meeting), rank, timeout_s=20)
        dist.destroy_process_group()


@pytest.mark.slow
def test_workers_meet_each_time_however_far_one_is_ahead_of_the_other(tmp_path):
    # A store in a file that the first to have met the others removed hung: gloo waits past any timeout.
    began = time.monotonic()
    multiprocessing.spawn(_meet_again, (str(tmp_path),), nprocs=2)
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_two_workers_meet_and_open_no_port_to_others(tmp_path):
    multiprocessing.spawn(_sum, (str(tmp_path), False), nprocs=2)
    for rank in range(2):
        found, listening, error, _ = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert (found.item(), listening, error) == (3.0, [], "")


@pytest.mark.slow
def test_a_worker_that_hangs_ends_the_wait_of_the_others_after_the_timeout(tmp_path):
    multiprocessing.spawn(_sum, (str(tmp_path), True), nprocs=2)
    _, _, error, seconds = torch.load(tmp_path / "0.pt", weights_only=True)
    assert error and 0.5 * TIMEOUT_S < seconds < 4 * TIMEOUT_S


def test_the_interface_is_found_by_its_address_and_a_foreign_address_is_named():
    assert interface_of(LOOPBACK) in ("lo", "lo0")
    with pytest.raises(OSError, match=r"no network interface has the address 192\.0\.2\.254"):
        interface_of("192.0.2.254")
