"""A place in an object store (any `pyarrow.fs` URI): whole objects in, whole objects out. No Ray here.

An object appears whole or not at all: one upload each on S3 and the like, a rename on a local file system.
Credentials come from the environment, by the chain of pyarrow's own client; a URI that carries some is
refused, because URIs are shown, logged and handed to other processes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

__all__ = ["BadUri", "ObjectStore", "Stored", "is_refusal", "is_uri", "reason"]

SCHEMES: Mapping[str, tuple[str, ...]] = {  # and what may follow the `?`, by scheme
    "s3": ("endpoint_override", "region", "scheme"),
    "gs": ("endpoint_override", "project_id", "scheme"),
    "file": (),
}
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CONNECT_S, REQUEST_S, ATTEMPTS = 5.0, 10.0, 2  # of one request; whoever must not give up tries again
CHUNK_BYTES = 8 << 20
REFUSALS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
REGIONS: dict[str, str] = {}  # of buckets, asked once a process
REQUEST_ID = re.compile(r"\s*\(Request ID: [^)]*\)")
AWS_REASON = re.compile(r"AWS Error (\w+) during (\w+) operation: (.*)", re.DOTALL)


class BadUri(ValueError):
    """A URI that cannot be used; its message never repeats a secret."""


@dataclass(frozen=True)
class Stored:
    """One object as a listing shows it: its size in bytes, and when the store says that it was written."""

    size: int
    written: datetime | None


def is_uri(text: str) -> bool:
    """Whether `text` is meant as a URI and not as a path."""
    return "://" in text


class ObjectStore:
    """The objects below one URI, by their names relative to it. Safe to share between threads.

    Raises BadUri for a URI of another kind, with credentials in it, or without a bucket. No request is sent
    until one is needed. Every method raises OSError when the store cannot be reached or refuses.
    """

    def __init__(self, uri: str) -> None:
        scheme, self.root, query = _parsed(uri)
        self.scheme, self._query = scheme, query
        if scheme == "s3":
            _endpoint()  # refused here when it cannot be used

    @cached_property
    def _filesystem(self) -> Any:
        return _filesystem(self.scheme, self.bucket, self._query)

    @property
    def uri(self) -> str:
        """As it was given, without a slash at its end."""
        return self.uri_of("")

    def uri_of(self, name: str) -> str:
        """The URI of an object or folder below this one."""
        return _joined(self.scheme, self._path(name), self._query)

    def explicit_uri(self, name: str = "") -> str:
        """`uri_of` with the endpoint of this process's environment in it, for processes of other machines."""
        query = dict(self._query)
        endpoint = _endpoint() if self.scheme == "s3" else None
        if endpoint is not None and "endpoint_override" not in query:
            query["scheme"], query["endpoint_override"] = endpoint
        return _joined(self.scheme, self._path(name), query)

    def below(self, name: str) -> ObjectStore:
        """The part of this store below a folder."""
        return ObjectStore(self.uri_of(name))

    @property
    def bucket(self) -> str:
        return self.root.partition("/")[0]

    def has_bucket(self) -> bool:
        """Whether the bucket (on a local file system: any directory above) exists."""
        from pyarrow import fs

        place = self.bucket if self.scheme != "file" else "/"
        return self._filesystem.get_file_info(place).type == fs.FileType.Directory

    def has(self, name: str) -> bool:
        """Whether there is an object of this name."""
        from pyarrow import fs

        return self._filesystem.get_file_info(self._path(name)).type == fs.FileType.File

    def put(self, name: str, data: bytes | Path) -> None:
        """Write one object, from bytes or from a file."""
        if isinstance(data, Path):
            data = data.read_bytes()
        path = self._path(name)
        if self.scheme == "file":
            _replace_file(Path(path), data)
            return
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(data)  # in one call: a stream that is closed after half of them would be stored

    def get(self, name: str) -> bytes:
        """The content of one object. Raises FileNotFoundError when there is none."""
        with self._filesystem.open_input_stream(self._path(name)) as stream:
            return stream.read()

    def download(self, name: str, to: Path) -> None:
        """Bring one object into a file, which appears whole. Raises FileNotFoundError when there is none."""
        to.parent.mkdir(parents=True, exist_ok=True)
        temporary = to.with_name(f".{to.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
        try:
            with self._filesystem.open_input_stream(self._path(name)) as stream, temporary.open("wb") as file:
                shutil.copyfileobj(stream, file, CHUNK_BYTES)
            os.replace(temporary, to)
        finally:
            temporary.unlink(missing_ok=True)

    def list(self, folder: str = "") -> dict[str, Stored]:
        """Every object below `folder`, by its name relative to this store; none where there is no folder.

        A name that could not be a plain relative path (`..`, an empty part, a control character) is left out.
        """
        from pyarrow import fs

        place = self._path(folder)
        found = self._filesystem.get_file_info(fs.FileSelector(place, recursive=True, allow_not_found=True))
        stored = {}
        for info in found:
            name = info.path.removeprefix(self.root).lstrip("/")
            if info.type == fs.FileType.File and _is_plain(name):
                stored[name] = Stored(info.size, info.mtime)
        return stored

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders directly below `folder`, sorted."""
        from pyarrow import fs

        place = self._path(folder)
        found = self._filesystem.get_file_info(fs.FileSelector(place, allow_not_found=True))
        names = [info.base_name for info in found if info.type == fs.FileType.Directory]
        return sorted(name for name in names if _is_plain(name))

    def remove(self, name: str) -> None:
        """Remove one object; nothing happens when it is not there."""
        try:
            self._filesystem.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        if name and not _is_plain(name):
            raise BadUri(f"{name!r}: is no plain name of an object")
        return f"{self.root}/{name}" if name else self.root


def reason(error: OSError) -> str:
    """Why a store refused, in one line without request numbers and without what must not be shown."""
    text = REQUEST_ID.sub("", str(error))
    found = AWS_REASON.search(text)
    if found is not None:
        text = f"{found[1].lower().replace('_', ' ')}: {found[3]}"
    text = " ".join(text.split()).rstrip(". ")
    for variable in SECRETS:
        value = os.environ.get(variable)
        if value and len(value) >= 8:  # shorter ones are words of the message, and no secrets
            text = text.replace(value, "***")
    return text


def is_refusal(error: OSError) -> bool:
    """Whether the store has answered, and said no: credentials, permissions or the bucket are wrong."""
    return any(word in str(error) for word in REFUSALS)


def _parsed(uri: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, path (bucket first) and query of a URI."""
    try:
        parts = urlsplit(uri)
        secret = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise BadUri(f"is no URI ({error})") from error
    scheme = "gs" if parts.scheme == "gcs" else parts.scheme
    if scheme not in SCHEMES:
        raise BadUri(f"{parts.scheme}:// is not supported; use {', '.join(f'{s}://' for s in SCHEMES)}")
    if secret or "@" in parts.netloc:
        raise BadUri(
            "must not carry credentials; put them into the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY), into ~/.aws, or give the machine a role"
        )
    if parts.fragment:
        raise BadUri("must not have a part after '#'")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    allowed = SCHEMES[scheme]
    unknown = sorted(set(query) - set(allowed))
    if unknown:
        named = ", ".join(key[:40] for key in unknown)
        said = f"{', '.join(allowed)}" if allowed else "nothing"
        raise BadUri(f"what follows '?' must not have {named}; allowed: {said}")
    if "@" in query.get("endpoint_override", ""):
        raise BadUri("its endpoint_override must not carry credentials")
    path = parts.path.rstrip("/")
    root = path if scheme == "file" else f"{parts.netloc}{path}"
    if not root.strip("/") or (scheme == "file") == bool(parts.netloc):
        raise BadUri(
            "names no bucket, as in s3://bucket/prefix" if scheme != "file" else "names no directory"
        )
    if not _is_plain(root.lstrip("/")):
        raise BadUri("must not have '..', '//' or control characters in its path")
    return scheme, root, query


def _filesystem(scheme: str, bucket: str, query: Mapping[str, str]) -> Any:
    from pyarrow import fs

    if scheme == "file":
        return fs.LocalFileSystem()
    if scheme == "gs":
        return fs.FileSystem.from_uri(_joined(scheme, "bucket", query))[0]
    settings = dict(query)
    endpoint = _endpoint()
    if endpoint is not None and "endpoint_override" not in settings:
        settings["scheme"], settings["endpoint_override"] = endpoint
    if "endpoint_override" not in settings and "region" not in settings:
        region = _region(bucket)
        settings |= {} if region is None else {"region": region}
    return fs.S3FileSystem(
        **settings,
        allow_delayed_open=True,  # one request for a small object instead of three
        connect_timeout=CONNECT_S,
        request_timeout=REQUEST_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def _region(bucket: str) -> str | None:
    """Where Amazon keeps a bucket; None where that cannot be told: then the environment names the region."""
    from pyarrow import fs

    if bucket not in REGIONS:
        try:
            REGIONS[bucket] = fs.resolve_s3_region(bucket)
        except OSError:  # the first request says what is wrong
            return None
    return REGIONS[bucket]


def _endpoint() -> tuple[str, str] | None:
    """Scheme and address of the endpoint that the environment names, None where it names none."""
    text = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if text is None:
        return None
    parts = urlsplit(text if "://" in text else f"https://{text}")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise BadUri("AWS_ENDPOINT_URL must be http://host:port or https://host:port, without credentials")
    return parts.scheme, parts.netloc


def _joined(scheme: str, path: str, query: Mapping[str, str]) -> str:
    return f"{scheme}://{path}{'?' if query else ''}{urlencode(query, safe=':/')}"


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return all(0 < len(part) <= 255 and part not in (".", "..") and part.isprintable() for part in parts)


def _replace_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
