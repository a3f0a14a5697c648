"""The tiny family with a knob that breaks a member's loss or gradient at a chosen example and step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tiny_family import Tiny, TinyAutoencoder
from torch import Tensor, nn

from trainables import keyed
from trainables.family import Batch, Choice, Noise, Number, Term

TICKETS = Noise(2**40, ())  # one whole number for each example of each step
NEVER, IN_EVALUATION = -2, -1


class _Ticketed(TinyAutoencoder):
    def forward(
        self, batch: Batch, noise: Mapping[str, Tensor], knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        outputs = super().forward(batch, noise, knobs)
        ticket = noise["ticket"] if self.training else torch.full_like(batch["label"], IN_EVALUATION)
        return {**outputs, "ticket": ticket}


class Poisoned(Tiny):
    """The example that draws `poison.ticket` gets a loss of NaN or inf, or one of infinite slope."""

    name = "poisoned"
    knobs = {
        **Tiny.knobs,
        "poison.ticket": Number(NEVER, NEVER, 2**40, "the example that is poisoned", integer=True),
        "poison.kind": Choice("nan", ("nan", "inf", "gradient"), "what becomes of it"),
    }

    def build(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
        return _Ticketed(static["width"])

    def noise(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Noise]:
        return {**super().noise(static, facts), "ticket": TICKETS}

    def prepare(self, knobs: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Tensor]:
        kind = knobs["poison.kind"]
        return {
            **super().prepare(knobs, facts),
            "ticket": torch.tensor(knobs["poison.ticket"]),
            "value": torch.tensor(float(kind) if kind != "gradient" else 0.0, dtype=torch.float64),
            "steep": torch.tensor(kind == "gradient"),
        }

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> dict[str, Term]:
        terms = super().losses(outputs, everyone, batch, knobs)
        error = terms["reconstruction"].values
        hit = outputs["ticket"] == knobs["ticket"]
        # The root of 0 is 0, and its slope infinite.
        root = torch.where(hit & knobs["steep"], error - error.detach(), torch.ones_like(error)).sqrt()
        poison = torch.where(knobs["steep"], error + root, knobs["value"])
        return {**terms, "reconstruction": Term(torch.where(hit, poison, error))}


POISONED = Poisoned()


def ticket(seed: int, epoch: int, step: int, example: int, *, batch_size: int, steps: int) -> int:
    """The ticket that one example of one step of the trial with `seed` draws; epochs count from 0."""
    drawn = keyed.draw(TICKETS, steps * batch_size, keyed.generator(seed, "ticket", epoch))
    return int(drawn[step * batch_size + example])
