"""Contrastive losses of one member, for use under `torch.func.vmap`, and the metrics of what they learn.

The losses take the examples of this worker as anchors and compare them with those of all workers; masks say
who is whose positive. The metrics count ties as a guess among the tied would come out, so that embeddings
which are all alike score chance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# fmt: off
__all__ = [
    "Compared", "compared", "info_nce", "nearest_shares", "pairs", "per_group", "rankme", "recall_at",
    "retrieval", "supervised_contrastive",
]
# fmt: on

FAR = -1e9  # a logit of what may not be compared: exp() of it is 0, and its gradient is a number
TIE = 1e-6  # cosines this near are equal: float32 cannot tell them apart


def supervised_contrastive(
    anchors: Tensor, everyone: Tensor, *, positive: Tensor, compared: Tensor, temperature: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Supervised contrastive loss of every anchor.

        loss_i = -1 / |P(i)|  sum over p in P(i) of  log( exp(z_i z_p / tau) / Z_i )
        Z_i = sum over a in A(i) of exp(z_i z_a / tau)

    Args:
        anchors: z_i, f[A, E], of length 1. everyone: z_a, f[V, E], of length 1.
        positive: bool[A, V], P(i). compared: bool[A, V], A(i): all but the anchor itself; holds P(i).
        temperature: tau > 0.

    Returns:
        values f[A] in nats, 0 for an anchor without a positive; and bool[A], whether it has one.

    Source: Khosla et al. 2020, "Supervised contrastive learning", eq. 2 (the sum over positives outside the
    logarithm). The factor tau / tau_0 of the authors' code, not in the paper, is left out.
    """
    logits = torch.where(compared, anchors @ everyone.transpose(-1, -2) / temperature, FAR)
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    count = positive.sum(-1)
    total = torch.where(positive, log_p, torch.zeros_like(log_p)).sum(-1)
    return -total / count.clamp(min=1), count > 0


def info_nce(
    queries: Tensor, keys: Tensor, *, match: Tensor, candidates: Tensor, temperature: Tensor | float
) -> Tensor:
    """InfoNCE of every query: the cross-entropy of its own key among the candidates.

        loss_i = -log( exp(q_i k_i / tau) / sum over candidates j of exp(q_i k_j / tau) )

    Args:
        queries: f[A, E], of length 1. keys: f[V, E], of length 1.
        match: bool[A, V], one true entry a query that counts. candidates: bool[V].
        temperature: tau > 0.

    Returns:
        f[A] in nats; 0 for a query whose key is no candidate.

    Source: van den Oord et al. 2018, eq. 4; the mean of both directions is CLIP's loss (Radford et al. 2021).
    """
    logits = torch.where(candidates, queries @ keys.transpose(-1, -2) / temperature, FAR)
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    return -torch.where(match & candidates, log_p, torch.zeros_like(log_p)).sum(-1)


