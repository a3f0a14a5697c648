"""panels: its terms, its fusion, its metrics, its kinds of collapse, its order of pages and its traps."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import Case, by_name
from PIL import Image
from pytorch_metric_learning.losses import SupConLoss  # pytorch-metric-learning 2.9.0
from torch import Tensor
from torch.func import vmap

from search.parameters import Parameter
from trainables import keyed
from trainables.family import Data
from trainables.panels import MOST_CANDIDATES, MOST_COMPARED, PANELS
from trainables.panels_layers import picked
from trainables.slots import default_knobs

JOINED = ("fused", "image", "text", "shown", "both", "page")
RAGGED = [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def _unit(*shape: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


def _outputs(shown: Any = RAGGED, both: Any = None, backwards: float = 0.5) -> dict[str, Tensor]:
    """What the model gives for pages whose panels are shown so; masked is the mean over a page's panels."""
    shown = torch.tensor(shown, dtype=torch.bool)
    both = shown if both is None else shown & torch.tensor(both, dtype=torch.bool)
    pages, panels = shown.shape
    fused = _unit(pages, panels, 6, seed=0)
    return {
        "fused": fused,
        "image": _unit(pages, panels, 6, seed=1),
        "text": _unit(pages, panels, 6, seed=2),
        "gate": torch.full((pages, panels, 3), 1 / 3, dtype=torch.float64),
        "distance": (fused - _unit(pages, panels, 6, seed=3)).square().sum(-1),
        "masked": shown / shown.sum(-1, keepdim=True).clamp(min=1).double(),
        "backwards": torch.full((pages,), backwards, dtype=torch.float64),
        "shown": shown,
        "both": both,
        "page": torch.arange(pages) + 40,
    }


def _prepared(**changes: Any) -> dict[str, Tensor]:
    return PANELS.prepare({**default_knobs(PANELS), **changes}, {})


def _terms(outputs: dict[str, Tensor], everyone: dict[str, Tensor] | None = None, **changes: Any) -> dict:
    everyone = PANELS.join(outputs) if everyone is None else everyone
    return PANELS.losses(outputs, everyone, {}, _prepared(**changes))


def _mean(term: Any) -> float:
    """A term as the engine averages it."""
    active = term.active.double()
    total = torch.where(term.active, term.values, torch.zeros_like(term.values)).sum()
    return float(total.detach() / active.sum().clamp(min=1))


# ---- terms


@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5])
def test_contrastive_is_pytorch_metric_learnings_supcon_with_pages_as_labels(temperature: float):
    outputs = _outputs(torch.ones(5, 3).tolist())
    labels = torch.arange(5).repeat_interleave(3)
    expected = SupConLoss(temperature)(outputs["fused"].flatten(0, 1), labels).item()
    terms = _terms(outputs, **{"contrastive.temperature": temperature})
    assert _mean(terms["contrastive"]) == pytest.approx(expected, rel=1e-9)


def test_contrastive_over_pages_of_other_lengths_is_the_mean_over_anchors_that_have_a_positive():
    """Softmax over the other shown panels, anchor by anchor: a lone panel is a negative and no anchor."""
    outputs = _outputs()
    shown = outputs["shown"]
    labels = outputs["page"].unsqueeze(1).expand_as(shown)[shown]
    anchors = torch.isin(labels, torch.tensor([40, 41, 43]))
    z = outputs["fused"][shown]
    similarity = (z @ z.T / 0.1).fill_diagonal_(-torch.inf).log_softmax(1)
    means = [
        -similarity[i][(labels == labels[i]) & (torch.arange(len(z)) != i)].mean()
        for i in anchors.nonzero().flatten().tolist()
    ]
    term = _terms(outputs)["contrastive"]
    assert term.active.tolist() == [True, True, False, True, False]
    assert _mean(term) == pytest.approx(float(torch.stack(means).mean()), rel=1e-9)


