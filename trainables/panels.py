"""panels: embeddings of the panels of a page from image, text and layout, by three contrastive terms.

    image u8[P, S, S, 3] ──► patches ──► Dense ──► f[P, E] ─┐ LayerNorm each; absent ones masked
    text  u8[P, V] hashes ─► Dense ───────────────► f[P, E] ─┼──► gate softmax + residual ──► fused f[P, E]
    layout f[P, 7] ────────► Dense ───────────────► f[P, E] ─┘                                 │
                          mean of the others' fused ──► predictor ──► prediction f[P, E] ◄─────┘

    loss            contrastive.weight(t) contrastive + reconstruction.weight(t) reconstruction
                    + alignment.weight(t) alignment
    contrastive     SupCon among the batch's panels, positives on the same page   Khosla et al. 2020, eq. 2
    reconstruction  |prediction - target|^2 of one panel a page, both normalised  Grill et al. 2020, eq. 2
    alignment       InfoNCE between image and text, both directions               Radford et al. 2021

An example is a page, and each page carries the sum over its panels, so scaled that the mean over pages is
the mean over panels. Trials are ranked by the mean of two retrievals: the nearest other panel lies on the
same page (what `contrastive` is for), and image finds text and text image (what `alignment` is for).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from trainables import contrastive, panels_pictures, panels_traps
from trainables.family import Batch, Choice, Data, Family, Measured, Metric, Noise, Number, Picture, Term
from trainables.knobs import optimiser_knobs, weight_knobs
from trainables.layers import Dense
from trainables.panels_data import LAYOUT, PANEL_FIELDS, arranged, panel_file, synthetic_rows
from trainables.panels_layers import fuse, has_both, image_encoder, is_paired, is_shown, others_mean, picked

SCHEDULES = ("constant", "linear", "delayed")
MODALITIES = ("image", "text", "layout")
# Layout numbers and gates, rounded up: a weight's gradient is one matrix product a member, whose rounding
# depends on where in memory it goes, and 7 E or 9 E numbers are no whole cache lines.
LAYOUT_PADDED, GATES = 8, 4
MOST_COMPARED = 1024  # panels in a split's metrics, which cost their square
MOST_CANDIDATES = 256  # panels with image and text among which recall is measured


class PanelEncoder(nn.Module):
    """One encoder. forward: image u8[B, P, S, S, 3], text u8[B, P, V], layout f[B, P, 7], panel_mask,
    has_image and has_text bool[B, P], page i64[B] -> fused, image and text f[B, P, E] of length 1, gate
    f[B, P, 3], distance f[B, P] of the predictions and masked f[B, P], how much each counts; shown and both
    (image and text) bool[B, P], backwards f[B], page i64[B].
    """

    def __init__(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        super().__init__()
        dim, width = static["embedding_dim"], static["width"]
        self.detached = static["reconstruction_target"] == "detached"
        self.criteria_train = static["criteria_mode"] == "train"
        # Of the alignment, the part that goes from text to image.
        self.backwards = 0.5 if static["alignment_direction"] == "symmetric" else 0.0
        self.image = image_encoder(facts["side"], width, dim)
        self.text = nn.Sequential(Dense(facts["buckets"], width), nn.SiLU(), Dense(width, dim))
        self.layout = nn.Sequential(Dense(LAYOUT_PADDED, dim), nn.SiLU(), Dense(dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in MODALITIES)
        self.gate = Dense(len(MODALITIES) * dim, GATES)
        self.mix = nn.Sequential(Dense(dim, width), nn.SiLU(), Dense(width, dim))
        self.hidden, self.predict = Dense(dim, width), Dense(width, dim)

    def forward(
        self, batch: Batch, noise: Mapping[str, Tensor], knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        dtype = self.gate.weight.dtype
        shown = is_shown(batch)
        counts = batch["text"].to(dtype).log1p()
        images = batch["image"].to(dtype) / 255 - 0.5
        layout = pad(batch["layout"], (0, LAYOUT_PADDED - LAYOUT))
        encoded = (self.image(images), self.text(normalize(counts, dim=-1)), self.layout(layout))
        parts = torch.stack([norm(part) for norm, part in zip(self.norms, encoded, strict=True)], -2)
        there = torch.stack([batch["has_image"], batch["has_text"], torch.ones_like(shown)], -1)
        fused, gate = fuse(parts, there, self.gate, self.mix)
        hidden = nn.functional.silu(self.hidden(others_mean(fused, shown)))
        if self.training and self.criteria_train:
            rate = knobs["dropout"]
            hidden = torch.where(noise["dropout"] >= rate, hidden / (1 - rate), torch.zeros_like(hidden))
        prediction = normalize(self.predict(hidden), dim=-1)
        target = fused.detach() if self.detached else fused
        return {
            "fused": fused,
            "image": normalize(parts[..., 0, :], dim=-1),
            "text": normalize(parts[..., 1, :], dim=-1),
            "gate": gate,
            "distance": (prediction - target).square().sum(-1),
            "masked": picked(shown, noise["masked"] if self.training else None).to(dtype),
            "backwards": torch.full_like(gate[:, 0, 0], self.backwards),
            "shown": shown,
            "both": has_both(batch),
            "page": batch["page"],
        }


class Panels(Family):
    name = "panels"
    summary = "multimodal panel embeddings: SupCon by page, masked-panel prediction and image-text InfoNCE"
    terms = ("contrastive", "reconstruction", "alignment")
    collapse_kinds = {
        "cosine": "mean cosines within and between pages are both above 0.95",
        "dimension": "embeddings deviate by less than 0.1 / sqrt(E) a dimension",
    }
    sources = ("synthetic", "file")
    picture = Picture("neighbours", 64, "val")

    knobs = {
        **weight_knobs("contrastive", 1.0, 100.0, "weight of SupCon by page at its full value", SCHEDULES),
        **weight_knobs(
            "reconstruction", 0.5, 100.0, "weight of predicting a masked panel at its full value", SCHEDULES
        ),
        **weight_knobs("alignment", 0.3, 100.0, "weight of image-text InfoNCE at its full value", SCHEDULES),
        "contrastive.temperature": Number(0.1, 1e-3, 10.0, "temperature of SupCon; low looks at the nearest"),
        "alignment.temperature": Number(0.07, 1e-3, 10.0, "temperature of image-text InfoNCE"),
        "reconstruction.dropout": Number(
            0.1, 0.0, 0.9, "dropout of the predictor, in the criterion", when={"criteria_mode": ("train",)}
        ),
        **optimiser_knobs(),
    }
    statics = {
        "embedding_dim": Number(64, 4, 1024, "size of the embeddings", integer=True),
        "width": Number(128, 8, 2048, "width of the hidden layers", integer=True),
        "reconstruction_target": Choice(
            "detached", ("detached", "attached"), "whether the masked panel's own embedding gets no gradient"
        ),
        "alignment_direction": Choice(
            "symmetric", ("symmetric", "image_to_text"), "both directions of InfoNCE, or image to text alone"
        ),
        "criteria_mode": Choice(
            "train", ("train", "eval"), "whether criteria with parameters use their dropout in training steps"
        ),
        "batch_size": Number(
            32, 2, 4096, "examples (pages) in a step, over all workers of an engine", integer=True
        ),
    }
    file_fields = PANEL_FIELDS
    data_settings = {
        "image_side": Choice(32, (16, 32, 48, 64), "pixels to which images are averaged"),
        "text_buckets": Number(1024, 16, 65_536, "hashes of a text's words and trigrams", integer=True),
        "size": Number(896, 16, 1_000_000, "training examples (pages) of the synthetic source", integer=True),
        "twins": Number(0.3, 0.0, 1.0, "share of synthetic pages that look like another"),
        "jitter": Number(1.0, 0.0, 10.0, "how far synthetic panels stray from their page's style"),
        "seed": Number(0, 0, 2**31 - 1, "seed of the synthetic source", integer=True),
    }
    trade_off = ("page_retrieval", "image_text_recall_1")
    metrics = {
        "selection_accuracy": Metric("mean of page_retrieval and image_text_recall_1"),
        "page_retrieval": Metric("share of panels whose nearest other panel, by cosine, is on their page"),
        "page_retrieval_chance": Metric("page_retrieval of guessing", higher_is_better=None),
        "image_text_recall_1": Metric(
            "share of images finding their text first, and texts their image; NaN without any", optional=True
        ),
        "image_text_recall_5": Metric("the same among the first five", optional=True),
        "recall_chance": Metric("image_text_recall_1 of guessing", higher_is_better=None, optional=True),
        "recall_candidates": Metric(
            "panels among which recall is measured", high=MOST_CANDIDATES, higher_is_better=None
        ),
        "image_text_in_page": Metric("share of images that find their text among the page's", optional=True),
        "image_text_in_page_chance": Metric("the same of guessing", higher_is_better=None, optional=True),
        "cosine_within_page": Metric("mean cosine within pages", low=-1.0, higher_is_better=None),
        "cosine_between_pages": Metric("mean cosine between pages", low=-1.0, higher_is_better=False),
        "embedding_std": Metric("mean over dimensions of the deviation of fused embeddings"),
        "embedding_std_relative": Metric("embedding_std times sqrt(E); 1 is evenly spread", high=1.001),
        "rankme": Metric("effective number of dimensions in use (RankMe)", high=math.inf),
        "panels_compared": Metric(
            "panels in these metrics: all, or the first", high=math.inf, higher_is_better=None
        ),
        "panels_per_page": Metric(
            "mean; a step has (this times batch_size)^2 similarities", high=math.inf, higher_is_better=None
        ),
    }

    def load(self, settings: Mapping[str, Any]) -> Data:
        side, warnings = settings["image_side"], []
        if settings["source"] == "file":
            place = str(settings["path"])
            rows, warnings = panel_file(settings["path"])
        else:
            place = "data.source synthetic"
            difficulty = {"twins": settings["twins"], "jitter": settings["jitter"]}
            rows = synthetic_rows(settings["size"], side=side, seed=settings["seed"], **difficulty)
        data = arranged(place, rows, side=side, buckets=settings["text_buckets"], warnings=warnings)
        validation = data.splits["val"]
        found = contrastive.compared(
            is_shown(validation),
            has_both(validation),
            validation["page"],
            MOST_COMPARED,
            MOST_CANDIDATES,
        )
        data.facts["chance"] = _selection(found.page_chance, found.recall_chance, found.num_candidates)
        data.facts["num_aligned"] = int(has_both(data.splits["train"]).sum())
        return data

    def build(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
        return PanelEncoder(static, facts)

    def noise(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Noise]:
        masked = {"masked": Noise("uniform", ())}
        if static["criteria_mode"] == "eval":
            return masked
        return {**masked, "dropout": Noise("uniform", (facts["panels"], static["width"]))}

    def prepare(self, knobs: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Tensor]:
        return {
            "contrastive_temperature": torch.tensor(knobs["contrastive.temperature"], dtype=torch.float64),
            "alignment_temperature": torch.tensor(knobs["alignment.temperature"], dtype=torch.float64),
            "dropout": torch.tensor(knobs["reconstruction.dropout"], dtype=torch.float64),
        }

    def join(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: outputs[name] for name in ("fused", "image", "text", "shown", "both", "page")}

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> dict[str, Term]:
        shown, both = everyone["shown"], everyone["both"]
        same_page, itself = contrastive.pairs(outputs["page"], everyone["page"], shown.shape[-1])
        compared = ~itself & shown.flatten()
        fused, _ = contrastive.supervised_contrastive(
            outputs["fused"].flatten(0, 1),
            everyone["fused"].flatten(0, 1),
            positive=compared & same_page,
            compared=compared,
            temperature=knobs["contrastive_temperature"],
        )
        forwards, backwards = (
            contrastive.info_nce(
                outputs[one].flatten(0, 1),
                everyone[other].flatten(0, 1),
                match=itself,
                candidates=both.flatten(),
                temperature=knobs["alignment_temperature"],
            ).unflatten(0, outputs["both"].shape)
            for one, other in (("image", "text"), ("text", "image"))
        )
        share = outputs["backwards"].unsqueeze(-1)
        aligned = (1 - share) * forwards + share * backwards
        comparable = both.sum() >= 2  # one candidate alone is always found
        paired, matched = is_paired(outputs["shown"]), outputs["both"] & comparable
        return {
            "contrastive": Term(*contrastive.per_group(fused.view_as(aligned), paired, is_paired(shown))),
            "reconstruction": Term((outputs["masked"] * outputs["distance"]).sum(-1), paired.any(-1)),
            "alignment": Term(*contrastive.per_group(aligned, matched, both & comparable)),
        }

    def examine(
        self, outputs: Mapping[str, Tensor], batch: Batch, knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        names = ("fused", "image", "text", "gate", "shown", "both", "page")
        return {name: outputs[name].detach() for name in names}

    def measure(self, examined: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Measured:
        found = contrastive.compared(
            examined["shown"], examined["both"], examined["page"], MOST_COMPARED, MOST_CANDIDATES
        )
        fused = examined["fused"].flatten(0, 1)[found.panels].double()
        image, text = (examined[n].flatten(0, 1)[found.candidates].double() for n in ("image", "text"))
        if not all(bool(part.isfinite().all()) for part in (fused, image, text)):  # a trial that diverged
            return Measured(dict.fromkeys(self.metrics, math.nan), {})
        deviations = fused.std(0, correction=0)
        scalars = contrastive.retrieval(found, fused, image, text) | {
            "embedding_std": float(deviations.mean()),
            "embedding_std_relative": float(deviations.mean()) * math.sqrt(fused.shape[1]),
            "rankme": contrastive.rankme(fused),
            "panels_compared": float(len(fused)),
            "panels_per_page": float(examined["shown"].double().sum(1).mean()),
        }
        scalars["selection_accuracy"] = _selection(
            scalars["page_retrieval"], scalars["image_text_recall_1"], found.num_candidates
        )
        gate = examined["gate"].flatten(0, 1)[found.panels].double().mean(0)
        vectors = {"gate_image_text_layout": gate.tolist(), "std_per_dim": deviations.tolist()}
        return Measured(scalars, vectors)

    def label_counts(self, data: Data) -> dict[str, dict[str, list[int]]]:
        splits, pages = data.splits.values(), {}
        for size in range(1, data.facts["panels"] + 1):
            name = f"{size} panels" if size > 1 else "1 panel"
            pages[name] = [int((split["panel_mask"].sum(1) == size).sum()) for split in splits]
        masks = {
            "image and text": [has_both(split) for split in splits],
            "image alone": [is_shown(split) & ~split["has_text"] for split in splits],
            "text alone": [is_shown(split) & ~split["has_image"] for split in splits],
            "(neither)": [split["panel_mask"] & ~is_shown(split) for split in splits],
        }
        panels = {name: [int(mask.sum()) for mask in each] for name, each in masks.items()}
        return {"pages": pages, "panels": panels}

    def chance(self, facts: Mapping[str, Any], static: Mapping[str, Any]) -> float:
        """Mean of both retrievals' chances on the validation split, as `load` counted them."""
        return facts["chance"]

    def collapsed(self, scalars: Mapping[str, float]) -> dict[str, bool | None]:
        alike = scalars["cosine_within_page"] > 0.95 and scalars["cosine_between_pages"] > 0.95
        return {"cosine": alike, "dimension": scalars["embedding_std_relative"] < 0.1}

    def collapse_is_judged(self, kind: str, knobs: Mapping[str, Any], full: Mapping[str, bool]) -> bool:
        """Only when the terms that push panels apart are at their full weights, be they 0."""
        return full["contrastive"] and full["alignment"]

    def draw(
        self,
        batch: Batch,
        outputs: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        path: Path,
        title: str,
    ) -> None:
        shown = outputs["shown"]
        panels_pictures.draw_neighbours(
            (batch["image"] * batch["has_image"][..., None, None, None])[shown],
            batch["has_image"][shown],
            outputs["fused"][shown],
            batch["page"].unsqueeze(1).expand_as(shown)[shown],
            path,
            title,
        )

    def traps(self, space: Any, data: Data | None) -> list[str]:
        return panels_traps.traps(space, data)

    def order(self, knobs: Mapping[str, Any], data: Data, generator: torch.Generator) -> Tensor:
        """A permutation in which the pages that have what every term needs (two panels, one of them with
        image and text) are spread evenly: B consecutive pages hold floor(B share) - 1 of them or more.
        """
        split = data.splits["train"]
        needed = is_paired(is_shown(split)).any(1) & has_both(split).any(1)
        shuffled = torch.randperm(len(needed), generator=generator)
        needed = needed[shuffled]
        place = torch.where(needed, needed.cumsum(0), (~needed).cumsum(0)) - 0.5
        return shuffled[(place / torch.where(needed, needed.sum(), (~needed).sum())).argsort(stable=True)]


def _selection(page_retrieval: float, recall: float, candidates: int) -> float:
    """Mean of both retrievals; the first alone where there are not two candidates for the second."""
    return (page_retrieval + recall) / 2 if candidates > 1 else page_retrieval


PANELS = Panels()
