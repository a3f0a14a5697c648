"""Warnings about spaces of tokens that are valid and yet unlikely to do what their authors want."""

from __future__ import annotations

from typing import Any

from trainables.family import Data

__all__ = ["traps"]


def traps(space: Any, data: Data | None) -> list[str]:
    """What the author of `space` should know, one sentence or two each."""
    return [*_loss_traps(space), *_data_traps(space, data)]


def _loss_traps(space: Any) -> list[str]:
    """Weights and latents with which the search learns little."""
    found, latent, knobs = [], space.static["latent"], space.knobs
    weights = {term: knobs[f"{term}.weight"] for term in ("tokens", "types", "globals")}
    idle = [name for name in space.searched() if name.startswith("globals.")]
    if _always_zero(weights["globals"]) and idle:
        found.append(
            f"globals.weight is 0, where {', '.join(idle)} changes nothing. Fix it, or raise the weight."
        )
    if latent.holds("vq") and knobs["commitment.weight"].holds(0):
        found.append(
            "commitment.weight may be 0: nothing keeps a vq encoder near its codes, and its outputs can "
            "grow without bound. Begin at 0.05."
        )
    ranked = "selection_accuracy" in space.objectives
    if ranked and _always_zero(weights["types"]):
        found.append(
            "types.weight is 0: the types that selection_accuracy ranks by are never trained. Raise it."
        )
    if ranked and latent.searched and latent.holds("none") and space.sampler != "grid":
        found.append(
            "latent none is searched: it hands every type through, so selection_accuracy picks it "
            "whatever the loss. Leave it out, or compare latents by a grid."
        )
    if all(weight.searched for weight in weights.values()):
        found.append(
            "tokens.weight, types.weight and globals.weight are all searched: AdamW sees their ratios "
            "alone, and one dimension is wasted. Fix one at 1."
        )
    return found


def _data_traps(space: Any, data: Data | None) -> list[str]:
    """A codebook too large for the data."""
    sizes = space.static["codebook_size"]
    largest = {"fixed": (sizes.value,), "choice": sizes.choices}.get(sizes.kind, (sizes.high,))
    if data is None or not space.static["latent"].holds("vq") or max(largest) <= data.facts["counts"].sum():
        return []
    return [
        f"codebook_size may be {max(largest):g}, more than the {data.facts['counts'].sum():g} training "
        "tokens: codes die by want of tokens. Lower it."
    ]


def _always_zero(weight: Any) -> bool:
    """Whether a weight of a space is fixed at 0."""
    return weight.kind == "fixed" and weight.value == 0
