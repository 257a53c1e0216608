"""Where workflows are: the Kubernetes API by kubeconfig, or an Argo Server, with the same few verbs.

The Argo Server is spoken to by its REST interface: the published Python client of Argo knows no field of 4.1, such as
`pendingTimeout`, and drops what it does not know.
"""

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread
from time import monotonic, sleep
from typing import Any, Protocol, TypeVar

from prefprobe.cluster.nodes import Trouble, troubles
from prefprobe.errors import BadConfig, InputMissing, TemporaryFailure

GROUP, VERSION = "argoproj.io", "v1alpha1"
REPLICATE = "prefprobe-replicate"
LOST_FOR = 120.0
"""Seconds for which a server may be away, as in a restart, before a command gives up."""
_TIMEOUT = 30.0
_LONGEST_SILENCE = 3600.0  # in a log that is followed
_MOST_EVENTS = 10_000
_WARNINGS = "type=Warning,involvedObject.kind=Pod"

T = TypeVar("T")


class Workflows(Protocol):
    """The workflows of one namespace. Every verb raises TemporaryFailure, BadConfig or InputMissing."""

    namespace: str

    def create(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """Submit a workflow; returns it with its name."""

    def get(self, name: str) -> dict[str, Any]:
        """A workflow with its status."""

    def list(self) -> list[dict[str, Any]]:
        """All workflows, the newest first."""

    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]:
        """Lines of a pod's main container."""

    def troubles(self) -> dict[str, Trouble]:
        """{pod: what Kubernetes warned of last} of the pods of the namespace."""

    def report(self, workflow: str, node: str) -> bytes | None:
        """The report artifact of a node, None if it cannot be had from here."""


def connect(namespace: str | None) -> Workflows:
    """An Argo Server if ARGO_SERVER names one, else the cluster of the kubeconfig."""
    return ArgoServer(namespace) if os.environ.get("ARGO_SERVER") else Kubernetes(namespace)


def patiently(ask: Callable[[], T]) -> T:
    """Ask again for as long as a server may be restarting."""
    until = monotonic() + LOST_FOR
    while True:
        try:
            return ask()
        except TemporaryFailure:
            if monotonic() > until:
                raise
            sleep(2)


def _failure(status: int, what: str, server: str, said: str) -> Exception:
    """The error of an answer that is none."""
    if status == 404:
        return InputMissing(f"{what} is not there, says {server}; `prefprobe cluster list` names the workflows.")
    if status in (401, 403):
        lacks = re.search(r'cannot (\w+) resource "([\w/]+)"', said)
        right = f" the right to {lacks[1]} {lacks[2]}" if lacks else " valid credentials or the right to do this"
        return BadConfig(f"{server} refused {what}: your account lacks{right}; ask whoever runs the cluster.")
    if status == 429 or status >= 500:
        return TemporaryFailure(f"{server} failed at {what} ({status}); try again.")
    return BadConfig(f"{server} did not accept {what} ({status}): {said[:300]}")


