"""The site as it is built: strictly, from nothing but the checkout, with links that hold wherever it is put."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from click.testing import CliRunner
from mkdocs.exceptions import PluginError

from docs import figures, hooks, reference
from prefprobe.cli import main
from prefprobe.config import load_config
from prefprobe.errors import BadConfig
from prefprobe.settings import Config

ROOT = Path(__file__).parents[3]
NOWHERE = "http://127.0.0.1:9"
"""A proxy that answers nothing: whoever asks the network fails."""


class Page(HTMLParser):
    """What a page has and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        """What a browser fetches to show it."""
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        self.loads += [found[k] for k in ("src", "data") if k in found and tag != "a"]
        if tag == "link" and found.get("rel") not in ("next", "prev"):
            self.loads.append(found["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


def build(site: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE)
    env = os.environ | proxies | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([*command, "-d", str(site)], capture_output=True, text=True, check=False, env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """By path in the site. The page for what is not found is at every address, and so cannot link relatively."""
    found = {p.relative_to(site).as_posix(): p for p in sorted(site.rglob("*.html")) if p.name != "404.html"}
    return {name: Page(path.read_text("utf-8")) for name, path in found.items()}


def test_a_page_fetches_nothing_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    away = [f"{name}: {url}" for name, page in pages.items() for url in page.loads if re.match(r"\w+:|//", url)]
    assert [url for url in away if ": data:" not in url] == []
    styles = [p.name for p in site.rglob("*.css") if re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", p.read_text())]
    assert styles == []


def test_every_link_leads_somewhere_in_the_site(site: Path, pages: dict[str, Page]) -> None:
    broken = []
    for name, page in pages.items():
        for link in page.links:
            path, _, anchor = link.partition("#")
            if re.match(r"https?:|mailto:", link):
                continue
            target = name if not path else os.path.normpath(str(Path(name).parent / unquote(path)))
            known = pages[target].ids if target in pages else []
            if path.startswith("/") or not (site / target).exists() or (anchor and unquote(anchor) not in known):
                broken.append(f"{name}: {link}")
    assert len(pages) > 15
    assert broken == []


def test_no_id_stands_twice_in_a_page(pages: dict[str, Page]) -> None:
    twice = {name: sorted({i for i in page.ids if page.ids.count(i) > 1}) for name, page in pages.items()}
    assert {name: ids for name, ids in twice.items() if ids} == {}


def test_every_command_and_option_is_there(site: Path) -> None:
    _, *sections = re.split(r'<h2 id="([a-z-]+)"', (site / "commands.html").read_text("utf-8"))
    said = dict(zip(sections[::2], sections[1::2], strict=True))
    for _, path in reference.walk(main, ("prefprobe",)):
        shown = CliRunner().invoke(main, [*path[1:], "--help"]).output
        options = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", shown, re.MULTILINE)) - {"--help"}
        assert {o for o in options if not re.search(rf"<code>[^<]*{o}\b", said["-".join(path)])} == set(), path


def properties() -> list[tuple[str, dict[str, Any]]]:
    """Every key of every block, out of the JSON schema."""
    schema = Config.model_json_schema()
    blocks = [schema, *schema["$defs"].values()]
    return [(name, about) for block in blocks for name, about in block.get("properties", {}).items()]


def test_every_setting_is_there_with_what_it_means(pages: dict[str, Page], site: Path) -> None:
    keys = re.findall(r"<dt[^>]*><code>([\w.]+)</code>", (site / "settings.html").read_text("utf-8"))
    said = pages["settings.html"].text
    assert len(properties()) > 60
    assert [name for name, about in properties() if "description" not in about] == []
    meanings = [about["description"].replace("`", "") for _, about in properties()]
    assert [m for m in meanings if m.lower() not in said.lower()] == []
    assert {name for name, _ in properties()} == {key.rpartition(".")[2] for key in keys}


def test_every_variable_of_the_page_overrides_its_setting(
    pages: dict[str, Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = {"base_url": "http://h/v1", "model": "m", "prices": {"prompt": 1, "completion": 1}}
    values = yaml.safe_load((ROOT / "presets" / "demo.yaml").read_text("utf-8"))
    choices = {"engine": "api", "api": {**endpoint, "judge": {"model": "j"}}}
    preset = yaml.safe_dump({**values, "choices": choices, "topics": {"judge": {"by": "api", "api": endpoint}}})

    def loaded() -> Config | str:
        try:
            return load_config(Path("demo.yaml"), text=preset)
        except BadConfig as error:
            return str(error)

    plain = loaded()
    assert isinstance(plain, Config)
    variables = sorted(set(re.findall(r"\bPREFPROBE_\w+", pages["settings.html"].text)))
    assert len(variables) > 50
    for variable in variables:
        key = variable.removeprefix("PREFPROBE_").lower().replace("__", ".")
        with monkeypatch.context() as patch:
            patch.setenv(variable, json.dumps({"no": ["such", "value"]}))
            found = loaded()
        block, _, name = key.rpartition(".")
        if isinstance(found, Config):
            assert found != plain, variable
        else:  # of a key that its block does not take, the block speaks
            assert key in found or f"`{block}`: `{name}`" in found, f"{variable}: {found}"


def test_every_figure_is_shown(pages: dict[str, Page], site: Path) -> None:
    shown = "".join((site / name).read_text("utf-8") for name in pages)
    assert [name for name in figures.FIGURES if figures.FIGURES[name]()[:300] not in shown] == []
    assert not re.search(r"#fe00\d\d|#1b1e21", re.sub(r"<style.*?</style>", "", shown, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("[](gone.md) [](other.md#nowhere) [](/absolute.md)", ["gone.md", "nowhere", "absolute.md", "other.md"]),
        ("::: prefprobe.no_such_module", ["no_such_module"]),
    ],
)
def test_faults_in_a_page_stop_the_build(tmp_path: Path, page: str, said: list[str]) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n\n{page}\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    config = tmp_path / "mkdocs.yml"
    inherited = {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": "docs", "hooks": [], "nav": ["index.md"]}
    config.write_text(json.dumps(inherited))
    done = build(tmp_path / "site", config)
    assert done.returncode != 0
    assert [words for words in said if words not in done.stderr] == []


@pytest.mark.parametrize("marker", ["no such part", "figure none: words"])
def test_a_marker_that_stands_for_nothing_is_named(marker: str) -> None:
    with pytest.raises(PluginError, match=r"index\.md: there is no"):
        hooks.on_page_markdown(f"<!-- {marker} -->", SimpleNamespace(file=SimpleNamespace(src_uri="index.md")))
