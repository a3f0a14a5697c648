"""Where the files of one trial are kept: a directory, or a folder of an object store. No Ray here.

    TrialStorage   files stay where they are written (a local or shared directory)
    StoredTrial    files are written to a directory of this machine and uploaded behind the training

Uploads of a process go through one thread, in the order in which they were asked for; of a file that is
asked for twice while it waits, only the newest content goes. A store that cannot be reached is tried again,
slower each time, while training goes on; after `AWAY_S` the next `keep` raises.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from trainables.object_store import ObjectStore, is_refusal, is_uri, reason

__all__ = ["StoredTrial", "TrialStorage", "settle", "storage_of"]

logger = logging.getLogger("loss_search.trial")

AWAY_S = 300.0  # how long a store may be away before a trial's files count as lost
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0  # between two tries
SETTLE_S = 45.0  # the longest wait for uploads at the end of an engine


def storage_of(place: Path | str) -> TrialStorage:
    """The storage at `place`: a directory, or a URI."""
    return StoredTrial(str(place)) if is_uri(str(place)) else TrialStorage(Path(place))


class TrialStorage:
    """A directory that all who need the trial's files can see."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def shown(self, name: str) -> str:
        """A file as people find it."""
        return str(self.directory / name)

    def keep(self, *names: str) -> None:
        """These files have been written, each whole. Raises OSError when files can no longer be kept."""

    def remove(self, name: str) -> None:
        """The file is of no use any more."""
        (self.directory / name).unlink(missing_ok=True)

    def bring(self, name: str) -> Path | None:
        """The newest version of a file; None when there is none."""
        path = self.directory / name
        return path if path.exists() else None

    def settle(self, within_s: float = SETTLE_S) -> bool:
        """Wait until everything is where it is to be kept; False when that takes longer."""
        return True

    def close(self) -> None:
        """The trial has left; what was asked for is still done."""


class StoredTrial(TrialStorage):
    """A folder of an object store, with a directory of this process in front of it."""

    def __init__(self, uri: str) -> None:
        self.store = ObjectStore(uri)
        super().__init__(Path(tempfile.mkdtemp(prefix="loss-search-trial-")))

    def shown(self, name: str) -> str:
        return self.store.uri_of(name)

    def keep(self, *names: str) -> None:
        for name in names:
            UPLOADS.ask(self.store, name, self.directory / name)

    def remove(self, name: str) -> None:
        super().remove(name)
        UPLOADS.ask(self.store, name, None)

    def bring(self, name: str) -> Path | None:
        self.settle(AWAY_S)
        path = self.directory / name
        if not path.exists():
            try:
                _patiently(self.store, lambda: self.store.download(name, path))
            except FileNotFoundError:
                return None
        return path

    def settle(self, within_s: float = SETTLE_S) -> bool:
        return settle(within_s)

    def close(self) -> None:
        UPLOADS.ask(self.store, "", self.directory)


class _Uploads:
    """What this process has still to upload: name -> file, None (remove it), or a directory that can go."""

    def __init__(self) -> None:
        self.waiting: OrderedDict[tuple[str, str], tuple[ObjectStore, Path | None]] = OrderedDict()
        self.changed = threading.Condition()
        self.busy = False
        self.away_since: float | None = None
        self.error: OSError | None = None
        self.thread: threading.Thread | None = None

    def ask(self, store: ObjectStore, name: str, path: Path | None) -> None:
        with self.changed:
            if self.error is not None and time.monotonic() - self.away_since > AWAY_S:
                raise OSError(errno.EIO, f"not reachable for {AWAY_S:.0f} s ({self.error})", store.uri)
            key = (store.root, name) if name else (str(path), "")
            self.waiting.pop(key, None)
            self.waiting[key] = store, path
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="uploads", daemon=True)
                self.thread.start()
            self.changed.notify_all()

    def settle(self, within_s: float) -> bool:
        with self.changed:
            settled = self.changed.wait_for(lambda: not self.waiting and not self.busy, within_s)
            if not settled:
                logger.warning("uploads did not end within %.0f s (%s)", within_s, self.error)
            return settled

    def _work(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            with self.changed:
                self.changed.wait_for(lambda: bool(self.waiting))
                key, (store, path) = self.waiting.popitem(last=False)
                self.busy = True
            error = self._upload(store, key[1], path)
            with self.changed:
                self.busy = False
                self._note(store, error)
                if error is not None and key not in self.waiting:  # nothing newer came meanwhile
                    self.waiting[key] = store, path
                    self.waiting.move_to_end(key, last=False)
                self.changed.notify_all()
            if error is None:
                wait_s = FIRST_WAIT_S
            else:
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _upload(self, store: ObjectStore, name: str, path: Path | None) -> OSError | None:
        try:
            if not name:
                shutil.rmtree(path, ignore_errors=True)
            elif path is None:
                store.remove(name)
            elif path.exists():
                store.put(name, path)
        except OSError as error:
            return OSError(error.errno, reason(error))
        return None

    def _note(self, store: ObjectStore, error: OSError | None) -> None:
        if error is None and self.away_since is not None:
            away_s = time.monotonic() - self.away_since
            logger.info("%s: can be reached again after %.0f s", store.uri, away_s)
            self.away_since = self.error = None
        elif error is not None:
            if self.away_since is None:
                self.away_since = time.monotonic()
                logger.warning("%s: cannot be written, trying again (%s)", store.uri, error.strerror)
            self.error = error


UPLOADS = _Uploads()


def settle(within_s: float = SETTLE_S) -> bool:
    """Wait until this process has uploaded what it was asked to; False when that takes longer."""
    return UPLOADS.settle(within_s)


def _patiently(store: ObjectStore, call: Callable[[], None]) -> None:
    """Call until it does not raise; FileNotFoundError, a refusal, and any OSError after `AWAY_S`, pass.

    An engine reads before it writes, so a machine without credentials is found with its first trial.
    """
    begun, wait_s = time.monotonic(), FIRST_WAIT_S
    while True:
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError as error:
            if is_refusal(error):
                raise OSError(
                    errno.EACCES, f"{reason(error)}, asked from {os.uname().nodename}", store.uri
                ) from error
            if time.monotonic() - begun > AWAY_S:
                raise
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
