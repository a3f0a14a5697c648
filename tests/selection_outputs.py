"""What the family selection gives on small games, for its tests."""

from __future__ import annotations

from typing import Any

import torch
from families import by_name
from torch import Tensor

from trainables.grids import COLOURS
from trainables.selection import SELECTION
from trainables.selection_data import inside
from trainables.selection_layers import patchified
from trainables.slots import default_knobs

__all__ = ["COUNTS", "GROUP", "SIDE", "knobs", "measured", "model", "outputs"]

COUNTS = torch.tensor([9000.0, 500, 300, 100, 50, 30, 10, 6, 4, 1], dtype=torch.float64)
SIDE, GROUP = 10, 4


def knobs(**changes: Any) -> dict[str, Any]:
    return {**default_knobs(SELECTION), **changes}


def outputs(games: int = 3, length: int = 3, vocab: int = 5) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(0)
    draw = {"generator": source, "dtype": torch.float64}
    size = games * GROUP
    hw = torch.randint(1, SIDE + 1, (size, 2), generator=source)
    return {
        "scores": torch.randn(size, GROUP, **draw),
        "message": torch.randint(vocab, (size, length), generator=source),
        "logits": 2 * torch.randn(size, SIDE * SIDE, COLOURS, **draw),
        "target": torch.randint(COLOURS, (size, SIDE * SIDE), generator=source),
        "own": patchified(inside(hw, SIDE)).flatten(1),
    }


def measured(outputs: dict[str, Tensor], task: Tensor | None = None) -> dict[str, float]:
    task = torch.arange(len(outputs["scores"])) if task is None else task
    return SELECTION.measure(SELECTION.examine(outputs, {"task": task}, {}), {}).scalars


def model(name: str, size: int = 16) -> tuple[torch.nn.Module, dict, dict, dict]:
    case = by_name(name)
    torch.manual_seed(0)
    model = case.family.build(case.full_static, case.load().facts)
    batch = {key: tensor[:size] for key, tensor in case.load().splits["train"].items()}
    prepared = case.family.prepare(knobs(), case.load().facts)
    shape = case.family.noise(case.full_static, case.load().facts)["gumbel"].shape
    noise = {"gumbel": torch.rand(size, *shape, generator=torch.Generator().manual_seed(0))}
    return model, batch, noise, prepared
