"""One attempt over HTTP: the JSON that came, or why none did."""

import ipaddress
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from prefprobe.choices.api.access import Access
from prefprobe.choices.api.failures import GARBAGE, NO_ANSWER, Lost, cleaned, error_within, failure
from prefprobe.choices.api.stream import EVENTS, CutOff, completion, is_stream, read_events
from prefprobe.errors import BadConfig


class Wire:
    """POSTs to `base_url`/chat/completions, with the headers and the query of `access`, which go nowhere else.

    `inspect` names what is wrong with a body, None if nothing: a wrong one is a lost attempt. `timeout` is seconds for
    one attempt, from the first byte sent to the last one read.
    """

    def __init__(self, access: Access, timeout: float, inspect: Callable[[dict[str, Any]], str | None]) -> None:
        self.base_url, self._access, self._timeout, self._inspect = access.base_url, access, timeout, inspect

    def session(self) -> aiohttp.ClientSession:
        """Connections that `attempt` shares; closed by whoever opens them."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            headers={**self._access.headers, "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            proxy=_proxy(self.base_url),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def attempt(self, session: aiohttp.ClientSession, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON that comes back for `asked`; a stream of events is put together.

        Raises Lost for what is worth another attempt, and what `failure` says for other statuses.
        """
        url, hiding = f"{self.base_url}/chat/completions", self._access.hiding
        payload = json.dumps(asked, separators=(",", ":")).encode()
        try:
            async with session.post(url, params=self._access.query, data=payload, allow_redirects=False) as reply:
                data = await (read_events(reply.content) if reply.content_type == EVENTS else reply.read())
                if not 200 <= reply.status < 300:
                    raise failure(self.base_url, reply.status, data, reply.headers, hiding, self._access.key_advice)
        except TimeoutError:
            raise Lost("timeout") from None
        except aiohttp.ClientPayloadError:
            raise Lost("cut body") from None
        except aiohttp.InvalidURL:
            raise BadConfig(f"{self.base_url} is no address; check base_url.") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise BadConfig(
                f"{self.base_url} shows a certificate that is not trusted here ({error}); check it."
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise Lost("connection", said=str(error)) from None
        except aiohttp.ClientResponseError as error:
            if "content-encoding" in error.message:
                raise BadConfig(
                    f"{self.base_url} answers in an encoding that nobody asked for ({_encoding(error.message)}); have what "
                    "stands before the model leave its answers as they are."
                ) from None
            raise Lost("disconnected", said=cleaned(f"no HTTP/1.1: {error.message}", hiding)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Lost("disconnected", said=type(error).__name__) from None
        try:
            body = completion(data) if is_stream(data) else json.loads(data)
        except CutOff:
            raise Lost("cut body") from None
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Lost(GARBAGE, said=cleaned(data.decode("utf-8", "replace"), hiding))
        if error_found := error_within(body):
            status, stated = error_found
            raise failure(self.base_url, status, stated, reply.headers, hiding, self._access.key_advice)
        wrong = self._inspect(body)
        if wrong is not None:
            raise Lost(wrong, whole=wrong != NO_ANSWER)
        return body


def _encoding(message: str) -> str:
    """The name that an error of aiohttp's gives an encoding."""
    return message.partition("content-encoding:")[2].partition(".")[0].strip()


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address, None for none; never one for this machine itself.

    Looked up once and here: aiohttp would look for every request, and read passwords out of a .netrc as well.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host) or proxy_bypass(host):
        return None
    return getproxies().get(parts.scheme)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
