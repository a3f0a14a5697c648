"""What every test shares."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small matrices are slower on several threads, and sums must not depend on the machine's cores."""
    torch.set_num_threads(1)
