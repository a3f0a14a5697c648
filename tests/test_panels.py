"""panels: its terms, its fusion and its order of pages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import by_name
from panels_outputs import model as _model
from panels_outputs import outputs as _outputs
from panels_outputs import prepared as _prepared
from panels_outputs import unit as _unit
from pytorch_metric_learning.losses import SupConLoss  # pytorch-metric-learning 2.9.0
from torch import Tensor
from torch.func import vmap

from trainables import keyed
from trainables.family import Data
from trainables.panels import PANELS
from trainables.panels_layers import picked

JOINED = ("fused", "image", "text", "shown", "both", "page")


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


def test_joined_outputs_are_all_that_other_workers_need():
    assert tuple(PANELS.join(_outputs())) == JOINED


# ---- the model


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
