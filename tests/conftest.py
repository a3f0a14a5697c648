"""What every test shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_study import make_study

from search.findings import gather
from search.report import write_report
from search.run_directory import RunDirectory
from search.space import Space


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small matrices are slower on several threads, and sums must not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, in which the test works."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> tuple[RunDirectory, Space]:
    """A finished search of 28 trials, as `make_study` makes it up, with its report."""
    directory, space = make_study(tmp_path_factory.mktemp("study"), 28)
    write_report(gather(directory, space))
    return directory, space
