"""`ray up` for real, on hosts that are network namespaces of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "cluster" / "namespaces.py"
LIMIT_S = 560
SKIPPED = 77


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cluster_that_ray_up_launched_survives_a_power_cut_and_leaves_nothing_behind(capsys):
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    with capsys.disabled():
        print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
