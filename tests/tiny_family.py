"""A family small enough for the tests of the space, the engine and the driver; real in every method.

Two classes of synthetic vectors f[8], a clean copy of which an autoencoder must restore. `reconstruction` is
the squared error, `penalty` the spread of the code. A code whose scale is below 0.01 counts as collapsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from trainables.family import Batch, Choice, Data, Family, Measured, Metric, Noise, Number, Term

FEATURES, CLASSES = 8, 2
CODE_SCALE = 0.01  # root mean square of a code that carries nothing


class TinyAutoencoder(nn.Module):
    """forward: batch x f[B, 8] (and clean f[B, 8]) -> restored f[B, 8], clean f[B, 8], code f[B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, width)
        self.decoder = nn.Linear(width, FEATURES)

    def forward(
        self, batch: Batch, noise: Mapping[str, Tensor], knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        code = torch.tanh(self.encoder(batch["x"]))
        if self.training:
            code = code + 0.1 * noise["code"]
        return {"restored": self.decoder(code), "clean": batch["clean"], "code": code}


class Tiny(Family):
    name = "tiny"
    summary = "autoencoder of two kinds of synthetic vectors, for tests"
    terms = ("reconstruction", "penalty")
    collapse_kinds = {"code": "the root mean square of the code is below 0.01"}
    sources = ("synthetic",)
    knobs = {
        "penalty.weight": Number(0.1, 0.0, 10.0, "full weight of the penalty on the code"),
        "penalty.schedule": Choice("constant", ("constant", "linear", "delayed"), "how that weight moves"),
        "penalty.start": Number(
            0.1,
            0.0,
            0.9,
            "fraction of the budget without it",
            when={"penalty.schedule": ("linear", "delayed")},
        ),
        "optim.lr": Number(1e-2, 1e-6, 1.0, "AdamW's learning rate"),
        "optim.clip": Number(1.0, 1e-3, 1e6, "largest gradient norm of a trial"),
    }
    statics = {
        "width": Number(4, 1, 64, "size of the code", integer=True),
        "batch_size": Number(16, 2, 256, "examples in a step", integer=True),
    }
    data_settings = {
        "size": Number(64, 16, 4096, "training vectors", integer=True),
        "noise": Number(0.1, 0.0, 10.0, "standard deviation of what is added to the clean vectors"),
        "seed": Number(0, 0, 2**31 - 1, "seed of the vectors", integer=True),
    }
    metrics = {
        "selection_accuracy": Metric(
            "share of restored vectors nearer to their own centre than to the other"
        ),
        "error": Metric("mean squared error", high=float("inf"), higher_is_better=False),
        "code_scale": Metric("root mean square of the code", high=float("inf"), higher_is_better=None),
    }

    def load(self, settings: Mapping[str, Any]) -> Data:
        source = torch.Generator().manual_seed(settings["seed"])
        centres = torch.randn(CLASSES, FEATURES, generator=source)
        splits = {}
        for split, size in (("train", settings["size"]), ("val", 32), ("test", 32)):
            label = torch.arange(size) % CLASSES
            clean = centres[label]
            noisy = clean + settings["noise"] * torch.randn(clean.shape, generator=source)
            splits[split] = {"x": noisy, "clean": clean, "label": label}
        return Data(splits, {"centres": centres})

    def build(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
        return TinyAutoencoder(static["width"])

    def noise(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Noise]:
        return {"code": Noise("normal", (static["width"],))}

    def prepare(self, knobs: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"centres": facts["centres"].double()}

    def share(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"code": outputs["code"].detach()}

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> dict[str, Term]:
        error = (outputs["restored"] - outputs["clean"]).square().mean(-1)
        # Around the batch's mean, so that a test sees whether workers share it.
        spread = (outputs["code"] - everyone["code"]).square().mean(-1)
        return {"reconstruction": Term(error), "penalty": Term(spread)}

    def examine(
        self, outputs: Mapping[str, Tensor], batch: Batch, knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        distances = (outputs["restored"].unsqueeze(-2) - knobs["centres"]).square().sum(-1)
        return {
            "right": distances.argmin(-1) == batch["label"],
            "error": (outputs["restored"] - outputs["clean"]).square().mean(-1),
            "code": outputs["code"].square().mean(-1),
        }

    def measure(self, examined: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Measured:
        scalars = {
            "selection_accuracy": float(examined["right"].double().mean()),
            "error": float(examined["error"].double().mean()),
            "code_scale": float(examined["code"].double().mean().sqrt()),
        }
        return Measured(scalars, {"errors": examined["error"].double()[:4].tolist()})

    def chance(self, facts: Mapping[str, Any], static: Mapping[str, Any]) -> float:
        return 1 / CLASSES

    def collapsed(self, scalars: Mapping[str, float]) -> dict[str, bool]:
        return {"code": scalars["code_scale"] < CODE_SCALE}

    def collapse_is_judged(self, kind: str, knobs: Mapping[str, Any], full: Mapping[str, bool]) -> bool:
        return full["penalty"]

    def draw(
        self,
        batch: Batch,
        outputs: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        path: Path,
        title: str,
    ) -> None:
        """Clean vectors on the left, restored ones on the right, a row an example, a pixel a feature."""
        pair = torch.cat([batch["clean"], outputs["restored"]], -1).float()
        grey = ((pair.clamp(-3, 3) + 3) / 6 * 255).to(torch.uint8).cpu()
        image = Image.new("L", (grey.shape[1], grey.shape[0]))
        image.putdata(grey.flatten().tolist())
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


TINY = Tiny()