@pytest.mark.parametrize("backwards", [0.5, 0.0])
def test_alignment_is_clips_loss_over_the_panels_that_have_both(backwards: float):
    both = [[1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]]
    outputs = _outputs(both=both, backwards=backwards)
    there = outputs["both"]
    logits = outputs["image"][there] @ outputs["text"][there].T / 0.2
    truth = torch.arange(len(logits))
    expected = (1 - backwards) * F.cross_entropy(logits, truth) + backwards * F.cross_entropy(logits.T, truth)
    term = _terms(outputs, **{"alignment.temperature": 0.2})["alignment"]
    assert _mean(term) == pytest.approx(expected.item(), rel=1e-9)
    assert term.active.tolist() == there.any(1).tolist()


def test_reconstruction_is_the_distance_of_the_masked_panel_on_pages_of_two_or_more():
    outputs = _outputs()
    outputs["masked"] = F.one_hot(torch.tensor([2, 0, 0, 1, 0]), 4).double()
    term = _terms(outputs)["reconstruction"]
    assert term.active.tolist() == [True, True, False, True, False]
    expected = outputs["distance"][[0, 1, 3], [2, 0, 1]]
    torch.testing.assert_close(term.values[term.active], expected)


def test_terms_without_an_active_page_are_zero_with_finite_gradients():
    outputs = _outputs([[1, 0, 0, 0], [0, 0, 0, 0]])
    for name in ("fused", "image", "text"):
        outputs[name] = outputs[name].float().requires_grad_()
    terms = _terms(outputs, **{"contrastive.temperature": 0.02})
    assert [_mean(term) for term in terms.values()] == [0, 0, 0]
    sum(term.values.sum() for term in terms.values()).backward()
    for name in ("fused", "image", "text"):
        assert outputs[name].grad is None or outputs[name].grad.isfinite().all()


def test_a_lone_candidate_is_not_aligned_for_it_would_always_be_found():
    nothing = [[0, 0, 0, 0]] * 5
    one = [[1, 0, 0, 0], *nothing[1:]]
    assert not _terms(_outputs(both=one))["alignment"].active.any()
    assert _terms(_outputs(both=[*one[:1], *one[:1], *nothing[2:]]))["alignment"].active.sum() == 2


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_two_workers_with_parts_of_a_batch_have_the_terms_and_the_gradient_of_one(cut: int):
    """What the engine joins, without its processes: each part against the whole batch."""
    both = [[1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]]
    outputs = _outputs(both=both)
    leaves = {name: outputs[name].requires_grad_() for name in ("fused", "image", "text")}
    parts = [slice(0, cut), slice(cut, 5)]
    whole = _terms(outputs)
    split = [_terms({n: t[part] for n, t in outputs.items()}, PANELS.join(outputs)) for part in parts]
    for name, term in whole.items():
        for attribute in ("values", "active"):
            joined = torch.cat([getattr(terms[name], attribute) for terms in split])
            torch.testing.assert_close(joined, getattr(term, attribute))
    totals = [sum(t.values.sum() for terms in found for t in terms.values()) for found in ([whole], split)]
    ours, theirs = (torch.autograd.grad(t, list(leaves.values()), retain_graph=True) for t in totals)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_panels_that_are_not_shown_change_no_term():
    outputs = _outputs()
    moved = {name: tensor.clone() for name, tensor in outputs.items()}
    for name in ("fused", "image", "text"):
        moved[name][~moved["shown"]] = outputs[name][0, 0]
    moved["distance"][~moved["shown"]] = 9.0
    for name, term in _terms(outputs).items():
        torch.testing.assert_close(_terms(moved)[name].values, term.values)


def test_the_order_of_pages_in_a_batch_does_not_matter():
    outputs, turned = _outputs(), torch.tensor([3, 0, 4, 2, 1])
    for name, term in _terms({n: t[turned] for n, t in outputs.items()}).items():
        torch.testing.assert_close(term.values, _terms(outputs)[name].values[turned])


