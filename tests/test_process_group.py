"""How the workers of an engine meet: two real processes, in a file and at an address."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from searches import listening_beyond_loopback

from search import process_group
from search.process_group import _join, _meet, _Meeting, interface_of

LOOPBACK = "127.0.0.1"
TIMEOUT_S = 3.0


def _sum(rank: int, address: str | None, folder: str, hangs: bool) -> None:
    """Meet, and add up; with `hangs` the second worker never comes to the sum."""
    place = Path(folder) / "meeting"
    if rank == 0:
        meeting = _meet(address)
        place.with_suffix(".tmp").write_text("\n".join([meeting.file or "", meeting.host, str(meeting.port)]))
        place.with_suffix(".tmp").rename(place)
    while not place.exists():
        time.sleep(0.01)
    file, host, port = place.read_text().split("\n")
    meeting = _Meeting(file or None, host, int(port))
    _join(rank, 2, meeting, LOOPBACK, backend="gloo", timeout_s=TIMEOUT_S if hangs else 60)
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


@pytest.mark.slow
@pytest.mark.parametrize("address", [None, LOOPBACK])
def test_two_workers_meet_and_open_no_port_to_others(tmp_path, address):
    multiprocessing.spawn(_sum, (address, str(tmp_path), False), nprocs=2)
    for rank in range(2):
        found, listening, error, _ = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert (found.item(), listening, error) == (3.0, [], "")


@pytest.mark.slow
def test_a_worker_that_hangs_ends_the_wait_of_the_others_after_the_timeout(tmp_path):
    multiprocessing.spawn(_sum, (LOOPBACK, str(tmp_path), True), nprocs=2)
    _, _, error, seconds = torch.load(tmp_path / "0.pt", weights_only=True)
    assert error and 0.5 * TIMEOUT_S < seconds < 4 * TIMEOUT_S


def test_the_interface_is_found_by_its_address_and_a_foreign_address_is_named():
    assert interface_of(LOOPBACK) in ("lo", "lo0")
    with pytest.raises(OSError, match=r"no network interface has the address 192\.0\.2\.254"):
        interface_of("192.0.2.254")


def test_an_offer_in_a_file_is_new_each_time():
    offers = [process_group._meet(None).file for _ in range(2)]
    assert offers[0] != offers[1]
    for offer in offers:
        Path(offer).unlink()
