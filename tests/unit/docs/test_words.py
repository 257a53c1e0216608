"""What README and documentation name is there: commands and their options, make targets, files, settings, versions."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from docs.reference import walk
from prefprobe import __version__
from prefprobe.cli import main
from prefprobe.settings import ChoiceSettings, Config

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = {" ".join(path): command for command, path in walk(main, ("prefprobe",))}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
OURS = {p.name for p in ROOT.iterdir() if p.name not in ("store", "build")}
"""The first part of a path in the checkout."""
ROOMS = {p.name for p in (ROOT / "prefprobe").iterdir()}
"""The first part of a path in the package, as ARCHITECTURE writes them."""
SOURCES = (".cff", ".ini", ".j2", ".md", ".py", ".sh", ".toml", ".txt")
"""Files with these suffixes are ours wherever a document names them."""


def code(page: str) -> list[str]:
    """What stands as code: each span, each line of a block without its comment."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.split(r"\s#\s", " ".join(said.split()))[0] for said in [*spans, *lines]]


def wrong(page: str) -> list[str]:
    """Every command, target and file that a page names and that is not there."""
    return [problem for said in code(page) for problem in (*bad_command(said), *bad_target(said), *bad_path(said))]


def bad_command(said: str) -> list[str]:
    if not re.match(r"(PREFPROBE_\w+=\S+ )*prefprobe( |$)", said):
        return []
    words = shlex.split(re.sub(r"^(PREFPROBE_\w+=\S+ )*", "", said).replace("[", " ").replace("]", " "))
    name = max((" ".join(words[:n]) for n in (1, 2, 3) if " ".join(words[:n]) in COMMANDS), key=len)
    command = COMMANDS[name]
    rest = words[len(name.split()) :]
    if isinstance(command, click.Group) and rest and rest[0].islower() and rest[0].isalpha():
        return [f"{said}: no such command"]
    options = {o for p in [*command.params, *main.params] for o in p.opts} | {"--help"}
    return [f"{said}: {name} has no {word}" for word in rest if word.startswith("-") and word not in options]


def bad_target(said: str) -> list[str]:
    if not re.match(r"make( |$)", said):
        return []
    words = [word for word in shlex.split(said)[1:] if "=" not in word]
    return [f"{said}: no target {word}" for word in words if word not in TARGETS]


def bad_path(said: str) -> list[str]:
    path = said.removeprefix("python ").split(" ")[0].rstrip("/")
    first, inside, _ = path.partition("/")
    if not re.fullmatch(r"[\w./<>*-]+", path) or path.startswith(("/", ".venv")):
        return []
    if (inside and first not in OURS | ROOMS) or (not inside and not path.endswith(SOURCES)):
        return []
    pattern = re.sub(r"<\w+>", "*", path)
    places = ([ROOT] if first in OURS or not inside else []) + [ROOT / "prefprobe"]
    found = any(any(place.glob(pattern if inside else f"**/{pattern}")) for place in places)
    return [] if found else [f"{said}: no such file"]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(path: Path) -> None:
    made = "store.md"  # names files that a study makes, which tests/unit/docs/test_store_page.py looks for
    assert path.name == made or wrong(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("prefprobe runs presets/demo.yaml", "no such command"),
        ("prefprobe cluster wait", "no such command"),
        ("prefprobe run presets/demo.yaml --sets a=b", "has no --sets"),
        ("prefprobe export model --bootstrap 3", "has no --bootstrap"),
        ("make demos", "no target demos"),
        ("make images pull REGISTRY=r", "no target pull"),
        ("prefprobe/no/such.py", "no such file"),
        ("findings/judge.py", "no such file"),
        ("benchmarks/<name>.txt", "no such file"),
        ("nothing.py", "no such file"),
    ],
)
def test_what_is_not_there_is_found_out(said: str, problem: str) -> None:
    assert problem in wrong(f"See `{said}`.")[0]
    assert problem in wrong(f"Do\n\n```\n{said}   # so\n```\n")[0]


def test_pages_name_commands_targets_and_files_at_all() -> None:
    said = [line for path in PAGES for line in code(path.read_text("utf-8"))]
    assert sum(line.startswith("prefprobe ") for line in said) > 25
    assert sum(line.startswith("make ") for line in said) > 15
    assert sum("/" in line and not bad_path(line) and (ROOT / line).exists() for line in said) > 30


def test_settings_that_presets_on_pages_name_are_settings() -> None:
    blocks = [b for path in PAGES for b in re.findall(r"^```yaml\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)]
    presets = [values for values in map(yaml.safe_load, blocks) if not {"experiment", "labels"} & values.keys()]
    assert presets
    for values in presets:
        assert [key for key in values if key not in Config.model_fields] == []
        for key, value in values.items():
            Config.model_fields[key].annotation.model_validate(value)  # type: ignore[union-attr]


def test_every_endpoint_has_an_example_that_is_one_and_says_whether_it_was_run() -> None:
    page = (ROOT / "docs" / "endpoints.md").read_text("utf-8")
    parts = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    named = ["OpenAI", "Azure", "OpenRouter", "Together", "vLLM", "SGLang", "llama.cpp", "LiteLLM", "Ollama"]
    named += ["transformers serve"]
    assert set(named) < set(parts)
    for name in named:
        (block,) = re.findall(r"^```yaml\n(.*?)^```", parts[name], re.MULTILINE | re.DOTALL)
        choices = ChoiceSettings(**yaml.safe_load(block)["choices"])
        assert choices.api is not None
        assert "https://" in parts[name].replace(block, "")  # a source
        assert ("*Not run here" in parts[name]) == (name not in ("llama.cpp", "transformers serve")), name
    azure = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", parts["Azure"], re.MULTILINE | re.DOTALL)[0])["choices"]
    assert ChoiceSettings(**azure).keyed()["api"]["query"] == {"api-version": "2024-10-21"}


def test_the_citation_is_of_this_version() -> None:
    about: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (about["cff-version"], str(about["version"]), about["license"]) == ("1.2.0", __version__, "Apache-2.0")
    assert about["authors"] == [{"name": "The prefprobe authors"}]


def test_workflows_run_what_there_is_with_pinned_actions_and_few_rights() -> None:
    (workflow,) = [yaml.safe_load(path.read_text("utf-8")) for path in ROOT.glob(".github/workflows/*.yml")]
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for step in steps:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", step["uses"])
        else:
            assert bad_target(step["run"]) == []
            assert step["run"].startswith("make ") or (ROOT / step["run"]).is_file()
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert workflow["jobs"]["check"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_hooks_before_a_commit_are_the_tools_of_make_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = {hook["entry"].removeprefix(".venv/bin/") for hook in hooks[0]["hooks"]}
    lint = set(re.findall(r"^\$\(BIN\)/(.+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert len(lint) == 4
    assert lint <= entries
