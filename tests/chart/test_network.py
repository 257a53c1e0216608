"""Which pods may reach what."""

import ipaddress
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from prefprobe.study.graph import TEMPLATES
from tests.chart.api_server import SERVICE, SLICE, ApiServer
from tests.chart.rendering import BASE, CHART, NAMESPACE, Objects, merged, parse, pods, render, run, tool

Rule = dict[str, Any]
ANSWERS: dict[str, dict[str, Any]] = {
    SLICE: {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {"name": "kubernetes"},
        "endpoints": [{"addresses": ["192.0.2.7"]}, {"addresses": ["192.0.2.8"]}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    },
    SERVICE: {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes"},
        "spec": {"clusterIPs": ["10.96.0.1", "fd00::1"]},
    },
}


def policies_of(objects: Objects, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The specs of the policies that select a pod with these labels, by the rules of Kubernetes' selectors."""
    found = []
    for (kind, _), each in objects.items():
        if kind == "NetworkPolicy":
            selector = each["spec"]["podSelector"]
            equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
            expressions = selector.get("matchExpressions", [])
            assert all(e["operator"] == "In" for e in expressions)
            if equal and all(labels.get(e["key"]) in e["values"] for e in expressions):
                found.append(each["spec"])
    return found


def rules_of(objects: Objects, name: str) -> list[Rule]:
    """All egress rules that hold for the pod of a step."""
    found = policies_of(objects, pods(objects)[name]["metadata"]["labels"])
    return [rule for spec in found if "Egress" in spec["policyTypes"] for rule in spec["egress"]]


def reaches(rules: list[Rule], address: str, port: int) -> bool:
    """Whether an address outside of the cluster may be reached over TCP."""
    target = ipaddress.ip_address(address)

    def within(cidr: str) -> bool:
        network = ipaddress.ip_network(cidr)
        return network.version == target.version and target in network

    def peer(each: Mapping[str, Any]) -> bool:
        block = each.get("ipBlock")
        return block is not None and within(block["cidr"]) and not any(within(e) for e in block.get("except", []))

    def opens(rule: Rule) -> bool:
        ports = rule.get("ports")
        right_port = not ports or any(p["port"] == port and p.get("protocol", "TCP") == "TCP" for p in ports)
        return right_port and (not rule.get("to") or any(peer(each) for each in rule["to"]))

    return any(opens(rule) for rule in rules)


INTERNET, PRIVATE, IPV6 = "93.184.216.34", "10.20.30.40", "2606:2800:220:1::1"
HUB = {
    "start",
    "tasks",
    "embed",
    "embed-torch",
    "own-choices",
    "measure",
    "classify",
    "extract",
    "shift-measure",
    "shift-score",
}
API = {"classify-api", "measure-api", "shift-measure-api"}
STEP_NAMES = [*TEMPLATES, "start", "outcome", "prefprobe-test"]
IN_CLUSTER: dict[str, Any] = {"store": {"endpoint": "http://minio.data.svc.cluster.local:9000"}}


@pytest.mark.parametrize("name", STEP_NAMES)
def test_no_pod_takes_connections_and_few_reach_the_internet(name: str) -> None:
    objects = render(IN_CLUSTER)
    found = policies_of(objects, pods(objects)[name]["metadata"]["labels"])
    assert any("Ingress" in spec["policyTypes"] for spec in found)
    assert not any(spec.get("ingress") for spec in found)
    rules = rules_of(objects, name)
    assert reaches(rules, INTERNET, 443) == reaches(rules, IPV6, 443) == (name in HUB | API)
    assert not reaches(rules, INTERNET, 80)
    assert not reaches(rules, "169.254.169.254", 80), "the metadata of the cloud's machine"
    assert not any(reaches(rules, address, 443) for address in ("169.254.169.254", "fd00::99", "fe80::1"))
    dns = {"port": 53, "protocol": "UDP"}
    assert any(dns in rule.get("ports", []) and rule["to"] for rule in rules)


@pytest.mark.parametrize("name", STEP_NAMES)
def test_the_internet_can_be_switched_off(name: str) -> None:
    rules = rules_of(render(merged(IN_CLUSTER, {"networkPolicy": {"egress": {"hub": []}}})), name)
    assert not reaches(rules, INTERNET, 443)


@pytest.mark.parametrize("name", STEP_NAMES)
def test_a_provider_is_for_the_steps_that_ask_one(name: str) -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": [{"port": 8000, "protocol": "TCP"}]}
    rules = rules_of(render({"networkPolicy": {"egress": {"api": [rule]}}}), name)
    assert (rule in rules) == (name in API)


def store_rules(values: Mapping[str, Any]) -> list[Rule]:
    """The rules between those to the name servers and those to the Kubernetes API."""
    spec = render(values)["NetworkPolicy", "prefprobe"]["spec"]
    return list(spec["egress"][1:-1])


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("", {"ports": [{"port": 443, "protocol": "TCP"}]}),
        ("https://s3.example:9000", {"ports": [{"port": 9000, "protocol": "TCP"}]}),
        ("http://s3.example/", {"ports": [{"port": 80, "protocol": "TCP"}]}),
        (
            "https://192.0.2.3",
            {"to": [{"ipBlock": {"cidr": "192.0.2.3/32"}}], "ports": [{"port": 443, "protocol": "TCP"}]},
        ),
        (
            "http://minio.data.svc:9000",
            {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}}]},
        ),
    ],
)
def test_the_way_to_the_store_follows_from_its_endpoint(endpoint: str, expected: Rule) -> None:
    assert store_rules({"store": {"endpoint": endpoint}}) == [expected]


