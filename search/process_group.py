"""Process groups of engines that open no port to others than their own workers.

Ray Train's own set-up meets the workers through a TCP store that listens on every interface, without a
password, and lets gloo find its address by the host's name. Here the store listens on one address, and the
workers talk on the interface of that address: loopback for workers on one machine, and the address by which
the cluster knows a node for workers on several.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import ray
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

from search.cluster import LOOPBACK

__all__ = ["GroupConfig", "interface_of"]


@dataclass
class GroupConfig(TorchConfig):
    """`TorchConfig` whose workers meet as said above; a worker that is alone needs no group."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _GroupBackend


class _Meeting(NamedTuple):
    """Where the first worker's store listens."""

    host: str
    port: int


class _GroupBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: GroupConfig) -> None:
        count = len(worker_group)
        if count == 1:
            return
        places = worker_group.execute(_place)
        alone = len({node for node, _ in places}) == 1
        addresses = [LOOPBACK if alone else address for _, address in places]
        meeting = worker_group.execute_single(0, _meet, addresses[0])
        settings = {"backend": backend_config.backend, "timeout_s": backend_config.timeout_s}
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, rank, count, meeting, address, **settings)
                for rank, address in enumerate(addresses)
            ]
        )


_listening: socket.socket | None = None  # of the first worker, from its offer until its store takes it over


def _place() -> tuple[str, str]:
    """Id and address of this worker's node."""
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()


def _meet(address: str) -> _Meeting:
    """The first worker's offer, a new one for each start: a port at its address."""
    global _listening
    _listening = socket.create_server((address, 0))
    return _Meeting(address, _listening.getsockname()[1])


def _join(rank: int, count: int, meeting: _Meeting, address: str, *, backend: str, timeout_s: float) -> None:
    timeout = timedelta(seconds=timeout_s)
    interface = interface_of(address)
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    os.environ["NCCL_SOCKET_IFNAME"] = f"={interface}"  # "=": this one, not all that begin so
    # Not a file, on one machine either: whoever removes it cannot know that the others have read all of it.
    store = dist.TCPStore(
        meeting.host,
        meeting.port,
        count,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=_listening.detach() if rank == 0 else None,
        use_libuv=False,  # which takes no socket that is bound already
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)


def interface_of(address: str) -> str:
    """The network interface that has this IPv4 address. Raises OSError when none has."""
    if address == LOOPBACK:
        return "lo0" if sys.platform == "darwin" else "lo"
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
