"""Each row of `RowAdamW` is `torch.optim.AdamW` (torch 2.13) on its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trainables.optim import RowAdamW

K, STEPS = 3, 50
LR = torch.tensor([1e-3, 0.02, 1e-5], dtype=torch.float64)
DECAY = torch.tensor([0.0, 0.3, 1e-2], dtype=torch.float64)
CLIP = torch.tensor([math.inf, 0.5, 3.0], dtype=torch.float64)
ALIVE = torch.ones(K, dtype=torch.bool)


@pytest.fixture(params=[True, False], ids=["row by row", "all at once"])
def optimiser_of(request):
    return lambda rows: RowAdamW(rows, row_by_row=request.param)


def _rows(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(K, size, dtype=dtype, generator=torch.Generator().manual_seed(0))


def _gradients(size: int, steps: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Norms on both sides of the clipping thresholds."""
    source = torch.Generator().manual_seed(1)
    scales = torch.tensor([1.0, 0.1, 10.0], dtype=dtype).unsqueeze(1) / math.sqrt(size)
    return [
        scales * (1 + step % 7) * torch.randn(K, size, dtype=dtype, generator=source) for step in range(steps)
    ]


def _numbers(optimiser: RowAdamW) -> list[Tensor]:
    return [optimiser.rows, optimiser.first, optimiser.second, optimiser.steps]


