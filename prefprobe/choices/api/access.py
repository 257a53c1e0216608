"""How an endpoint is reached: its address, and the headers and the query that go to it and nowhere else."""

import html
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

from prefprobe.errors import BadConfig
from prefprobe.settings.api import ApiSettings
from prefprobe.settings.endpoint import FromVariable


@dataclass(frozen=True, repr=False)
class Access:
    """An address with all that opens it. Nothing but a request shows more of it than `base_url`."""

    base_url: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    secrets: tuple[str, ...]
    """Values that stand in variables."""
    key_advice: str = "check the variable that holds it"
    """What to do where the key is refused."""

    @classmethod
    def of(cls, settings: ApiSettings) -> "Access":
        """Reads the variables that `settings` name. Raises BadConfig for one that is not set, other than the key's, or that
        no header can hold; its value is not shown.
        """
        base_url = settings.base_url.rstrip("/")
        blocks = {"headers": settings.headers, "query": settings.query}
        sent = {
            block: {name: _value(f"{block}.{name}", value) for name, value in values.items()}
            for block, values in blocks.items()
        }
        secrets = [
            sent[block][name]
            for block, values in blocks.items()
            for name, value in values.items()
            if isinstance(value, FromVariable)
        ]
        key = os.environ.get(settings.key, "").strip() if settings.key else ""  # a file's last line break is not in it
        if not _sendable(key):
            raise BadConfig(
                f"the key for {base_url} has characters that no key has; check the variable {settings.key}."
            )
        if key:
            bearer = settings.key_header.lower() == "authorization"
            sent["headers"][settings.key_header] = f"Bearer {key}" if bearer else key
            secrets.append(key)
        advice = _advice(settings.key, key)
        return cls(base_url, sent["headers"], sent["query"], tuple(secrets), advice)

    def hiding(self, text: str) -> str:
        """`text` without what stands in variables, however a server repeats it."""
        for secret in sorted({form for value in self.secrets for form in _forms(value)}, key=len, reverse=True):
            text = text.replace(secret, "…")
        return text


def _advice(variable: str, key: str) -> str:
    if not variable:
        return "`key` names no variable, so none was sent: name the one that holds it"
    if not key:
        return f"the variable {variable}, which `key` names, is not set, so none was sent: set it and run again"
    return f"check the variable {variable}, which holds it"


def _value(setting: str, value: str | FromVariable) -> str:
    if isinstance(value, str):
        return value
    found = os.environ.get(value.env, "").strip()
    if not found:
        raise BadConfig(
            f"choices.api: the variable {value.env}, which {setting} names, is not set; set it and run again."
        )
    if not _sendable(found):
        raise BadConfig(
            f"choices.api: the variable {value.env}, which {setting} names, has characters that cannot be sent."
        )
    return found


def _sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _forms(secret: str) -> Iterator[str]:
    """As it is, and as addresses, JSON and HTML have it."""
    yield from (secret, quote(secret, safe=""), quote(secret), quote_plus(secret), html.escape(secret))
    yield json.dumps(secret)[1:-1]
