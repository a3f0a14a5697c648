"""One pass of a stack over a batch: outputs, terms of the loss and what is examined, under one `vmap`.

A `vmap` costs a fifth of a millisecond whatever it does, so that as much as can be goes through one: all of
it where the workers need nothing of one another in between, which one worker alone never does. Otherwise the
model comes first, then what the workers tell one another, then the rest under a second one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap

from trainables.family import Balance, Batch, Family
from trainables.workers import Workers

__all__ = ["Forward", "Found"]


class Found(NamedTuple):
    """What a pass found of b examples (this worker's); T terms in the order of `Family.terms`.

    Attributes:
        values: f[K, T, b], 0 where a term is not active. active: f[K, T, b], 1 or 0. balance: weights that
        the models learn, or None. examined: [K, b, ...] by name, without gradient.
    """

    values: Tensor
    active: Tensor
    balance: Balance | None
    examined: dict[str, Tensor]


class Forward:
    """Passes of one family's stack.

    Args:
        module: the stack, or DDP around it. workers: as the engine's.
    """

    def __init__(self, family: Family, module: nn.Module, workers: Workers) -> None:
        self.family, self.module, self.workers = family, module, workers
        # What a family has not is not called.
        self.shares, self.joins, self.balances = (
            getattr(type(family), name) is not getattr(Family, name) for name in ("share", "join", "balance")
        )
        self.examined: tuple[str, ...] = ()  # names of what `examine` gives, of the latest pass
        self.in_one = workers.count == 1 or not (self.shares or self.joins)

    def train(
        self, batch: Batch, noise: Mapping[str, Tensor], knobs: Mapping[str, Tensor], batch_size: int
    ) -> Found:
        """A training step's pass, each member on examples [K, b, ...] of its own, with gradient.

        Args:
            batch_size: examples of all workers in a step.
        """
        if self.in_one:
            return self._found(self.module(batch, noise, knobs, then=self._at_once))
        outputs = self.module(batch, noise, knobs)
        with torch.no_grad():
            shared = vmap(self.family.share)(outputs) if self.shares else {}
            everyone = {name: self.workers.sum(t.sum(1)) / batch_size for name, t in shared.items()}
        joined = vmap(self.family.join)(outputs) if self.joins else {}
        everyone |= {name: self.workers.gather_with_gradient(t) for name, t in joined.items()}
        return self._found(vmap(self._member)(outputs, everyone, batch, knobs))

    @torch.no_grad()
    def evaluate(self, stack: nn.Module, batch: Batch, knobs: Mapping[str, Tensor], size: int) -> Found:
        """An evaluation step's pass, all members on the same examples [b, ...].

        Args:
            size: examples of all workers in this step; what the last worker has beyond them repeats one.
        """
        if self.in_one:
            return self._found(stack(batch, {}, knobs, same_batch=True, then=self._at_once))
        outputs = stack(batch, {}, knobs, same_batch=True)
        shared = vmap(self.family.share)(outputs) if self.shares else {}
        joined = vmap(self.family.join)(outputs) if self.joins else {}
        everyone = {name: self.workers.gather(t)[:, :size].mean(1) for name, t in shared.items()}
        everyone |= {name: self.workers.gather(t)[:, :size] for name, t in joined.items()}
        return self._found(vmap(self._member, in_dims=(0, 0, None, 0))(outputs, everyone, batch, knobs))

    def _at_once(
        self, outputs: Mapping[str, Tensor], batch: Batch, knobs: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """One member, everyone being the examples at hand."""
        with torch.no_grad():
            shared = self.family.share(outputs) if self.shares else {}
            everyone = {name: tensor.mean(0) for name, tensor in shared.items()}
        if self.joins:
            everyone |= self.family.join(outputs)
        return self._member(outputs, everyone, batch, knobs)

    def _member(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """One member's `Found`, flat: vmap returns that sooner than dicts in tuples."""
        found = self.family.losses(outputs, everyone, batch, knobs)
        terms = [found[name] for name in self.family.terms]
        values = torch.stack([term.values for term in terms])
        ones = torch.ones_like(terms[0].values)
        active = torch.stack([ones if t.active is None else t.active.to(ones.dtype) for t in terms])
        # Chosen by `where`: what is not active may be NaN, and 0 * NaN is NaN.
        values = torch.where(active > 0, values, torch.zeros_like(values))
        balance = self.family.balance(outputs, knobs) if self.balances else ()
        with torch.no_grad():
            seen = self.family.examine(outputs, batch, knobs)
            self.examined = tuple(seen)
            # What passes through untouched would keep the graph of every step until the epoch's end.
            return values, active, *balance, *(tensor.detach() for tensor in seen.values())

    def _found(self, parts: tuple[Tensor, ...]) -> Found:
        values, active, *rest = parts
        learnt, seen = (Balance(*rest[:2]), rest[2:]) if self.balances else (None, rest)
        return Found(values, active, learnt, dict(zip(self.examined, seen, strict=True)))
