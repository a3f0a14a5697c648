"""What the family panels gives on small pages, for its tests."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from families import Case, by_name
from torch import Tensor

from trainables.panels import PANELS
from trainables.slots import default_knobs

__all__ = ["RAGGED", "model", "outputs", "prepared"]

RAGGED = [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def unit(*shape: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


def outputs(shown: Any = RAGGED, both: Any = None, backwards: float = 0.5) -> dict[str, Tensor]:
    """What the model gives for pages whose panels are shown so; masked is the mean over a page's panels."""
    shown = torch.tensor(shown, dtype=torch.bool)
    both = shown if both is None else shown & torch.tensor(both, dtype=torch.bool)
    pages, panels = shown.shape
    fused = unit(pages, panels, 6, seed=0)
    return {
        "fused": fused,
        "image": unit(pages, panels, 6, seed=1),
        "text": unit(pages, panels, 6, seed=2),
        "gate": torch.full((pages, panels, 3), 1 / 3, dtype=torch.float64),
        "distance": (fused - unit(pages, panels, 6, seed=3)).square().sum(-1),
        "masked": shown / shown.sum(-1, keepdim=True).clamp(min=1).double(),
        "backwards": torch.full((pages,), backwards, dtype=torch.float64),
        "shown": shown,
        "both": both,
        "page": torch.arange(pages) + 40,
    }


def prepared(**changes: Any) -> dict[str, Tensor]:
    return PANELS.prepare({**default_knobs(PANELS), **changes}, {})


def model(
    name: str = "panels", **static: Any
) -> tuple[torch.nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """A model, eight training pages, and noise that drops nothing."""
    case: Case = by_name(name)
    data = case.load()
    torch.manual_seed(0)
    chosen = {**case.full_static, **static}
    model = case.family.build(chosen, data.facts)
    batch = {key: tensor[:8].clone() for key, tensor in data.splits["train"].items()}
    noise = {"masked": torch.rand(8), "dropout": torch.ones(8, data.facts["panels"], chosen["width"])}
    return model, batch, noise