def test_the_terms_run_under_vmap_as_member_by_member():
    members = [_outputs(), {**_outputs(), "fused": _unit(5, 4, 6, seed=9)}]
    prepared = [
        _prepared(**{"contrastive.temperature": t, "alignment.temperature": t / 2}) for t in (0.05, 0.5)
    ]
    stacked, knobs = ({k: torch.stack([m[k] for m in ms]) for k in ms[0]} for ms in (members, prepared))
    joined = vmap(PANELS.join)(stacked)
    values = vmap(lambda o, e, k: {n: t.values for n, t in PANELS.losses(o, e, {}, k).items()})
    together = values(stacked, joined, knobs)
    for i, outputs in enumerate(members):
        for name, term in PANELS.losses(outputs, PANELS.join(outputs), {}, prepared[i]).items():
            torch.testing.assert_close(together[name][i], term.values)


# ---- the model


def _model(
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


def test_embeddings_have_length_one_and_gates_share_out_what_is_there():
    model, batch, _ = _model()
    outputs = model.eval()(batch, {}, _prepared())
    for name in ("fused", "image", "text"):
        assert outputs[name].shape == (8, 4, 8)
        torch.testing.assert_close(outputs[name].norm(dim=-1), torch.ones(8, 4))
    torch.testing.assert_close(outputs["gate"].sum(-1), torch.ones(8, 4))
    assert not outputs["gate"][..., 0][~batch["has_image"]].any()
    assert not outputs["gate"][..., 1][~batch["has_text"]].any()
    assert (outputs["gate"] > 0).all(-1)[batch["has_image"] & batch["has_text"]].all()


@pytest.mark.parametrize(("name", "flag"), [("image", "has_image"), ("text", "has_text")])
def test_an_absent_modality_says_nothing_in_the_gate_or_in_the_residual(name: str, flag: str):
    model, batch, _ = _model()
    model.eval()
    seen = model(batch, {}, _prepared())["fused"]
    changed = {**batch, name: batch[name] ^ 7}
    assert not torch.equal(model(changed, {}, _prepared())["fused"], seen), "where it is there, it speaks"
    absent = {flag: torch.zeros_like(batch[flag])}
    one, other = (model({**given, **absent}, {}, _prepared()) for given in (batch, changed))
    assert torch.equal(one["fused"], other["fused"]) and torch.equal(one["gate"], other["gate"])
    grown = torch.autograd.grad(one["fused"][..., 0].sum(), list(model.parameters()), allow_unused=True)
    assert all(gradient is None or gradient.isfinite().all() for gradient in grown)


def test_a_panel_without_any_modality_but_its_layout_is_not_shown():
    model, batch, _ = _model()
    batch["has_image"][0, 0] = batch["has_text"][0, 0] = False
    outputs = model.eval()(batch, {}, _prepared())
    assert not outputs["shown"][0, 0] and outputs["fused"].isfinite().all()
    assert outputs["gate"][0, 0].tolist() == [0, 0, 1]


def test_a_prediction_is_made_from_the_other_panels_of_the_page_alone():
    model, batch, noise = _model()
    page = int((batch["panel_mask"].sum(1) == 4).nonzero()[0])
    model.train()
    batch["has_text"] = batch["panel_mask"].clone()
    outputs = model(batch, noise, _prepared(**{"reconstruction.dropout": 0.0}))
    fused = outputs["fused"][page].detach()
    with torch.no_grad():
        context = fused[[0, 1, 3]].mean(0)
        predicted = F.normalize(model.predict(F.silu(model.hidden(context))), dim=-1)
    torch.testing.assert_close(outputs["distance"][page, 2], (predicted - fused[2]).square().sum())


@pytest.mark.parametrize(("target", "own"), [("detached", False), ("attached", True)])
def test_only_an_attached_target_is_pulled_to_its_prediction(target: str, own: bool):
    model, batch, noise = _model(reconstruction_target=target)
    outputs = model(batch, noise, _prepared())
    shown, distance = outputs["shown"], outputs["distance"]
    page = int((shown.sum(1) == 4).nonzero()[0])
    gradient = torch.autograd.grad(distance[page, 2], outputs["fused"])[0][page]
    moved = (gradient.norm(dim=-1) > 1e-7).tolist()
    assert moved == [True, True, own, True]


def test_one_shown_panel_a_page_is_masked_each_equally_often_in_training():
    """20,000 draws of three panels; a share off 1/3 by 0.017 is five standard deviations."""
    shown = torch.tensor([[True, False, True, True]]).expand(20_000, 4)
    noise = keyed.draw(
        PANELS.noise(by_name("panels").full_static, {"panels": 4})["masked"], 20_000, keyed.generator(0, "x")
    )
    masked = picked(shown, noise)
    assert masked.dtype == torch.bool and (masked.sum(1) == 1).all() and not masked[:, 1].any()
    shares = masked.double().mean(0)[[0, 2, 3]]
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3).double(), atol=0.017, rtol=0)
    extreme = picked(shown[:2], torch.tensor([0.0, 1 - 2**-24]))
    assert extreme.tolist() == [[True, False, False, False], [False, False, False, True]]
    assert not picked(torch.zeros(1, 4, dtype=torch.bool), noise[:1]).any()


