"""Process groups on one machine that open no port to others.

Ray Train's own set-up meets the workers through a TCP store that listens on every interface, without a
password. On one machine a file does, and gloo is told to listen on the loopback interface.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

__all__ = ["LoopbackTorchConfig"]


@dataclass
class LoopbackTorchConfig(TorchConfig):
    """`TorchConfig` for workers that all run on this machine; a worker that is alone needs no group."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _LoopbackBackend


class _LoopbackBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: LoopbackTorchConfig) -> None:
        count = len(worker_group)
        if count == 1:
            return
        descriptor, store = tempfile.mkstemp(
            prefix="loss-search-store-"
        )  # a new one for each start of the group
        os.close(descriptor)
        settings = {"backend": backend_config.backend, "store": store, "timeout_s": backend_config.timeout_s}
        ray.get(
            [worker_group.execute_single_async(rank, _join, rank, count, **settings) for rank in range(count)]
        )
        Path(store).unlink(missing_ok=True)


def _join(rank: int, count: int, *, backend: str, store: str, timeout_s: float) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    dist.init_process_group(
        backend,
        init_method=f"file://{store}",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=timeout_s),
    )
