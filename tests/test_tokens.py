"""tokens: its terms, its metrics, its kinds of collapse, its model, its codebook in the engine, its traps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from families import by_name, engine_of, job, run
from PIL import Image
from sklearn import metrics as oracle  # scikit-learn 1.9.1
from torch import Tensor
from torch.func import vmap

from search.space import load_space, traps
from trainables.family import Data
from trainables.member import Job
from trainables.slots import default_knobs
from trainables.tokens import TOKENS

COUNTS = torch.tensor([900.0, 80, 15, 5, 0], dtype=torch.float64)
FACTS = {"counts": COUNTS, "type_names": ("jet", "bjet", "mu", "photon", "tau")}
STATIC = {"latent": "vq", "encoder": "mlp", "latent_dim": 3, "codebook_size": 6, "width": 8, "batch_size": 16}
EVENTS, SLOTS, TYPES = 12, 4, 5


def _knobs(**changes: Any) -> dict[str, Any]:
    return {**default_knobs(TOKENS), **changes}


def _batch() -> dict[str, Tensor]:
    """Events of one to four tokens of four types in float64; 0 in padding."""
    source = torch.Generator().manual_seed(0)
    draw = {"generator": source, "dtype": torch.float64}
    lengths = 1 + torch.arange(EVENTS) % SLOTS
    real = torch.arange(SLOTS) < lengths[:, None]
    types = torch.where(real, torch.randint(TYPES - 1, (EVENTS, SLOTS), generator=source), -1)
    features = torch.randn(EVENTS, SLOTS, 5, **draw) * real.unsqueeze(-1)
    return {
        "types": types,
        "features": features,
        "globals": torch.randn(EVENTS, 3, **draw),
        "event": torch.arange(EVENTS),
    }


def _outputs(codebook: bool = True) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(1)
    draw = {"generator": source, "dtype": torch.float64}
    batch = _batch()
    plain = {
        "features": batch["features"] + torch.randn(EVENTS, SLOTS, 5, **draw),
        "logits": 2 * torch.randn(EVENTS, SLOTS, TYPES, **draw),
        "globals": batch["globals"] + 0.5 * torch.randn(EVENTS, 3, **draw),
    }
    latent, chosen = (torch.randn(EVENTS, SLOTS, 3, **draw) for _ in range(2))
    codes = torch.where(batch["types"] >= 0, torch.randint(6, (EVENTS, SLOTS), generator=source), -1)
    found = {"latent": latent, "chosen": chosen, "codes": codes, "num_codes": torch.full((EVENTS,), 6)}
    return {**plain, **found} if codebook else plain


def _terms(outputs: dict[str, Tensor], **changes: Any) -> dict[str, float]:
    """Each term's mean over its active examples."""
    terms = TOKENS.losses(outputs, {}, _batch(), TOKENS.prepare(_knobs(**changes), FACTS))
    assert tuple(terms) == TOKENS.terms
    found = {}
    for name, (values, active) in terms.items():
        active = torch.ones(EVENTS) if active is None else active
        found[name] = float((values.detach() * active).sum() / active.sum().clamp(min=1))
    return found


def _event_means(values: Tensor) -> float:
    """Mean over an event's tokens, then over events, by loops; `values` f[B, T]."""
    types = _batch()["types"]
    means = []
    for event in range(EVENTS):
        tokens = [values[event, slot].item() for slot in range(SLOTS) if types[event, slot] >= 0]
        means.append(sum(tokens) / len(tokens))
    return sum(means) / EVENTS


# ---- terms


