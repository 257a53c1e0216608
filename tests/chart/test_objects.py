"""Which objects the chart makes, and whether Kubernetes and Argo take them."""

import subprocess
import tarfile
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from prefprobe import __version__
from prefprobe.study.graph import TEMPLATES
from tests.chart.rendering import (
    BASE,
    CHART,
    KIND,
    NAMESPACE,
    ROOT,
    Objects,
    containers,
    leaves,
    parse,
    pods,
    render,
    run,
    secrets_named,
    source_leaves,
    tool,
)
from tests.chart.restricted import violations

KUBERNETES = "1.34"
DEV_STORE: dict[str, Any] = {"devStore": {"enabled": True}}
EVERYTHING: dict[str, Any] = {
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}},
    "secrets": {"api": "provider", "hub": "hub-token"},
    "images": {"registry": "registry.example/team", "pullPolicy": "Always", "pullSecrets": ["pull"]},
    "gpu": {
        "limit": 8,
        "product": "NVIDIA-H200",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "team", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
    },
    "resources": {"gpu": {"limits": {"memory": "200Gi"}}, "steps": {"hoo": {"requests": {"cpu": 16}}}},
    "priority": {"cpu": "low", "gpu": "high"},
    "models": {"type": "pvc", "pvc": {"claimName": "models"}},
    "kueue": {"queue": "gpus"},
    "podLabels": {"team": "a"},
    "podAnnotations": {"sidecar.istio.io/inject": "false"},
    "networkPolicy": {"egress": {"api": [{"ports": [{"port": 8000, "protocol": "TCP"}]}]}},
    "quota": {"enabled": True},
    "devStore": {"enabled": True, "storageClass": "fast"},
}
SETS: dict[str, dict[str, Any]] = {
    "least": {"store": {"existingSecret": ""}},
    "base": {},
    "models from an image": {"models": {"type": "image", "image": "models:1"}},
    "dev store": DEV_STORE,
    "everything": EVERYTHING,
    "kind": yaml.safe_load(KIND.read_text("utf-8")),
}
ALWAYS = {
    *(("WorkflowTemplate", f"prefprobe-{name}") for name in (*TEMPLATES, "start", "outcome", "replicate")),
    *(("ConfigMap", name) for name in ("prefprobe", "prefprobe-limits", "prefprobe-artifacts")),
    ("ServiceAccount", "prefprobe"),
    ("ServiceAccount", "prefprobe-executor"),
    ("Secret", "prefprobe-executor.service-account-token"),
    ("Role", "prefprobe-executor"),
    ("RoleBinding", "prefprobe-executor"),
    ("Pod", "prefprobe-test"),
}
POLICIES = {("NetworkPolicy", "prefprobe"), ("NetworkPolicy", "prefprobe-hub")}
STORE = {("StatefulSet", "prefprobe-seaweedfs"), ("Service", "prefprobe-seaweedfs")}
QUOTA = {("ResourceQuota", "prefprobe"), ("LimitRange", "prefprobe")}

every_set = pytest.mark.parametrize("objects", [pytest.param(values, id=name) for name, values in SETS.items()])


