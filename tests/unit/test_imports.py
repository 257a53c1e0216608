"""What may be imported where: no torch on CPU nodes, nothing heavy to print help."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from prefprobe.study.graph import STEPS

BLOCK = """
import sys, importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'transformers', 'sentence_transformers', 'peft'):
            raise ImportError(f'{name} is not on CPU nodes')
sys.meta_path.insert(0, Block())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("step", sorted(STEPS))
def test_every_job_imports_without_torch(step: str) -> None:
    done = python(f"{BLOCK}\nimport prefprobe.jobs.{step.replace('-', '_')}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["encoder", "torch_encoder"])  # which embed imports only when it has a text to embed
def test_the_encoders_import_without_torch(module: str) -> None:
    done = python(f"{BLOCK}\nimport prefprobe.features.{module}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["activations.prompts", "plan.model"])
def test_prompts_and_their_lengths_import_without_torch(module: str) -> None:
    done = python(f"{BLOCK}\nimport prefprobe.{module}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["probing", "scoring", "shifts"])
def test_commands_for_files_of_ones_own_import_without_torch(module: str) -> None:
    done = python(f"{BLOCK}\nimport prefprobe.own.{module}")
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['prefprobe', '--help']\nfrom prefprobe.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "explain" in done.stdout


ROOT = Path(__file__).parents[2]


def test_the_contract_knows_every_job_and_every_folder_is_a_package() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (jobs,) = [c["modules"] for c in contracts if c["type"] == "independence"]
    assert jobs == [f"prefprobe.jobs.{name.replace('-', '_')}" for name in sorted(STEPS)]
    modules = [*(ROOT / "prefprobe").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
    assert {path.parent for path in modules if not (path.parent / "__init__.py").is_file()} == set()


@pytest.mark.parametrize("folder", ["prefprobe", "jobs"])
def test_no_module_goes_round_the_contract(folder: str) -> None:
    """By the front door, or by the name that jobs/ has in the checkout."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not {"prefprobe", "jobs"} & {alias.name.split(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] != "jobs", path
                assert node.module != "prefprobe" or {alias.name for alias in node.names} == {"__version__"}, path