def test_tokens_is_the_mean_squared_error_of_the_real_tokens():
    outputs, batch = _outputs(), _batch()
    expected = _event_means(F.mse_loss(outputs["features"], batch["features"], reduction="none").mean(-1))
    assert _terms(outputs)["tokens"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("delta", [0.1, 1.0, 5.0])
def test_huber_is_twice_torchs_and_equals_the_squared_error_up_to_delta(delta: float):
    outputs, batch = _outputs(), _batch()
    theirs = F.huber_loss(outputs["features"], batch["features"], reduction="none", delta=delta)
    found = _terms(outputs, **{"tokens.kind": "huber", "tokens.delta": delta})["tokens"]
    assert found == pytest.approx(2 * _event_means(theirs.mean(-1)), rel=1e-12)
    assert (found == pytest.approx(_terms(outputs)["tokens"], rel=1e-9)) is (delta == 5.0)


@pytest.mark.parametrize(
    ("gamma", "method"), [(0.0, "none"), (2.0, "none"), (2.0, "sqrt_inverse"), (1.0, "inverse")]
)
def test_types_is_the_papers_focal_loss_of_the_real_tokens(gamma: float, method: str):
    outputs, batch = _outputs(), _batch()
    counts = [int(count) for count in COUNTS[:4]]
    raw = {"none": [1.0] * 4, "inverse": [1 / n for n in counts], "sqrt_inverse": [n**-0.5 for n in counts]}
    weights = [*reference.normalised_class_weights(raw[method], counts, 100.0), 0.0]
    losses = torch.zeros(EVENTS, SLOTS, dtype=torch.float64)
    for event, slot in (batch["types"] >= 0).nonzero().tolist():
        logits, target = outputs["logits"][event, slot].tolist(), int(batch["types"][event, slot])
        losses[event, slot] = reference.focal_loss(logits, target, gamma, weights)
    changes = {"types.gamma": gamma, "class_weights.method": method}
    assert _terms(outputs, **changes)["types"] == pytest.approx(_event_means(losses), rel=1e-9)


def test_commitment_and_codebook_are_the_squared_distance_of_real_tokens_to_their_codes():
    outputs = _outputs()
    expected = _event_means((outputs["latent"] - outputs["chosen"]).square().sum(-1))
    found = _terms(outputs)
    assert found["commitment"] == pytest.approx(expected, rel=1e-12)
    assert found["codebook"] == pytest.approx(expected, rel=1e-12)


def test_globals_is_the_mean_squared_error_and_takes_no_part_at_weight_zero():
    outputs, batch = _outputs(), _batch()
    expected = F.mse_loss(outputs["globals"], batch["globals"]).item()
    for weight in (1e-3, 1.0, 10.0):
        assert _terms(outputs, **{"globals.weight": weight})["globals"] == pytest.approx(expected, rel=1e-12)
    prepared = TOKENS.prepare(_knobs(**{"globals.weight": 0.0}), FACTS)
    term = TOKENS.losses(outputs, {}, batch, prepared)["globals"]
    assert not term.active.any()


def test_without_a_codebook_its_terms_are_zero_and_no_example_is_active():
    terms = TOKENS.losses(_outputs(codebook=False), {}, _batch(), TOKENS.prepare(_knobs(), FACTS))
    for name in ("commitment", "codebook"):
        assert not terms[name].values.any() and not terms[name].active.any()


@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_what_stands_in_padding_changes_no_term_and_gets_no_gradient(kind: str):
    outputs, padding = _outputs(), _batch()["types"] < 0
    plain = _terms(outputs, **{"tokens.kind": kind})
    for name in ("features", "logits", "latent", "chosen"):
        outputs[name] = torch.where(padding.unsqueeze(-1), 1e3, outputs[name]).requires_grad_()
    assert _terms(outputs, **{"tokens.kind": kind}) == plain
    terms = TOKENS.losses(outputs, {}, _batch(), TOKENS.prepare(_knobs(**{"tokens.kind": kind}), FACTS))
    sum(term.values.sum() for term in terms.values()).backward()
    for name in ("features", "logits", "latent", "chosen"):
        assert outputs[name].grad.isfinite().all()
        assert not outputs[name].grad[padding].any() and outputs[name].grad[~padding].any(-1).all()


def test_the_terms_of_mixed_knobs_run_under_vmap_as_member_by_member():
    prepared = [
        TOKENS.prepare(_knobs(**changes), FACTS)
        for changes in ({}, {"tokens.kind": "huber", "tokens.delta": 0.2, "globals.weight": 0.0})
    ]
    knobs = {name: torch.stack([one[name] for one in prepared]) for name in prepared[0]}
    outputs, batch = _outputs(), _batch()

    def values(knobs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: term.values for name, term in TOKENS.losses(outputs, {}, batch, knobs).items()}

    together = vmap(values)(knobs)
    for i, one in enumerate(prepared):
        for name, alone in values(one).items():
            torch.testing.assert_close(together[name][i], alone)
    assert not torch.equal(together["tokens"][0], together["tokens"][1])


# ---- metrics


def _examined(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return TOKENS.examine(outputs, _batch(), {})


def test_the_metrics_are_scikit_learns():
    outputs, batch = _outputs(), _batch()
    found = TOKENS.measure(_examined(outputs), FACTS).scalars
    assert found.keys() == TOKENS.metrics.keys()
    real = batch["types"] >= 0
    truth, predicted = batch["types"][real].numpy(), outputs["logits"][real].argmax(-1).numpy()
    made = {name: outputs[name].numpy() for name in ("features", "globals")}
    given = {name: batch[name].numpy() for name in ("features", "globals")}
    entropy = F.cross_entropy(outputs["logits"].movedim(-1, 1), batch["types"].clamp(min=0), reduction="none")
    recalls = oracle.recall_score(truth, predicted, labels=range(4), average=None)
    expected = {
        "selection_accuracy": recalls.mean(),
        "type_accuracy": oracle.accuracy_score(truth, predicted),
        "rec_tokens": _event_means((outputs["features"] - batch["features"]).square().mean(-1)),
        "rec_types": _event_means(entropy),
        "rec_globals": oracle.mean_squared_error(given["globals"], made["globals"]),
        "explained_variance_tokens": oracle.r2_score(given["features"][real], made["features"][real]),
        "explained_variance_globals": oracle.r2_score(given["globals"], made["globals"]),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    assert found["total_loss"] == pytest.approx(
        expected["rec_tokens"] + expected["rec_types"] + expected["rec_globals"], rel=1e-9
    )


def test_the_codebooks_figures_are_those_of_how_its_codes_are_used():
    outputs, real = _outputs(), _batch()["types"] >= 0
    outputs["codes"] = torch.where(real, torch.arange(SLOTS) // 2, -1)  # codes 0 and 1 of 6
    outputs["chosen"][real] = 0.1
    outputs["chosen"][EVENTS - 1, 0] = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    outputs["chosen"][~real] = 99.0
    measured = TOKENS.measure(_examined(outputs), FACTS)
    # Of 3 x (1 + 2 + 3 + 4) tokens the third and fourth of an event have code 1.
    shares = np.array([21, 9]) / 30
    perplexity = math.exp(-(shares * np.log(shares)).sum())
    assert measured.scalars["codebook_perplexity"] == pytest.approx(perplexity, rel=1e-12)
    assert measured.scalars["codebook_use"] == pytest.approx(perplexity / 6, rel=1e-12)
    assert measured.scalars["dead_code_share"] == pytest.approx(4 / 6)
    assert measured.scalars["codebook_norm"] == pytest.approx(5.0)
    assert measured.vectors["codebook_usage"] == pytest.approx([*shares, 0, 0, 0, 0])
    assert len(measured.vectors["recall_per_type"]) == TYPES and math.isnan(
        measured.vectors["recall_per_type"][4]
    )


def test_without_a_codebook_its_figures_are_nan_and_nothing_else_is():
    measured = TOKENS.measure(_examined(_outputs(codebook=False)), FACTS)
    missing = {name for name, value in measured.scalars.items() if math.isnan(value)}
    assert missing == {"codebook_perplexity", "codebook_use", "dead_code_share", "codebook_norm"}
    assert "codebook_usage" not in measured.vectors


def test_a_feature_that_never_varies_is_left_out_of_the_explained_variance():
    batch, outputs = _batch(), _outputs()
    batch["globals"][:, 1] = 0.1
    found = TOKENS.measure(TOKENS.examine(outputs, batch, {}), FACTS).scalars["explained_variance_globals"]
    kept = [0, 2]
    expected = oracle.r2_score(batch["globals"][:, kept], outputs["globals"][:, kept])
    assert found == pytest.approx(expected, rel=1e-9)


def test_chance_is_what_one_answer_for_all_tokens_scores():
    outputs = _outputs()
    outputs["logits"] = torch.zeros_like(outputs["logits"])
    outputs["logits"][..., 0] = 1.0
    scored = TOKENS.measure(_examined(outputs), FACTS).scalars["selection_accuracy"]
    assert TOKENS.chance(FACTS, {}) == pytest.approx(scored) == 0.25


def test_labels_are_counted_by_name_and_split():
    data = Data({name: _batch() for name in ("train", "val", "test")}, FACTS)
    counts = TOKENS.label_counts(data)["type (tokens)"]
    types = _batch()["types"]
    expected = {name: [int((types == i).sum())] * 3 for i, name in enumerate(FACTS["type_names"])}
    assert counts == expected and counts["tau"] == [0, 0, 0]


# ---- collapse


@pytest.mark.parametrize(
    ("perplexity", "use", "collapsed"),
    [(1.9, 0.9, True), (20.0, 0.09, True), (2.1, 0.11, False), (math.nan, math.nan, None)],
)
def test_a_codebook_of_few_codes_in_use_has_collapsed(perplexity: float, use: float, collapsed: bool | None):
    scalars = {"codebook_perplexity": perplexity, "codebook_use": use, "explained_variance_tokens": 0.5}
    assert TOKENS.collapsed(scalars) == {"codebook": collapsed, "variance": False}


@pytest.mark.parametrize(("explained", "collapsed"), [(-0.1, True), (0.0, True), (0.01, False)])
def test_features_no_better_than_their_mean_have_collapsed(explained: float, collapsed: bool):
    scalars = {"codebook_perplexity": 9.0, "codebook_use": 0.5, "explained_variance_tokens": explained}
    assert TOKENS.collapsed(scalars)["variance"] is collapsed


def test_features_without_weight_are_not_judged():
    assert not TOKENS.collapse_is_judged("variance", {"tokens.weight": 0.0}, {})
    assert TOKENS.collapse_is_judged("variance", {"tokens.weight": 0.1}, {})
    assert TOKENS.collapse_is_judged("codebook", {"tokens.weight": 0.0}, {})


# ---- the model


def _model(latent: str, encoder: str) -> torch.nn.Module:
    torch.manual_seed(0)
    static = {**STATIC, "latent": latent, "encoder": encoder}
    return TOKENS.build(static, FACTS).double().eval()


LATENTS = pytest.mark.parametrize("latent", ["none", "linear", "vq"])
ENCODERS = pytest.mark.parametrize("encoder", ["mlp", "gnn"])


@LATENTS
@ENCODERS
def test_the_model_ignores_what_stands_in_padding_and_how_much_of_it_there_is(latent: str, encoder: str):
    model, batch = _model(latent, encoder), _batch()
    padding = batch["types"] < 0
    plain = model(batch, {}, {})
    stuffed = {**batch, "features": torch.where(padding.unsqueeze(-1), 1e3, batch["features"])}
    other = model(stuffed, {}, {})
    for name in ("features", "logits"):
        torch.testing.assert_close(other[name][~padding], plain[name][~padding])
    torch.testing.assert_close(other["globals"], plain["globals"])
    assert plain["features"].shape == (EVENTS, SLOTS, 5) and plain["logits"].shape == (EVENTS, SLOTS, TYPES)


@LATENTS
@ENCODERS
def test_tokens_in_another_order_give_the_same_event(latent: str, encoder: str):
    model, batch = _model(latent, encoder), _batch()
    whole = {name: tensor[3:4] for name, tensor in batch.items()}  # four tokens
    turned = {**whole, "types": whole["types"].flip(1), "features": whole["features"].flip(1)}
    one, other = model(whole, {}, {}), model(turned, {}, {})
    torch.testing.assert_close(other["features"].flip(1), one["features"])
    torch.testing.assert_close(other["globals"], one["globals"])


@ENCODERS
def test_tokens_hear_of_the_others_through_messages_alone(encoder: str):
    model, batch = _model("linear", encoder), _batch()
    changed = {**batch, "features": batch["features"].clone()}
    changed["features"][3, 2] += 1.0  # the third of four tokens
    before, after = (model(one, {}, {})["features"] for one in (batch, changed))
    moved = (before != after).any(-1)
    assert moved[3].tolist() == ([True] * 4 if encoder == "gnn" else [False, False, True, False])
    assert not moved[[event for event in range(EVENTS) if event != 3]].any()


def test_a_token_hears_the_mean_of_the_other_tokens_messages():
    """By loops; padding sends nothing, and a token alone hears 0."""
    model, batch = _model("none", "gnn"), _batch()
    layer = model.encoder[0]
    hidden = torch.randn(EVENTS, SLOTS, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real = (batch["types"] >= 0).double()
    found = layer(hidden, real)
    for event in range(EVENTS):
        tokens = [slot for slot in range(SLOTS) if real[event, slot]]
        for slot in tokens:
            others = [layer.message(hidden[event, other]) for other in tokens if other != slot]
            heard = sum(others) / len(others) if others else torch.zeros(8).double()
            expected = hidden[event, slot] + layer.inner(torch.cat([hidden[event, slot], heard]))
            torch.testing.assert_close(found[event, slot], expected)


def test_a_vq_model_decodes_its_codes_alone_and_says_which():
    model, batch = _model("vq", "mlp"), _batch()
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    outputs = model(batch, {}, {})
    real = batch["types"] >= 0
    torch.testing.assert_close(seen[0][real], model.codebook[outputs["codes"][real]])
    assert (outputs["codes"][~real] == -1).all()
    distances = (outputs["latent"].unsqueeze(-2) - model.codebook).square().sum(-1)
    assert torch.equal(distances.argmin(-1)[real], outputs["codes"][real])


# ---- in the engine


def test_at_weight_zero_the_globals_head_stays_as_it_was_born_and_the_report_says_so():
    case = by_name("tokens")
    ignored = {"globals.weight": 0.0, "optim.weight_decay": 0.0}
    jobs = {
        0: Job(0, 5, 4, case.knobs(0) | ignored),
        1: Job(1, 5, 4, case.knobs(0) | ignored | {"globals.weight": 1.0}),
    }
    engine = engine_of(case, 2, jobs)
    born = engine.stack.read_row(0)
    rows = {trial: reports[-1].row for trial, reports in run(engine, 4).items()}
    for slot, same in ((0, True), (1, False)):
        head = {name: t for name, t in engine.stack.read_row(slot).items() if name.startswith("globals_head")}
        assert len(head) == 6
        assert all(torch.equal(tensor, born[name]) is same for name, tensor in head.items())
    assert (rows[0]["weight.globals"], rows[0]["active.globals"], rows[0]["val.globals"]) == (0, 0, 0)
    assert (rows[1]["weight.globals"], rows[1]["active.globals"]) == (1, 64)
    assert rows[1]["val.globals"] == pytest.approx(rows[1]["val.rec_globals"], rel=1e-5)
    assert rows[0]["val.rec_globals"] > 0.5, "the untrained head's error is still reported"


def test_the_squared_error_kind_and_its_metric_are_one_figure():
    case = by_name("tokens")
    (report,) = engine_of(case, 1, {0: job(case, 0)}, dtype=torch.float64).run_epoch()
    assert report.row["val.tokens"] == pytest.approx(report.row["val.rec_tokens"], rel=1e-12)


def test_dead_codes_become_encoder_outputs_with_fresh_moments_between_epochs():
    case = by_name("tokens")
    engine = engine_of(case, 1, {0: job(case, 0, epochs=2)})
    engine.run_epoch()
    codebook = engine.stack.view(engine.stack.rows[0].detach(), "codebook")
    moments = engine.stack.view(engine.optimiser.second[0], "codebook")
    renewed = ~moments.any(1)
    assert renewed.any() and codebook[renewed].norm(dim=1).min() > 1 / 8, "new codes lay within 1 / 8 of 0"
    before = codebook.clone()
    engine.run_epoch()
    assert not torch.equal(engine.stack.view(engine.stack.rows[0].detach(), "codebook"), before)


def test_dead_codes_become_encoder_outputs_of_the_epoch_and_never_padding():
    outputs, batch = _outputs(), _batch()
    examined = TOKENS.examine(outputs, batch, {})
    parameters = {"codebook": torch.zeros(40, 3)}
    where, values = TOKENS.renew(parameters, examined, torch.Generator().manual_seed(0))["codebook"]
    assert where.shape == values.shape == (40, 3) and where[6:].all() and not where.all()
    latents = {tuple(row) for row in outputs["latent"][batch["types"] >= 0].tolist()}
    assert {tuple(row) for row in values[where[:, 0]].tolist()} <= latents, "padding is never drawn"


def test_without_a_codebook_nothing_is_renewed():
    assert TOKENS.renew({"decoder.0.weight": torch.zeros(3)}, {}, torch.Generator()) == {}


@pytest.mark.parametrize("name", ["tokens", "tokens-gnn"])
def test_a_picture_is_drawn_of_events_and_their_reconstructions(name: str, tmp_path: Path):
    case = by_name(name)
    batch = {key: tensor[:6] for key, tensor in case.load().splits["val"].items()}
    torch.manual_seed(0)
    outputs = case.family.build(case.full_static, case.load().facts).eval()(batch, {}, {})
    outputs = {key: tensor.detach() for key, tensor in outputs.items()}
    TOKENS.draw(batch, outputs, case.load().facts, tmp_path / "picture.png", "trial 0")
    outputs["features"][0, 0] = math.nan
    TOKENS.draw(batch, outputs, case.load().facts, tmp_path / "picture.png", "trial 0")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (1000, 600)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


# ---- traps

CALM = "knobs: {types.weight: {float: [0.1, 10.0]}"


def _traps(tmp_path: Path, text: str, data: Data | None = None, trials: int = 20) -> list[str]:
    head = f"family: tokens\nbudget: {{trials: {trials}, epochs: 10}}\n"
    (tmp_path / "space.yaml").write_text(head + text)
    return traps(load_space(tmp_path / "space.yaml"), data)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "knobs: {globals.weight: 0.0, globals.schedule: {choice: [constant, delayed]}}",
            "globals.weight is 0, where globals.schedule changes nothing",
        ),
        ("knobs: {commitment.weight: {float: [0.0, 1.0]}}", "commitment.weight may be 0"),
        (f"{CALM}, commitment.weight: 0.0}}", "commitment.weight may be 0"),
        ("knobs: {types.weight: 0.0, optim.lr: {float: [0.001, 0.01]}}", "types.weight is 0"),
        (f"{CALM}}}\nstatic: {{latent: {{choice: [none, vq]}}}}", "latent none is searched"),
        (
            f"{CALM}, tokens.weight: {{float: [0.1, 10.0]}}, globals.weight: {{float: [0.1, 10.0]}}}}",
            "are all searched",
        ),
    ],
)
def test_each_trap_is_told_once_with_its_repair(tmp_path: Path, text: str, said: str):
    found = _traps(tmp_path, text)
    assert len(found) == 1 and said in found[0], found


def test_a_codebook_larger_than_the_training_tokens_is_a_trap(tmp_path: Path):
    data = by_name("tokens").load()
    large = f"{CALM}}}\nstatic: {{codebook_size: {{choice: [64, 1024]}}}}"
    (line,) = _traps(tmp_path, large, data)
    tokens = int(data.facts["counts"].sum())
    assert 64 < tokens < 1024 and f"may be 1024, more than the {tokens} training tokens" in line
    assert _traps(tmp_path, f"{CALM}}}\nstatic: {{codebook_size: 64}}", data) == []


@pytest.mark.parametrize(
    ("text", "trials"),
    [
        (f"{CALM}, globals.weight: 0.0}}", 20),
        (f"{CALM}}}\nstatic: {{latent: linear}}", 20),
        (
            "knobs: {globals.weight: {choice: [0.0, 1.0]}}\nstatic: {latent: {choice: [none, vq]}}\n"
            "search: {sampler: grid}",
            4,
        ),
        ("objective: rec_globals\nknobs: {types.weight: 0.0, globals.weight: {float: [0.1, 1.0]}}", 20),
    ],
)
def test_a_calm_space_has_no_traps(tmp_path: Path, text: str, trials: int):
    assert _traps(tmp_path, text, trials=trials) == []
