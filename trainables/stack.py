"""K models of one shape as one module, trained as one batched computation.

All parameters live in one tensor `rows` f[K, P]: row k is the k-th model, so admitting, evicting, clipping
and checkpointing a member are row operations, and DDP has a single parameter to reduce. P is rounded up to
16 numbers, so that each row starts at the same alignment and a member's arithmetic does not depend on its
slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

__all__ = ["Stack"]

ALIGNMENT = 16  # numbers: 64 bytes of float32, the widest vector register and a cache line


class Stack(nn.Module):
    """`num_slots` copies of `template` on a leading axis.

    The template stays off the module registry. Its own parameters are taken from it, and each pass puts parts
    of the rows in their places (`torch.func.functional_call` would look all of them up twice a step). Its
    buffers must be constants, equal for all members, that no state_dict holds.
    """

    def __init__(
        self, template: nn.Module, num_slots: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._template = (template.to(device=device, dtype=dtype),)  # a tuple hides it from nn.Module
        named = list(template.named_parameters())
        if state := set(template.state_dict()) - {name for name, _ in named}:
            raise ValueError(
                f"the model has buffers with a state of their own, {sorted(state)}, its copies would share; "
                "make them parameters, or constants with register_buffer(..., persistent=False)"
            )
        self.names = [name for name, _ in named]
        self.shapes = [parameter.shape for _, parameter in named]
        self.sizes = [parameter.numel() for _, parameter in named]
        used = sum(self.sizes)
        self.padding = -used % ALIGNMENT
        self.rows = nn.Parameter(torch.zeros(num_slots, used + self.padding, device=device, dtype=dtype))
        self._places = [_place(template, name) for name in self.names]
        for module, name in self._places:
            delattr(module, name)  # a parameter's place takes no other tensor

    @property
    def num_slots(self) -> int:
        return self.rows.shape[0]

    @property
    def template(self) -> nn.Module:
        return self._template[0]

    def train(self, mode: bool = True) -> Stack:
        self.template.train(mode)
        return super().train(mode)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        noise: Mapping[str, Tensor],
        knobs: Mapping[str, Tensor],
        *,
        same_batch: bool = False,
        then: Callable[..., Any] | None = None,
    ) -> Any:
        """Outputs [K, B, ...] of every member.

        Args:
            batch: tensors [K, B, ...], each member's own examples; or [B, ...] for all when `same_batch`.
            noise: tensors [K, B, ...]; empty in evaluation.
            knobs: tensors [K, ...], as `Family.prepare` made them, one row a member.
            then: what is made of one member's (outputs, batch, knobs) under the same vmap: tensors in dicts
                and tuples. They are returned in the outputs' place.
        """
        lone = self.num_slots == 1
        rows = {"row": self.rows.view(-1) if lone else self.rows}
        if lone:
            knobs = {name: value[0] for name, value in knobs.items()}
            batch = {name: tensor.unsqueeze(0) for name, tensor in batch.items()} if same_batch else batch
        # Mapped over, or closed over where it is common to all: the batch of all members; and of one member
        # its parameters and knobs, common to its examples, which so reach the kernels of a single model (its
        # LayerNorm takes half the time, tests/bench/LOG.md).
        groups = ((rows, not lone), (batch, lone or not same_batch), (noise, True), (knobs, not lone))

        def one(*mapped: Tensor) -> Any:
            rest = iter(mapped)
            of_row, of_batch, of_noise, of_knobs = (
                {name: next(rest) for name in group} if own else group for group, own in groups
            )
            parts = of_row["row"].split([*self.sizes, self.padding])
            for (module, name), part, shape in zip(self._places, parts, self.shapes, strict=False):
                object.__setattr__(module, name, part.view(shape))  # nn.Module's own asks what it is
            outputs = self.template(of_batch, of_noise, of_knobs)
            return then(outputs, of_batch, of_knobs) if then else outputs

        # One after the other, all on axis 0: vmap takes them in half the time of nested dicts.
        return vmap(one)(*(tensor for group, own in groups if own for tensor in group.values()))

    @torch.no_grad()
    def write_row(self, slot: int, state: Mapping[str, Tensor]) -> None:
        """Make row `slot` the model whose `state_dict` is `state`. Raises ValueError when it does not fit."""
        if set(state) != set(self.names):
            missing, extra = set(self.names) - set(state), set(state) - set(self.names)
            raise ValueError(
                f"state_dict does not fit the model: missing {sorted(missing)}, extra {sorted(extra)}"
            )
        row = self.rows[slot]
        for name, part, shape in zip(
            self.names, row.split([*self.sizes, self.padding]), self.shapes, strict=False
        ):
            if state[name].shape != shape:
                raise ValueError(
                    f"state_dict: {name} is {tuple(state[name].shape)}, the model has {tuple(shape)}"
                )
            part.copy_(state[name].flatten())

    @torch.no_grad()
    def read_row(self, slot: int) -> dict[str, Tensor]:
        """Row `slot` as an ordinary `state_dict` of the single model, copied to the CPU."""
        return self.as_state(self.rows[slot].cpu().clone())

    def view(self, row: Tensor, name: str) -> Tensor:
        """The part of a row f[P] that belongs to parameter `name`, in its shape; shares the row's memory."""
        number = self.names.index(name)
        start = sum(self.sizes[:number])
        return row[start : start + self.sizes[number]].view(self.shapes[number])

    def views(self, slot: int) -> dict[str, Tensor]:
        """Every parameter of row `slot`, without gradient; they share its memory."""
        row = self.rows[slot].detach()
        return {name: self.view(row, name) for name in self.names}

    def as_state(self, row: Tensor) -> dict[str, Tensor]:
        """A row f[P] as a `state_dict`; each tensor owns its storage, so that saving one saves no more."""
        parts = row.split([*self.sizes, self.padding])
        return {
            name: part.clone().view(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=False)
        }


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds the parameter `name`, as "encoder.0.weight", and its name there."""
    path, _, last = name.rpartition(".")
    return module.get_submodule(path), last