def test_every_panel_is_masked_in_turn_in_evaluation():
    model, batch, _ = _model()
    outputs = model.eval()(batch, {}, _prepared())
    expected = outputs["shown"] / outputs["shown"].sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(outputs["masked"], expected)


@pytest.mark.parametrize(("mode", "moved"), [("train", True), ("eval", False)])
def test_the_criterions_dropout_is_in_force_in_training_steps_of_mode_train_alone(mode: str, moved: bool):
    model, batch, noise = _model(criteria_mode=mode)
    noise["dropout"] = torch.rand(noise["dropout"].shape)
    none, half = (_prepared(**{"reconstruction.dropout": rate}) for rate in (0.0, 0.5))
    plain, dropped = (model.train()(batch, noise, knobs)["distance"] for knobs in (none, half))
    assert (not torch.equal(plain, dropped)) is moved
    model.eval()
    assert torch.equal(model(batch, {}, half)["distance"], model(batch, {}, none)["distance"])
    drawn = PANELS.noise({**by_name("panels").full_static, "criteria_mode": mode}, {"panels": 4})
    assert ("dropout" in drawn) is moved


def test_dropout_keeps_the_mean_of_what_it_drops():
    """2,000 pages x 4 x 16 features at rate 0.3: a share off 0.7 by 0.01 is eight standard deviations, a
    feature's mean off by a tenth seven."""
    model, batch, _ = _model()
    seen = []
    model.predict.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    one = {key: tensor[:1].expand(2000, *tensor.shape[1:]) for key, tensor in batch.items()}
    draw = torch.Generator().manual_seed(0)
    given = {"masked": torch.zeros(2000), "dropout": torch.rand(2000, 4, 16, generator=draw)}
    model.train()(one, given, _prepared(**{"reconstruction.dropout": 0.3}))
    model.train()(one, given, _prepared(**{"reconstruction.dropout": 0.0}))
    dropped, plain = seen
    kept = (dropped != 0).double().mean()
    assert kept.item() == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(dropped.mean(0), plain.mean(0), atol=1e-6, rtol=0.1)


def test_alignment_direction_reaches_the_loss():
    shares = {}
    for direction in ("symmetric", "image_to_text"):
        model, batch, noise = _model(alignment_direction=direction)
        shares[direction] = model(batch, noise, _prepared())["backwards"].unique().tolist()
    assert shares == {"symmetric": [0.5], "image_to_text": [0.0]}