def test_a_cloud_identity_is_fetched_from_the_nodes_agent() -> None:
    rules = store_rules({"store": {"existingSecret": ""}})
    assert reaches(rules, "169.254.170.23", 80)
    assert not reaches(store_rules({}), "169.254.170.23", 80)


def test_given_rules_are_taken_as_they_are() -> None:
    rule: Rule = {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 9000, "protocol": "TCP"}]}
    dns: Rule = {"ports": [{"port": 5353, "protocol": "UDP"}]}
    api: Rule = {"to": rule["to"]}
    given = {"store": [rule], "dns": [dns], "apiServer": [api]}
    spec = render({"networkPolicy": {"egress": given}})["NetworkPolicy", "prefprobe"]["spec"]
    assert spec["egress"] == [dns, rule, api]


def test_the_store_in_the_cluster_is_reached_and_guarded() -> None:
    objects = render({"devStore": {"enabled": True}})
    labels = objects["StatefulSet", "prefprobe-seaweedfs"]["spec"]["template"]["metadata"]["labels"]
    rules = rules_of(objects, "probe")
    port = {"port": 8333, "protocol": "TCP"}
    assert {"to": [{"podSelector": {"matchLabels": labels}}], "ports": [port]} in rules
    (own,) = policies_of(objects, labels)
    assert own == {
        "podSelector": {"matchLabels": labels},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [port]}],
        "egress": [],
    }


def test_rendered_without_a_cluster_the_api_is_on_private_addresses() -> None:
    rules = rules_of(render(IN_CLUSTER), "probe")
    assert reaches(rules, PRIVATE, 6443)
    assert reaches(rules, "172.18.0.2", 6443)
    assert not reaches(rules, INTERNET, 6443)


@pytest.fixture
def api_server() -> Iterator[ApiServer]:
    with ApiServer(ANSWERS) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def rendered_in(server: ApiServer, folder: Path, values: Mapping[str, Any]) -> Objects:
    command = ("template", "prefprobe", CHART, "-n", NAMESPACE, "-f", "-")
    options = ("--dry-run=server", "--disable-openapi-validation")
    text = json.dumps(merged(BASE, IN_CLUSTER, values))
    done = run(tool("helm"), *command, *options, text=text, kubeconfig=server.kubeconfig(folder))
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def test_the_kubernetes_api_is_found_in_the_cluster(api_server: ApiServer, tmp_path: Path) -> None:
    rules = rules_of(rendered_in(api_server, tmp_path, {}), "probe")
    for address in ("192.0.2.7", "192.0.2.8"):
        assert reaches(rules, address, 6443)
        assert not reaches(rules, address, 443)
    assert reaches(rules, "10.96.0.1", 443)
    assert reaches(rules, "fd00::1", 443)
    assert not reaches(rules, PRIVATE, 443)
    assert not reaches(rules, "10.96.0.2", 443)


@pytest.mark.parametrize(
    "values",
    [
        {"networkPolicy": {"enabled": False}},
        {"networkPolicy": {"egress": {"apiServer": [{"ports": [{"port": 6443, "protocol": "TCP"}]}]}}},
    ],
)
def test_nothing_is_looked_up_that_is_not_needed(api_server: ApiServer, tmp_path: Path, values: dict[str, Any]) -> None:
    rendered_in(api_server, tmp_path, values)
    assert not {SLICE, SERVICE} & set(api_server.seen)
