"""Seven verbs on named bytes, the same on a directory and on an S3 bucket."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from prefprobe.errors import InputMissing, TemporaryFailure
from prefprobe.store.backend import local_root, open_s3, printable, s3_endpoint, s3_parts, translate

# Bytes that one request moves: a large object goes in parts, each with its own retries and time limit.
CHUNK = 16 << 20
UPLOADS_AT_ONCE = 4
CREATE_TRIES = 4
# `#` marks the staging files of the local backend and `%` its escapes.
KEY = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._=@+,-]+(/[A-Za-z0-9._=@+,-]+)*")


class ObjectStore:
    """Bytes by key. Keys are relative paths of ASCII letters, digits and `._=@+,-`; others raise ValueError.

    Every verb raises TemporaryFailure when the server or disk fails or cannot be reached (bounded in time) and
    BadConfig when the bucket is missing or access is refused. Threads may share one object; a process made by fork
    may not use it.
    """

    url: str
    """The absolute directory, or `s3://bucket/prefix`."""

    def __init__(self, url: str, root: Path | None, s3: S3Store | None, endpoint: str | None) -> None:
        self.url = url
        self._root = root
        self._opened: LocalStore | S3Store | None = s3
        self._endpoint = endpoint
        self._bucket_seen = False

    @classmethod
    def open(cls, url: str) -> Self:
        """A store at a path, `file://` URL or `s3://bucket/prefix`; touches neither disk nor network.

        S3 takes its endpoint, region and credentials from the AWS_* environment variables. Raises BadConfig.
        """
        root = local_root(url)
        if root is not None:
            return cls(str(root), root, None, None)
        bucket, prefix = s3_parts(url)
        endpoint = s3_endpoint()
        address = f"s3://{bucket}/{prefix}".rstrip("/")
        return cls(address, None, open_s3(bucket, prefix, endpoint), printable(endpoint))

    def get(self, key: str) -> bytes:
        """The bytes of an object. Raises InputMissing when there is none."""
        store = self._readable(key)
        if store is not None:
            with self._translated(key):
                try:
                    return _read(store, key)
                except FileNotFoundError:
                    self._require_bucket(store)
        raise InputMissing(
            f"{self.describe(key)} is not in the store: check the store's address, or run the step that writes it."
        )

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing any other; readers see the old bytes or the new ones, never a part."""
        with self._translated(key):
            obstore.put(self._writable(key), key, data, chunk_size=CHUNK, max_concurrency=UPLOADS_AT_ONCE)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none, in one atomic request (so for small objects); False if there is one.

        After a retry the object that is found may be our own: whoever must know compares the bytes.
        """
        for _ in range(CREATE_TRIES):
            with self._translated(key):
                try:
                    obstore.put(self._writable(key), key, data, mode="create", use_multipart=False)
                    return True
                except AlreadyExistsError:
                    # S3 also answers "conflict" while another writer or a deletion is under way: look again.
                    if self.size(key) is not None:
                        return False
        raise TemporaryFailure(f"Other writers keep {self.describe(key)} in conflict: run again.")

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, None when there is none."""
        store = self._readable(key)
        if store is not None:
            with self._translated(key):
                try:
                    return obstore.head(store, key)["size"]
                except FileNotFoundError:
                    self._require_bucket(store)
        return None

    def list(self, prefix: str) -> list[str]:
        """Sorted keys below a directory-like prefix (whole path segments; "" for all)."""
        prefix = prefix.rstrip("/")
        store = self._readable(prefix) if prefix else self._existing()
        if store is None:
            return []
        with self._translated(prefix):
            return sorted(item["path"] for batch in obstore.list(store, prefix or None) for item in batch)

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""
        store = self._readable(key)
        if store is not None:
            with self._translated(key):
                try:
                    obstore.delete(store, key)
                except FileNotFoundError:
                    self._require_bucket(store)

    def describe(self, key: str) -> str:
        """The object's path or S3 URL, for messages."""
        return f"{self.url.rstrip('/')}/{key}"

    def _existing(self) -> LocalStore | S3Store | None:
        """The backend to read from; None for a directory that is not there, which reading must not create."""
        if self._opened is None and self._root is not None and self._root.exists():
            with self._translated(""):
                self._opened = LocalStore(self._root)
        return self._opened

    def _readable(self, key: str) -> LocalStore | S3Store | None:
        _require_key(key)
        return self._existing()

    def _writable(self, key: str) -> LocalStore | S3Store:
        _require_key(key)
        if self._opened is None:
            self._opened = LocalStore(self._root, mkdir=True)
        return self._opened

    def _require_bucket(self, store: LocalStore | S3Store) -> None:
        """An S3 server answers 404 for a missing object and for a missing bucket; only a listing tells them apart."""
        if self._endpoint is not None and not self._bucket_seen:
            obstore.list(store, "bucket-check").collect()
            self._bucket_seen = True

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            raise translate(error, self.describe(key), self._endpoint) from None


def _require_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key of the object store")


def _read(store: LocalStore | S3Store, key: str) -> bytes:
    reply = obstore.get(store, key)
    size = reply.meta["size"]
    if size <= CHUNK:
        return bytes(reply.bytes())
    starts = range(0, size, CHUNK)
    return b"".join(bytes(obstore.get_range(store, key, start=i, end=min(i + CHUNK, size))) for i in starts)
