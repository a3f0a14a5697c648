"""beta_vae: a beta-VAE on categorical grids, where "everything is background" scores 93 % accuracy.

    grid i64[16, 16] ──► encoder ──► mean, log_variance f[D] ──► z = mean + exp(log_variance / 2) noise
                                                                  └──► decoder ──► logits f[256, 10]

    loss            reconstruction + beta(t) kl
    reconstruction  mean over pixels of w_y (1 - p_y)^gamma (-log p_y)        Lin et al. 2017, eq. 5
    kl              sum over d of max(mean over the batch of KL_d, free_bits) Kingma et al. 2016, eq. 15
    KL_d            (mean_d^2 + variance_d - 1 - log variance_d) / 2          Kingma & Welling 2014, app. B

Higgins et al. 2017 call the KL weight beta; here it is the knob `kl.weight`, in nats per grid against a
reconstruction in nats per pixel. Trials are ranked by the mean over colours of intersection over union: pixel
accuracy rewards a model that paints everything background, per-colour recall one that smears colours over it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables import collapse, metrics, pictures
from trainables.class_weights import class_weights
from trainables.data import class_counts
from trainables.family import Batch, Choice, Data, Family, Measured, Metric, Noise, Number, Term
from trainables.grids import COLOURS, arc_grids, dihedral, grid_fields, grid_file, synthetic_grids
from trainables.knobs import class_weight_knobs, optimiser_knobs, weight_knobs
from trainables.layers import Dense
from trainables.losses import focal_cross_entropy, gaussian_kl

SIDE = 16
SCHEDULES = ("constant", "linear", "delayed", "cyclical")
LOG_VARIANCE = (-8.0, 8.0)  # outside it exp() leaves float32's useful range within a few careless steps


class GridVAE(nn.Module):
    """One beta-VAE. forward: grid i64[B, 16, 16] -> logits f[B, 256, 10], mean and log_variance f[B, D]."""

    def __init__(self, static: Mapping[str, Any]) -> None:
        super().__init__()
        latent_dim, width, self.augment = static["latent_dim"], static["width"], static["augment"]
        self.encoder = _mlp_encoder(width) if static["encoder"] == "mlp" else _conv_encoder(width)
        self.to_latent = Dense(width, 2 * latent_dim)
        self.decoder = nn.Sequential(
            Dense(latent_dim, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            Dense(width, width),
            nn.SiLU(),
            Dense(width, SIDE * SIDE * COLOURS),
        )

    def forward(
        self, batch: Batch, noise: Mapping[str, Tensor], knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        grid = batch["grid"]
        if self.training and self.augment == "d4":
            grid = dihedral(grid, noise["turn"])
        colours = torch.arange(COLOURS, device=grid.device)
        one_hot = (grid.unsqueeze(-1) == colours).to(self.to_latent.weight.dtype)
        mean, log_variance = self.to_latent(self.encoder(one_hot)).chunk(2, dim=-1)
        log_variance = log_variance.clamp(*LOG_VARIANCE)
        z = mean + (log_variance / 2).exp() * noise["latent"] if self.training else mean
        logits = self.decoder(z).unflatten(-1, (SIDE * SIDE, COLOURS))
        return {"logits": logits, "target": grid.flatten(1), "mean": mean, "log_variance": log_variance}


class BetaVAE(Family):
    name = "beta_vae"
    summary = (
        "beta-VAE on categorical grids (ARC): focal, class-weighted reconstruction against a scheduled KL"
    )
    terms = ("reconstruction", "kl")
    collapse_kinds = {
        "mode": "at least 99 % of the predicted pixels are background, or foreground accuracy is below 0.05",
        "posterior": "the mean KL per dimension is below 0.05 nats, while the KL weight is at its full value",
    }
    sources = ("arc", "synthetic", "file")

    knobs = {
        "reconstruction.gamma": Number(0.0, 0.0, 5.0, "focal exponent; 0 is cross-entropy"),
        **class_weight_knobs("colours"),
        **weight_knobs("kl", 0.03, 100.0, "weight of the KL at its full value (beta)", SCHEDULES),
        "kl.free_bits": Number(0.0, 0.0, 2.0, "KL per dimension that is not charged, nats"),
        **optimiser_knobs(),
    }
    statics = {
        "latent_dim": Number(16, 2, 128, "size of the latent", integer=True),
        "width": Number(256, 8, 2048, "width of the hidden layers", integer=True),
        "encoder": Choice(
            "mlp", ("mlp", "conv"), "network of the encoder; conv is several times slower on a CPU"
        ),
        "augment": Choice("none", ("none", "d4"), "turn and mirror training grids at random"),
        "batch_size": Number(64, 2, 4096, "examples in a step, over all workers of an engine", integer=True),
    }
    file_fields = grid_fields(SIDE)
    data_settings = {
        "min_background": Number(0.8, 0.0, 1.0, "keep grids with at least this share of background"),
        "size": Number(4096, 64, 1_000_000, "training examples of the synthetic source", integer=True),
        "seed": Number(0, 0, 2**31 - 1, "seed of the synthetic source", integer=True),
    }
    trade_off = ("selection_accuracy", "pixel_accuracy")
    metrics = {
        "selection_accuracy": Metric("mean over colours of intersection over union (Jaccard)"),
        "pixel_accuracy": Metric(
            "share of pixels right; 0.93 for a model that answers background everywhere"
        ),
        "balanced_accuracy": Metric("mean over colours of recall"),
        "foreground_accuracy": Metric("share of non-background pixels right"),
        "perfect_grids": Metric("share of grids without one wrong pixel"),
        "background_share": Metric("share of pixels predicted as background", higher_is_better=None),
        "background_truth": Metric("share of pixels that are background", higher_is_better=None),
        "kl_mean": Metric("mean over latent dimensions of KL, nats", high=math.inf, higher_is_better=None),
        "kl_min": Metric("smallest KL of a latent dimension, nats", high=math.inf, higher_is_better=None),
        "kl_max": Metric("largest KL of a latent dimension, nats", high=math.inf, higher_is_better=None),
        "active_units_kl": Metric("latent dimensions with KL above 0.05 nats", high=math.inf),
        "active_units_variance": Metric("latent dimensions with Var E[z|x] above 0.01", high=math.inf),
    }

    def load(self, settings: Mapping[str, Any]) -> Data:
        if settings["source"] == "file":
            grids = grid_file(settings["path"], side=SIDE, min_background=settings["min_background"])
        elif settings["source"] == "synthetic":
            grids = synthetic_grids(settings["size"], side=SIDE, seed=settings["seed"])
        else:
            grids = arc_grids(side=SIDE, min_background=settings["min_background"])
        counts, judged = (class_counts(grids.splits[name]["grid"], COLOURS) for name in ("train", "val"))
        return Data(grids.splits, {"counts": counts, "val_counts": judged, **grids.facts}, grids.warnings)

    def build(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
        return GridVAE(static)

    def noise(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Noise]:
        turns = {"turn": Noise(8, ())} if static["augment"] == "d4" else {}
        return {"latent": Noise("normal", (static["latent_dim"],)), **turns}

    def prepare(self, knobs: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Tensor]:
        weights = class_weights(
            facts["counts"],
            knobs["class_weights.method"],
            one_minus_beta=knobs["class_weights.one_minus_beta"],
            cap=knobs["class_weights.cap"],
        )
        return {
            "class_weights": weights,
            "gamma": torch.tensor(knobs["reconstruction.gamma"], dtype=torch.float64),
            "free_bits": torch.tensor(knobs["kl.free_bits"], dtype=torch.float64),
        }

    def share(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"kl": gaussian_kl(outputs["mean"], outputs["log_variance"])}

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> dict[str, Term]:
        pixels = focal_cross_entropy(
            outputs["logits"], outputs["target"], gamma=knobs["gamma"], class_weights=knobs["class_weights"]
        )
        kl = gaussian_kl(outputs["mean"], outputs["log_variance"])
        # max(mean over the batch, free_bits), written per example: the gradient flows where the mean
        # exceeds it.
        charged = torch.where(everyone["kl"] > knobs["free_bits"], kl, knobs["free_bits"])
        return {"reconstruction": Term(pixels.mean(-1)), "kl": Term(charged.sum(-1))}

    def examine(
        self, outputs: Mapping[str, Tensor], batch: Batch, knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        predicted = outputs["logits"].argmax(-1)
        return {
            "confusion": metrics.confusion(outputs["target"], predicted, COLOURS),
            "perfect": (predicted == outputs["target"]).all(-1),
            "mean": outputs["mean"],
            "kl": gaussian_kl(outputs["mean"], outputs["log_variance"]),
        }

    def measure(self, examined: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Measured:
        confusion = examined["confusion"].double().sum(0)  # [true colour, predicted colour], pixels
        kl = examined["kl"].double().mean(0)
        scalars = {
            "selection_accuracy": metrics.mean_jaccard(confusion),
            "pixel_accuracy": metrics.accuracy(confusion),
            "balanced_accuracy": metrics.balanced_accuracy(confusion),
            "foreground_accuracy": metrics.foreground_accuracy(confusion, background=0),
            "perfect_grids": float(examined["perfect"].double().mean()),
            "background_share": float(confusion[:, 0].sum() / confusion.sum()),
            "background_truth": float(confusion[0].sum() / confusion.sum()),
            "kl_mean": float(kl.mean()),
            "kl_min": float(kl.min()),
            "kl_max": float(kl.max()),
            "active_units_kl": float((kl > collapse.ACTIVE_KL).sum()),
            "active_units_variance": float(collapse.active_units(examined["mean"])),
        }
        return Measured(scalars, {"kl_per_dim": kl.tolist(), "recall_per_colour": metrics.recalls(confusion)})

    def label_counts(self, data: Data) -> dict[str, dict[str, list[int]]]:
        counts = [class_counts(split["grid"], COLOURS).long().tolist() for split in data.splits.values()]
        return {"colour (pixels)": {str(c): [split[c] for split in counts] for c in range(COLOURS)}}

    def chance(self, facts: Mapping[str, Any], static: Mapping[str, Any]) -> float:
        """Mean IoU of answering background everywhere on the validation split: its share there over the
        number of colours there."""
        counts = facts["val_counts"]
        return float(counts[0] / counts.sum() / (counts > 0).sum())

    def collapsed(self, scalars: Mapping[str, float]) -> dict[str, bool | None]:
        only_background = scalars["background_share"] >= 0.99
        return {
            "mode": only_background or scalars["foreground_accuracy"] < 0.05,
            "posterior": scalars["kl_mean"] < collapse.ACTIVE_KL,
        }

    def collapse_is_judged(self, kind: str, knobs: Mapping[str, Any], full: Mapping[str, bool]) -> bool:
        return kind == "mode" or (knobs["kl.weight"] > 0 and full["kl"])

    def draw(
        self,
        batch: Batch,
        outputs: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        path: Path,
        title: str,
    ) -> None:
        predicted = outputs["logits"].argmax(-1)
        pictures.draw_grid_pairs(batch["grid"], predicted.unflatten(-1, (SIDE, SIDE)), path, title)


def _mlp_encoder(width: int) -> nn.Module:
    """One-hot grid f[B, 16, 16, 10] -> features f[B, width]."""
    return nn.Sequential(
        nn.Flatten(1),
        Dense(SIDE * SIDE * COLOURS, width),
        nn.LayerNorm(width),
        nn.SiLU(),
        Dense(width, width),
        nn.SiLU(),
    )


class _ChannelsFirst(nn.Module):
    def forward(self, grid: Tensor) -> Tensor:
        return grid.movedim(-1, 1).contiguous()  # group_norm under vmap refuses channels-last strides


def _conv_encoder(width: int) -> nn.Module:
    """One-hot grid f[B, 16, 16, 10] -> features f[B, width]; GroupNorm, for BatchNorm would tie examples."""
    return nn.Sequential(
        _ChannelsFirst(),
        nn.Conv2d(COLOURS, 32, 3, stride=2, padding=1),
        nn.GroupNorm(4, 32),
        nn.SiLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.GroupNorm(8, 64),
        nn.SiLU(),
        nn.Flatten(1),
        Dense(64 * (SIDE // 4) ** 2, width),
        nn.SiLU(),
    )


BETA_VAE = BetaVAE()
