"""`prefprobe cluster`: the study on a cluster, for people who do not live in argo and kubectl."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.numbers import size

if TYPE_CHECKING:
    from prefprobe.cluster.nodes import PodNode
    from prefprobe.cluster.workflows import Workflows

_NAMESPACE = click.option(
    "--namespace",
    "-n",
    envvar="ARGO_NAMESPACE",
    help="The chart's namespace; by default that of the kubeconfig's context.",
)
_NAME = click.argument("name", default="@latest")


@click.group()
def cluster() -> None:
    """Submit and follow studies on a cluster where the chart is installed.

    The cluster is that of the kubeconfig, or of the Argo Server that ARGO_SERVER and ARGO_TOKEN name. NAME is a workflow;
    @latest is the newest one.
    """


@cluster.command()
@click.argument("preset", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, as with `prefprobe run`."
)
@click.option("--run", "run_id", default="", help="Name the run; by default the id follows from the configuration.")
@click.option("--watch", "then_watch", is_flag=True, help="Follow it until it has ended.")
@_NAMESPACE
def submit(preset: Path, overrides: tuple[str, ...], run_id: str, then_watch: bool, namespace: str | None) -> None:
    """Run a study on the cluster. Its sources are looked for there, not here."""
    from prefprobe.cluster.workflows import REPLICATE
    from prefprobe.config import load_config, standalone

    load_config(preset, overrides)
    given = {"preset": standalone(preset), "set": "\n".join(overrides), "run": run_id}
    _create(_workflow("replicate-", REPLICATE, given), namespace, then_watch)


@cluster.command()
@_NAME
@click.option("--step", metavar="STEP", help="Only this step of it, or node of a step, such as extract.model.3.")
@click.option("--watch", "then_watch", is_flag=True, help="Follow it until it has ended.")
@_NAMESPACE
def rerun(name: str, step: str | None, then_watch: bool, namespace: str | None) -> None:
    """Run a study again: what is in the store is taken from there, so that only what failed or is missing is done."""
    from prefprobe.cluster.nodes import run_id, template_of
    from prefprobe.cluster.workflows import REPLICATE

    _, workflow = _find(name, namespace)
    run = run_id(workflow)
    if step is not None:
        if run is None:
            raise BadConfig(f"{name} has started no run yet, so that no step of it can run alone; see its logs.")
        template = template_of(workflow, step)
        made = _workflow(f"{template}-", f"prefprobe-{template}", {"run": run, "node": step})
    else:
        given = {p["name"]: p["value"] for p in (workflow["spec"].get("arguments") or {}).get("parameters") or []}
        if workflow["spec"].get("workflowTemplateRef", {}).get("name") != REPLICATE:
            raise BadConfig(f"{name} is a step alone: name the step with --step, or a workflow of the whole study.")
        made = _workflow("replicate-", REPLICATE, given)
    _create(made, namespace, then_watch)


@cluster.command("list")
@_NAMESPACE
def list_(namespace: str | None) -> None:
    """The workflows in the namespace, the newest first."""
    from prefprobe.cluster.nodes import phase, run_id
    from prefprobe.cluster.workflows import connect

    for workflow in connect(namespace).list():
        name, started = workflow["metadata"]["name"], workflow["metadata"]["creationTimestamp"]
        click.echo(f"{name:<24} {phase(workflow):<10} {started}  {run_id(workflow) or ''}")


@cluster.command()
@_NAME
@_NAMESPACE
def watch(name: str, namespace: str | None) -> None:
    """Follow a workflow; ends with it, and with the exit code of the node that failed."""
    from rich.console import Console

    from prefprobe.cluster import view

    workflows, workflow = _find(name, namespace)
    view.watch(workflows, workflow["metadata"]["name"], Console(highlight=False, soft_wrap=True))


@cluster.command()
@_NAME
@click.argument("node", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on until the node has ended.")
@_NAMESPACE
def logs(name: str, node: str | None, follow: bool, namespace: str | None) -> None:
    """The log of each node, or of one such as extract.model.3."""
    from prefprobe.cluster.nodes import pod_nodes

    workflows, workflow = _find(name, namespace)
    name = workflow["metadata"]["name"]
    known = pod_nodes(workflow)
    nodes = [n for n in known if node in (None, n.id)] or [n for n in known if n.id.startswith(f"{node}.")]
    if not nodes:
        raise InputMissing(
            f"{name} has no node {node or 'at all'}; its nodes: {', '.join(n.id for n in known) or 'none yet'}."
        )
    for each in nodes:
        _print_log(workflows, name, each, follow)


@cluster.command()
@_NAME
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), show_default=True)
@click.option(
    "--store",
    envvar="PREFPROBE_STORE",
    help="The chart's store.url, from which a report is read without an Argo Server.",
)
@_NAMESPACE
def report(name: str, out: Path, store: str | None, namespace: str | None) -> None:
    """Fetch the report of a workflow, a single file for any browser.

    An Argo Server has it. With a kubeconfig it is read from the store: with --store, and the store's keys in
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL, for a server other than AWS).
    """
    from prefprobe.cluster.nodes import pod_nodes, run_id
    from prefprobe.store.objects import ObjectStore

    workflows, workflow = _find(name, namespace)
    name = workflow["metadata"]["name"]
    made = next((n for n in pod_nodes(workflow) if n.id == "report" and n.phase == "Succeeded"), None)
    if made is None:
        raise InputMissing(
            f"{name} has made no report; workflows/{name}.html in the store says what became of it, "
            f"`prefprobe cluster watch {name}` what it does."
        )
    page = workflows.report(name, made.node_id)
    if page is None:
        if store is None:
            raise BadConfig(
                "Kubernetes has no reports: give --store, the chart's store.url, with the store's keys in AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, or set ARGO_SERVER."
            )
        page = ObjectStore.open(store).get(f"runs/{run_id(workflow)}/report/index.html")
    out.write_bytes(page)
    click.echo(f"{out}: the report of run {run_id(workflow)}, {size(len(page))}")


def _workflow(prefix: str, template: str, parameters: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": prefix, "labels": {"app.kubernetes.io/name": "prefprobe"}},
        "spec": {
            "workflowTemplateRef": {"name": template},
            "arguments": {"parameters": [{"name": k, "value": v} for k, v in parameters.items()]},
        },
    }


def _create(workflow: dict[str, Any], namespace: str | None, then_watch: bool) -> None:
    from rich.console import Console

    from prefprobe.cluster import view
    from prefprobe.cluster.workflows import connect

    workflows = connect(namespace)
    try:
        name = workflows.create(workflow)["metadata"]["name"]
    except InputMissing as error:
        template = workflow["spec"]["workflowTemplateRef"]["name"]
        raise BadConfig(
            f"namespace {workflows.namespace} has no WorkflowTemplate {template}: `helm install` the chart there, "
            "or name its namespace with -n."
        ) from error
    click.echo(name)
    if then_watch:
        view.watch(workflows, name, Console(highlight=False, soft_wrap=True))
    else:
        for verb in ("watch", "logs", "report"):
            click.echo(f"  prefprobe cluster {verb} {name} -n {workflows.namespace}", err=True)


def _find(name: str, namespace: str | None) -> "tuple[Workflows, dict[str, Any]]":
    from prefprobe.cluster.workflows import connect

    workflows = connect(namespace)
    if name == "@latest":
        found = workflows.list()
        if not found:
            raise InputMissing(
                f"there is no workflow in namespace {workflows.namespace}; submit one, or name another with -n."
            )
        name = found[0]["metadata"]["name"]
    return workflows, workflows.get(name)


def _print_log(workflows: "Workflows", name: str, node: "PodNode", follow: bool) -> None:
    if node.phase == "Pending":
        click.echo(f"{node.id}: has not started", err=True)
        return
    try:
        for line in workflows.log(name, node.pod, follow):
            if " argo=true" not in line:  # what Argo says of its own doings
                click.echo(f"{node.id}: {line}")
    except InputMissing:
        click.echo(f"{node.id}: the pod is gone; its log is in the bucket, under argo/{name}/{node.pod}", err=True)
