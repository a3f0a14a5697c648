"""A run directory whose truth at rest is a store: the local copy that stands for it while a command works.

    to read    a copy that follows the store (`search.fetching.Copy`); a trial's files come when asked for
    to write   lock the run there ─► make the working copy ─► mirror it ─► last upload, unlock

A working copy that a killed driver left on this machine is ahead of the store. It is taken up again when
nobody else has written the run since: `session`, there, and `<run>.session`, here, tell. The working copy is
always brought to the store before the session changes, so nothing of it can be passed over.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from search.console import show_as
from search.errors import BadInput, LossSearchError
from search.fetching import Copy, require_run
from search.mirror import Mirror
from search.storage import (
    ENGINE_FILES,
    Location,
    cache_directory,
    pieces_in,
    unusable,
    work_directory,
)
from search.store_lock import StoreLock
from trainables.object_store import Stored, reason

__all__ = ["StoredRun"]

logger = logging.getLogger("loss_search.mirror")


class StoredRun:
    """One run in a store and the local directory `path` that stands for it."""

    def __init__(self, location: Location, path: Path, *, reading: bool) -> None:
        self.location, self.path, self.reading = location, path, reading
        self.store = location.store
        self.mirror: Mirror | None = None
        self._copy = Copy(self.store, path)
        self._brought: set[str] = set()
        show_as(path, location.uri)

    @classmethod
    def to_read(cls, location: Location) -> StoredRun:
        """A copy of the run with everything but the files of its trials, up to date with the store.

        Raises BadInput when the store cannot be used or has no such run.
        """
        run = cls(location, cache_directory(location.parent.uri) / location.name, reading=True)
        run.refresh()
        return run

    @classmethod
    def to_write(cls, location: Location) -> StoredRun:
        """A run that `writing` will open; nothing is done yet."""
        return cls(location, work_directory(location.parent.uri) / location.name, reading=False)

    @classmethod
    def create(cls, out: Location, names: Iterator[str]) -> StoredRun:
        """A new, empty run below `out` under the first name that is free. Raises BadInput with the cause."""
        store = out.require(writable=True)
        taken = set(store.folders())
        name = next(name for name in names if name not in taken)
        run = cls.to_write(out / name)
        run.path.mkdir(parents=True)
        return run

    # ------------------------------------------------------------------ to read

    def refresh(self, *, trials: bool = False) -> None:
        """Bring what has changed; with `trials` their TensorBoard files too."""
        self.location.require(writable=False)

        def wanted(name: str) -> bool:
            if name.startswith(("trials/", "confirm/")):
                return trials and "/events.out.tfevents." in name
            return True

        try:
            require_run(self.location, self.store)
            self._copy.refresh(wanted)
        except OSError as error:
            raise self._unusable(error) from error

    def bring(self, folder: Path) -> None:
        """The files of one trial into the copy, once."""
        name = folder.relative_to(self.path).as_posix()
        if self.reading and name not in self._brought:
            self._brought.add(name)
            try:
                self._copy.bring_folder(name)
            except OSError as error:
                raise self._unusable(error) from error

    def is_worked_on(self) -> bool:
        """Whether a driver, on whatever machine, works on the run now."""
        try:
            return StoreLock.is_held(self.store)
        except OSError as error:
            raise self._unusable(error) from error

    def publish(self, folder: str) -> None:
        """Upload what a reading command has written below `folder`. A mirrored run needs no call."""
        if not self.reading:
            return
        try:
            for path in sorted((self.path / folder).rglob("*")):
                if path.is_file() and not path.name.endswith(".tmp"):
                    self.store.put(path.relative_to(self.path).as_posix(), path)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> Exception:
        if error.filename is not None and str(error.filename).startswith(str(self.path.parent)):
            return error  # of this machine's own disk
        return BadInput(f"{self.location}: {unusable(error)}")

    # ------------------------------------------------------------------ to write

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run, with a working copy that is mirrored, until the block ends.

        Raises BadInput when the store cannot be used or another driver holds the run, and Incomplete at the
        end when the store stayed away; the working copy is kept then.
        """
        if self.mirror is not None:  # a command within a command
            yield
            return
        self.location.require(writable=False)  # whether it may be written shows with the lock
        lock = StoreLock(self.store, self.location.uri)
        try:
            if not self.path.is_dir():
                require_run(self.location, self.store)
            lock.acquire()
            known = self._working_copy()
            self.mirror = Mirror(self.path, self.store, lock, known)
            self._begin_session()
        except OSError as error:
            self._let_go(lock)
            raise self._unusable(error) from error
        except BaseException:
            self._let_go(lock)
            raise
        self.mirror.start()
        try:
            yield
        except BaseException as error:
            self._end(lock, error)
            raise
        self._end(lock, None)

    def _working_copy(self) -> list[str]:
        """Make the working copy, or take one up; returns the objects that it need not send again."""
        there = self._session_there()
        if there is None and self.path.is_dir():
            return []  # a new run
        here = self._session_path.read_text(encoding="ascii") if self._session_path.is_file() else None
        stored = self.store.list()
        if self.path.is_dir() and here == there and self._is_ahead(stored):
            logger.info("%s: goes on from the working copy on this machine, %s", self.location, self.path)
            return [name for name, one in stored.items() if self._is_equal(name, one.size)]
        if self.path.is_dir():
            aside = self.path.with_name(f"{self.path.name}.old-{secrets.token_hex(4)}")
            os.replace(self.path, aside)
            logger.warning("%s: the store knows more; the copy that was here is %s", self.location, aside)
        self._session_path.unlink(missing_ok=True)  # half a copy must not pass for one that is ahead
        require_run(self.location, self.store)
        # Of what engines have left the report wants the pictures of best epochs.
        return self._copy.refresh(lambda name: not ENGINE_FILES.fullmatch(name) or name.endswith("_best.png"))

    def _is_ahead(self, stored: Mapping[str, Stored]) -> bool:
        """Whether no log is longer in the store: a loss of power can cost this disk what was uploaded."""
        for log, pieces in pieces_in(stored).items():
            start = int(pieces[-1].rpartition("/")[2])
            path = self.path / log
            if not path.is_file() or path.stat().st_size < start + stored[pieces[-1]].size:
                return False
        return True

    def _is_equal(self, name: str, size: int) -> bool:
        """Whether an object is sure to be what lies here: of those that are never changed, only replaced.

        Pieces and parts always count: `Mirror` follows them.
        """
        if ".pieces/" in name or name.startswith("epochs/part-"):
            return True
        path = self.path / name
        return name.startswith(("trials/", "confirm/")) and path.is_file() and path.stat().st_size == size

    @property
    def _session_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.session")

    def _session_there(self) -> str | None:
        try:
            return self.store.get("session").decode("ascii", "replace")
        except FileNotFoundError:
            return None

    def _begin_session(self) -> None:
        if (self.path / "space.yaml").is_file():
            self.mirror.sync()
        nonce = secrets.token_hex(8)
        self.store.put("session", nonce.encode())
        self._session_path.write_text(nonce, encoding="ascii")
        self.mirror.lock.session = nonce.encode()

    def _end(self, lock: StoreLock, error: BaseException | None) -> None:
        """The last upload. What went wrong before is worth more than what goes wrong here."""
        mirror, self.mirror = self.mirror, None
        try:
            mirror.close()
        except LossSearchError as fault:
            if error is None:
                raise
            if fault is not error:
                logger.error("%s", fault)
            return
        finally:
            self._let_go(lock)
        shutil.rmtree(self.path, ignore_errors=True)
        name = self.path.name
        for beside in (f"{name}.session", f".{name}.index.json", f".{name}.lock"):
            self.path.with_name(beside).unlink(missing_ok=True)
        with suppress(OSError):  # other runs below the same URI may have their copies there
            self.path.parent.rmdir()
        logger.info("%s: %s", self.location, mirror.traffic)

    def _let_go(self, lock: StoreLock) -> None:
        try:
            lock.release()
        except OSError as error:
            logger.warning("%s: its lock stays until it is stale (%s)", self.location, reason(error))
