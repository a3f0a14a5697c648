"""Vector quantisation: the nearest code, who gets which gradient, and how dead codes are restarted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from vector_quantize_pytorch import VectorQuantize  # 1.32

from trainables.quantise import (
    codebook_distance,
    commitment_distance,
    new_codebook,
    perplexity,
    quantise,
    restarted,
)


def _drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- codes


def test_every_vector_gets_the_nearest_code_as_a_slow_search_finds_it():
    latent, codebook = _drawn(6, 5, 3), _drawn(11, 3, seed=1)
    codes, chosen, passed = quantise(latent, codebook)
    for event in range(6):
        for token in range(5):
            distances = [sum((latent[event, token] - code) ** 2).item() for code in codebook]
            nearest = distances.index(min(distances))
            assert codes[event, token] == nearest
            assert torch.equal(chosen[event, token], codebook[nearest])
    torch.testing.assert_close(passed, chosen)
    assert len(codes.unique()) > 5


def test_of_equally_near_codes_the_first_is_taken():
    codebook = torch.tensor([[3.0], [1.0], [-1.0], [1.0]])
    assert quantise(torch.tensor([[0.0], [1.2], [2.0]]), codebook).codes.tolist() == [1, 1, 0]


def test_codes_losses_and_straight_through_gradient_are_the_librarys():
    """vector-quantize-pytorch takes means over dimensions where the paper has a sum."""
    latent, codebook = _drawn(7, 4, 3, dtype=torch.float32), _drawn(16, 3, seed=1, dtype=torch.float32)
    library = VectorQuantize(
        dim=3, codebook_size=16, commitment_weight=1.0, rotation_trick=False, ema_update=False
    )
    library._codebook.embed.data.copy_(codebook.unsqueeze(0))
    pull = _drawn(7, 4, 3, seed=2, dtype=torch.float32)
    gradients = []
    for use in (library, lambda z: quantise(z, codebook)):
        z = latent.clone().requires_grad_()
        result = use(z)
        quantised = result[0] if use is library else result.passed
        (quantised * pull).sum().backward()
        gradients.append(z.grad)
    theirs, indices, commitment = library(latent)
    ours = quantise(latent, codebook)
    assert torch.equal(ours.codes, indices)
    torch.testing.assert_close(ours.chosen, theirs)
    torch.testing.assert_close(commitment_distance(latent, ours.chosen).mean(), 3 * commitment.squeeze())
    torch.testing.assert_close(gradients[1], gradients[0])
    assert torch.equal(gradients[1], pull), "the decoder's gradient, as if nothing stood between"


# ---- gradients


def test_the_decoders_gradient_reaches_the_encoder_and_never_the_codebook():
    latent, codebook = _drawn(5, 2).requires_grad_(), _drawn(4, 2, seed=1).requires_grad_()
    quantise(latent, codebook).passed.square().sum().backward()
    torch.testing.assert_close(latent.grad, 2 * quantise(latent, codebook).chosen.detach())
    assert codebook.grad is None


def test_each_half_of_the_papers_loss_moves_its_own_side_alone():
    latent = torch.tensor([[1.0, 0.0], [1.5, 0.0], [-2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    codebook = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [9.0, 9.0]], dtype=torch.float64, requires_grad=True)
    chosen = quantise(latent, codebook).chosen
    commitment, codes = commitment_distance(latent, chosen), codebook_distance(latent, chosen)
    assert commitment.tolist() == codes.tolist() == [1.0, 1.25, 1.0]
    by_commitment = torch.autograd.grad(
        commitment.sum(), (latent, codebook), allow_unused=True, retain_graph=True
    )
    by_codes = torch.autograd.grad(codes.sum(), (latent, codebook), allow_unused=True)
    assert by_commitment[0].tolist() == [[0.0, -2.0], [1.0, -2.0], [-2.0, 0.0]]
    assert by_commitment[1] is None and by_codes[0] is None
    assert by_codes[1].tolist() == [[2 * (0.0 - 0.5), 2 * 2.0], [2.0, 0.0], [0.0, 0.0]]


def test_a_stack_of_codebooks_quantises_and_learns_as_each_would_alone():
    latents, codebooks = _drawn(3, 6, 4, 2), _drawn(3, 5, 2, seed=1).requires_grad_()
    together = vmap(quantise)(latents, codebooks)
    vmap(codebook_distance)(latents, together.chosen).sum().backward()
    for k in range(3):
        codebook = codebooks[k].detach().clone().requires_grad_()
        alone = quantise(latents[k], codebook)
        codebook_distance(latents[k], alone.chosen).sum().backward()
        assert torch.equal(together.codes[k], alone.codes)
        torch.testing.assert_close(together.passed[k], alone.passed)
        torch.testing.assert_close(codebooks.grad[k], codebook.grad)


# ---- use and restart


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([3, 3, 3, 3], 4.0), ([0, 7, 0], 1.0), ([2, 1, 1, 0], 2**1.5), ([10**9, 10**9], 2.0)],
)
def test_perplexity_is_the_number_of_codes_in_even_use(counts: list[int], expected: float):
    assert perplexity(torch.tensor(counts)) == pytest.approx(expected, rel=1e-12)


def test_codes_under_a_tenth_of_an_even_share_are_replaced_by_latents_none_twice():
    counts = torch.tensor([1000, 9, 11, 0, 10, 0, 0, 0, 0, 0])  # 1030 uses: a tenth of an even share is 10.3
    latents = torch.arange(20.0).view(10, 2)
    dead, values = restarted(counts, latents, torch.Generator().manual_seed(3), below=0.1)
    assert dead.tolist() == [False, True, False, True, True, True, True, True, True, True]
    rows = [tuple(row) for row in values[dead].tolist()]
    assert len(set(rows)) == 8
    assert set(rows) <= {tuple(row) for row in latents.tolist()}
    again = restarted(counts, latents, torch.Generator().manual_seed(3), below=0.1)[1]
    other = restarted(counts, latents, torch.Generator().manual_seed(4), below=0.1)[1]
    assert torch.equal(values, again) and not torch.equal(values, other)


def test_more_dead_codes_than_latents_share_them_evenly():
    latents = torch.tensor([[1.0], [2.0]])
    dead, values = restarted(torch.tensor([5, 0, 0, 0, 0]), latents, torch.Generator(), below=0.1)
    assert dead.tolist() == [False, True, True, True, True]
    assert sorted(values[dead].flatten().tolist()) == [1.0, 1.0, 2.0, 2.0]


def test_codes_in_even_use_are_left_alone():
    assert not restarted(torch.full((8,), 3), _drawn(5, 2), torch.Generator(), below=0.1)[0].any()


def test_a_new_codebook_lies_near_the_origin():
    torch.manual_seed(0)
    codebook = new_codebook(50, 4)
    assert codebook.shape == (50, 4) and codebook.requires_grad
    assert codebook.abs().max() <= 1 / 50
    assert codebook.detach().std() == pytest.approx(1 / 50 / 3**0.5, rel=0.2)