@pytest.mark.parametrize("side", PANELS.data_settings["image_side"].options)
def test_every_image_side_on_offer_can_be_encoded(side: int):
    case = by_name("panels")
    torch.manual_seed(0)
    model = PANELS.build(case.full_static, {**case.load().facts, "side": side})
    seen = model.image(torch.rand(2, 4, side, side, 3))
    assert seen.shape == (2, 4, 8)


def test_an_images_patches_are_its_squares():
    model, _, _ = _model()
    image = torch.arange(16 * 16 * 3).view(1, 16, 16, 3)
    patches = model.image[0](image)
    assert patches.shape == (1, 4, 4, 48)
    assert torch.equal(patches[0, 1, 2].view(4, 4, 3), image[0, 4:8, 8:12])


def test_prepared_knobs_of_all_trials_have_one_shape():
    case = by_name("panels")
    prepared = [PANELS.prepare(case.knobs(number), case.load().facts) for number in range(4)]
    assert all(tensor.shape == () for one in prepared for tensor in one.values())
    assert len({tuple(float(t) for t in one.values()) for one in prepared}) == 4


# ---- metrics


def _examined(**changes: Tensor) -> dict[str, Tensor]:
    return PANELS.examine({**_outputs(), **changes}, {}, {})


def test_what_is_examined_holds_no_graph():
    outputs = _outputs()
    outputs["fused"].requires_grad_()
    assert not any(tensor.requires_grad for tensor in PANELS.examine(outputs, {}, {}).values())


def test_selection_accuracy_is_the_mean_of_both_retrievals_and_every_metric_is_documented():
    found = PANELS.measure(_examined(), {}).scalars
    assert found.keys() == PANELS.metrics.keys()
    assert found["selection_accuracy"] == (found["page_retrieval"] + found["image_text_recall_1"]) / 2
    assert (found["panels_compared"], found["recall_candidates"]) == (9, 9)
    assert found["panels_per_page"] == 9 / 5


def test_perfect_embeddings_score_one():
    shown = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    outputs = _outputs(shown.tolist())
    page = torch.eye(3, 6, dtype=torch.float64).unsqueeze(1).expand(3, 3, 6)
    perfect = {**outputs, "fused": page, "text": outputs["image"]}
    found = PANELS.measure(PANELS.examine(perfect, {}, {}), {}).scalars
    assert found["selection_accuracy"] == found["image_text_recall_5"] == found["image_text_in_page"] == 1
    assert (found["cosine_within_page"], found["cosine_between_pages"]) == (1, 0)
    assert found["rankme"] == pytest.approx(3, rel=0.02), "pages of 3, 2 and 3 panels"


def test_the_spread_of_embeddings_is_1_when_they_go_everywhere_and_0_when_they_are_one():
    shown = torch.ones(300, 3).tolist()
    outputs = _outputs(shown)
    spread = PANELS.measure(PANELS.examine(outputs, {}, {}), {}).scalars
    assert spread["embedding_std_relative"] == pytest.approx(1, abs=0.02)
    assert spread["embedding_std"] == pytest.approx(1 / math.sqrt(6), abs=0.01)
    one = outputs["fused"][:1, :1].expand(300, 3, 6)
    alike = PANELS.measure(PANELS.examine({**outputs, "fused": one}, {}, {}), {})
    assert alike.scalars["embedding_std"] == pytest.approx(0, abs=1e-12)
    assert alike.scalars["rankme"] == pytest.approx(1, abs=1e-3)
    assert len(alike.vectors["std_per_dim"]) == 6
    assert alike.vectors["gate_image_text_layout"] == pytest.approx([1 / 3] * 3)


def test_metrics_do_not_depend_on_the_order_of_pages_and_are_bounded_in_cost():
    outputs = _outputs(torch.ones(400, 3).tolist())
    turned = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    examined = PANELS.examine(outputs, {}, {})
    found = PANELS.measure(examined, {}).scalars
    again = PANELS.measure({name: t[turned] for name, t in examined.items()}, {}).scalars
    assert found == pytest.approx(again, rel=1e-9)
    assert (found["panels_compared"], found["recall_candidates"]) == (MOST_COMPARED, MOST_CANDIDATES)


