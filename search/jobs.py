"""Searches on a cluster from outside: Ray Jobs, through the tunnel to the head's dashboard.

What is shipped is the space as it was resolved here, the data file that it names and the module of a user's
own family; nothing else of the working directory. The cluster knows the user by a token, which is read where
Ray reads it and is never stored with a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from search.errors import BadInput, Incomplete, RunFailed
from search.nodes import module_of, token_file

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

    from search.space import Space

__all__ = ["Job", "client_of", "find", "follow", "jobs", "stop", "submit"]

KIND = "loss_search"  # the key in a job's metadata that makes it ours
LARGEST_BYTES = 400 * 2**20  # Ray takes 512 MiB of packed files
STOP_WAIT_S = 120  # a search ends within an epoch and a few seconds of the signal; Ray's own patience is 3 s
OUT = '--out "${LOSS_SEARCH_RUNS:-$HOME/runs}"'  # on the head, whose launcher says where runs are kept
DATA = (
    "$HOME/loss-search-data"  # on the head, which alone reads data files: a resumed search needs them again
)


@dataclass(frozen=True)
class Job:
    """A search that was submitted: its name, what Ray says of it, and when it began."""

    name: str
    status: str
    space: str
    started: datetime | None
    message: str


def client_of(address: str) -> JobSubmissionClient:
    """The jobs interface of the cluster whose dashboard is at `address`.

    Raises BadInput without a token, with a wrong one, for an address to which a token would travel in the
    clear, and when nothing answers.
    """
    _require_private(address)
    token = _token()
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = token
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _worded(address):
        client = JobSubmissionClient(address)
        client.list_jobs()  # the version, which the client asks for by itself, is told to everyone
    return client


def _require_private(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(
            f"--address {address}: must be the dashboard, as in http://127.0.0.1:8265; `ray dashboard "
            "cluster.yaml` opens a tunnel to it"
        )
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise BadInput(
            f"--address {address}: the token would cross the network in the clear; open a tunnel with `ray "
            "dashboard cluster.yaml` and use --address http://127.0.0.1:8265"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token() -> str:
    """The user's token, from where Ray reads it. Raises BadInput when there is none."""
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if token:
        return token
    path = token_file()
    if not path.is_file() or not path.read_text(encoding="utf-8").strip():
        raise BadInput(
            f"no token: {path} is {'empty' if path.is_file() else 'missing'}, and RAY_AUTH_TOKEN is not set. "
            "A cluster takes jobs only from who has the token that it was launched with; `loss-search "
            "cluster token` makes one before `ray up`"
        )
    return path.read_text(encoding="utf-8").strip()


