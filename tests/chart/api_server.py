"""A Kubernetes API of a few GET requests: enough for Helm to find the cluster's own address in it."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

GROUPS = {
    "v1": ("ConfigMap", "Pod", "Secret", "Service", "ServiceAccount"),
    "argoproj.io/v1alpha1": ("WorkflowTemplate",),
    "discovery.k8s.io/v1": ("EndpointSlice",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
}
SLICE = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
SERVICE = "/api/v1/namespaces/default/services/kubernetes"


class ApiServer(ThreadingHTTPServer):
    """Answers discovery and what `objects` has by path; remembers the paths that were asked for."""

    daemon_threads = True

    def __init__(self, objects: dict[str, dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = discovery() | objects
        self.seen: list[str] = []

    def kubeconfig(self, folder: Path) -> str:
        """The path of a kubeconfig for this server."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": ""}}],
            "current-context": "here",
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config))
        return str(path)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, ApiServer)
        path = self.path.partition("?")[0]
        self.server.seen.append(path)
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(self.server.answers.get(path, missing)).encode()
        self.send_response(200 if path in self.server.answers else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def discovery() -> dict[str, dict[str, Any]]:
    answers: dict[str, dict[str, Any]] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    }
    for group, kinds in GROUPS.items():
        name, _, version = group.rpartition("/")
        if name:
            versions = [{"groupVersion": group, "version": version}]
            answers["/apis"]["groups"].append({"name": name, "versions": versions, "preferredVersion": versions[0]})
        resources = [
            {"name": plural(kind), "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
            for kind in kinds
        ]
        answers[f"/apis/{group}" if name else f"/api/{group}"] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group,
            "resources": resources,
        }
    return answers


def plural(kind: str) -> str:
    return (kind[:-1] + "ies" if kind.endswith("y") else kind + "s").lower()