def test_without_two_candidates_page_retrieval_alone_decides_and_recall_is_not_a_number():
    none = torch.zeros(5, 4, dtype=torch.bool)
    found = PANELS.measure(_examined(both=none), {}).scalars
    assert found["selection_accuracy"] == found["page_retrieval"]
    assert math.isnan(found["image_text_recall_1"]) and math.isnan(found["recall_chance"])


def test_chance_is_what_embeddings_that_are_all_alike_score_on_the_validation_split():
    data = by_name("panels").load()
    validation = data.splits["val"]
    shown = validation["panel_mask"] & (validation["has_image"] | validation["has_text"])
    alike = torch.ones(*shown.shape, 4) / 2
    examined = {
        **dict.fromkeys(("fused", "image", "text"), alike),
        "gate": alike[..., :3],
        "shown": shown,
        "both": validation["has_image"] & validation["has_text"],
        "page": validation["page"],
    }
    scored = PANELS.measure(examined, data.facts).scalars["selection_accuracy"]
    assert PANELS.chance(data.facts, {}) == pytest.approx(scored, rel=1e-9)


def test_embeddings_that_are_not_finite_are_measured_as_not_a_number():
    broken = _outputs()["fused"]
    broken[0, 0, 0] = math.nan
    measured = PANELS.measure(_examined(fused=broken), {})
    assert measured.scalars.keys() == PANELS.metrics.keys()
    assert all(math.isnan(value) for value in measured.scalars.values())
    assert not any(PANELS.collapsed(measured.scalars).values())


# ---- collapse


@pytest.mark.parametrize(
    ("within", "between", "relative", "expected"),
    [
        (0.96, 0.96, 0.2, (True, False)),
        (0.96, 0.94, 0.3, (False, False)),
        (0.94, 0.96, 0.3, (False, False)),
        (0.5, 0.5, 0.099, (False, True)),
        (0.5, 0.5, 0.101, (False, False)),
        (1.0, 1.0, 0.0, (True, True)),
    ],
)
def test_collapse_is_told_by_cosines_or_by_the_spread(
    within: float, between: float, relative: float, expected: tuple[bool, bool]
):
    names = ("cosine_within_page", "cosine_between_pages", "embedding_std_relative")
    found = PANELS.collapsed(dict(zip(names, (within, between, relative), strict=True)))
    assert (found["cosine"], found["dimension"]) == expected


@pytest.mark.parametrize(
    ("contrastive", "alignment", "judged"),
    [(True, True, True), (False, True, False), (True, False, False)],
)
def test_collapse_is_judged_once_the_terms_that_push_apart_are_at_full_weight(
    contrastive: bool, alignment: bool, judged: bool
):
    full = {"contrastive": contrastive, "reconstruction": False, "alignment": alignment}
    assert PANELS.collapse_is_judged("cosine", {}, full) is judged


# ---- order


@pytest.mark.parametrize("single", [0, 10, 48, 60, 64])
def test_every_batch_has_its_share_of_pages_that_all_terms_can_use(single: int):
    """64 pages, of which `single` have one panel, another four no panel with both."""
    has_image = torch.ones(64, 2, dtype=torch.bool)
    has_image[:single, 1] = False
    has_text = has_image.clone()
    has_text[-4:] = False
    split = {"has_image": has_image, "has_text": has_text, "panel_mask": torch.ones(64, 2, dtype=torch.bool)}
    data = Data({"train": split}, {})
    usable = (has_image.sum(1) == 2) & (has_image & has_text).any(1)
    seen = set()
    for seed in range(20):
        order = PANELS.order({}, data, torch.Generator().manual_seed(seed))
        assert torch.equal(order.sort().values, torch.arange(64))
        for size in (8, 16, 24):
            least = size * int(usable.sum()) // 64 - 1
            assert all(usable[part].sum() >= least for part in order.split(size) if len(part) == size)
        seen.add(tuple(order.tolist()))
    assert len(seen) == 20


