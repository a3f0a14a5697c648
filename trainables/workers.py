"""The workers of one engine: what they must agree on, computed by one or by all of them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Alone", "Group", "Workers"]


class Workers(Protocol):
    """`count` workers, of which this is number `rank`; each method must be called by all of them in step."""

    rank: int
    count: int

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over workers, without gradient."""
        ...

    def all_true(self, flags: Tensor) -> Tensor:
        """bool[...]: true where it is true on every worker."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """[K, b, ...] of each worker, joined in the order of ranks: [K, count * b, ...]."""
        ...

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        """As `gather`; the gradient of each part is the sum of what all workers make of it."""
        ...


class Alone:
    """The only worker."""

    rank, count = 0, 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_true(self, flags: Tensor) -> Tensor:
        return flags

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        return tensor


class Group:
    """The workers of the default `torch.distributed` process group."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)  # NCCL takes no other
        dist.all_reduce(total)
        return total

    def all_true(self, flags: Tensor) -> Tensor:
        lowest = flags.to(torch.uint8)
        dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
        return lowest.bool()

    def gather(self, tensor: Tensor) -> Tensor:
        sent = tensor.contiguous()
        received = [torch.empty_like(sent) for _ in range(self.count)]
        dist.all_gather(received, sent)
        return torch.cat(received, 1)

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        return _Gather.apply(tensor, self)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor, group: Group) -> Tensor:
        context.group, context.size = group, tensor.shape[1]
        return group.gather(tensor)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = context.group.sum(gradient)
        return total.narrow(1, context.group.rank * context.size, context.size), None
