"""selection: a referential game with reconstruction; a sender names a grid, a receiver finds and repaints it.

    target ──► sender ──► message, L symbols of V ──┬──► embedding m ─┐
    G candidates ──► receiver's encoder ──► c_1 .. c_G ───────────────┴──► scores m . c_j / (sqrt(width) tau)
                                                    └──► message' ──► reconstructor ──► logits f[side^2, 10]

    loss            selection + lambda(t) reconstruction
    selection       -log softmax(scores)[target]             Lazaridou et al. 2017; Havrylov & Titov 2017
    reconstruction  mean over the grid's own cells of w_y (1 - p_y)^gamma (-log p_y)   Lin et al. 2017, eq. 5
    message'        stop(message) + leak (message - stop(message)): its value is the message

G consecutive examples are one game: each is the target once, with the others as its distractors, and each
grid is encoded once by the sender and once by the receiver. Training sends sampled symbols by the
straight-through Gumbel-softmax (static `message` relaxed: mixtures of symbols), evaluation the likeliest.

`reconstruction` counts for the examples whose target was found. With leak = 0 it trains the reconstructor and
nothing else; then its weight cannot change which target is found, but through gradient clipping. Trials are
ranked by the share of targets found, which alone asks for a message that tells grids apart: much of any grid
can be repainted from the colours that are frequent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import metrics, selection_pictures, selection_traps
from trainables.class_weights import class_weights
from trainables.family import Batch, Choice, Data, Family, Measured, Metric, Noise, Number, Picture, Term
from trainables.grids import COLOURS
from trainables.gumbel import Speaker
from trainables.knobs import class_weight_knobs, optimiser_knobs, weight_knobs
from trainables.layers import Dense
from trainables.losses import focal_cross_entropy
from trainables.selection_data import GAME_FIELDS, arranged, colour_counts, inside, load_games
from trainables.selection_layers import FEATURES, PATCH, encoder, patchified, unpatchified

SCHEDULES = ("constant", "adaptive", "delayed", "linear")
ONE_MESSAGE = 0.9  # share of one message from which on all others are noise (our threshold)


class SelectionGame(nn.Module):
    """One sender, receiver and reconstructor. forward: grid i64[B, S, S], hw i64[B, 2] -> scores f[B, G],
    message i64[B, L] (symbols), logits f[B, S^2, 10], target i64[B, S^2] and own bool[B, S^2] (inside the
    grid's true size), in the order of `patchified`. B is a whole number of games.
    """

    def __init__(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        super().__init__()
        vocab, length, width = static["vocab"], static["message_length"], static["width"]
        self.candidates = static["distractors"] + 1
        self.straight_through = static["message"] == "straight_through"
        side, patches = facts["side"], (facts["side"] // PATCH) ** 2
        self.sender = nn.Sequential(encoder(patches, width), Dense(width, width))
        self.speaker = Speaker(width, vocab, length)
        # No bias at its end: one that all candidates share cancels in the softmax, and Adam would walk it at
        # random.
        self.receiver = encoder(patches, width)
        self.listener = nn.Sequential(
            nn.Flatten(1), Dense(length * vocab, width), nn.SiLU(), Dense(width, width)
        )
        self.reconstructor = nn.Sequential(
            nn.Flatten(1),
            Dense(length * vocab, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            Dense(width, patches * FEATURES),
            nn.SiLU(),
            nn.Unflatten(1, (patches, FEATURES)),
            Dense(FEATURES, PATCH * PATCH * COLOURS),
            nn.Flatten(1),
            nn.Unflatten(1, (side * side, COLOURS)),
        )

    def forward(
        self, batch: Batch, noise: Mapping[str, Tensor], knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        target = patchified(batch["grid"])
        own = patchified(inside(batch["hw"], batch["grid"].shape[-1]))
        # Cells outside the true size are an eleventh colour, so that the encoders see the size.
        cells = torch.where(own, target, COLOURS)
        kinds = torch.arange(COLOURS + 1, device=cells.device)
        one_hot = (cells.unsqueeze(-1) == kinds).to(self.speaker.start.dtype).flatten(-2)
        uniform = noise["gumbel"] if self.training else None
        message = self.speaker(
            self.sender(one_hot), uniform, knobs["gumbel_temperature"], self.straight_through
        )
        offered = self.receiver(one_hot).unflatten(0, (-1, self.candidates))  # [games, G, W]
        asked = self.listener(message).unflatten(0, (-1, self.candidates))
        scores = (asked @ offered.mT).flatten(0, 1) / math.sqrt(asked.shape[-1])
        held = message.detach()
        logits = self.reconstructor(held + knobs["leak"] * (message - held))
        return {
            "scores": scores / knobs["selector_temperature"],
            "message": message.argmax(-1),
            "logits": logits,
            "target": target.flatten(1),
            "own": own.flatten(1),
        }


class Selection(Family):
    name = "selection"
    summary = "referential game on grids (ARC): a discrete message selects the target, then reconstructs it"
    terms = ("selection", "reconstruction")
    collapse_kinds = {
        "message": "one message for 90 % of the grids or more",
        "chance": "targets are found no more often than by guessing (within 3 standard deviations)",
    }
    sources = ("arc", "synthetic", "file")
    picture = Picture("games", 16, "val")

    knobs = {
        **weight_knobs(
            "reconstruction", 1.0, 100.0, "weight of the reconstruction at its full value (lambda)", SCHEDULES
        ),
        "reconstruction.gamma": Number(0.0, 0.0, 5.0, "focal exponent; 0 is cross-entropy"),
        "reconstruction.leak": Number(
            0.0, 0.0, 1.0, "share of the reconstruction's gradient that reaches the sender by the message"
        ),
        **class_weight_knobs("colours"),
        "gumbel.temperature": Number(
            1.0, 0.1, 10.0, "temperature of the sampled symbols; low: near one-hot, noisy gradient"
        ),
        "selector.temperature": Number(1.0, 0.01, 10.0, "temperature of the candidates' scores"),
        **optimiser_knobs(lr=2e-3),
    }
    statics = {
        "distractors": Choice(7, (3, 7, 15, 31), "candidates of a game beside its target"),
        "vocab": Number(25, 2, 1000, "symbols to choose from", integer=True),
        "message_length": Number(5, 1, 50, "symbols of a message", integer=True),
        "message": Choice(
            "straight_through", ("straight_through", "relaxed"), "what training sends: symbols, or mixtures"
        ),
        "width": Number(128, 4, 2048, "width of the hidden layers", integer=True),
        "batch_size": Number(
            128,
            4,
            4096,
            "examples in a step, over all workers of an engine; a multiple of distractors + 1",
            integer=True,
        ),
    }
    file_fields = GAME_FIELDS
    data_settings = {
        "side": Choice(20, (10, 15, 20, 25, 30), "largest height and width of a grid, cells"),
        "size": Number(
            4096,
            64,
            1_000_000,
            "training examples of the synthetic source; of the others at most so many",
            integer=True,
        ),
        "distractors.same_task": Number(
            0.25, 0.0, 1.0, "share of grids that stand beside three others of their task, as hard distractors"
        ),
        "likeness": Number(0.5, 0.0, 0.9, "share of tiles that synthetic grids of a task have in common"),
        "seed": Number(0, 0, 2**31 - 1, "seed of the synthetic source and of the arrangement", integer=True),
    }
    trade_off = ("selection_accuracy", "reconstruction_accuracy")
    metrics = {
        "selection_accuracy": Metric("share of targets found; in evaluation with the likeliest symbols"),
        "chance": Metric("selection_accuracy of guessing: 1 / (distractors + 1)", higher_is_better=None),
        "chance_upper": Metric(
            "selection_accuracy that guessing exceeds once in 700 times", higher_is_better=None
        ),
        "same_task": Metric("share of distractors that are of the target's task", higher_is_better=None),
        "reconstruction_accuracy": Metric("mean over grids of the share of their own cells repainted right"),
        "reconstruction_accuracy_selected": Metric(
            "the same over grids that were found; NaN where none was", optional=True
        ),
        "reconstruction_balanced": Metric("mean over colours of recall, of grids' own cells"),
        "message_entropy": Metric("entropy of the messages sent, nats", high=math.inf),
        "distinct_messages": Metric("different messages sent", high=math.inf),
        "distinct_share": Metric("different messages for each grid"),
        "top_message_share": Metric("share of the message sent most often", higher_is_better=False),
        "symbols_used": Metric("different symbols in all messages", high=math.inf),
        "symbol_entropy": Metric("entropy of the symbols of all messages, nats", high=math.inf),
    }

    def load(self, settings: Mapping[str, Any]) -> Data:
        return load_games(settings)

    def build(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
        return SelectionGame(static, facts)

    def noise(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Noise]:
        return {"gumbel": Noise("uniform", (static["message_length"], static["vocab"]))}

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
            "leak": torch.tensor(knobs["reconstruction.leak"], dtype=torch.float64),
            "gumbel_temperature": torch.tensor(knobs["gumbel.temperature"], dtype=torch.float64),
            "selector_temperature": torch.tensor(knobs["selector.temperature"], dtype=torch.float64),
        }

    def group(self, static: Mapping[str, Any]) -> int:
        return static["distractors"] + 1

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> dict[str, Term]:
        scores, own = outputs["scores"], outputs["own"]
        place = _target_place(scores)
        missed = -F.log_softmax(scores, -1).gather(-1, place.unsqueeze(-1)).squeeze(-1)
        pixels = focal_cross_entropy(
            outputs["logits"], outputs["target"], gamma=knobs["gamma"], class_weights=knobs["class_weights"]
        )
        painted = torch.where(own, pixels, 0.0).sum(-1) / own.sum(-1)
        found = (scores.argmax(-1) == place).to(scores.dtype)
        return {"selection": Term(missed), "reconstruction": Term(painted, found)}

    def examine(
        self, outputs: Mapping[str, Tensor], batch: Batch, knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        scores = outputs["scores"]
        candidates = scores.shape[-1]
        task = batch["task"].unflatten(0, (-1, candidates))
        alike = (task.unsqueeze(-1) == task.unsqueeze(-2)).sum(-1).flatten() - 1
        truth = torch.where(outputs["own"], outputs["target"], -1)
        return {
            "found": scores.argmax(-1) == _target_place(scores),
            "candidates": torch.full_like(alike, candidates),
            "alike": alike,
            "message": outputs["message"],
            "confusion": metrics.confusion(truth, outputs["logits"].argmax(-1), COLOURS),
        }

    def measure(self, examined: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Measured:
        found, message = examined["found"], examined["message"]
        size, candidates = len(found), int(examined["candidates"][0])
        cells = examined["confusion"].double()  # [grid, true colour, painted colour]
        right = cells.diagonal(dim1=-2, dim2=-1).sum(-1) / cells.sum((-2, -1))
        confusion = cells.sum(0)
        said = message.unique(dim=0, return_counts=True)[1]
        symbols = torch.bincount(message.flatten())
        scalars = {
            "selection_accuracy": float(found.double().mean()),
            "chance": 1 / candidates,
            "chance_upper": 1 / candidates + 3 * math.sqrt((candidates - 1) / size) / candidates,
            "same_task": float(examined["alike"].double().mean() / (candidates - 1)),
            "reconstruction_accuracy": float(right.mean()),
            "reconstruction_accuracy_selected": float(right[found].mean()),
            "reconstruction_balanced": metrics.balanced_accuracy(confusion),
            "message_entropy": _entropy(said),
            "distinct_messages": float(len(said)),
            "distinct_share": len(said) / size,
            "top_message_share": float(said.max() / size),
            "symbols_used": float((symbols > 0).sum()),
            "symbol_entropy": _entropy(symbols),
        }
        usage = (symbols.double() / symbols.sum()).sort(descending=True).values
        vectors = {"recall_per_colour": metrics.recalls(confusion), "symbol_usage": usage.tolist()}
        return Measured(scalars, vectors)

    def label_counts(self, data: Data) -> dict[str, dict[str, list[int]]]:
        counts = [colour_counts(split).long().tolist() for split in data.splits.values()]
        return {"colour (cells)": {str(c): [split[c] for split in counts] for c in range(COLOURS)}}

    def chance(self, facts: Mapping[str, Any], static: Mapping[str, Any]) -> float:
        """One in the number of candidates."""
        return 1 / self.group(static)

    def collapsed(self, scalars: Mapping[str, float]) -> dict[str, bool | None]:
        return {
            "message": scalars["top_message_share"] >= ONE_MESSAGE,
            "chance": scalars["selection_accuracy"] <= scalars["chance_upper"],
        }

    def draw(
        self,
        batch: Batch,
        outputs: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        path: Path,
        title: str,
    ) -> None:
        side = batch["grid"].shape[-1]
        painted = unpatchified(outputs["logits"].argmax(-1), side)
        choice = outputs["scores"].argmax(-1)
        candidates = outputs["scores"].shape[-1]
        games = selection_pictures.Games(
            batch["grid"], batch["hw"], painted, choice, outputs["message"], candidates
        )
        selection_pictures.draw_games(games, path, title)

    def traps(self, space: Any, data: Data | None) -> list[str]:
        return selection_traps.traps(space)

    def order(self, knobs: Mapping[str, Any], data: Data, generator: torch.Generator) -> Tensor:
        return arranged(data.splits["train"]["task"], data.facts["same_task"], generator)


def _target_place(scores: Tensor) -> Tensor:
    """i64[B]: the place of each target among the candidates f[B, G] of its game, which is its own."""
    return torch.arange(scores.shape[0], device=scores.device) % scores.shape[-1]


def _entropy(counts: Tensor) -> float:
    """Entropy of the distribution with these counts, nats."""
    return float(torch.special.entr(counts.double() / counts.sum()).sum())


SELECTION = Selection()
