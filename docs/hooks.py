"""What MkDocs calls while it builds the site: parts of pages that the code states are put in, so that none can go stale.

A line `<!-- commands -->` in a page stands for a part in `reference.PARTS`, `<!-- figure chain: words -->` for a figure in
`figures.FIGURES` with those words under it. A page for each room of the library is made from its modules' docstrings.
"""

import html
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # MkDocs loads a hook by its path; the site is of the package that lies beside it

from docs import figures, reference  # noqa: E402

ROOMS = {
    "tasks": ("Tasks", "Reading tasks, and freezing disjoint sets of them."),
    "choices": ("Choices", "What a choice is, who makes it, how an answer is read, and which pair is asked next."),
    "thurstonian": ("Utilities", "From choices to utilities with errors."),
    "activations": ("Activations", "Everything that needs torch: loading a model, and its residual stream."),
    "features": ("Features", "What a probe reads that is no model's: sentence encoders and controls."),
    "probes": ("Probes", "Ridge probes, and their tests on new tasks and on new topics."),
    "shift": ("Shifts", "What a system prompt changes in choices and in probe scores."),
    "findings": ("Findings", "How a claim is judged."),
    "own": ("Files of one's own", "What the steps say, of features, utilities and points in files."),
    "study": ("Studies", "The graph of steps, and running it against a store."),
    "store": ("The store", "Keys, manifests and files, in a folder or in a bucket."),
}
"""Rooms of the library that have a page: title, and what is in them."""

_PART = re.compile(r"^<!-- (?:figure (?P<figure>[a-z -]+): (?P<words>.+)|(?P<part>[a-z ]+)) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every room."""
    for room, (title, about) in ROOMS.items():
        folder = ROOT / "prefprobe" / room
        modules = [p.relative_to(ROOT).with_suffix("") for p in sorted(folder.rglob("*.py")) if p.stem[0] != "_"]
        text = [f"# {title}", about, *(f"::: {'.'.join(module.parts)}" for module in modules)]
        files.append(File.generated(config, f"api/{room}.md", content="\n\n".join(text)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts in what a page's markers stand for."""

    def part(match: re.Match[str]) -> str:
        name = match["figure"] or match["part"]
        known: Any = figures.FIGURES if match["figure"] else reference.PARTS
        if name not in known:
            raise PluginError(f"{page.file.src_uri}: there is no {name!r}, only {', '.join(known)}.")
        if not match["figure"]:
            return str(known[name]())
        return f"<figure>{known[name]()}<figcaption>{html.escape(match['words'])}</figcaption></figure>"

    return _PART.sub(part, markdown)
