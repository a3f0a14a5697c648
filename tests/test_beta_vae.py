"""beta_vae: its terms, its metrics, its two kinds of collapse, and what its knobs do on synthetic grids."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
import torch
from families import Case, by_name, engine_of, job, run
from PIL import Image
from sklearn import metrics as oracle  # scikit-learn 1.9.1
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.func import vmap

from trainables.beta_vae import BETA_VAE, COLOURS, LOG_VARIANCE, SIDE
from trainables.grids import dihedral
from trainables.member import Job
from trainables.metrics import confusion
from trainables.slots import default_knobs

PIXELS = SIDE * SIDE
COUNTS = torch.tensor([9000.0, 500, 300, 100, 50, 30, 10, 6, 4, 0], dtype=torch.float64)


def _knobs(**changes: Any) -> dict[str, Any]:
    return {**default_knobs(BETA_VAE), **changes}


def _outputs(size: int = 6, latent: int = 5) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(0)
    draw = {"generator": source, "dtype": torch.float64}
    return {
        "logits": 2 * torch.randn(size, PIXELS, COLOURS, **draw),
        "target": torch.randint(9, (size, PIXELS), generator=source),
        "mean": torch.randn(size, latent, **draw) * torch.tensor([2.0, 1.0, 0.5, 0.1, 0.0]),
        "log_variance": 0.3 * torch.randn(size, latent, **draw),
    }


def _terms(outputs: dict[str, Tensor], **changes: Any) -> dict[str, float]:
    prepared = BETA_VAE.prepare(_knobs(**changes), {"counts": COUNTS})
    means = {name: tensor.mean(0) for name, tensor in BETA_VAE.share(outputs).items()}
    terms = BETA_VAE.losses(outputs, means, {}, prepared)
    assert all(term.active is None for term in terms.values())
    return {name: term.values.mean().item() for name, term in terms.items()}


# ---- terms


@pytest.mark.parametrize("free_bits", [0.0, 0.1, 0.5, 2.0])
def test_kl_is_the_sum_over_dimensions_of_the_batch_mean_but_at_least_the_free_bits(free_bits: float):
    outputs = _outputs()
    posterior = Normal(outputs["mean"], (outputs["log_variance"] / 2).exp())
    per_dim = kl_divergence(posterior, Normal(0.0, 1.0)).mean(0)
    expected = per_dim.clamp(min=free_bits).sum().item()
    assert _terms(outputs, **{"kl.free_bits": free_bits})["kl"] == pytest.approx(expected, rel=1e-12)


def test_dimensions_under_their_free_bits_get_no_gradient_and_the_others_their_own():
    outputs = _outputs()
    outputs["mean"].requires_grad_()
    prepared = BETA_VAE.prepare(_knobs(**{"kl.free_bits": 0.2}), {"counts": COUNTS})
    means = {name: tensor.detach().mean(0) for name, tensor in BETA_VAE.share(outputs).items()}
    charged = means["kl"] > 0.2
    assert charged.any() and not charged.all()
    BETA_VAE.losses(outputs, means, {}, prepared)["kl"].values.mean().backward()
    gradient = outputs["mean"].grad
    assert not gradient[:, ~charged].any()
    torch.testing.assert_close(gradient[:, charged], outputs["mean"].detach()[:, charged] / 6)


@pytest.mark.parametrize(
    ("gamma", "method"), [(0.0, "none"), (2.0, "none"), (2.0, "sqrt_inverse"), (1.0, "inverse")]
)
def test_reconstruction_is_the_mean_over_pixels_of_the_papers_focal_loss(gamma: float, method: str):
    outputs = _outputs(size=2)
    counts = COUNTS[:9].tolist()
    raw = {"none": [1.0] * 9, "inverse": [1 / n for n in counts], "sqrt_inverse": [n**-0.5 for n in counts]}
    weights = [*reference.normalised_class_weights(raw[method], [int(n) for n in counts], 100.0), 0.0]
    pixels = [
        reference.focal_loss(outputs["logits"][i, p].tolist(), int(outputs["target"][i, p]), gamma, weights)
        for i in range(2)
        for p in range(PIXELS)
    ]
    changes = {"reconstruction.gamma": gamma, "class_weights.method": method}
    assert _terms(outputs, **changes)["reconstruction"] == pytest.approx(np.mean(pixels), rel=1e-9)


# ---- metrics


def _examined(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return BETA_VAE.examine(outputs, {}, {})


def test_the_metrics_are_scikit_learns():
    outputs = _outputs(size=30)
    outputs["target"][0] = outputs["logits"][0].argmax(-1)
    found = BETA_VAE.measure(_examined(outputs), {}).scalars
    truth, predicted = outputs["target"].flatten().numpy(), outputs["logits"].argmax(-1).flatten().numpy()
    expected = {
        "selection_accuracy": oracle.jaccard_score(truth, predicted, average="macro"),
        "pixel_accuracy": oracle.accuracy_score(truth, predicted),
        "foreground_accuracy": oracle.accuracy_score(truth[truth > 0], predicted[truth > 0]),
        "background_share": (predicted == 0).mean(),
        "background_truth": (truth == 0).mean(),
        "balanced_accuracy": oracle.balanced_accuracy_score(truth, predicted),
        "perfect_grids": 1 / 30,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    assert found.keys() == BETA_VAE.metrics.keys()


def test_the_latents_metrics_are_those_of_each_dimension():
    outputs = _outputs(size=200)
    measured = BETA_VAE.measure(_examined(outputs), {})
    posterior = Normal(outputs["mean"], (outputs["log_variance"] / 2).exp())
    per_dim = kl_divergence(posterior, Normal(0.0, 1.0)).mean(0)
    found = measured.scalars
    assert measured.vectors["kl_per_dim"] == pytest.approx(per_dim.tolist(), rel=1e-9)
    figures = {"kl_mean": per_dim.mean(), "kl_min": per_dim.min(), "kl_max": per_dim.max()}
    for name, value in figures.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-9)
    assert found["active_units_kl"] == (per_dim > 0.05).sum() == 3
    # Means spread by 2, 1, 0.5, 0.1 (variance 0.01 in expectation) and 0.
    assert found["active_units_variance"] == (outputs["mean"].var(0, correction=0) > 0.01).sum()


def test_chance_is_what_answering_background_everywhere_scores():
    truth = torch.repeat_interleave(torch.arange(COLOURS), COUNTS.long())
    all_background = confusion(truth[None], torch.zeros_like(truth)[None], COLOURS)
    examined = {**_examined(_outputs()), "confusion": all_background}
    scored = BETA_VAE.measure(examined, {}).scalars["selection_accuracy"]
    assert BETA_VAE.chance({"val_counts": COUNTS}, {}) == pytest.approx(scored, rel=1e-9)


# ---- collapse


def _painted(background: float, foreground_right: float) -> dict[str, float]:
    """Metrics of a made-up confusion: 93 % background, of which `background` is answered so."""
    made_up = torch.zeros(COLOURS, COLOURS, dtype=torch.float64)
    made_up[0] = torch.tensor([9300 * background, *[9300 * (1 - background) / 9] * 9])
    for colour in range(1, COLOURS):
        made_up[colour, colour] = 700 / 9 * foreground_right
        made_up[colour, 0] = 700 / 9 * (1 - foreground_right)
    examined = {**_examined(_outputs()), "confusion": made_up[None]}
    return BETA_VAE.measure(examined, {}).scalars


@pytest.mark.parametrize(
    ("background", "foreground_right", "mode"),
    [(1.0, 0.0, True), (1.0, 0.1, True), (0.9, 0.04, True), (0.9, 0.06, False), (0.98, 0.5, False)],
)
def test_a_model_that_answers_background_or_misses_the_foreground_has_collapsed_by_mode(
    background: float, foreground_right: float, mode: bool
):
    scalars = _painted(background, foreground_right)
    assert BETA_VAE.collapsed(scalars)["mode"] is mode
    if (background, foreground_right) == (1.0, 0.0):
        assert scalars["pixel_accuracy"] == pytest.approx(0.93), "though 93 % of its pixels are right"


@pytest.mark.parametrize(("kl_mean", "posterior"), [(0.049, True), (0.051, False)])
def test_a_latent_that_says_nothing_has_collapsed_by_posterior(kl_mean: float, posterior: bool):
    assert BETA_VAE.collapsed({**_painted(0.9, 0.5), "kl_mean": kl_mean})["posterior"] is posterior


@pytest.mark.parametrize(
    ("kind", "weight", "full", "judged"),
    [
        ("posterior", 0.5, True, True),
        ("posterior", 0.5, False, False),
        ("posterior", 0.0, True, False),
        ("mode", 0.5, False, True),
        ("mode", 0.0, True, True),
    ],
)
def test_the_posterior_is_judged_only_under_a_full_kl_weight_that_is_not_zero(
    kind: str, weight: float, full: bool, judged: bool
):
    assert BETA_VAE.collapse_is_judged(kind, {"kl.weight": weight}, {"kl": full}) is judged


def test_an_engine_reports_no_verdict_on_the_posterior_until_the_kl_weight_is_full():
    case = by_name("beta_vae")
    delayed = {"kl.weight": 0.5, "kl.schedule": "delayed", "kl.start": 0.5}
    jobs = {0: job(case, 0, epochs=4, **delayed), 1: job(case, 1, epochs=4, **{"kl.weight": 0.0})}
    reports = run(engine_of(case, 2, jobs), 4)
    unjudged = {
        trial: [math.isnan(r.row["collapsed.posterior"]) for r in rows] for trial, rows in reports.items()
    }
    assert unjudged == {0: [True, True, False, False], 1: [True] * 4}
    assert not any(math.isnan(r.row["collapsed.mode"]) for rows in reports.values() for r in rows)


# ---- the model


def _case_parts(case: Case) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = case.family.build(case.full_static, case.load().facts)
    return model, {name: tensor[:8] for name, tensor in case.load().splits["train"].items()}


@pytest.mark.parametrize("name", ["beta_vae", "beta_vae-conv-d4"])
def test_the_model_gives_logits_for_every_pixel_and_a_latent_and_its_variance_is_bounded(name: str):
    case = by_name(name)
    model, batch = _case_parts(case)
    latent = case.static["latent_dim"]
    noise = {"latent": torch.randn(8, latent), "turn": torch.zeros(8, dtype=torch.long)}
    outputs = model(batch, noise, {})
    assert outputs["logits"].shape == (8, PIXELS, COLOURS)
    assert outputs["mean"].shape == outputs["log_variance"].shape == (8, latent)
    with torch.no_grad():
        model.to_latent.bias.add_(1e3)
    assert model(batch, noise, {})["log_variance"].max() == LOG_VARIANCE[1]
    with torch.no_grad():
        model.to_latent.bias.sub_(2e3)
    assert model(batch, noise, {})["log_variance"].min() == LOG_VARIANCE[0]


def test_noise_moves_the_latent_in_training_by_its_standard_deviation_and_not_in_evaluation():
    model, batch = _case_parts(by_name("beta_vae"))
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    noise = {"latent": torch.full((8, 4), 2.0)}
    outputs = model(batch, noise, {})
    torch.testing.assert_close(seen[0], outputs["mean"] + 2 * (outputs["log_variance"] / 2).exp())
    model.eval()
    assert torch.equal(model(batch, {}, {})["mean"], seen[1])


def test_augmentation_turns_input_and_target_alike_and_only_in_training():
    model, batch = _case_parts(by_name("beta_vae-conv-d4"))
    turn, latent = torch.arange(8), torch.randn(8, 3)
    outputs = model(batch, {"turn": turn, "latent": latent}, {})
    turned = {"grid": dihedral(batch["grid"], turn)}
    assert not torch.equal(turned["grid"], batch["grid"])
    as_is = model(turned, {"turn": torch.zeros(8, dtype=torch.long), "latent": latent}, {})
    assert torch.equal(outputs["target"], turned["grid"].flatten(1))
    torch.testing.assert_close(outputs["logits"], as_is["logits"])
    model.eval()
    assert torch.equal(model(batch, {}, {})["target"], batch["grid"].flatten(1))


def test_the_noise_that_is_drawn_is_what_the_model_asks_for():
    for name in ("beta_vae", "beta_vae-conv-d4"):
        case = by_name(name)
        drawn = case.family.noise(case.full_static, case.load().facts)
        assert drawn["latent"].shape == (case.static["latent_dim"],)
        assert ("turn" in drawn) == (case.static["augment"] == "d4")


def test_prepared_knobs_of_all_trials_have_one_shape():
    case = by_name("beta_vae")
    prepared = [case.family.prepare(case.knobs(number), case.load().facts) for number in range(4)]
    shapes = [{name: tensor.shape for name, tensor in one.items()} for one in prepared]
    assert all(one == shapes[0] for one in shapes)
    weights = torch.stack([one["class_weights"] for one in prepared])
    assert len(weights.unique(dim=0)) == 4, "each method gives its own weights"


def test_the_terms_run_under_vmap_as_member_by_member():
    members = [_outputs(), {name: tensor.flip(0) for name, tensor in _outputs().items()}]
    prepared = [
        BETA_VAE.prepare(_knobs(**{"reconstruction.gamma": gamma}), {"counts": COUNTS})
        for gamma in (0.0, 2.0)
    ]
    stacked, knobs = ({k: torch.stack([m[k] for m in ms]) for k in ms[0]} for ms in (members, prepared))
    means = {name: tensor.mean(1) for name, tensor in vmap(BETA_VAE.share)(stacked).items()}
    values = vmap(lambda o, m, k: {n: t.values for n, t in BETA_VAE.losses(o, m, {}, k).items()})
    together = values(stacked, means, knobs)
    for i, outputs in enumerate(members):
        alone = BETA_VAE.losses(outputs, {"kl": means["kl"][i]}, {}, prepared[i])
        for name, term in alone.items():
            torch.testing.assert_close(together[name][i], term.values)


def test_a_picture_is_drawn_of_inputs_and_reconstructions(tmp_path):
    model, batch = _case_parts(by_name("beta_vae"))
    outputs = model.eval()(batch, {}, {})
    BETA_VAE.draw(batch, outputs, {}, tmp_path / "picture.png", "trial 0")
    with Image.open(tmp_path / "picture.png") as picture:
        assert min(picture.size) > SIDE


# ---- what the knobs do


def test_knobs_move_the_trained_model_the_way_they_should():
    """Six trials of 40 epochs of four steps.

    Over four seeds: background share 1.00 for plain weights, 0.89 to 0.997 for sqrt_inverse, 0.10 to 0.37 for
    inverse; KL per dimension 0.49 to 1.04 plain, below 1e-4 under a weight of 4, 0.22 to 0.36 with free bits.
    """
    case = by_name("beta_vae")
    base = {"kl.weight": 1e-3, "optim.lr": 5e-3}
    changes = [
        {},
        {"kl.weight": 4.0},
        {"kl.weight": 4.0, "kl.free_bits": 0.5},
        {"class_weights.method": "sqrt_inverse"},
        {"class_weights.method": "inverse", "reconstruction.gamma": 1.0},
        {"optim.lr": 1e-6},
    ]
    jobs = {
        slot: Job(slot, seed=0, epochs=40, knobs=_knobs(**base) | change)
        for slot, change in enumerate(changes)
    }
    reports = run(engine_of(case, len(jobs), jobs), 40)
    first, last = ({trial: r[i].row for trial, r in reports.items()} for i in (0, -1))
    plain, heavy, free, root, inverse, still = (last[slot] for slot in range(6))
    assert plain["train.reconstruction"] < 0.5 * first[0]["train.reconstruction"]
    assert heavy["val.kl_mean"] < 0.05 < plain["val.kl_mean"]
    assert heavy["collapsed.posterior"] == 1.0 and plain["collapsed.posterior"] == 0.0
    assert free["val.kl_mean"] > 0.1
    assert plain["val.background_share"] > root["val.background_share"] > inverse["val.background_share"]
    assert plain["collapsed.mode"] == 1.0 and plain["val.pixel_accuracy"] > 0.9, "the trap of the family"
    assert inverse["collapsed.mode"] == 0.0 and inverse["val.background_share"] < 0.6
    assert still["train.reconstruction"] > 0.9 * first[5]["train.reconstruction"]
