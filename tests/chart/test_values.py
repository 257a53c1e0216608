"""What each value does, and that it does nothing else."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from prefprobe import __version__
from prefprobe.study.graph import TEMPLATES
from tests.chart.rendering import CHART as CHART_FOLDER
from tests.chart.rendering import KIND, NAMESPACE, Objects, leaves, parse, pod, render, run, source_leaves, tool

GPU = {name for name, template in TEMPLATES.items() if template.node == "gpu"}
CPU = {*TEMPLATES, "start", "outcome"} - GPU
READ_MODELS = GPU | {"start", "tasks", "embed", "embed-torch"}
FOLLOWS = GPU | {"embed-torch", "probe", "hoo-layers", "content"}
"""Whose requests follow from the study."""
DIGEST = "sha256:" + "a" * 64
Leaf = dict[str, Any]


def changed(values: Mapping[str, Any], change: Callable[[str, Leaf], None]) -> None:
    """Assert that the values make this change to the templates of steps, and none besides."""
    expected = leaves(render({}))
    for name, leaf in expected.items():
        change(name, leaf)
    assert leaves(render(values)) == expected


def images(values: Mapping[str, Any]) -> dict[str, str]:
    objects = render(values)
    found = {name: leaf["container"]["image"] for name, leaf in leaves(objects).items()}
    found["test"] = objects["Pod", "prefprobe-test"]["spec"]["containers"][0]["image"]
    if ("StatefulSet", "prefprobe-seaweedfs") in objects:
        store = objects["StatefulSet", "prefprobe-seaweedfs"]["spec"]["template"]["spec"]
        found["seaweedfs"] = store["containers"][0]["image"]
    return found


def test_every_step_has_its_own_image() -> None:
    own = {name: f"prefprobe-{name}:{__version__}" for name in TEMPLATES}
    base = dict.fromkeys(("start", "outcome", "test"), f"prefprobe-cpu:{__version__}")
    assert images({}) == own | base
    assert images({"devStore": {"enabled": True}})["seaweedfs"] == f"prefprobe-seaweedfs:{__version__}"


@pytest.mark.parametrize("registry", ["registry.example:5000/team", "registry.example:5000/team/"])
def test_registry_tag_digests_and_overrides(registry: str) -> None:
    given = {
        "registry": registry,
        "tag": "0.2.0-rc.1",
        "digests": {"prefprobe-cpu": DIGEST, "prefprobe-probe": DIGEST},
        "overrides": {"extract": "other/extract:test", "outcome": f"other/cpu@{DIGEST}", "seaweedfs": "weed:4"},
    }
    found = images({"images": given, "devStore": {"enabled": True}})
    prefix = "registry.example:5000/team"
    assert found.pop("extract") == "other/extract:test"
    assert found.pop("outcome") == f"other/cpu@{DIGEST}"
    assert found.pop("seaweedfs") == "weed:4"
    on_cpu = {found.pop(name) for name in ("start", "test")}
    assert on_cpu == {f"{prefix}/prefprobe-cpu@{DIGEST}"}
    assert found.pop("probe") == f"{prefix}/prefprobe-probe@{DIGEST}"
    assert found == {name: f"{prefix}/prefprobe-{name}:0.2.0-rc.1" for name in found}


def test_pull_policy_and_pull_secrets() -> None:
    objects = render({"images": {"pullPolicy": "Always", "pullSecrets": ["a", "b"]}, "devStore": {"enabled": True}})
    account = objects["ServiceAccount", "prefprobe"]
    assert account["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    found = [leaf["container"] for leaf in leaves(objects).values()]
    found += objects["Pod", "prefprobe-test"]["spec"]["containers"]
    found += objects["StatefulSet", "prefprobe-seaweedfs"]["spec"]["template"]["spec"]["containers"]
    assert {container["imagePullPolicy"] for container in found} == {"Always"}


def test_a_gpu_is_chosen_for_gpu_steps_only() -> None:
    def change(name: str, leaf: Leaf) -> None:
        if name in GPU:
            leaf["nodeSelector"] = {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-H200"}

    changed({"gpu": {"product": "NVIDIA-H200"}}, change)

    def elsewhere(name: str, leaf: Leaf) -> None:
        if name in GPU:
            leaf["nodeSelector"] = {"cloud.example/accelerator": "h200", "nvidia.com/gpu.product": "NVIDIA-H200"}

    changed({"gpu": {"product": "NVIDIA-H200", "nodeSelector": {"cloud.example/accelerator": "h200"}}}, elsewhere)


def test_tolerations_are_added_for_gpu_steps_only() -> None:
    mine = {"key": "team", "operator": "Exists"}

    def change(name: str, leaf: Leaf) -> None:
        if name in GPU:
            leaf["tolerations"].append(mine)

    changed({"gpu": {"tolerations": [mine]}}, change)


def test_a_runtime_class_is_for_gpu_pods_only() -> None:
    found = {name: pod(leaf)["spec"] for name, leaf in leaves(render({"gpu": {"runtimeClassName": "nvidia"}})).items()}
    for name, leaf in source_leaves().items():
        plain = pod(leaf)["spec"]
        assert found[name].get("runtimeClassName") == ("nvidia" if name in GPU else None)
        assert found[name]["terminationGracePeriodSeconds"] == plain["terminationGracePeriodSeconds"]


def test_kueue_queues_gpu_pods_only() -> None:
    def change(name: str, leaf: Leaf) -> None:
        if name in GPU:
            leaf["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"

    changed({"kueue": {"queue": "gpus"}}, change)


@pytest.mark.parametrize(("node", "names"), [("cpu", CPU), ("gpu", GPU)])
def test_priority(node: str, names: set[str]) -> None:
    def change(name: str, leaf: Leaf) -> None:
        if name in names:
            leaf["priorityClassName"] = "mine"

    changed({"priority": {node: "mine"}}, change)


def ask(name: str, leaf: Leaf, **requests: str) -> None:
    """Requests of a step that are given: over the file, and over those that follow from the study."""
    leaf["container"]["resources"]["requests"] |= requests
    if name in FOLLOWS:
        patch = yaml.safe_load(leaf["podSpecPatch"])
        (main,) = [each for each in patch["containers"] if each["name"] == "main"]
        main["resources"]["requests"] |= requests
        leaf["podSpecPatch"] = patch


def with_resources(values: Mapping[str, Any], change: Callable[[str, Leaf], None]) -> None:
    """As `changed`, by what patches of pods mean and not by their text."""
    expected, found = leaves(render({})), leaves(render({"resources": values}))
    for name, leaf in expected.items():
        change(name, leaf)
    for each in (expected, found):
        for leaf in each.values():
            patch = leaf["podSpecPatch"]
            leaf["podSpecPatch"] = yaml.safe_load(patch) if isinstance(patch, str) else patch
    assert found == expected


@pytest.mark.parametrize(("node", "names"), [("cpu", CPU), ("gpu", GPU)])
def test_resources_of_a_kind_of_node_go_over_the_files(node: str, names: set[str]) -> None:
    def change(name: str, leaf: Leaf) -> None:
        if name in names:
            ask(name, leaf, cpu="50m")
            leaf["container"]["resources"]["limits"]["ephemeral-storage"] = "10Gi"

    with_resources({node: {"requests": {"cpu": "50m"}, "limits": {"ephemeral-storage": "10Gi"}}}, change)


def test_resources_of_a_step_go_over_those_of_its_kind() -> None:
    def change(name: str, leaf: Leaf) -> None:
        if name in GPU:
            leaf["container"]["resources"]["limits"]["memory"] = "400Gi" if name == "extract" else "200Gi"
        if name in ("hoo", "report"):
            ask(name, leaf, memory="64Gi")

    some, more = ({"limits": {"memory": f"{n}Gi"}} for n in (200, 400))
    asks = {"requests": {"memory": "64Gi"}}
    with_resources({"gpu": some, "steps": {"extract": more, "hoo": asks, "report": asks}}, change)


def test_a_pod_asks_for_what_follows_from_the_study_unless_a_value_says_otherwise() -> None:
    values = {"resources": {"gpu": {"requests": {"memory": "7Gi"}}, "steps": {"probe": {"requests": {"cpu": "3"}}}}}
    found = {}
    for name, leaf in leaves(render(values)).items():
        for parameter in leaf["inputs"]["parameters"]:  # what start said of the study
            parameter["value"] = {"cpu": "2", "memory": "5Gi"}.get(parameter["name"], "")
        (main,) = [each for each in pod(leaf)["spec"]["containers"] if each["name"] == "main"]
        found[name] = main["resources"]["requests"]
    assert {name: found[name] for name in FOLLOWS} == {
        **{name: {"cpu": "2", "memory": "7Gi"} for name in GPU},
        **{name: {"cpu": "2", "memory": "5Gi"} for name in ("embed-torch", "hoo-layers", "content")},
        "probe": {"cpu": "3", "memory": "5Gi"},
    }
    written = source_leaves()
    assert all(found[name] == written[name]["container"]["resources"]["requests"] for name in CPU - FOLLOWS)


def test_models_in_a_claim() -> None:
    def change(name: str, leaf: Leaf) -> None:
        for volume in leaf["volumes"]:
            if volume["name"] == "models":
                del volume["emptyDir"]
                volume["persistentVolumeClaim"] = {"claimName": "cache"}

    changed({"models": {"type": "pvc", "pvc": {"claimName": "cache"}}}, change)


@pytest.mark.parametrize(
    ("image", "digests", "copied"),
    [
        ("r.example/models:1", {}, "r.example/models:1"),
        ("", {}, f"r.example/lab/prefprobe-demo-models:{__version__}"),
        ("", {"prefprobe-demo-models": DIGEST}, f"r.example/lab/prefprobe-demo-models@{DIGEST}"),
    ],
    ids=["its own", "the demo's", "the demo's by digest"],
)
def test_models_from_an_image_where_models_are_read(image: str, digests: dict[str, str], copied: str) -> None:
    where = {"registry": "r.example/lab", "pullPolicy": "Never", "digests": digests}
    found = leaves(render({"models": {"type": "image", "image": image}, "images": where}))
    for name, leaf in found.items():
        assert ("initContainers" in leaf) == (name in READ_MODELS), name
        if name in READ_MODELS:
            (copy,) = leaf["initContainers"]
            assert (copy["image"], copy["imagePullPolicy"]) == (copied, "Never")
            assert copy["command"] == ["cp", "-R", "/models/.", "/copy/"]
            assert copy["volumeMounts"] == [{"name": "models", "mountPath": "/copy"}]
            assert {"name": "models", "emptyDir": {}} in leaf["volumes"]
            assert {"name": "models", "mountPath": "/models"} in leaf["container"]["volumeMounts"]


def test_labels_and_annotations_of_pods() -> None:
    def change(name: str, leaf: Leaf) -> None:
        leaf["metadata"]["labels"]["team"] = "a"
        leaf["metadata"]["annotations"] = {"note": "b"}

    given = {"team": "a", "app.kubernetes.io/name": "not-theirs-to-change"}
    changed({"podLabels": given, "podAnnotations": {"note": "b"}}, change)


def test_gpus_of_a_pod_follow_from_the_study_unless_a_value_says_otherwise() -> None:
    assert environment(render({}))["PREFPROBE_GPU_MEMORY"] == "80"
    assert environment(render({"gpu": {"memory": 141}}))["PREFPROBE_GPU_MEMORY"] == "141"
    values = {"resources": {"steps": {"extract": {"limits": {"nvidia.com/gpu": 4, "memory": "9Gi"}}}}}
    for name, leaf in leaves(render(values)).items():
        for parameter in leaf["inputs"]["parameters"]:
            parameter["value"] = "2" if parameter["name"] == "gpus" else ""
        (main,) = [each for each in pod(leaf)["spec"]["containers"] if each["name"] == "main"]
        expected = 4 if name == "extract" else "2" if name in GPU else None
        assert main["resources"]["limits"].get("nvidia.com/gpu") == expected, name
        if name == "extract":
            assert main["resources"]["limits"]["memory"] == "9Gi"


def test_gpus_at_once() -> None:
    assert render({})["ConfigMap", "prefprobe-limits"]["data"] == {"gpus": "4"}
    assert render({"gpu": {"limit": 16}})["ConfigMap", "prefprobe-limits"]["data"] == {"gpus": "16"}


def environment(objects: Objects) -> dict[str, str]:
    return dict(objects["ConfigMap", "prefprobe"]["data"])


def artifacts(objects: Objects) -> dict[str, Any]:
    return dict(yaml.safe_load(objects["ConfigMap", "prefprobe-artifacts"]["data"]["s3"])["s3"])


def test_the_store_on_aws() -> None:
    objects = render({"store": {"region": "eu-central-1"}})
    given = {"PREFPROBE_STORE": "s3://bucket/prefix", "AWS_REGION": "eu-central-1", "PREFPROBE_GPU_MEMORY": "80"}
    assert environment(objects) == given
    assert artifacts(objects) == {
        "endpoint": "s3.amazonaws.com",
        "insecure": False,
        "region": "eu-central-1",
        "bucket": "bucket",
        "keyFormat": "prefix/argo/{{workflow.name}}/{{pod.name}}",
        "accessKeySecret": {"name": "keys", "key": "AWS_ACCESS_KEY_ID"},
        "secretKeySecret": {"name": "keys", "key": "AWS_SECRET_ACCESS_KEY"},
    }


@pytest.mark.parametrize(
    ("endpoint", "host", "insecure"),
    [("http://minio.minio.svc:9000", "minio.minio.svc:9000", True), ("https://s3.example/", "s3.example", False)],
)
def test_the_store_on_another_server(endpoint: str, host: str, insecure: bool) -> None:
    objects = render({"store": {"url": "s3://My_Bucket", "endpoint": endpoint}})
    assert environment(objects)["AWS_ENDPOINT_URL"].rstrip("/") == endpoint.rstrip("/")
    found = artifacts(objects)
    assert (found["endpoint"], found["insecure"], found["bucket"]) == (host, insecure, "My_Bucket")
    assert found["keyFormat"] == "argo/{{workflow.name}}/{{pod.name}}"


def test_a_cloud_identity() -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}
    objects = render({"store": {"existingSecret": ""}, "serviceAccount": {"annotations": role}})
    assert objects["ServiceAccount", "prefprobe"]["metadata"]["annotations"] == role
    assert "annotations" not in objects["ServiceAccount", "prefprobe-executor"]["metadata"]
    assert artifacts(objects)["useSDKCreds"] is True
    assert not {"accessKeySecret", "secretKeySecret"} & set(artifacts(objects))


def test_a_quota_and_what_argos_containers_get_under_it() -> None:
    objects = render({"quota": {"enabled": True, "hard": {"pods": 7, "requests.nvidia.com/gpu": "2"}}})
    hard = objects["ResourceQuota", "prefprobe"]["spec"]["hard"]
    assert (hard["pods"], hard["requests.nvidia.com/gpu"]) == (7, "2")
    (limits,) = objects["LimitRange", "prefprobe"]["spec"]["limits"]
    assert set(limits["defaultRequest"]) == {"cpu", "memory"}
    assert set(limits["default"]) == {"memory"}, "a limit of cpu would lie below what steps request"


def test_a_store_to_try_things_out() -> None:
    objects = render({"devStore": {"enabled": True}})
    where = f"prefprobe-seaweedfs.{NAMESPACE}.svc:8333"
    assert environment(objects)["AWS_ENDPOINT_URL"] == f"http://{where}"
    assert (artifacts(objects)["endpoint"], artifacts(objects)["insecure"]) == (where, True)
    store = objects["StatefulSet", "prefprobe-seaweedfs"]["spec"]
    service = objects["Service", "prefprobe-seaweedfs"]["spec"]
    assert service["selector"] == store["selector"]["matchLabels"] == store["template"]["metadata"]["labels"]
    assert service["ports"] == [{"name": "s3", "port": 8333, "targetPort": "s3"}]
    spec = store["template"]["spec"]
    assert spec["containers"][0]["ports"] == [{"name": "s3", "containerPort": 8333}]
    assert "-bucket=bucket" in spec["containers"][0]["args"]
    assert {"name": "data", "emptyDir": {}} in spec["volumes"]
    assert "volumeClaimTemplates" not in store
    assert store["updateStrategy"] == {"rollingUpdate": {"partition": 1}}


def test_that_store_on_a_volume() -> None:
    objects = render({"devStore": {"enabled": True, "storageClass": "fast", "size": "5Gi"}})
    store = objects["StatefulSet", "prefprobe-seaweedfs"]["spec"]
    assert [v["name"] for v in store["template"]["spec"]["volumes"]] == ["tmp"]
    (claim,) = store["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"


def test_the_test_pod_is_gone_after_the_test_and_its_words_are_not() -> None:
    test = render({})["Pod", "prefprobe-test"]
    assert test["metadata"]["annotations"] == {
        "helm.sh/hook": "test",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded,hook-failed",
        "helm.sh/hook-output-log-policy": "hook-succeeded,hook-failed",
    }
    assert test["spec"]["containers"][0]["command"] == ["prefprobe", "check-store"]


def test_the_values_for_kind() -> None:
    done = run(tool("helm"), "template", "prefprobe", CHART_FOLDER, "-n", NAMESPACE, "-f", KIND)
    objects = parse(done.stdout)
    assert environment(objects)["PREFPROBE_STORE"] == "s3://prefprobe/study"
    for name, leaf in leaves(objects).items():
        (main,) = [each for each in pod(leaf)["spec"]["containers"] if each["name"] == "main"]
        resources = main["resources"]
        assert leaf["container"]["imagePullPolicy"] == "Never"
        if name in GPU:
            assert resources["requests"] == {"cpu": "100m", "memory": "1Gi"}
            assert resources["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "1"}
            assert leaf["nodeSelector"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
        else:
            assert resources == {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1536Mi"}}
        assert ("initContainers" in leaf) == (name in READ_MODELS)


def test_the_notes_name_the_next_commands() -> None:
    given = ("--set", "store.url=s3://bucket/p,store.existingSecret=keys,models.type=image", "--dry-run=client")
    notes = run(tool("helm"), "install", "mine", CHART_FOLDER, "-n", "team", *given).stdout.partition("NOTES:")[2]
    for line in (
        "helm test mine -n team",
        "argo submit -n team --from workflowtemplate/prefprobe-replicate -p model=demo",
        "argo watch -n team @latest",
        "AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… prefprobe cluster report @latest",
        "prefprobe cluster report @latest -n team --store s3://bucket/p --out report.html",
        "After `argo stop` submit again",
        "Network policies cannot name the store's host",
    ):
        assert line in notes, line
    assert "cloud identity" not in notes
    assert "AWS_ENDPOINT_URL" not in notes
    there = ("--set", "store.endpoint=http://minio.example:9000", *given)
    notes = run(tool("helm"), "install", "mine", CHART_FOLDER, "-n", "team", *there).stdout.partition("NOTES:")[2]
    assert "AWS_ENDPOINT_URL=http://minio.example:9000 AWS_ACCESS_KEY_ID=…" in notes


def test_the_notes_say_which_models_the_pods_have() -> None:
    def notes(*values: str) -> str:
        given = ("--set", ",".join(("store.url=s3://bucket/p", *values)), "--dry-run=client")
        return run(tool("helm"), "install", "mine", CHART_FOLDER, "-n", "team", *given).stdout.partition("NOTES:")[2]

    none = notes()
    assert "-p model=demo" not in none
    assert "models.type=none" in none
    assert "-p model=gemma3" in none
    image = notes("models.type=image")
    assert "-p model=demo" in image
    assert "models.type=none" not in image
