"""Process groups of engines that open no port to others than their own workers.

Ray Train's own set-up meets the workers through a TCP store that listens on every interface, without a
password, and lets gloo find its address by the host's name. Here workers on one machine meet through a file
and talk on the loopback interface; workers on several nodes meet through a store that listens only on the
address by which the cluster knows the first worker's node, and talk on the interface of that address.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

__all__ = ["GroupConfig", "interface_of"]


@dataclass
class GroupConfig(TorchConfig):
    """`TorchConfig` whose workers meet as said above; a worker that is alone needs no group."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _GroupBackend


class _Meeting(NamedTuple):
    """Where the workers of a group meet: a file on their machine, or an address of the first one's node."""

    file: str | None = None
    host: str = ""
    port: int = 0


class _GroupBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: GroupConfig) -> None:
        count = len(worker_group)
        if count == 1:
            return
        places = worker_group.execute(_place)
        alone = len({node for node, _ in places}) == 1
        meeting = worker_group.execute_single(0, _meet, None if alone else places[0][1])
        settings = {"backend": backend_config.backend, "timeout_s": backend_config.timeout_s}
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, rank, count, meeting, address, **settings)
                for rank, (_, address) in enumerate(places)
            ]
        )


_listening: socket.socket | None = None  # of the first worker, from its offer until its store takes it over


def _place() -> tuple[str, str]:
    """Id and address of this worker's node."""
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()


def _meet(address: str | None) -> _Meeting:
    """The first worker's offer, a new one for each start: at its node's address, or in a file."""
    global _listening
    if address is None:
        descriptor, store = tempfile.mkstemp(prefix="loss-search-store-")
        os.close(descriptor)
        return _Meeting(file=store)
    _listening = socket.create_server((address, 0))
    return _Meeting(host=address, port=_listening.getsockname()[1])


def _join(rank: int, count: int, meeting: _Meeting, address: str, *, backend: str, timeout_s: float) -> None:
    timeout = timedelta(seconds=timeout_s)
    if meeting.file is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
        store = dist.FileStore(meeting.file, count)
    else:
        interface = interface_of(address)
        os.environ["GLOO_SOCKET_IFNAME"] = interface
        os.environ["NCCL_SOCKET_IFNAME"] = f"={interface}"  # "=": this one, not all that begin so
        store = _tcp_store(rank, count, meeting, timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
    if meeting.file is not None and rank == 0:
        Path(meeting.file).unlink(missing_ok=True)  # all have met


def _tcp_store(rank: int, count: int, meeting: _Meeting, timeout: timedelta) -> dist.TCPStore:
    descriptor = _listening.detach() if rank == 0 else None
    return dist.TCPStore(
        meeting.host,
        meeting.port,
        count,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=descriptor,
        use_libuv=False,  # which takes no socket that is bound already
    )


def interface_of(address: str) -> str:
    """The network interface that has this IPv4 address. Raises OSError when none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
            except OSError:
                continue  # an interface without an IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    raise OSError(f"no network interface has the address {address} by which the cluster knows this node")
