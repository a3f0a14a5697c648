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
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # it removes its hosts
        said, _ = process.communicate()
        raise AssertionError(f"no end within {LIMIT_S} s:\n{said}") from None
    if process.returncode == SKIPPED:
        pytest.skip(said.strip())
    with capsys.disabled():
        print(f"\n{said}")
    assert process.returncode == 0, said
