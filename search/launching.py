"""Around `ray up`: the token, the launcher's file for hosts of one's own, and bringing runs home."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

import yaml

from search.errors import BadInput, RunFailed
from search.nodes import token_file
from trainables.object_store import is_uri

__all__ = ["SHIPPED", "bring_run", "make_token", "render_on_premise", "uri_of"]

SHIPPED = Path(__file__).with_name("cluster.yaml")  # a link to the project's own, which a wheel resolves
TOKEN_BYTES = 32
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]*")
USER = re.compile(r"[a-z_][a-z0-9_\-]{0,31}")
PLAIN_PATH = re.compile(r"[A-Za-z0-9_~/][A-Za-z0-9_.\-/~]*")
LEFT_THERE = ["last.pt", ".lock", ".shared", "*.tmp"]  # what only the search itself needs
SECTION = re.compile(r"^\s*# (>>>|<<<) (aws|on-premise)\b")


def make_token() -> tuple[Path, bool]:
    """The file of the user's token, made when there is none, with mode 0600; whether it was made.

    Raises BadInput when the file is there and empty.
    """
    path = token_file()
    if path.exists():
        if not path.read_text(encoding="utf-8").strip():
            raise BadInput(f"{path}: is empty; remove it, and call this again")
        path.chmod(0o600)
        return path, False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(TOKEN_BYTES))
    return path, True


def render_on_premise(
    template: Path, head: str, workers: Sequence[str], ssh_user: str, ssh_key: Path, runs: str
) -> str:
    """`cluster.yaml` with its parts for AWS taken out and those for hosts of one's own put in, comments kept.

    A part for AWS stands between `# >>> aws` and `# <<< aws`; one for other hosts between `# >>> on-premise`
    and `# <<< on-premise`, its lines behind `#|`, with {head} and the like for what is asked here.
    """
    for name, value, pattern in (
        ("HEAD", head, HOST),
        *(("WORKER", worker, HOST) for worker in workers),
        ("--ssh-user", ssh_user, USER),
        ("--ssh-key", str(ssh_key), PLAIN_PATH),
        ("--runs", runs, PLAIN_PATH),
    ):
        if not pattern.fullmatch(value):
            raise BadInput(f"{name} {value!r}: has characters that do not belong there")
    if not template.is_file():
        raise BadInput(f"--template {template}: no such file; leave --template away for the one that came")
    key = ssh_key.expanduser()
    if not key.is_file():
        raise BadInput(f"--ssh-key {ssh_key}: no such file")
    if key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadInput(f"--ssh-key {ssh_key}: others can read it, and ssh refuses that; chmod 600 {ssh_key}")
    values = {
        "head": head,
        "workers": ", ".join(workers),
        "ssh_user": ssh_user,
        "ssh_key": str(key),
        "runs": runs,
    }
    return "".join(_adapted(template, values))


def _adapted(template: Path, values: dict[str, str]) -> list[str]:
    lines, part, seen = [], None, set()
    for number, line in enumerate(template.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        mark = SECTION.match(line)
        if mark is None and part is None:
            lines.append(line)
        elif mark is None and part == "on-premise":
            indent, bar, text = line.partition("#|")  # its comments stay as they are
            lines.append(indent + text.removeprefix(" ").format_map(values) if bar else line)
        elif mark is not None:
            opens, name = mark[1] == ">>>", mark[2]
            if opens == (part is not None) or (not opens and name != part):
                raise BadInput(f"{template}:{number}: `{line.strip()}` does not fit the mark before it")
            part = name if opens else None
            seen.add(name)
    if part is not None or seen != {"aws", "on-premise"}:
        raise BadInput(f"{template}: has no complete marks for aws and on-premise; take the file as shipped")
    return lines


def uri_of(run: str, cluster_file: Path) -> str | None:
    """The URI of a run in an object store: as given, or where the cluster of this file keeps its runs."""
    if is_uri(run):
        return run
    if "/" in run or not cluster_file.is_file():
        return None
    where = str((_launcher_file(cluster_file).get("metadata") or {}).get("runs") or "")
    return f"{where.rstrip('/')}/{run}" if is_uri(where) else None


def bring_run(run: str, cluster_file: Path, to: Path) -> Path:
    """Bring a run's directory from the head of the cluster of `cluster_file` to below `to`; where it is then.

    Raises BadInput for a file or a run that is not there, RunFailed when ssh or rsync fail.
    """
    config = _launcher_file(cluster_file)
    where = (config.get("metadata") or {}).get("runs")
    if "/" not in run and not where:
        raise BadInput(f"{cluster_file}: has no metadata.runs; give the path of the run on the head")
    remote = run if "/" in run else f"{where.rstrip('/')}/{run}"
    name = remote.rstrip("/").rsplit("/", 1)[-1]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name) or not PLAIN_PATH.fullmatch(remote):
        raise BadInput(f"{run}: is no name or path of a run")
    from ray.autoscaler.sdk import rsync

    target = to.expanduser().resolve() / name
    target.mkdir(parents=True, exist_ok=True)
    config["rsync_exclude"] = LEFT_THERE
    try:
        rsync(config, source=f"{remote.rstrip('/')}/", target=f"{target}/", down=True)
    except Exception as error:
        # The boundary to Ray's launcher, which raises errors of click, of ssh and of clouds.
        _remove_if_empty(target)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunFailed(
            f"{run}: cannot be fetched from {remote} on the head: {reason}; is the cluster up (`ray "
            f"get-head-ip {cluster_file}`), and the run there (`ray exec {cluster_file} 'ls {remote}'`)?"
        ) from error
    if not (target / "space.yaml").is_file():
        _remove_if_empty(target)
        raise RunFailed(f"{run}: {remote} on the head is no run directory")
    return target


def _launcher_file(path: Path) -> dict:
    if not path.is_file():
        raise BadInput(f"--cluster {path}: no such file; give the one that `ray up` launched")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BadInput(f"--cluster {path}: is not YAML ({error})") from error
    if not isinstance(config, dict) or "provider" not in config:
        raise BadInput(f"--cluster {path}: is no file for `ray up` (no `provider`)")
    return config


def _remove_if_empty(directory: Path) -> None:
    if not any(directory.iterdir()):
        directory.rmdir()
