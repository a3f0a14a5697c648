"""The launcher's file and the token: what comes before `ray up`."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from searches import run

from search.errors import BadInput
from search.launching import bring_run, render_on_premise

FILE = Path(__file__).parents[1] / "cluster.yaml"
HOSTS = ("10.0.0.4", ["10.0.0.5", "10.0.0.6"])


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("a private key")
    path.chmod(0o600)
    return path


def aws() -> dict:
    return yaml.safe_load(FILE.read_text())


def on_premise(key: Path) -> dict:
    return yaml.safe_load(render_on_premise(FILE, *HOSTS, "lab", key, "/shared/runs"))


def test_the_file_is_valid_by_rays_own_schema_for_aws_and_for_hosts_of_ones_own(key):
    for config in (aws(), on_premise(key)):
        prepared = prepare_config(config)
        prepared.setdefault("cluster_synced_files", [])
        validate_config(prepared)


def test_an_aws_user_edits_region_and_key_and_nothing_else():
    marked = [line.split(":")[0].strip() for line in FILE.read_text().splitlines() if "# EDIT:" in line]
    assert marked == ["region", "ssh_private_key", "KeyName"]


def test_no_engine_runs_on_the_head_and_workers_come_only_when_asked_for():
    types = aws()["available_node_types"]
    head = types.pop("head")
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert {kind["min_workers"] for kind in types.values()} == {0}
    spot, fallback = types["gpu-spot"], types["gpu-on-demand"]
    assert spot["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in fallback["node_config"]


@pytest.fixture
def ec2(monkeypatch):
    """A simulated EC2 of the region in the file, and its IAM."""
    import boto3
    import moto

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    # Ray waits 15 s for each new role to be known everywhere. Its module's `time` alone is replaced.
    at_once = SimpleNamespace(sleep=lambda seconds: None)
    monkeypatch.setattr("ray.autoscaler._private.aws.config.time", at_once)
    with moto.mock_aws():
        yield boto3.client("ec2", aws()["provider"]["region"])


@pytest.mark.slow
def test_rays_own_launcher_makes_the_machines_of_the_file_on_a_simulated_aws(tmp_path, ec2):
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    config = aws()
    pair = ec2.create_key_pair(KeyName=config["available_node_types"]["head"]["node_config"]["KeyName"])
    private = tmp_path / "my-key.pem"
    private.write_text(pair["KeyMaterial"])
    config["auth"]["ssh_private_key"] = str(private)
    config = bootstrap_aws(prepare_config(config))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, kind in config["available_node_types"].items():
        role = config["head_node"] if name == "head" else {}
        tags = {"ray-node-type": "head" if role else "worker", "ray-node-name": name}
        provider.create_node({**kind["node_config"], **role}, tags, 1)
    made = {}
    for reservation in ec2.describe_instances()["Reservations"]:
        for machine in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
            made[tags["Name"]] = machine
    assert {name: machine["InstanceType"] for name, machine in made.items()} == {
        "head": "m5.large",
        "gpu-spot": "g5.xlarge",
        "gpu-on-demand": "g5.xlarge",
    }
    assert {name: machine.get("InstanceLifecycle") for name, machine in made.items()} == {
        "head": None,
        "gpu-spot": "spot",
        "gpu-on-demand": None,
    }
    # The head alone may ask AWS for more machines; what runs on a worker gets no credentials.
    assert [name for name, machine in made.items() if "IamInstanceProfile" in machine] == ["head"]
    assert {machine["MetadataOptions"]["HttpTokens"] for machine in made.values()} == {"required"}
    (group,) = {one["GroupId"] for machine in made.values() for one in machine["SecurityGroups"]}
    (rules,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    from_outside = [rule["FromPort"] for rule in rules["IpPermissions"] if rule["IpRanges"]]
    assert from_outside == [22]


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_both_forms_start_ray_by_the_same_commands_with_the_token_and_fixed_ports(key, commands):
    ours, theirs = aws()[commands], on_premise(key)[commands]
    assert [one for one in ours if "IMDS" not in one] == theirs
    start = next(one for one in theirs if "ray start" in one)
    assert "RAY_AUTH_MODE=token" in start and "--min-worker-port=20000" in start
    assert "0.0.0.0" not in "".join(theirs)


def test_every_command_of_both_forms_is_one_that_a_shell_can_read(key):
    for config in (aws(), on_premise(key)):
        commands = [one for name, found in config.items() if name.endswith("_commands") for one in found]
        assert len(commands) > 5
        for command in commands:
            read = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
            assert (read.returncode, read.stderr) == (0, ""), command


def test_the_head_does_not_start_without_a_token(key):
    (check,) = [one for one in on_premise(key)["head_start_ray_commands"] if "test -s" in one]
    assert "exit 1" in check


def test_hosts_of_ones_own_get_their_addresses_and_nothing_of_aws(key):
    config = on_premise(key)
    assert config["provider"] == {"type": "local", "head_ip": HOSTS[0], "worker_ips": HOSTS[1]}
    assert config["auth"] == {"ssh_user": "lab", "ssh_private_key": str(key)}
    assert config["metadata"] == {"runs": "/shared/runs"}
    text = render_on_premise(FILE, *HOSTS, "lab", key, "/shared/runs")
    for word in ("aws:", "ami", "spot", "EDIT", "#|", ">>>", "apt-get", "nfs"):
        assert word not in text, word
    assert text.startswith("# A cluster for loss-search on hosts of your own")
    assert "# The token without which" in text, "comments stay"


def test_the_file_for_hosts_of_ones_own_comes_with_the_installed_package(tmp_path, key):
    options = ("--ssh-user", "lab", "--ssh-key", str(key), "--runs", "/shared/runs")
    said = run("cluster", "on-premise", HOSTS[0], *HOSTS[1], *options, cwd=tmp_path)
    assert yaml.safe_load(said) == on_premise(key)


def test_a_host_a_user_or_a_path_that_could_be_a_command_is_refused(key):
    good = [FILE, HOSTS[0], HOSTS[1], "lab", key, "/shared/runs"]
    for place, bad in ((1, "10.0.0.4; rm -rf ~"), (2, ["-oProxyCommand=x"]), (3, "$(id)"), (5, "/a b")):
        asked = [*good]
        asked[place] = bad
        with pytest.raises(BadInput, match="characters that do not belong there"):
            render_on_premise(*asked)
    key.chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        render_on_premise(*good)


def test_a_token_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    path = tmp_path / "home" / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    said = run("cluster", "token", cwd=tmp_path)
    made = path.read_text()
    assert len(made) == 64 and made not in said
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # as Ray leaves its own
    run("cluster", "token", cwd=tmp_path)
    assert path.read_text() == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("run_name", "said"),
    [("../escaped", "is no name or path of a run"), ("a;b", "is no name or path of a run")],
)
def test_what_is_fetched_is_named_plainly(tmp_path, key, run_name, said):
    file = tmp_path / "mine.yaml"
    file.write_text(render_on_premise(FILE, *HOSTS, "lab", key, "/shared/runs"))
    with pytest.raises(BadInput, match=said):
        bring_run(run_name, file, tmp_path / "runs")
    with pytest.raises(BadInput, match="no such file"):
        bring_run("beta_vae-1", tmp_path / "missing.yaml", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# ---- submitting, as far as no cluster is needed


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://10.0.0.4:8265", "the token would cross the network in the clear"),
        ("127.0.0.1:8265", "must be the dashboard"),
        ("http://127.0.0.1:9", "no dashboard answers there"),
    ],
)
def test_a_dashboard_that_cannot_be_used_is_named_with_what_to_do(tmp_path, monkeypatch, address, said):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "some token")
    assert said in run("status", "--address", address, cwd=tmp_path, expect=2)


def test_without_a_token_nothing_is_submitted(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    said = run("submit", "beta_vae", "--quick-test", cwd=tmp_path, expect=2)
    assert "no token" in said and "loss-search cluster token" in said
