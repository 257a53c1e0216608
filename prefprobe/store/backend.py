"""What a store URL names, and what the errors of a directory or a bucket mean to a user.

No message repeats the text of a server: S3 replies can carry keys, session tokens and signed requests.
"""

import errno
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import S3Store

from prefprobe.errors import BadConfig, PrefprobeError, TemporaryFailure

if TYPE_CHECKING:
    from obstore.store import S3Config

AWS = "AWS S3"
# An address that swallows packets costs CONNECT for each try until RETRY_FOR is over: 17 s in all.
CONNECT = timedelta(seconds=4)
RETRY_FOR = timedelta(seconds=15)
RETRIES = 6
# One request moves at most one chunk of objects.py, so that this bounds a server that accepts and never answers.
REQUEST = timedelta(seconds=60)
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
DISK_FAILING = {errno.EIO, errno.ETIMEDOUT, errno.ESTALE}
RETRIED_STATUS = {408, 425, 429}
TLS_REASONS = {
    "InvalidCertificate": "its certificate is not trusted; SSL_CERT_FILE may name that of your own authority",
    "InvalidContentType": "it does not speak TLS; AWS_ENDPOINT_URL may have to begin with http://",
}
REASONS = {
    "dns error": "its host name is not known",
    "Connection refused": "it refused the connection",
    "TimedOut": "it did not answer in time",
    "timed out": "it did not answer in time",
}


def local_root(url: str) -> Path | None:
    """The absolute directory of a plain path or a `file://` URL, None for `s3://`. Raises BadConfig otherwise."""
    if not url:
        raise BadConfig("The store has no address: give a directory or s3://bucket/prefix.")
    if "://" not in url:
        return Path(url).expanduser().absolute()
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return None
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return Path(unquote(parts.path))
    raise BadConfig(
        f"A store cannot be opened with a {parts.scheme}:// address like this one: "
        "give a directory, file:///directory or s3://bucket/prefix."
    )


def s3_parts(url: str) -> tuple[str, str]:
    """Bucket and prefix (without slashes around it) of an `s3://` URL. Raises BadConfig."""
    parts = urlsplit(url)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", parts.netloc) or parts.query or parts.fragment:
        raise BadConfig(
            "The store's S3 address is not of the form s3://bucket/prefix "
            "(no user, password, port or query; credentials belong in AWS_* environment variables)."
        )
    return parts.netloc, "/".join(segment for segment in parts.path.split("/") if segment)


def s3_endpoint() -> str:
    """The custom S3 endpoint of the environment, "" for AWS itself. Raises BadConfig for one without http(s)://."""
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        endpoint = os.environ.get(variable, "").strip().rstrip("/")
        if endpoint:
            if not endpoint.startswith(("http://", "https://")):
                raise BadConfig(f"{variable} must begin with http:// or https://: correct it and run again.")
            return endpoint
    return ""


def printable(endpoint: str) -> str:
    """An endpoint as messages may show it: without a user, password or query."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if endpoint else AWS


def open_s3(bucket: str, prefix: str, endpoint: str) -> S3Store:
    """A bucket under the credentials and region of the AWS_* environment; nothing is sent yet.

    Requests are path-style. Raises BadConfig when the environment holds values that S3 clients do not accept.
    """
    # Deleting several objects in one request is missing from some servers, and no caller needs it.
    config: S3Config = {"disable_bulk_delete": True}
    if endpoint:
        config |= {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint}
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": CONNECT,
                "timeout": REQUEST,
            },
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": RETRY_FOR,
                "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)},
            },
            config=config,
        )
    except (BaseError, ValueError, OSError):
        raise BadConfig(
            f"The AWS_* environment variables do not describe an S3 client for bucket {bucket}: check their values."
        ) from None


def translate(error: Exception, where: str, endpoint: str | None) -> PrefprobeError:
    """The error to raise for one of the object store's own, about the object `where`; `endpoint` is None on disk."""
    text = str(error)
    return _disk_error(error, text, where) if endpoint is None else _s3_error(text, where, endpoint)


def _disk_error(error: Exception, text: str, where: str) -> PrefprobeError:
    found = re.search(r"\(os error (\d+)\)", text)
    number = int(found[1]) if found else getattr(error, "errno", None) or 0
    if number in DISK_FULL:
        return TemporaryFailure(f"No space is left for {where}: free some and run again.")
    reason = os.strerror(number) if number else "the file system refused"
    if number in DISK_FAILING:
        return TemporaryFailure(f"The file system failed at {where} ({reason}): check the disk and run again.")
    return BadConfig(
        f"The store cannot use {where} ({reason}): check that its directory can be written, "
        "has hard links and that no file stands in the way."
    )


def _s3_error(text: str, where: str, endpoint: str) -> PrefprobeError:
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else 0
    named = re.search(r"<Code>(\w{1,64})</Code>", text)
    reply = f"{status} {named[1]}" if named else str(status)
    if "/latest/api/token" in text or "/latest/meta-data/" in text:
        return BadConfig(
            f"No S3 credentials were found for {where} at {endpoint}: "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role."
        )
    if status in (401, 403) or (named and named[1] in ("ExpiredToken", "InvalidToken")):
        return BadConfig(
            f"The S3 server {endpoint} refused these credentials for {where} ({reply}): "
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and the bucket's policy."
        )
    if status == 404:
        return BadConfig(
            f"There is no bucket for {where} at {endpoint} ({reply}): create it, "
            "or check the store's address and AWS_ENDPOINT_URL."
        )
    if status in RETRIED_STATUS or (status >= 500 and status != 501):
        return TemporaryFailure(
            f"The S3 server {endpoint} failed at {where} ({reply}): check that it is healthy and run again."
        )
    if status or "redirect" in text:
        return BadConfig(
            f"The S3 server {endpoint} does not accept the request for {where} ({reply}): "
            "check the bucket's name, AWS_REGION and that the server supports conditional writes."
        )
    for sign, words in TLS_REASONS.items():
        if sign in text:
            return BadConfig(f"The S3 server {endpoint} cannot be used for {where}: {words}.")
    reason = next((words for sign, words in REASONS.items() if sign in text), "the transfer broke off")
    return TemporaryFailure(
        f"The S3 server {endpoint} cannot be reached for {where} ({reason}): "
        "check AWS_ENDPOINT_URL, the network and that the server is up, then run again."
    )