@contextlib.contextmanager
def _worded(address: str) -> Iterator[None]:
    """Ray's errors about the connection, as messages for people."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise BadInput(
            f"--address {address}: the cluster refuses this token; RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            f"{token_file()} must hold the one that it was launched with"
        ) from error
    except ConnectionError as error:
        raise BadInput(
            f"--address {address}: no dashboard answers there; is the tunnel open (`ray dashboard "
            "cluster.yaml`) and the cluster up?"
        ) from error


# ---------------------------------------------------------------------- submit


def submit(
    client: JobSubmissionClient,
    space: Space,
    options: list[str],
    *,
    out: str | None = None,
    on: tuple[str, str] | None = None,
) -> str:
    """Submit a search of `space`, or work on a run of it that is there; the job's name.

    Args:
        options: of `loss-search run` (or the other command) on the head, beside --address and --out.
        out: where the cluster keeps runs; by default where its launcher said.
        on: the command, `resume` or `confirm`, and its run.
    """
    name = f"{space.name}-{datetime.now():%Y%m%d-%H%M%S}"
    with tempfile.TemporaryDirectory(prefix="loss-search-job-") as folder:
        before, settings = _pack(space, Path(folder), new=on is None)
        what = "run space.yaml" if on is None else f"{on[0]} {shlex.quote(on[1])}"
        where = OUT if out is None else f"--out {shlex.quote(out)}"
        command = f"loss-search {what} {where} --address auto {shlex.join(options)} {settings}"
        return client.submit_job(
            entrypoint=f"{before}exec {command.rstrip()}",
            submission_id=name,
            runtime_env={
                "working_dir": folder,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1"},
            },
            metadata={KIND: space.name},
        )


def _pack(space: Space, folder: Path, new: bool) -> tuple[str, str]:
    """Put into `folder` what the search needs.

    Returns:
        The shell commands that come before the search on the head, and options that only the head's shell can
        complete: a data file is kept where a resumed search finds it again.
    """
    content, before, settings = space.resolved(), "", ""
    path = space.data.get("path")
    if path is not None and new:
        source = Path(path).expanduser()
        _require_small(source)
        shipped = f"{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}{source.suffix}"
        shutil.copyfile(source, folder / shipped)
        content = {**content, "data": {**content["data"], "path": shipped}}
        before = f'mkdir -p "{DATA}" && cp -n {shipped} "{DATA}/" && '
        settings = f'--set data.path="{DATA}/{shipped}"'
    module = module_of(space.family_name)
    if module is not None and module.is_dir():
        shutil.copytree(module, folder / module.name, ignore=shutil.ignore_patterns("__pycache__"))
    elif module is not None:
        shutil.copyfile(module, folder / module.name)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "space.yaml").write_text(text, encoding="utf-8")
    return before, settings


def _require_small(source: Path) -> None:
    size = source.stat().st_size
    if size > LARGEST_BYTES:
        raise BadInput(
            f"{source}: {size / 2**20:.0f} MiB, and a job can ship {LARGEST_BYTES / 2**20:.0f}; copy it to "
            "the head (`ray rsync-up cluster.yaml`), and start there with `loss-search run --address auto`"
        )


# ---------------------------------------------------------------------- what runs


def jobs(client: JobSubmissionClient) -> list[Job]:
    """The searches that this cluster knows, the newest first; what others submitted is left out."""
    found = [detail for detail in client.list_jobs() if _is_ours(detail)]
    return sorted(map(_job, found), key=lambda job: job.started or datetime.min, reverse=True)


def find(client: JobSubmissionClient, name: str) -> Job:
    """The search of this name. Raises BadInput when the cluster knows none."""
    known = jobs(client)
    for job in known:
        if job.name == name:
            return job
    listed = ", ".join(job.name for job in known[:5]) or "none"
    raise BadInput(f"{name}: no such search on this cluster; it knows {listed}")


def _is_ours(detail: JobDetails) -> bool:
    return detail.submission_id is not None and KIND in (detail.metadata or {})


def _job(detail: JobDetails) -> Job:
    started = datetime.fromtimestamp(detail.start_time / 1000) if detail.start_time else None
    return Job(
        detail.submission_id, str(detail.status.value), detail.metadata[KIND], started, detail.message or ""
    )


def stop(client: JobSubmissionClient, name: str) -> bool:
    """Ask a search to end as Ctrl-C would; false when it has ended already."""
    find(client, name)
    return client.stop_job(name)


def follow(client: JobSubmissionClient, name: str, say: Callable[[str], Any]) -> int:
    """Hand each line of the job's log to `say` until it ends; the exit code of the search.

    Ctrl-C ends the following, not the search. Raises Incomplete when the connection is lost.
    """
    from aiohttp import ClientError

    try:
        asyncio.run(_follow(client, name, say))
        details = client.get_job_info(name)
    except (RuntimeError, OSError, ClientError) as error:
        raise Incomplete(
            f"the log cannot be followed any more ({error}). If the tunnel has closed, open it, then "
            f"loss-search logs {name}. If the head has restarted: ray up, then loss-search submit SPACE "
            "--resume RUN; nothing that was reported is lost"
        ) from error
    if details.status.value == "STOPPED":
        return 3
    if details.driver_exit_code is None and details.status.value != "SUCCEEDED":
        raise RunFailed(f"{name}: {details.message or details.status.value}")
    return details.driver_exit_code or 0


async def _follow(client: JobSubmissionClient, name: str, say: Callable[[str], Any]) -> None:
    rest = ""
    async for chunk in client.tail_job_logs(name):
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            say(line)
    if rest:
        say(rest)