# ---- pictures


def test_a_picture_frames_neighbours_of_the_same_page_green(tmp_path: Path):
    model, batch, _ = _model()
    outputs = model.eval()(batch, {}, _prepared())
    PANELS.draw(batch, {name: t.detach() for name, t in outputs.items()}, {}, tmp_path / "a.png", "trial 0")
    page = F.normalize(torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    perfect = {**outputs, "fused": page.expand(8, 4, 64)}
    PANELS.draw(batch, perfect, {}, tmp_path / "b.png", "trial 0, every nearest panel on its page")
    green = []
    for name in ("a", "b"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 300
            green.append(int((np.asarray(picture) == (34, 139, 34)).all(-1).sum()))
    assert 0 <= green[0] < green[1]


def test_pages_of_single_panels_have_no_query_to_draw(tmp_path: Path):
    model, batch, _ = _model()
    batch["panel_mask"][:, 1:] = False
    with pytest.raises(ValueError, match="no query to draw"):
        PANELS.draw(batch, model.eval()(batch, {}, _prepared()), {}, tmp_path / "a.png", "")


# ---- traps


def _space(**changes: Any) -> SimpleNamespace:
    """A space whose parameters have the family's defaults, but for numbers, (low, high) or word lists."""

    def parameter(name: str, value: Any) -> Parameter:
        if isinstance(value, tuple):
            return Parameter(name, "float", low=value[0], high=value[1])
        if isinstance(value, list):
            return Parameter(name, "choice", choices=tuple(value))
        return Parameter(name, "fixed", value=value)

    static, knobs = (
        {name: parameter(name, changes.get(name, setting.default)) for name, setting in settings.items()}
        for settings in (PANELS.statics, PANELS.knobs)
    )
    return SimpleNamespace(static=static, knobs=knobs)


OFF = {"contrastive.weight": 0.0, "reconstruction.weight": 0.0, "alignment.weight": 0.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contrastive.temperature": (0.02, 2.0)}, ["contrastive.temperature may be 2: above 0.5"]),
        ({"alignment.temperature": (0.005, 0.5)}, ["alignment.temperature may be 0.005: below 0.02"]),
        ({"contrastive.temperature": [0.01, 1.0]}, ["may be 1: above 0.5", "may be 0.01: below 0.02"]),
        (OFF, ["All three weights are 0", "alignment.weight is 0: image-text recall"]),
        (
            {**OFF, "contrastive.weight": (0.1, 3.0)},
            ["contrastive.weight is searched while both other weights are 0", "image-text recall"],
        ),
        (
            {"contrastive.weight": 0.0, "contrastive.temperature": (0.05, 0.5)},
            ["contrastive.temperature is searched though contrastive.weight is 0"],
        ),
        (
            {"reconstruction_target": ["detached", "attached"], "contrastive.weight": (0.0, 1.0)},
            ["reconstruction_target may be attached while contrastive.weight may be 0"],
        ),
        ({"reconstruction_target": "attached"}, []),
        ({"contrastive.temperature": (0.02, 0.5), "alignment.weight": (0.05, 3.0)}, []),
    ],
)
def test_spaces_that_will_not_do_what_they_say_are_told_so(changes: dict[str, Any], said: list[str]):
    found = PANELS.traps(_space(**changes), None)
    assert len(found) == len(said)
    for warning, part in zip(found, said, strict=True):
        assert part in warning and warning.endswith(".")


def test_alignment_without_panels_that_have_both_is_told():
    data = Data({}, {"num_aligned": 1})
    (warning,) = PANELS.traps(_space(), data)
    assert "alignment is never active" in warning
    assert not PANELS.traps(_space(), Data({}, {"num_aligned": 2}))


def test_joined_outputs_are_all_that_other_workers_need():
    assert tuple(PANELS.join(_outputs())) == JOINED
