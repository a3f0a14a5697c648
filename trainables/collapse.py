"""When a latent counts as used, and when a sign of collapse has lasted long enough to act on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["ACTIVE_KL", "ACTIVE_VARIANCE", "active_units", "persists"]

ACTIVE_KL = 0.05  # nats; a dimension with less KL than this carries next to nothing (our threshold)
ACTIVE_VARIANCE = 0.01  # variance over examples of E[z|x] (Burda et al. 2016)


def active_units(mean: Tensor, threshold: float = ACTIVE_VARIANCE) -> int:
    """Number of latent dimensions whose posterior mean depends on the input.

        dimension d is active if Var over examples of E[z_d | x] > threshold

    Args:
        mean: posterior means E[z|x], f[N, D], N and D >= 1. The variance divides by N.
        threshold: variance above which a dimension counts, in units of z squared.

    Returns:
        A number in [0, D]; a dimension that holds a NaN is not active.

    Raises:
        ValueError: `mean` is not [N, D] or is empty.

    Source: Burda et al. 2016, "Importance weighted autoencoders", the statistic A_u.
    """
    if mean.ndim != 2 or mean.numel() == 0:
        raise ValueError(f"posterior means have shape {list(mean.shape)}, expected [N, D], both >= 1")
    return int((mean.var(0, correction=0) > threshold).sum())


def persists(flags: Sequence[bool | None], *, warmup: int, patience: int) -> bool:
    """Whether a sign was seen in each of the last `patience` evaluations, all of them after the warm-up.

    Args:
        flags: one entry an epoch since the trial began: seen, not seen, or None where it could not be judged
            (a KL weight below its full value). None breaks a run as False does: collapse must be shown.
        warmup: first epochs that do not count, >= 0.
        patience: evaluations in a row, >= 1.

    Raises:
        ValueError: a negative warm-up or a patience below 1.
    """
    if warmup < 0:
        raise ValueError(f"warmup={warmup} epochs must be >= 0")
    if patience < 1:
        raise ValueError(f"patience={patience} evaluations must be >= 1")
    return len(flags) >= warmup + patience and all(flags[-patience:])