@pytest.fixture
def rendered(objects: dict[str, Any]) -> Objects:
    return render(objects)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ALWAYS | POLICIES),
        ({"networkPolicy": {"enabled": False}}, ALWAYS),
        ({"networkPolicy": {"egress": {"hub": []}}}, ALWAYS | {("NetworkPolicy", "prefprobe")}),
        (DEV_STORE, ALWAYS | POLICIES | STORE | {("NetworkPolicy", "prefprobe-seaweedfs")}),
        ({**DEV_STORE, "networkPolicy": {"enabled": False}}, ALWAYS | STORE),
        ({"quota": {"enabled": True}}, ALWAYS | POLICIES | QUOTA),
        (
            EVERYTHING,
            ALWAYS
            | POLICIES
            | STORE
            | QUOTA
            | {("NetworkPolicy", "prefprobe-api"), ("NetworkPolicy", "prefprobe-seaweedfs")},
        ),
    ],
)
def test_these_objects_and_no_others(values: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    objects = render(values)
    assert set(objects) == expected
    for each in objects.values():
        assert each["metadata"]["namespace"] == NAMESPACE
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "prefprobe"
        assert each["metadata"]["labels"]["app.kubernetes.io/version"] == __version__


@every_set
def test_kubernetes_takes_every_object(rendered: Objects) -> None:
    for each in rendered.values():
        if each["kind"] != "WorkflowTemplate":
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


@every_set
def test_kubernetes_takes_every_pod_and_admits_it_under_the_restricted_profile(rendered: Objects) -> None:
    found = pods(rendered)
    assert set(found) >= {*TEMPLATES, "start", "outcome", "prefprobe-test"}
    for name, pod in found.items():
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert violations(pod) == [], name
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["serviceAccountName"] == "prefprobe"
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert not any("serviceaccount" in m["mountPath"] for m in container.get("volumeMounts", []))
            mounted = {m["name"] for m in container["volumeMounts"]}
            claims = {"data"} if name == "prefprobe-seaweedfs" else set()
            assert mounted <= {v["name"] for v in pod["spec"]["volumes"]} | claims, name


@every_set
def test_argo_takes_every_template(rendered: Objects, tmp_path: Path) -> None:
    said = lint(rendered, tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr


def test_argo_would_refuse_a_misspelt_field(tmp_path: Path) -> None:
    objects = render({})
    objects["WorkflowTemplate", "prefprobe-probe"]["spec"]["templates"][0]["nodeSelectr"] = {}
    said = lint(objects, tmp_path)
    assert said.returncode != 0
    assert "nodeSelectr" in said.stdout + said.stderr


def lint(objects: Objects, folder: Path) -> subprocess.CompletedProcess[str]:
    """What `argo lint` says of the templates together with the workflow that is submitted."""
    submitted = yaml.safe_load((ROOT / "argo" / "replicate.yaml").read_text("utf-8"))
    submitted["metadata"]["namespace"] = NAMESPACE
    written = [each for (kind, _), each in objects.items() if kind == "WorkflowTemplate"]
    (folder / "all.yaml").write_text(yaml.safe_dump_all([*written, submitted]), "utf-8")
    return run(tool("argo"), "lint", "--offline", folder)


def test_without_values_the_chart_says_what_the_files_say() -> None:
    """All that differs is what the release gives: the namespace, the names of Secrets, and where images come from."""
    written, rendered = source_leaves(), leaves(render({"secrets": {"api": "prefprobe-api", "hub": "prefprobe-hub"}}))
    for leaf in written.values():
        leaf["container"]["imagePullPolicy"] = "IfNotPresent"
        for source in leaf["container"]["envFrom"]:
            if source.get("secretRef", {}).get("name") == "prefprobe-s3":
                source["secretRef"]["name"] = "keys"
    assert rendered == written


def test_the_executor_may_report_and_nothing_else() -> None:
    objects = render(EVERYTHING)
    assert objects["Role", "prefprobe-executor"]["rules"] == [
        {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
    ]
    binding = objects["RoleBinding", "prefprobe-executor"]
    assert binding["roleRef"] | {"apiGroup": ""} == {"apiGroup": "", "kind": "Role", "name": "prefprobe-executor"}
    account = {"kind": "ServiceAccount", "name": "prefprobe-executor", "namespace": NAMESPACE}
    assert binding["subjects"] == [account]
    for name in ("prefprobe", "prefprobe-executor"):
        assert objects["ServiceAccount", name]["automountServiceAccountToken"] is False


@every_set
def test_the_only_secret_is_a_token_that_kubernetes_fills(rendered: Objects) -> None:
    (secret,) = [each for (kind, _), each in rendered.items() if kind == "Secret"]
    assert secret["type"] == "kubernetes.io/service-account-token"
    assert secret["metadata"]["annotations"] == {"kubernetes.io/service-account.name": "prefprobe-executor"}
    assert not {"data", "stringData"} & set(secret)


def test_secrets_are_seen_only_where_they_are_used() -> None:
    asks, fetches = {"classify-api", "measure-api", "shift-measure-api"}, {"start", "tasks", "embed", "embed-torch"}
    fetches |= {"own-choices", "measure", "classify", "extract", "shift-measure", "shift-score"}
    found = {
        name: secrets_named(pod) for name, pod in pods(render({**DEV_STORE, "secrets": EVERYTHING["secrets"]})).items()
    }
    assert found.pop("prefprobe-seaweedfs") == found.pop("prefprobe-test") == {"keys"}
    for name, secrets in found.items():
        expected = {"keys"} | ({"provider"} if name in asks else set()) | ({"hub-token"} if name in fetches else set())
        assert secrets == expected, name
    assert all(secrets_named(pod) == {"keys"} for pod in pods(render({})).values())
    assert not any(secrets_named(pod) for pod in pods(render({"store": {"existingSecret": ""}})).values())


def test_helm_lint_and_the_package(tmp_path: Path) -> None:
    helm = tool("helm")
    for values in (("--set", "store.url=s3://bucket"), ("-f", KIND)):
        said = run(helm, "lint", "--strict", CHART, *values)
        assert said.returncode == 0, said.stdout + said.stderr
    packed = run(helm, "package", CHART, "-d", tmp_path)
    assert packed.returncode == 0, packed.stderr
    archive = tmp_path / f"prefprobe-{__version__}.tgz"
    with tarfile.open(archive) as tar:
        files = {m.name.removeprefix("prefprobe/"): m for m in tar.getmembers()}
        assert all(m.isfile() for m in files.values()), "a link would lead nowhere"
        yaml_files = [*(ROOT / "argo").rglob("*.yaml"), ROOT / "argo" / "replicate.yaml"]
        packed_files = {name for name in files if name.startswith("argo/")}
        assert packed_files == {f"argo/{path.relative_to(ROOT / 'argo')}" for path in yaml_files}
        for path in yaml_files:
            stream = tar.extractfile(files[f"argo/{path.relative_to(ROOT / 'argo')}"])
            assert stream is not None
            assert stream.read() == path.read_bytes()
    url, secret = BASE["store"].values()
    done = run(
        helm,
        "template",
        "prefprobe",
        archive,
        "-n",
        NAMESPACE,
        "--set",
        f"store.url={url},store.existingSecret={secret}",
    )
    assert parse(done.stdout) == render({})


def test_the_version_is_the_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__


def test_a_cluster_without_argo_is_named() -> None:
    done = run(tool("helm"), "template", "p", CHART, "--set", "store.url=s3://b", "--api-versions", "v1/Pod")
    assert done.returncode != 0
    assert "This cluster has no Argo Workflows" in done.stderr
    kinds = "v1/Pod,argoproj.io/v1alpha1/WorkflowTemplate"
    done = run(tool("helm"), "template", "p", CHART, "--set", "store.url=s3://b", "--api-versions", kinds)
    assert done.returncode == 0, done.stderr