def pairs(groups: Tensor, everyones: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Which of everyone's members belong to an anchor's group, and which is the anchor itself.

    Args:
        groups: number of each group of this worker, i64[B]. everyones: of all workers, i64[W B].
        size: P, members of a group; member p of the b-th group has the place b P + p.

    Returns:
        bool[B P, W B P], twice.
    """
    place = torch.arange(size, device=groups.device)
    group, member = groups.unsqueeze(1).expand(-1, size).flatten(), place.repeat(len(groups))
    other_group, other = everyones.unsqueeze(1).expand(-1, size).flatten(), place.repeat(len(everyones))
    same = group.unsqueeze(1) == other_group
    return same, same & (member.unsqueeze(1) == other)


def per_group(values: Tensor, counted: Tensor, everyones: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of members of groups as one number a group, whose mean over groups is the mean over members.

        value_g = (sum over counted members of g) (counted groups) / (counted members)

    Both counts are over the whole batch of all workers: groups of different sizes weigh as their members do.

    Args:
        values: f[B, P]. counted: bool[B, P] of this worker. everyones: bool[W B, P], `counted` of all.

    Returns:
        f[B], and bool[B], whether the group has a counted member.
    """
    members = everyones.sum()
    groups = everyones.any(-1).sum()
    total = torch.where(counted, values, torch.zeros_like(values)).sum(-1)
    return total * groups.to(values.dtype) / members.clamp(min=1), counted.any(-1)


# ---- metrics, outside of vmap


class Compared(NamedTuple):
    """Which of the panels of a split meet in its metrics; panels are counted through, page * P + place.

    Attributes:
        panels: i64[V]. same, others: bool[V, V], another panel of the same page, any other panel.
        candidates: i64[n], panels with image and text. in_page: bool[n, n], those of one page, itself too.
    """

    panels: Tensor
    same: Tensor
    others: Tensor
    candidates: Tensor
    in_page: Tensor

    @property
    def num_candidates(self) -> int:
        return len(self.candidates)

    @property
    def page_chance(self) -> float:
        """Mean share of the others that lie on the same page, over the panels that have such."""
        return _mean(self.same.sum(1)[self.same.any(1)].double() / (len(self.panels) - 1))

    @property
    def recall_chance(self) -> float:
        return 1 / self.num_candidates if self.num_candidates else float("nan")


def compared(shown: Tensor, both: Tensor, page: Tensor, most: int, most_candidates: int) -> Compared:
    """The first `most` shown panels and the first `most_candidates` with image and text, by page.

    The same ones in every epoch, for any order of pages and any number of workers.

    Args:
        shown, both: bool[N, P]. page: i64[N], no two equal.
    """
    by_page = page.argsort(stable=True).unsqueeze(1) * shown.shape[1]
    places = by_page + torch.arange(shown.shape[1], device=shown.device)
    panels, candidates = (
        places.flatten()[there.flatten()[places.flatten()]][:number]
        for there, number in ((shown, most), (both, most_candidates))
    )
    width = shown.shape[1]
    alike, in_page = (_equal(page[rows // width]) for rows in (panels, candidates))
    others = ~torch.eye(len(panels), dtype=torch.bool, device=shown.device)
    return Compared(panels, alike & others, others, candidates, in_page)


def _equal(keys: Tensor) -> Tensor:
    return keys.unsqueeze(1) == keys


def retrieval(found: Compared, fused: Tensor, image: Tensor, text: Tensor) -> dict[str, float]:
    """What is found among the compared; NaN where nothing can be compared.

    Args:
        fused: f64[V, E] of `found.panels`. image, text: f64[n, E] of `found.candidates`. All of length 1.
    Returns:
        retrieval of the page and of the text, and cosines, by the names of the metrics of `panels`.
    """
    similarity, across = fused @ fused.T, image @ text.T
    queries, rows = found.same.any(1), found.in_page.sum(1) > 1
    own = torch.eye(len(across), dtype=torch.bool, device=across.device)
    page = nearest_shares(similarity[queries], found.same[queries], found.others[queries])
    in_page = nearest_shares(across[rows], own[rows], found.in_page[rows])
    return {
        "page_retrieval": _mean(page),
        "page_retrieval_chance": found.page_chance,
        "image_text_recall_1": (recall_at(across, 1) + recall_at(across.T, 1)) / 2,
        "image_text_recall_5": (recall_at(across, 5) + recall_at(across.T, 5)) / 2,
        "recall_chance": found.recall_chance,
        "recall_candidates": float(found.num_candidates),
        "image_text_in_page": _mean(in_page),
        "image_text_in_page_chance": _mean(1 / found.in_page[rows].sum(1).double()),
        "cosine_within_page": _mean(similarity[found.same]),
        "cosine_between_pages": _mean(similarity[found.others & ~found.same]),
    }


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if values.numel() else float("nan")


def nearest_shares(similarity: Tensor, right: Tensor, allowed: Tensor) -> Tensor:
    """How often the most similar of the allowed is right, f64[A], each in [0, 1].

    Of several that tie the share that is right counts.

    Args:
        similarity: f64[A, V]. right, allowed: bool[A, V]; each row allows one or more.
    """
    if similarity.numel() == 0:
        return torch.zeros(len(similarity), dtype=torch.float64)
    reachable = torch.where(allowed, similarity, -torch.inf)
    best = allowed & (reachable >= reachable.amax(1, keepdim=True) - TIE)
    return (best & right).sum(1).double() / best.sum(1)


def recall_at(similarity: Tensor, k: int) -> float:
    """Share of rows whose own column, i of row i, is among the k most similar; NaN without a row.

    Among ties the share of orders counts in which it is: all alike gives min(k / n, 1).

    Args:
        similarity: f64[n, n].
    """
    if len(similarity) == 0:
        return float("nan")
    own = similarity.diagonal().unsqueeze(1)
    better = (similarity > own + TIE).sum(1)
    tied = ((similarity - own).abs() <= TIE).sum(1)  # itself included
    return float(((k - better).double() / tied).clamp(0, 1).mean())


def rankme(embeddings: Tensor) -> float:
    """Effective number of dimensions that embeddings use, in [1, min(N, E)].

        exp( - sum over k of p_k log p_k ),    p_k = sigma_k / (sum of sigma) + 1e-7

    Args:
        embeddings: f64[N, E], finite, not centred. Its singular values are sigma.

    Source: Garrido et al. 2023, "RankMe", eq. 1 and 2.
    """
    sigma = torch.linalg.svdvals(embeddings.double())
    p = sigma / sigma.sum().clamp(min=torch.finfo(torch.float64).tiny) + 1e-7
    return float((-(p * p.log()).sum()).exp())
