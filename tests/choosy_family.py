"""The tiny family with a term for some examples only, more schedules, and an odd validation split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tiny_family import Tiny
from torch import Tensor

from trainables.family import Batch, Choice, Data, Number, Term


class Choosy(Tiny):
    """`rare`: the error of class 1 where the first feature is above `rare.floor`; NaN for the others."""

    name = "choosy"
    terms = ("reconstruction", "penalty", "rare")
    knobs = {
        **Tiny.knobs,
        "rare.weight": Number(0.5, 0.0, 10.0, "full weight of the rare term"),
        "rare.schedule": Choice("constant", ("constant", "adaptive"), "how that weight moves"),
        "rare.floor": Number(-100.0, -100.0, 100.0, "first feature above which an example takes part"),
        "optim.weight_decay": Number(0.0, 0.0, 1.0, "AdamW's decoupled weight decay"),
        "optim.schedule": Choice("constant", ("constant", "cosine", "warmup_cosine"), "learning rate"),
        "optim.warmup": Number(0.1, 0.0, 0.5, "fraction of the budget in which the rate rises"),
    }

    def load(self, settings: Mapping[str, Any]) -> Data:
        data = super().load(settings)
        data.splits["val"] = {name: tensor[:31] for name, tensor in data.splits["val"].items()}
        return data

    def prepare(self, knobs: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Tensor]:
        floor = torch.tensor(knobs["rare.floor"], dtype=torch.float64)
        return {**super().prepare(knobs, facts), "floor": floor}

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> dict[str, Term]:
        terms = super().losses(outputs, everyone, batch, knobs)
        active = (batch["label"] == 1) & (batch["x"][:, 0] > knobs["floor"])
        values = torch.where(active, terms["reconstruction"].values, torch.nan)
        return {**terms, "rare": Term(values, active.to(values.dtype))}


CHOOSY = Choosy()
