"""Waiting for servers that tests start."""

import subprocess
import urllib.error
import urllib.request

from tests.conftest import runs_on

POLLS = 3000


def healthy(process: subprocess.Popen[bytes], url: str) -> bool:
    """Whether `url` answers before the process ends."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(POLLS):
        try:
            with direct.open(url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            if not runs_on(process):
                return False
    return False