@pytest.mark.parametrize("size", [1, 37, 50_003])
def test_each_row_is_an_adamw_with_its_own_rate_decay_and_clipping(optimiser_of, size: int):
    rows = _rows(size)
    alone = [nn.Parameter(row.clone()) for row in rows]
    settings = zip(alone, LR.tolist(), DECAY.tolist(), strict=True)
    references = [torch.optim.AdamW([p], lr=lr, weight_decay=decay) for p, lr, decay in settings]
    optimiser = optimiser_of(rows)
    for gradient in _gradients(size, STEPS):
        expected_norms = []
        for row, (parameter, reference) in enumerate(zip(alone, references, strict=True)):
            parameter.grad = gradient[row].clone()
            expected_norms.append(nn.utils.clip_grad_norm_([parameter], CLIP[row].item()))
            reference.step()
        norms, _ = optimiser.step(gradient.clone(), lr=LR, weight_decay=DECAY, clip=CLIP, alive=ALIVE)
        torch.testing.assert_close(norms, torch.stack(expected_norms), rtol=1e-12, atol=0)
    for row, (parameter, reference) in enumerate(zip(alone, references, strict=True)):
        state = reference.state[parameter]
        torch.testing.assert_close(optimiser.rows[row], parameter.data, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(optimiser.first[row], state["exp_avg"], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(optimiser.second[row], state["exp_avg_sq"], rtol=1e-12, atol=1e-14)
        assert optimiser.steps[row] == state["step"] == STEPS


def test_the_rate_may_change_from_step_to_step(optimiser_of):
    rows = _rows(8)
    parameter = nn.Parameter(rows[1].clone())
    reference = torch.optim.AdamW([parameter], lr=1.0, weight_decay=0.3)
    optimiser = optimiser_of(rows)
    for step, gradient in enumerate(_gradients(8, 10)):
        rate = 0.01 * (step + 1)
        reference.param_groups[0]["lr"] = rate
        parameter.grad = gradient[1].clone()
        reference.step()
        clip = torch.full((K,), math.inf, dtype=torch.float64)
        rates = torch.full((K,), rate, dtype=torch.float64)
        optimiser.step(gradient, lr=rates, weight_decay=DECAY, clip=clip, alive=ALIVE)
    torch.testing.assert_close(optimiser.rows[1], parameter.data, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_whose_gradient_is_not_finite_is_unchanged_to_the_bit(
    optimiser_of, bad: float, dtype: torch.dtype
):
    size = 20_003
    optimisers = [optimiser_of(_rows(size, dtype)) for _ in range(2)]
    for optimiser in optimisers:
        for gradient in _gradients(size, 3, dtype):
            optimiser.step(gradient, lr=LR, weight_decay=DECAY, clip=CLIP, alive=ALIVE)
    kept = [tensor[1].clone() for tensor in _numbers(optimisers[0])]
    (gradient,) = _gradients(size, 1, dtype)
    broken = gradient.clone()
    broken[1, size // 2] = bad
    norms, moved = optimisers[0].step(broken, lr=LR, weight_decay=DECAY, clip=CLIP, alive=ALIVE)
    optimisers[1].step(gradient, lr=LR, weight_decay=DECAY, clip=CLIP, alive=ALIVE)
    assert torch.isfinite(norms).tolist() == moved.tolist() == [True, False, True]
    for tensor, before, neighbours in zip(
        _numbers(optimisers[0]), kept, _numbers(optimisers[1]), strict=True
    ):
        assert torch.equal(tensor[1], before)
        assert torch.equal(tensor[[0, 2]], neighbours[[0, 2]])
    assert optimisers[0].steps.tolist() == [4, 3, 4]


def test_a_gradient_too_large_to_square_stops_its_row_and_not_only_its_moments(optimiser_of):
    """Its square would fill the second moment with inf, after which the row would never move again."""
    optimiser = optimiser_of(_rows(8, torch.float32))
    gradient = torch.ones(K, 8)
    gradient[1] = 1e25
    no_clip = torch.full((K,), math.inf, dtype=torch.float64)
    norms, moved = optimiser.step(gradient, lr=LR, weight_decay=DECAY, clip=no_clip, alive=ALIVE)
    assert math.isinf(norms[1]) and moved.tolist() == [True, False, True]
    assert torch.isfinite(optimiser.second).all()


def test_a_row_that_is_not_alive_is_unchanged_whatever_its_gradient_and_rate(optimiser_of):
    optimiser = optimiser_of(_rows(8))
    alive = torch.tensor([True, False, True])
    before = optimiser.rows.clone()
    rate = torch.tensor([1e-3, math.nan, 1e-3], dtype=torch.float64)
    for value in (1.0, math.nan):
        gradient = torch.ones(K, 8, dtype=torch.float64)
        gradient[1] = value
        optimiser.step(gradient, lr=rate, weight_decay=DECAY, clip=CLIP, alive=alive)
    assert torch.equal(optimiser.rows[1], before[1])
    assert not optimiser.first[1].any() and not optimiser.second[1].any()
    assert optimiser.steps.tolist() == [2, 0, 2]


def test_rows_count_their_own_steps_and_a_reset_row_starts_anew(optimiser_of):
    optimiser = optimiser_of(_rows(8))
    gradients = _gradients(8, 4)
    for gradient in gradients[:3]:
        optimiser.step(gradient.clone(), lr=LR, weight_decay=DECAY, clip=CLIP, alive=ALIVE)
    optimiser.reset_row(2)
    assert optimiser.steps.tolist() == [3, 3, 0]
    fresh = optimiser_of(optimiser.rows.clone())
    for one in (optimiser, fresh):
        one.step(gradients[3].clone(), lr=LR, weight_decay=DECAY, clip=CLIP, alive=ALIVE)
    assert torch.equal(optimiser.rows[2], fresh.rows[2])
    assert not torch.equal(optimiser.rows[1], fresh.rows[1])


def test_a_row_continues_in_another_row_to_the_bit(optimiser_of):
    one, other = optimiser_of(_rows(40)), optimiser_of(_rows(40))
    gradients = _gradients(40, 6)
    for gradient in gradients[:3]:
        one.step(gradient.clone(), lr=LR, weight_decay=DECAY, clip=CLIP, alive=ALIVE)
    state = one.read_row(0)
    other.write_row(2, state)
    other.rows[2] = one.rows[0]
    swap = [2, 1, 0]
    for gradient in gradients[3:]:
        one.step(gradient.clone(), lr=LR, weight_decay=DECAY, clip=CLIP, alive=ALIVE)
        other.step(gradient[swap], lr=LR[swap], weight_decay=DECAY[swap], clip=CLIP[swap], alive=ALIVE)
    assert torch.equal(other.rows[2], one.rows[0])
    assert torch.equal(other.second[2], one.second[0])
    assert state["step"] == 3, "what was read is a copy"
