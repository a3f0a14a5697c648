"""A real S3 server (moto's) on loopback for the tests: a process of its own, ended by its id."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from types import TracebackType

KEY, SECRET = "AKIATESTTESTTESTTEST", "7f1Q2s3cr3tS3cr3tS3cr3tS3cr3tS3cr3tS3cr3t"
BUCKET = "runs-of-tests"


class Relay:
    """Passes connections on to another port of loopback, or refuses them: a network that can be cut."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.open_sockets: set[socket.socket] = set()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.join()

    def join(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        """From now on connections are refused, and those that there are end."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for one in list(self.open_sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                return
            for source, sink in ((near, far), (far, near)):
                self.open_sockets.add(source)
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        self.open_sockets.discard(source)
        source.close()


class S3Server:
    """Serves from `start` to `stop`, behind a `relay` that can be cut. Its objects live in its memory."""

    def __init__(self, *, check_permissions: bool = False) -> None:
        self.check_permissions = check_permissions
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.relay = Relay(self.port)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `stop`)
        self.process: subprocess.Popen | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.relay.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        extra = {"INITIAL_NO_AUTH_ACTION_COUNT": "1"} if self.check_permissions else {}
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, env={**os.environ, **extra}, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, "the server did not start"
                time.sleep(0.05)
        self.client().create_bucket(Bucket=BUCKET)

    def client(self):
        """boto3's, which the product does not use: to look at the store from outside, whatever was cut."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Every object below `prefix` with its content."""
        client = self.client()
        found = {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for one in page.get("Contents", []):
                body = client.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read()
                found[one["Key"]] = body
        return found

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)
        self.relay.cut()
        self.log.close()

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()
