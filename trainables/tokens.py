"""tokens: an autoencoder of particle-physics events, token by token, with a head for the event's globals.

    types i64[T], features f[T, 5] ──► encoder ──► h f[T, W] ──► latent z ──► decoder ──► features, types
                                                                   └──► mean over tokens ──► globals f[3]

    latent none    z = h: nothing is squeezed, an upper bound
    latent linear  z = A h + b, `latent_dim` numbers a token
    latent vq      the linear latent, replaced by the nearest of `codebook_size` codes (`trainables.quantise`)

    loss        tokens.weight tokens + types.weight types + globals.weight(t) globals
                + commitment.weight commitment + codebook
    tokens      mean over features of the squared error, or of twice Huber's   Huber 1964
    types       w_y (1 - p_y)^gamma (-log p_y)                                 Lin et al. 2017, eq. 5
    globals     mean over (MET, sin, cos METphi), standardised, of the squared error
    commitment  |z - sg[e]|^2                                                  van den Oord et al. 2017, eq. 3
    codebook    |sg[z] - e|^2, weight 1: it alone trains the codes, and AdamW ignores its scale

Each is a mean over an event's tokens, padding left out, then over events. Trials are ranked by the balanced
accuracy of the token types: electrons are one token in a hundred, and plain accuracy hardly misses them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables import metrics, quantise, tokens_pictures, tokens_traps
from trainables.class_weights import class_weights
from trainables.data import class_counts
from trainables.family import (
    Batch,
    Choice,
    Data,
    Family,
    Measured,
    Metric,
    Noise,
    Number,
    Picture,
    Replacement,
    Term,
)
from trainables.knobs import class_weight_knobs, optimiser_knobs, weight_knobs
from trainables.layers import Dense
from trainables.losses import focal_cross_entropy
from trainables.tokens_data import (
    EVENT_FIELDS,
    FEATURES,
    FEWEST_TYPES,
    GLOBALS,
    MOST_TYPES,
    event_file,
    synthetic_events,
)
from trainables.tokens_layers import MessageRound, TokenLayer, decoder, head, real_tokens, token_mean

SCHEDULES = ("constant", "linear", "delayed")
DEAD = 0.1  # part of an even share of the tokens below which a code is restarted
CODEBOOK_FIGURES = ("codebook_perplexity", "codebook_use", "dead_code_share", "codebook_norm")
LEAST_PERPLEXITY = 2.0  # codes in even use; below it, or a tenth of the codebook, a codebook has collapsed


class EventAutoencoder(nn.Module):
    """One autoencoder. forward: types i64[B, T], features f[B, T, 5] -> features f[B, T, 5], logits
    f[B, T, C], globals f[B, 3]; with a codebook also latent and chosen f[B, T, D], codes i64[B, T] (-1 in
    padding) and num_codes i64[B].
    """

    def __init__(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        super().__init__()
        width, self.kind = static["width"], static["latent"]
        num_types = self.num_types = len(facts["type_names"])
        layer = MessageRound if static["encoder"] == "gnn" else TokenLayer
        size = width if self.kind == "none" else static["latent_dim"]
        self.embedding = nn.Sequential(
            Dense(num_types + len(FEATURES), width), nn.LayerNorm(width), nn.SiLU()
        )
        self.encoder = nn.ModuleList([layer(width), layer(width)])
        if self.kind != "none":
            self.to_latent = Dense(width, size)
        if self.kind == "vq":
            self.codebook = quantise.new_codebook(static["codebook_size"], size)
        self.decoder = decoder(size, width, len(FEATURES) + num_types)
        self.globals_head = head(size + 1, width, len(GLOBALS))

    def forward(
        self, batch: Batch, noise: Mapping[str, Tensor], knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        types, real = batch["types"], real_tokens(batch)
        one_hot = types.unsqueeze(-1) == torch.arange(self.num_types, device=types.device)
        hidden = self.embedding(torch.cat([batch["features"], one_hot.to(real.dtype)], -1))
        for layer in self.encoder:
            hidden = layer(hidden, real)
        latent, found = hidden if self.kind == "none" else self.to_latent(hidden), {}
        if self.kind == "vq":
            codes, chosen, passed = quantise.quantise(latent, self.codebook)
            found = {
                "latent": latent,
                "chosen": chosen,
                "codes": torch.where(types >= 0, codes, -1),
                "num_codes": torch.full_like(types[:, 0], self.codebook.shape[0]),
            }
            latent = passed
        # MET is a sum over tokens; beside their mean the head needs their number, as the decoder knows it.
        share = real.mean(-1, keepdim=True)
        pooled = torch.cat([token_mean(latent, real), share], -1)
        features, logits = self.decoder(latent).split([len(FEATURES), self.num_types], dim=-1)
        return {"features": features, "logits": logits, "globals": self.globals_head(pooled), **found}


class Tokens(Family):
    name = "tokens"
    summary = (
        "autoencoder of event tokens: continuous features, focal types, globals head, linear or VQ latent"
    )
    terms = ("tokens", "types", "globals", "commitment", "codebook")
    collapse_kinds = {
        "codebook": "vq alone: the perplexity is below 10 % of the codes or below 2",
        "variance": "the explained variance of the tokens is 0 or less, where their weight is not 0",
    }
    sources = ("synthetic", "file")
    picture = Picture("events", 512, "val")

    knobs = {
        **weight_knobs("tokens", 1.0, 100.0, "weight of the continuous features"),
        "tokens.kind": Choice("mse", ("mse", "huber"), "squared error, or Huber's, linear in its tails"),
        "tokens.delta": Number(
            1.0, 0.01, 10.0, "standardised error beyond which it is linear", when={"tokens.kind": ("huber",)}
        ),
        **weight_knobs("types", 1.0, 100.0, "weight of the tokens' types"),
        "types.gamma": Number(0.0, 0.0, 5.0, "focal exponent; 0 is cross-entropy"),
        **class_weight_knobs("token types"),
        **weight_knobs(
            "globals", 1.0, 100.0, "weight of MET and METphi at its full value; 0 ignores them", SCHEDULES
        ),
        "commitment.weight": Number(
            0.25, 0.0, 10.0, "weight of the pull on the encoder (beta of VQ-VAE)", when={"latent": ("vq",)}
        ),
        **optimiser_knobs(),
    }
    statics = {
        "latent": Choice("vq", ("none", "linear", "vq"), "what a token is squeezed through"),
        "encoder": Choice("mlp", ("mlp", "gnn"), "each token alone, or with messages from the others"),
        "latent_dim": Number(
            4, 1, 256, "size of the latent", integer=True, when={"latent": ("linear", "vq")}
        ),
        "codebook_size": Number(256, 2, 8192, "codes to choose from", integer=True, when={"latent": ("vq",)}),
        "width": Number(64, 8, 1024, "width of the hidden layers", integer=True),
        "batch_size": Number(128, 2, 8192, "examples in a step, over all workers of an engine", integer=True),
    }
    file_fields = EVENT_FIELDS
    data_settings = {
        "size": Number(8192, 64, 1_000_000, "training examples of the synthetic source", integer=True),
        "invisible": Number(10.0, 0.0, 1000.0, "GeV of noise in each component of synthetic MET"),
        "types": Number(
            FEWEST_TYPES,
            FEWEST_TYPES,
            MOST_TYPES,
            "types of synthetic tokens; the further ones are rare",
            integer=True,
        ),
        "seed": Number(0, 0, 2**31 - 1, "seed of the synthetic source", integer=True),
    }
    trade_off = ("rec_tokens", "rec_globals")
    metrics = {
        "selection_accuracy": Metric("mean over token types of recall (balanced accuracy)"),
        "type_accuracy": Metric("share of token types right"),
        "rec_tokens": Metric("unweighted squared error of features", high=math.inf, higher_is_better=False),
        "rec_types": Metric("unweighted cross-entropy of types, nats", high=math.inf, higher_is_better=False),
        "rec_globals": Metric("unweighted squared error of globals", high=math.inf, higher_is_better=False),
        "total_loss": Metric("rec_tokens + rec_types + rec_globals", high=math.inf, higher_is_better=False),
        "explained_variance_tokens": Metric("mean R^2 of features; 0 is answering the mean", low=-math.inf),
        "explained_variance_globals": Metric("mean R^2 of globals; 0 is answering the mean", low=-math.inf),
        "codebook_perplexity": Metric(
            "codes in even use; NaN without a codebook", low=1.0, high=math.inf, optional=True
        ),
        "codebook_use": Metric("perplexity over the number of codes; NaN without a codebook", optional=True),
        "dead_code_share": Metric(
            "share of codes that no token uses; NaN without a codebook", higher_is_better=False, optional=True
        ),
        "codebook_norm": Metric(
            "largest norm of a code in use; NaN without a codebook",
            high=math.inf,
            higher_is_better=None,
            optional=True,
        ),
    }

    def load(self, settings: Mapping[str, Any]) -> Data:
        if settings["source"] == "file":
            events = event_file(settings["path"])
        else:
            difficulty = {"invisible": settings["invisible"], "types": settings["types"]}
            events = synthetic_events(settings["size"], **difficulty, seed=settings["seed"])
        return Data(events.splits, events.facts, events.warnings)

    def build(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
        return EventAutoencoder(static, facts)

    def noise(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Noise]:
        return {}

    def prepare(self, knobs: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Tensor]:
        weights = class_weights(
            facts["counts"],
            knobs["class_weights.method"],
            one_minus_beta=knobs["class_weights.one_minus_beta"],
            cap=knobs["class_weights.cap"],
        )
        return {
            "class_weights": weights,
            "gamma": torch.tensor(knobs["types.gamma"], dtype=torch.float64),
            "huber": torch.tensor(knobs["tokens.kind"] == "huber"),
            "delta": torch.tensor(knobs["tokens.delta"], dtype=torch.float64),
            "globals_used": torch.tensor(float(knobs["globals.weight"] > 0), dtype=torch.float64),
        }

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> dict[str, Term]:
        real = real_tokens(batch)
        error = outputs["features"] - batch["features"]
        tail = knobs["huber"] & (error.abs() > knobs["delta"])
        # Twice Huber's, so that below delta both kinds are one and tokens.weight keeps its meaning.
        charged = torch.where(tail, knobs["delta"] * (2 * error.abs() - knobs["delta"]), error.square())
        types = focal_cross_entropy(
            outputs["logits"],
            batch["types"].clamp(min=0),
            gamma=knobs["gamma"],
            class_weights=knobs["class_weights"],
        )
        of_globals = (outputs["globals"] - batch["globals"]).square().mean(-1)
        found = {
            "tokens": Term(token_mean(charged.mean(-1, keepdim=True), real).squeeze(-1)),
            "types": Term(token_mean(types.unsqueeze(-1), real).squeeze(-1)),
            # A weight of 0 switches the term off, and the count of active examples says so.
            "globals": Term(of_globals, torch.ones_like(of_globals) * knobs["globals_used"]),
        }
        if "codes" not in outputs:
            nothing = Term(torch.zeros_like(of_globals), torch.zeros_like(of_globals))
            return {**found, "commitment": nothing, "codebook": nothing}
        latent, chosen = outputs["latent"], outputs["chosen"]
        distances = torch.stack(
            [quantise.commitment_distance(latent, chosen), quantise.codebook_distance(latent, chosen)], -1
        )
        commitment, codebook = token_mean(distances, real).unbind(-1)
        return {**found, "commitment": Term(commitment), "codebook": Term(codebook)}

    def renew(
        self, parameters: Mapping[str, Tensor], examined: Mapping[str, Tensor], source: torch.Generator
    ) -> dict[str, Replacement]:
        """Dead codes become encoder outputs of the epoch, drawn at random."""
        if "codebook" not in parameters:
            return {}
        codes, latents = examined["codes"], examined["latent"]
        real = codes >= 0
        counts = torch.bincount(codes[real], minlength=len(parameters["codebook"]))
        dead, values = quantise.restarted(counts, latents[real], source, below=DEAD)
        return {"codebook": Replacement(dead.unsqueeze(-1).expand_as(values), values)}

    def examine(
        self, outputs: Mapping[str, Tensor], batch: Batch, knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        real, types, logits = real_tokens(batch), batch["types"], outputs["logits"]
        squares = (outputs["features"] - batch["features"]).square() * real.unsqueeze(-1)
        plain = torch.ones(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        entropy = focal_cross_entropy(logits, types.clamp(min=0), gamma=0.0, class_weights=plain)
        found = {
            "confusion": metrics.confusion(types, logits.argmax(-1), logits.shape[-1]),
            "rec_tokens": token_mean(squares, real).mean(-1),
            "rec_types": token_mean(entropy.unsqueeze(-1), real).squeeze(-1),
            "num_tokens": real.sum(-1),
            "token_errors": squares.sum(-2),
            "token_sums": batch["features"].sum(-2),  # padding is 0 in them
            "token_squares": batch["features"].square().sum(-2),
            "globals_errors": (outputs["globals"] - batch["globals"]).square(),
            "globals": batch["globals"],
        }
        if "codes" in outputs:
            found |= {name: outputs[name] for name in ("codes", "latent", "num_codes")}
            found["code_norm"] = (outputs["chosen"].norm(dim=-1) * real).amax(-1)
        return found

    def measure(self, examined: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Measured:
        confusion = examined["confusion"].double().sum(0)  # [true type, predicted type], tokens
        errors = {name: float(examined[name].double().mean()) for name in ("rec_tokens", "rec_types")}
        errors["rec_globals"] = float(examined["globals_errors"].double().mean())
        totals = {name: examined[f"token_{name}"].double().sum(0) for name in ("errors", "sums", "squares")}
        given = examined["globals"].double()
        scalars = {
            "selection_accuracy": metrics.balanced_accuracy(confusion),
            "type_accuracy": metrics.accuracy(confusion),
            **errors,
            "total_loss": sum(errors.values()),
            "explained_variance_tokens": _r_squared(**totals, count=float(examined["num_tokens"].sum())),
            "explained_variance_globals": _r_squared(
                examined["globals_errors"].double().sum(0), given.sum(0), given.square().sum(0), len(given)
            ),
        }
        vectors = {"recall_per_type": metrics.recalls(confusion)}
        if "codes" in examined:
            codes, size = examined["codes"], int(examined["num_codes"][0])
            counts = torch.bincount(codes[codes >= 0], minlength=size)
            even = quantise.perplexity(counts)
            dead, norm = (counts == 0).double().mean(), examined["code_norm"].max()
            figures = (even, even / size, float(dead), float(norm))
            vectors["codebook_usage"] = (counts / counts.sum()).sort(descending=True).values.tolist()
        else:
            figures = (math.nan,) * len(CODEBOOK_FIGURES)
        return Measured({**scalars, **dict(zip(CODEBOOK_FIGURES, figures, strict=True))}, vectors)

    def label_counts(self, data: Data) -> dict[str, dict[str, list[int]]]:
        names = data.facts["type_names"]
        counts = [class_counts(split["types"] + 1, len(names) + 1)[1:] for split in data.splits.values()]
        return {"type (tokens)": {name: [int(split[i]) for split in counts] for i, name in enumerate(names)}}

    def chance(self, facts: Mapping[str, Any], static: Mapping[str, Any]) -> float:
        """Balanced accuracy of any answer that ignores the token: 1 over the number of types seen."""
        return 1 / float((facts["counts"] > 0).sum())

    def collapsed(self, scalars: Mapping[str, float]) -> dict[str, bool | None]:
        few = scalars["codebook_use"] < 0.1 or scalars["codebook_perplexity"] < LEAST_PERPLEXITY
        codebook = None if math.isnan(scalars["codebook_use"]) else few
        return {"codebook": codebook, "variance": scalars["explained_variance_tokens"] <= 0}

    def collapse_is_judged(self, kind: str, knobs: Mapping[str, Any], full: Mapping[str, bool]) -> bool:
        return kind == "codebook" or knobs["tokens.weight"] > 0

    def draw(
        self,
        batch: Batch,
        outputs: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        path: Path,
        title: str,
    ) -> None:
        tokens_pictures.draw_events(batch, outputs, facts["type_names"], path, title)

    def traps(self, space: Any, data: Data | None) -> list[str]:
        return tokens_traps.traps(space, data)


def _r_squared(errors: Tensor, sums: Tensor, squares: Tensor, count: float) -> float:
    """1 - squared error / squared distance to the mean: a mean over columns, constant ones left out.

    `errors`, `sums` and `squares` f64[D]: of the errors squared, the values and their squares. 0 if no column
    varies.
    """
    spread = squares - sums.square() / count
    varies = spread > 1e-9 * squares.clamp(min=1)
    return float((1 - errors[varies] / spread[varies]).mean()) if varies.any() else 0.0


TOKENS = Tokens()
