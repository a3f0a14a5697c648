"""What a cluster has room for, and what a job ships: everything that can be said without a cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from searches import write_space

from search import jobs, nodes
from search.cli import main
from search.cluster import _refuse_what_never_fits
from search.errors import BadInput
from search.space import load_space

PROJECT = Path(__file__).parents[1]


def test_the_shipped_file_allows_four_gpus_whichever_way_they_are_bought():
    assert nodes.possible(yaml.safe_load((PROJECT / "cluster.yaml").read_text())) == {"GPU": 4, "core": 16}


def test_hosts_whose_size_the_launcher_does_not_know_may_have_any():
    kinds = {"local.cluster.node": {"resources": {}, "max_workers": 2}}
    assert nodes.possible({"available_node_types": kinds, "max_workers": 2}) is None


def test_a_gpu_without_a_core_for_its_worker_is_no_room():
    units = {"GPU": [], "core": []}
    nodes._count({"CPU": 2.0, "GPU": 4.0}, units)
    nodes._count({"memory": 1e9}, units)
    assert units == {"GPU": [2, 0], "core": [2, 0]}


def test_what_can_never_fit_is_refused_with_the_numbers():
    room = nodes.Room("GPU", now=0, most=4, nodes=0)
    with pytest.raises(BadInput, match="--engines 3 with --workers-per-engine 2: needs 6 GPUs, there are 4"):
        _refuse_what_never_fits(3, 2, room)
    with pytest.raises(BadInput, match="--workers-per-engine 5: there are 4 GPUs"):
        _refuse_what_never_fits(None, 5, room)
    _refuse_what_never_fits(2, 2, room)


def test_a_family_of_ones_own_is_shipped_and_an_installed_one_is_not():
    assert nodes.module_of("tiny_family:TINY") == Path(__file__).parent / "tiny_family.py"
    assert nodes.module_of("beta_vae") is None
    assert nodes.module_of("numpy:array") is None


def test_a_job_ships_the_space_the_family_and_the_data_file_and_nothing_else(tmp_path):
    space = load_space(write_space(tmp_path))
    folder = tmp_path / "plain"
    folder.mkdir()
    assert jobs._pack(space, folder, new=True) == ("", "")
    assert sorted(path.name for path in folder.iterdir()) == ["space.yaml", "tiny_family.py"]
    assert load_space(folder / "space.yaml").fingerprint() == space.fingerprint()


def test_a_data_file_is_kept_on_the_head_under_a_name_of_its_content(tmp_path):
    file = tmp_path / "my $(data).npz"
    np.savez(file, x=np.zeros(3))
    path = tmp_path / "multitask.yaml"
    content = {
        "family": "multitask",
        "data": {"source": "file", "path": str(file)},
        "budget": {"trials": 1, "epochs": 1},
        "knobs": {"optim.lr": {"float": [1e-3, 1e-2]}},
    }
    path.write_text(yaml.safe_dump(content))
    folder = tmp_path / "job"
    folder.mkdir()
    before, settings = jobs._pack(load_space(path), folder, new=True)
    (shipped,) = folder.glob("*.npz")
    assert shipped.read_bytes() == file.read_bytes() and "$" not in shipped.name
    assert before == f'mkdir -p "{jobs.DATA}" && cp -n {shipped.name} "{jobs.DATA}/" && '
    assert settings == f'--set data.path="{jobs.DATA}/{shipped.name}"'


def test_a_data_file_that_no_job_can_ship_is_refused_with_another_way(tmp_path, monkeypatch):
    file = tmp_path / "large.npz"
    file.write_bytes(b"0" * 2048)
    monkeypatch.setattr(jobs, "LARGEST_BYTES", 1024)
    with pytest.raises(BadInput, match=r"ray rsync-up.*run --address auto"):
        jobs._require_small(file)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resume", "r", "--trials", "3"], "--resume with --trials: a run keeps the space"),
        (["--resume", "r", "--set", "confirm.top=2"], "--resume with --set confirm.top=2: a run keeps"),
        (
            ["--confirm", "r", "--set", "kl.weight=1", "--seed", "2"],
            "--confirm with --seed, --set kl.weight=1:",
        ),
        (["--resume", "a", "--confirm", "b"], "--resume and --confirm: one at a time"),
    ],
)
def test_what_would_change_the_space_of_a_run_that_is_there_is_refused_not_ignored(options, said, capsys):
    assert main(["submit", "beta_vae", *options]) == 2
    assert capsys.readouterr().err.startswith(said)
