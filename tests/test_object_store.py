"""trainables/object_store.py: whole objects in and out of a local directory and of a real S3 server."""

from __future__ import annotations

import pytest
from s3_server import BUCKET, SECRET, S3Server

from trainables.object_store import BadUri, ObjectStore, reason


@pytest.fixture(scope="module")
def server():
    with S3Server() as running:
        yield running


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path, monkeypatch):
    if request.param == "file":
        return ObjectStore(f"file://{tmp_path}/store")
    running = request.getfixturevalue("server")
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return ObjectStore(f"s3://{BUCKET}/{request.node.name.replace('[', '-').rstrip(']')}")


def test_what_is_put_comes_back_whole_and_is_listed(store, tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"0123456789" * 100_000)
    store.put("a/b/big", path)
    store.put("a/small", b"")
    assert store.get("a/b/big") == path.read_bytes() and store.get("a/small") == b""
    assert {name: one.size for name, one in store.list().items()} == {"a/b/big": 1_000_000, "a/small": 0}
    assert set(store.list("a/b")) == {"a/b/big"} and store.folders() == ["a"] and store.folders("a") == ["b"]
    assert store.list("nothing") == {} and store.folders("nothing") == []
    assert store.has("a/small") and not store.has("a/b") and not store.has("a/other")
    store.download("a/b/big", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == path.read_bytes()
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["copy"]


def test_a_second_put_replaces_and_a_removed_object_is_gone(store, tmp_path):
    store.put("x", b"first")
    store.put("x", b"second")
    assert store.get("x") == b"second"
    store.remove("x")
    store.remove("x")  # nothing happens
    assert store.list() == {}
    with pytest.raises(FileNotFoundError):
        store.get("x")
    with pytest.raises(FileNotFoundError):
        store.download("x", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_part_below_a_folder_is_a_store_of_its_own(store):
    store.below("run/trials").put("0/config.yaml", b"1")
    assert store.get("run/trials/0/config.yaml") == b"1"
    assert ObjectStore(store.uri_of("run")).list() == ObjectStore(store.explicit_uri("run")).list()
    assert set(store.below("run").list("trials")) == {"trials/0/config.yaml"}


def test_names_that_would_leave_the_store_are_refused(store):
    for name in ("../x", "a/../../x", "/etc/passwd", "a//b", "a\nb", "."):
        with pytest.raises(BadUri):
            store.put(name, b"")


def test_objects_with_hostile_names_are_not_listed(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    for key in ("hostile/good", "hostile/../../../etc/cron.d/x", "hostile/a\x1b[31m"):
        server.client().put_object(Bucket=BUCKET, Key=key, Body=b"x")
    assert set(ObjectStore(f"s3://{BUCKET}/hostile").list()) == {"good"}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://KEY:abcdef@bucket/x", "must not carry credentials"),
        ("s3://KEY@bucket/x", "must not carry credentials"),
        ("s3://bucket/x?access_key=KEY&secret_key=abcdef", "must not have access_key, secret_key"),
        ("s3://bucket/x?endpoint_override=u:abcdef@host", "must not carry credentials"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket/../other", "must not have '..'"),
        ("s3://bucket/a#abcdef", "after '#'"),
        ("ftp://host/x", "is not supported; use s3://, gs://, file://"),
        ("file://host/x", "names no directory"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_without_repeating_it(uri, said):
    with pytest.raises(BadUri) as refused:
        ObjectStore(uri)
    assert said in str(refused.value) and "abcdef" not in str(refused.value)


def test_the_endpoint_of_the_environment_travels_to_other_machines_and_credentials_do_not(
    server, monkeypatch
):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore(f"s3://{BUCKET}/x")
    assert store.uri == f"s3://{BUCKET}/x"
    explicit = store.explicit_uri("trials/3")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    ObjectStore(explicit).put("last.pt", b"1")
    assert f"127.0.0.1:{server.relay.port}" in explicit and SECRET not in explicit
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    assert store.get("trials/3/last.pt") == b"1"


def test_a_reason_shows_no_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    told = reason(
        OSError(f"AWS Error ACCESS_DENIED during ListObjectsV2 operation: key {SECRET} (Request ID: ab12)")
    )
    assert told == "access denied: key ***"
