"""Contrastive losses against libraries and slow references; retrieval and its ties by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss  # pytorch-metric-learning 2.9.0
from torch import Tensor
from torch.func import vmap

from trainables import contrastive


def _unit(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


def _masks(labels: Tensor) -> dict[str, Tensor]:
    others = ~torch.eye(len(labels), dtype=torch.bool)
    return {"positive": (labels.unsqueeze(1) == labels) & others, "compared": others}


# ---- supervised contrastive


@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5, 5.0])
def test_supervised_contrastive_is_pytorch_metric_learnings(temperature: float):
    z, labels = _unit(12, 5), torch.arange(12) // 3
    values, active = contrastive.supervised_contrastive(z, z, **_masks(labels), temperature=temperature)
    assert active.all()
    assert values.mean().item() == pytest.approx(SupConLoss(temperature)(z, labels).item(), rel=1e-9)


def test_with_one_positive_each_it_is_the_normalised_temperature_cross_entropy():
    z, labels = _unit(10, 4), torch.arange(10) // 2
    values, _ = contrastive.supervised_contrastive(z, z, **_masks(labels), temperature=0.2)
    assert values.mean().item() == pytest.approx(NTXentLoss(0.2)(z, labels).item(), rel=1e-9)


def test_two_positives_by_hand():
    """z = e1, e1, e1, e2 at temperature 1: each positive has probability e / (2 e + 1)."""
    z = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 1]]
    masks = _masks(torch.tensor([0, 0, 0, 1]))
    values, active = contrastive.supervised_contrastive(z, z, **masks, temperature=1.0)
    assert active.tolist() == [True, True, True, False]
    assert values[:3].tolist() == pytest.approx([math.log(2 * math.e + 1) - 1] * 3, rel=1e-12)
    assert values[3] == 0


def test_an_anchor_without_a_positive_or_without_any_other_has_no_loss_and_no_gradient_of_its_own():
    z = _unit(4, 3).float().requires_grad_()
    masks = _masks(torch.arange(4))
    masks["compared"][0] = False
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        values, active = contrastive.supervised_contrastive(z, z, **masks, temperature=0.02)
        values.sum().backward()
    assert not active.any() and not values.any() and not z.grad.any()


def test_a_panel_that_is_not_compared_changes_nothing():
    z, labels = _unit(6, 4), torch.tensor([0, 0, 1, 1, 0, 1])
    masks = _masks(labels)
    masks = {name: mask.clone() for name, mask in masks.items()}
    for mask in masks.values():
        mask[:, 5] = False
    moved = z.clone()
    moved[5] = -z[0]
    one, other = (
        contrastive.supervised_contrastive(z, everyone, **masks, temperature=0.1)[0]
        for everyone in (z, moved)
    )
    assert torch.equal(one, other)
    whole, _ = contrastive.supervised_contrastive(z[:5], z[:5], **_masks(labels[:5]), temperature=0.1)
    torch.testing.assert_close(one[:5], whole)


# ---- InfoNCE


@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
def test_info_nce_is_the_cross_entropy_of_the_own_key_among_the_candidates(temperature: float):
    queries, keys = _unit(7, 5), _unit(7, 5, seed=1)
    candidates = torch.tensor([True, True, False, True, True, True, False])
    own = torch.eye(7, dtype=torch.bool)
    values = contrastive.info_nce(queries, keys, match=own, candidates=candidates, temperature=temperature)
    among = candidates.nonzero().flatten()
    logits = queries[among] @ keys[among].T / temperature
    expected = F.cross_entropy(logits, torch.arange(5), reduction="none")
    torch.testing.assert_close(values[among], expected)
    assert not values[~candidates].any()


def test_both_losses_run_under_vmap_as_member_by_member_with_temperatures_of_their_own():
    z, keys = _unit(3, 6, 4), _unit(3, 6, 4, seed=1)
    temperature = torch.tensor([0.05, 0.1, 0.5], dtype=torch.float64)
    masks, own = _masks(torch.arange(6) // 2), torch.eye(6, dtype=torch.bool)
    every = torch.ones(6, dtype=torch.bool)

    def both(z: Tensor, keys: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        first, _ = contrastive.supervised_contrastive(z, z, **masks, temperature=temperature)
        return first, contrastive.info_nce(z, keys, match=own, candidates=every, temperature=temperature)

    together = vmap(both)(z, keys, temperature)
    for i in range(3):
        for ours, theirs in zip(together, both(z[i], keys[i], temperature[i]), strict=True):
            torch.testing.assert_close(ours[i], theirs)


# ---- groups


def test_the_mean_over_groups_is_the_mean_over_their_members():
    values = torch.arange(12, dtype=torch.float64).view(4, 3)
    counted = torch.tensor([[1, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    totals, active = contrastive.per_group(values, counted, counted)
    assert active.tolist() == [True, False, True, True]
    assert totals[active].mean().item() == pytest.approx(values[counted].mean().item(), rel=1e-12)
    halves = [contrastive.per_group(values[s], counted[s], counted) for s in (slice(0, 2), slice(2, 4))]
    assert torch.equal(torch.cat([total for total, _ in halves]), totals), "two workers, one batch"


def test_groups_without_a_counted_member_are_zero_and_not_active_whatever_their_values_are():
    values = torch.full((2, 2), math.nan)
    none = torch.zeros(2, 2, dtype=torch.bool)
    totals, active = contrastive.per_group(values, none, none)
    assert not totals.any() and not active.any()


# ---- retrieval


def test_the_nearest_is_right_or_not_and_ties_count_by_their_share():
    similarity = torch.tensor([[9.0, 0.5, 0.2, 0.1], [0.1, 9.0, 0.7, 0.7], [0.3, 0.3, 9.0, 0.3]]).double()
    allowed = ~torch.eye(3, 4, dtype=torch.bool)
    right = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    found = contrastive.nearest_shares(similarity, right, allowed)
    assert found.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert contrastive.nearest_shares(similarity + 1e-9 * torch.rand(3, 4), right, allowed)[2] == 1 / 3


@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 2 / 3), (3, 1.0), (5, 1.0)])
def test_recall_counts_the_rows_whose_own_is_among_the_first_k(k: int, expected: float):
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.4], [0.7, 0.6, 0.5]]).double()
    assert contrastive.recall_at(similarity, k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 5])
def test_recall_of_embeddings_that_are_all_alike_is_chance(k: int):
    assert contrastive.recall_at(torch.full((20, 20), 0.3), k) == pytest.approx(k / 20)
    assert contrastive.recall_at(torch.ones(3, 3), 5) == 1
    assert math.isnan(contrastive.recall_at(torch.ones(0, 0), 1))


def _pages() -> tuple[Tensor, Tensor, Tensor]:
    """Shown and both of four pages of up to three panels, and their numbers out of order."""
    shown = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    both = shown & torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.bool)
    return shown, both, torch.tensor([30, 20, 40, 10])


def test_what_is_compared_are_the_shown_panels_in_the_order_of_their_pages():
    shown, both, page = _pages()
    found = contrastive.compared(shown, both, page, 100, 100)
    assert found.panels.tolist() == [10, 11, 3, 0, 1, 6, 7, 8], "pages 10, 20, 30, 40"
    assert found.candidates.tolist() == [10, 11, 0, 1, 6, 8]
    assert found.same.sum(1).tolist() == [1, 1, 0, 1, 1, 2, 2, 2]
    assert not found.same.diagonal().any() and found.others.sum() == 8 * 7
    assert found.in_page.sum(1).tolist() == [2] * 6
    assert found.page_chance == pytest.approx((1 * 4 + 2 * 3) / 7 / 7), (
        "seven panels have another on their page"
    )
    assert found.recall_chance == 1 / 6


def test_bounds_cut_off_the_same_pages_whatever_the_order():
    shown, both, page = _pages()
    found = contrastive.compared(shown, both, page, 5, 3)
    assert found.panels.tolist() == [10, 11, 3, 0, 1] and found.candidates.tolist() == [10, 11, 0]
    turned = torch.tensor([2, 0, 3, 1])
    again = contrastive.compared(shown[turned], both[turned], page[turned], 5, 3)
    named = page.repeat_interleave(3)[found.panels] * 10 + found.panels % 3
    assert torch.equal(page[turned].repeat_interleave(3)[again.panels] * 10 + again.panels % 3, named)


def test_retrieval_is_that_of_loops_over_panels_and_candidates():
    draw = torch.Generator().manual_seed(3)
    shown = torch.rand(9, 4, generator=draw) < 0.8
    both = shown & (torch.rand(9, 4, generator=draw) < 0.7)
    page = torch.randperm(9, generator=draw)
    found = contrastive.compared(shown, both, page, 1000, 1000)
    fused = _unit(len(found.panels), 6)
    image, text = _unit(found.num_candidates, 6, seed=1), _unit(found.num_candidates, 6, seed=2)
    text = F.normalize(text + 0.7 * image, dim=-1)
    ours = contrastive.retrieval(found, fused, image, text)
    pages, held = page[found.panels // 4].tolist(), page[found.candidates // 4].tolist()
    hits, within, between = [], [], []
    for i, own in enumerate(pages):
        cosines = {j: float(fused[i] @ fused[j]) for j in range(len(pages)) if j != i}
        for j, cosine in cosines.items():
            (within if pages[j] == own else between).append(cosine)
        if any(pages[j] == own for j in cosines):
            hits.append(pages[max(cosines, key=cosines.get)] == own)
    count = len(held)
    across = (image @ text.T).tolist()
    recall, in_page = {1: [], 5: []}, []
    for i in range(count):
        for line in (across[i], [row[i] for row in across]):
            for k, found_so in recall.items():
                found_so.append(i in sorted(range(count), key=line.__getitem__, reverse=True)[:k])
        mates = [j for j in range(count) if held[j] == held[i]]
        if len(mates) > 1:
            in_page.append(i == max(mates, key=across[i].__getitem__))
    expected = {
        "page_retrieval": hits,
        "image_text_recall_1": recall[1],
        "image_text_recall_5": recall[5],
        "image_text_in_page": in_page,
        "cosine_within_page": within,
        "cosine_between_pages": between,
    }
    for name, numbers in expected.items():
        assert ours[name] == pytest.approx(sum(numbers) / len(numbers), rel=1e-9), name
    assert 0 < ours["image_text_recall_1"] < ours["image_text_recall_5"] < 1
    assert ours["recall_candidates"] == count


def test_embeddings_that_are_all_alike_score_chance_in_every_retrieval():
    shown, both, page = _pages()
    found = contrastive.compared(shown, both, page, 100, 100)
    alike = torch.ones(8, 4, dtype=torch.float64) / 2
    ours = contrastive.retrieval(found, alike, alike[:6], alike[:6])
    assert ours["page_retrieval"] == pytest.approx(ours["page_retrieval_chance"], rel=1e-12)
    assert ours["image_text_recall_1"] == pytest.approx(ours["recall_chance"], rel=1e-12)
    assert ours["image_text_in_page"] == pytest.approx(ours["image_text_in_page_chance"], rel=1e-12)
    assert ours["cosine_within_page"] == ours["cosine_between_pages"] == 1


# ---- RankMe


@pytest.mark.parametrize(("used", "expected"), [(1, 1.0), (3, 3.0), (8, 8.0)])
def test_rankme_counts_the_dimensions_that_are_used_alike(used: int, expected: float):
    z = torch.zeros(40, 8, dtype=torch.float64)
    z[:, :used] = torch.linalg.qr(_unit(40, used)).Q
    assert contrastive.rankme(z) == pytest.approx(expected, rel=1e-4)


def test_rankme_is_the_exponential_of_the_entropy_of_the_singular_values():
    z = torch.diag(torch.tensor([3.0, 1.0])).double()
    assert contrastive.rankme(z) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-5
    )
    assert math.isfinite(contrastive.rankme(torch.zeros(3, 2)))
