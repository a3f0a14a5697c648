"""The benchmarks run; what they measure is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).with_name("bench")


@pytest.mark.slow
def test_the_overhead_benchmark_trains_alike_in_all_ways_and_prints_its_ratios(tmp_path: Path):
    found = subprocess.run(
        [sys.executable, BENCH / "overhead.py", "--quick", "--json", tmp_path / "overhead.json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    lines = found.stdout.splitlines()
    for words in ("with start-up, nested / search", "in steady state, nested / search", "search / loop"):
        assert sum(words in line and "target" in line for line in lines) == 1, found.stdout
    assert any(line.startswith("same work") for line in lines)
    assert "left a process behind" not in found.stdout
    content = json.loads((tmp_path / "overhead.json").read_text())
    assert {one["way"]: len(one["best"]) for one in content["measured"]} == {
        "search": 4,
        "nested": 2,
        "loop": 4,
    }
    assert all(ratio["value"] > 0 for ratio in content["ratios"])
