"""A run that is kept in an object store: where `--out` points, how its files lie there, who may write.

    <uri>/<run>/session                          who wrote last: tells whether a local copy is of use
    <uri>/<run>/lock/<nonce>                     the driver that works on the run, rewritten every cycle
    <uri>/<run>/study.journal.pieces/<offset>    a log in pieces, for objects cannot be appended to
    <uri>/<run>/space.yaml, epochs/..., trials/<n>/..., report/...   as in a run directory

The driver works on a copy on its own disk, where appending, renaming and locking mean what they say;
`search.mirror` uploads what changes. Engines write their trials' files to the store themselves
(`trainables.trial_storage`), so they are nobody else's to upload or to remove: `ENGINE_FILES`.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.errors import BadInput
from trainables.object_store import BadUri, ObjectStore, is_uri, reason

__all__ = [
    "ENGINE_FILES",
    "LOGS",
    "Location",
    "cache_directory",
    "file_of",
    "place_of",
    "piece_name",
    "pieces_in",
    "unusable",
    "work_directory",
]

LOGS = ("study.journal", "events.jsonl", "run.log")  # grow at their end; the study knows what events tell
PIECES = ".pieces"
PIECE = re.compile(r"(.+)\.pieces/(\d{16})")
ENGINE_FILES = re.compile(r"(trials|confirm)/\d+/(model\.pt|last\.pt|run\.log|figures/.+|facts/.+)")


@dataclass(frozen=True)
class Location:
    """A URI that holds runs, as a directory would. `location / name` is what lies below it."""

    uri: str

    def __truediv__(self, name: str) -> Location:
        return Location(self.store.uri_of(name))

    def __str__(self) -> str:
        return self.uri

    @property
    def store(self) -> ObjectStore:
        try:
            return ObjectStore(self.uri)
        except BadUri as error:
            raise BadInput(f"--out {_without_secret(self.uri)}: {error}") from error

    @property
    def name(self) -> str:
        return self.store.root.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        store = self.store
        above = store.root.rpartition("/")[0] or store.root
        return Location(store.uri.replace(store.root, above, 1))

    def require(self, *, writable: bool) -> ObjectStore:
        """The store, after one look (and one object written and removed). Raises BadInput with the cause."""
        store = self.store
        probe = f".probe-{secrets.token_hex(6)}"
        try:
            if not _has_bucket(store):
                raise BadInput(
                    f"{self}: there is no bucket {store.bucket!r}, or these credentials cannot see it"
                )
            if writable:
                store.put(probe, b"")
                store.remove(probe)
        except OSError as error:
            raise BadInput(f"{self}: {unusable(error)}") from error
        return store


def _has_bucket(store: ObjectStore) -> bool:
    try:
        return store.has_bucket()
    except OSError:
        store.folders()  # a policy may allow what lies below a prefix, and not the bucket itself
        return True


def place_of(text: str | Path) -> Path | Location:
    """What `--out` means: a directory, or a URI. Raises BadInput for a URI that cannot be used."""
    if not is_uri(str(text)):
        return Path(text)
    location = Location(str(text))
    return Location(location.store.uri)


def file_of(text: str | Path) -> Path:
    """A file that a command reads, by its path; one in a store, by its URI, is brought here first."""
    if not is_uri(str(text)):
        return Path(text)
    location = Location(str(text))
    try:
        above = location.parent
        path = cache_directory(above.uri) / "files" / location.name
        above.store.download(location.name, path)
    except FileNotFoundError as error:
        raise BadInput(f"{location}: there is no such file") from error
    except OSError as error:
        raise BadInput(f"{location}: {unusable(error)}") from error
    return path


def work_directory(uri: str) -> Path:
    """Where a driver on this machine keeps its copies of the runs below `uri`."""
    return _own_directory("XDG_STATE_HOME", ".local/state", uri)


def cache_directory(uri: str) -> Path:
    """Where commands that read keep their copies of the runs below `uri`."""
    return _own_directory("XDG_CACHE_HOME", ".cache", uri)


def pieces_in(names: Any) -> dict[str, list[str]]:
    """The pieces of each log among the names of a run's objects, in order."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        match = PIECE.fullmatch(name)
        if match is not None and match[1] in LOGS:
            found.setdefault(match[1], []).append(name)
    return found


def piece_name(log: str, offset: int) -> str:
    return f"{log}{PIECES}/{offset:016d}"


def unusable(error: OSError) -> str:
    """Why a store cannot be used, and what to do."""
    said = reason(error)
    lower = said.lower()
    if "AWS Error" in str(error) and "network" not in lower and not _has_credentials():
        return (
            f"no credentials were found ({said}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, use "
            "~/.aws, or give the machine a role"
        )
    if "access denied" in lower or "forbidden" in lower:
        return f"permission is missing ({said}); the credentials must allow to list, read, write and delete"
    if any(word in lower for word in ("credential", "signature", "access key", "invalidaccesskeyid")):
        return (
            f"the credentials are missing or wrong ({said}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if "no such bucket" in lower:
        return f"there is no such bucket ({said})"
    if "network connection" in lower or "connect" in lower or "timed out" in lower or "resolve" in lower:
        return f"cannot be reached ({said}); check the network, and AWS_ENDPOINT_URL where it is no Amazon S3"
    return f"cannot be used ({said})"


def _has_credentials() -> bool:
    """Whether S3's credentials are where they usually are. A machine's own role cannot be seen from here."""
    named = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    files = (Path.home() / ".aws" / name for name in ("credentials", "config"))
    return any(os.environ.get(name) for name in named) or any(file.is_file() for file in files)


def _own_directory(variable: str, otherwise: str, uri: str) -> Path:
    home = os.environ.get(variable)
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / otherwise
    store = ObjectStore(uri)
    digest = hashlib.blake2b(store.explicit_uri().encode(), digest_size=6).hexdigest()
    return base / "loss-search" / f"{store.scheme}-{digest}"


def _without_secret(uri: str) -> str:
    """A refused URI as it may be shown: nothing of what stands before an `@` or after a `?`."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
