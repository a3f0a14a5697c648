"""Randomness that depends on a trial's seed and a purpose, never on a shared stream, a slot or a
neighbour.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from trainables.family import Noise

__all__ = ["draw", "generator", "key"]


def key(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed for (`seed`, `purpose`, `epoch`): equal on every machine and version."""
    digest = hashlib.blake2b(f"{seed}|{purpose}|{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator at the start of the stream of (`seed`, `purpose`, `epoch`)."""
    return torch.Generator().manual_seed(key(seed, purpose, epoch))


def draw(noise: Noise, count: int, source: torch.Generator) -> Tensor:
    """`count` examples' worth of `noise`, [count, *shape]: f32, or i64 for whole numbers."""
    shape = (count, *noise.shape)
    if noise.kind == "normal":
        return torch.randn(shape, generator=source)
    if noise.kind == "uniform":
        return torch.rand(shape, generator=source)
    return torch.randint(int(noise.kind), shape, generator=source)