class Kubernetes:
    """By kubeconfig, with the Kubernetes client."""

    def __init__(self, namespace: str | None) -> None:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise BadConfig("The Kubernetes client is not installed: pip install 'prefprobe[cluster]'.") from error
        file = os.environ.get("KUBECONFIG")  # the client takes it only once, when it is imported
        try:
            api = config.new_client_from_config(config_file=file)
            current = config.list_kube_config_contexts(config_file=file)[1]["context"].get("namespace", "default")
        except config.ConfigException as error:
            raise BadConfig(
                "There is no kubeconfig that names a cluster: set KUBECONFIG, or ARGO_SERVER and ARGO_TOKEN for an Argo Server."
            ) from error
        self.namespace = namespace or current
        self._server = f"the cluster at {api.configuration.host}"
        self._objects, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)

    def create(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """Submit a workflow. A missing template would only show in the workflow, so it is looked for first."""
        template = workflow["spec"]["workflowTemplateRef"]["name"]
        where = (GROUP, VERSION, self.namespace)
        self._ask(
            f"WorkflowTemplate {template}",
            self._objects.get_namespaced_custom_object,
            *where,
            "workflowtemplates",
            template,
        )
        return dict(
            self._ask("the workflow", self._objects.create_namespaced_custom_object, *where, "workflows", workflow)
        )

    def get(self, name: str) -> dict[str, Any]:
        """A workflow with its status."""
        where = (GROUP, VERSION, self.namespace, "workflows", name)
        return dict(self._ask(f"workflow {name}", self._objects.get_namespaced_custom_object, *where))

    def list(self) -> list[dict[str, Any]]:
        """All workflows, the newest first."""
        where = (GROUP, VERSION, self.namespace, "workflows")
        return _newest_first(self._ask("the workflows", self._objects.list_namespaced_custom_object, *where)["items"])

    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]:
        """Lines of a pod's main container. Raises InputMissing for a pod that is gone."""
        reply = self._ask(
            f"the log of pod {pod}",
            self._core.read_namespaced_pod_log,
            pod,
            self.namespace,
            container="main",
            follow=follow,
            _preload_content=False,
            _request_timeout=(_TIMEOUT, _LONGEST_SILENCE),
        )
        rest = b""
        for chunk in reply.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
        if rest:
            yield rest.decode("utf-8", "replace")

    def troubles(self) -> dict[str, Trouble]:
        """{pod: what Kubernetes warned of last} of the pods of the namespace."""
        list_events = self._core.list_namespaced_event
        reply = self._ask("the events", list_events, self.namespace, field_selector=_WARNINGS, _preload_content=False)
        return troubles(json.loads(reply.data)["items"])

    def report(self, workflow: str, node: str) -> None:
        """Not from here: Kubernetes keeps no artifacts."""
        return

    def _ask(self, what: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call(*args, **{"_request_timeout": _TIMEOUT, **options})
        except ApiException as error:
            body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else error.body or ""
            raise _failure(error.status or 500, what, self._server, _message(body)) from None
        except (HTTPError, OSError) as error:
            raise TemporaryFailure(
                f"{self._server} cannot be reached ({type(error).__name__}): check KUBECONFIG and the network."
            ) from None


class ArgoServer:
    """By the REST interface of an Argo Server, under the variables of the argo command line."""

    def __init__(self, namespace: str | None) -> None:
        import httpx2

        secure = os.environ.get("ARGO_SECURE", "true").lower() not in ("false", "0")
        verify = os.environ.get("ARGO_INSECURE_SKIP_VERIFY", "false").lower() not in ("true", "1")
        token = os.environ.get("ARGO_TOKEN", "")
        headers = {"Authorization": token if " " in token else f"Bearer {token}"} if token else {}
        base = f"{'https' if secure else 'http'}://{os.environ['ARGO_SERVER']}{os.environ.get('ARGO_BASE_HREF', '').rstrip('/')}"
        self.namespace = namespace or "default"
        self._server = f"the Argo Server {os.environ['ARGO_SERVER']}"
        self._http = httpx2.Client(base_url=base, headers=headers, verify=verify, timeout=_TIMEOUT)
        self._events: deque[dict[str, Any]] = deque(maxlen=_MOST_EVENTS)
        self._listening: Thread | None = None
        self._deaf: Exception | None = None

    def create(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """Submit a workflow; the server checks it, templates and parameters too."""
        template = workflow["spec"]["workflowTemplateRef"]["name"]
        self._ask(f"WorkflowTemplate {template}", "GET", f"/api/v1/workflow-templates/{self.namespace}/{template}")
        return self._ask("the workflow", "POST", f"/api/v1/workflows/{self.namespace}", json={"workflow": workflow})

    def get(self, name: str) -> dict[str, Any]:
        """A workflow with its status."""
        return self._ask(f"workflow {name}", "GET", f"/api/v1/workflows/{self.namespace}/{name}")

    def list(self) -> list[dict[str, Any]]:
        """All workflows, the newest first."""
        found = self._ask("the workflows", "GET", f"/api/v1/workflows/{self.namespace}")
        return _newest_first(found.get("items") or [])

    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]:
        """Lines of a pod's main container; the server has also what was archived."""
        query = {"podName": pod, "logOptions.container": "main", "logOptions.follow": str(follow).lower()}
        path = f"/api/v1/workflows/{self.namespace}/{workflow}/log"
        import httpx2

        try:
            with self._http.stream(
                "GET", path, params=query, timeout=httpx2.Timeout(_TIMEOUT, read=_LONGEST_SILENCE)
            ) as reply:
                if reply.status_code >= 400:
                    raise _failure(
                        reply.status_code, f"the log of pod {pod}", self._server, _message(reply.read().decode())
                    )
                for line in reply.iter_lines():
                    entry = json.loads(line) if line.strip() else {}
                    if "content" in entry.get("result", {}):
                        yield str(entry["result"]["content"])
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None

    def troubles(self) -> dict[str, Trouble]:
        """{pod: what Kubernetes warned of last}, as far as it is known by now: the server only streams events, those before
        the first call too, and takes its time.
        """
        if self._listening is None:
            self._listening = Thread(target=self._listen, daemon=True)
            self._listening.start()
        if self._deaf is not None:
            raise self._deaf
        return troubles(list(self._events))

    def _listen(self) -> None:
        """Collect the warnings for as long as this process lives; a stream that ends is opened again."""
        import httpx2

        query, path = {"listOptions.fieldSelector": _WARNINGS}, f"/api/v1/stream/events/{self.namespace}"
        timeout = httpx2.Timeout(_TIMEOUT, read=_LONGEST_SILENCE)
        while self._deaf is None:
            with suppress(httpx2.HTTPError), self._http.stream("GET", path, params=query, timeout=timeout) as reply:
                if reply.status_code >= 400:
                    self._deaf = _failure(
                        reply.status_code, "the events", self._server, _message(reply.read().decode())
                    )
                for line in reply.iter_lines() if self._deaf is None else ():
                    entry = json.loads(line.removeprefix("data: ")) if line.strip() else {}
                    if "result" in entry:
                        self._events.append(entry["result"])
            sleep(2)

    def report(self, workflow: str, node: str) -> bytes:
        """The report artifact of a node."""
        import httpx2

        try:
            path = f"/artifact-files/{self.namespace}/workflows/{workflow}/{node}/outputs/report"
            reply = self._http.get(path)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None
        if reply.status_code >= 400:
            raise _failure(reply.status_code, f"the report of {workflow}", self._server, _message(reply.text))
        return bytes(reply.content)

    def _ask(self, what: str, method: str, path: str, **options: Any) -> dict[str, Any]:
        import httpx2

        try:
            reply = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None
        if reply.status_code >= 400:
            raise _failure(reply.status_code, what, self._server, _message(reply.text))
        return dict(reply.json())

    def _unreachable(self, error: Exception) -> TemporaryFailure:
        return TemporaryFailure(
            f"{self._server} cannot be reached ({type(error).__name__}): check ARGO_SERVER, ARGO_SECURE and the network."
        )


def _newest_first(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda w: str(w["metadata"]["creationTimestamp"]), reverse=True)


def _message(body: str) -> str:
    """The sentence in a JSON answer, else its beginning."""
    try:
        return str(json.loads(body).get("message", body))
    except (ValueError, AttributeError):
        return body
