"""`import prefprobe`: about fifteen names, each where it says it is, and nothing loaded before it is used."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import prefprobe

NEED_TORCH = {"load_model", "extract_activations", "LocalEngine"}
NAMES = sorted(set(prefprobe.__all__) - {"__version__"})


def test_there_are_few_names_and_dir_shows_them() -> None:
    assert 15 <= len(NAMES) <= 20
    assert set(NAMES) <= set(dir(prefprobe))
    assert len(set(prefprobe.__all__)) == len(prefprobe.__all__)


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, prefprobe\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'pyarrow', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "prefprobe.Comparisons\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.model] * (name in NEED_TORCH)) for name in NAMES]
)
def test_a_name_has_a_docstring_and_types(name: str) -> None:
    found = getattr(prefprobe, name)
    assert found.__name__ == name
    assert found.__doc__
    assert len(found.__doc__) > 40
    function = found.__init__ if inspect.isclass(found) else found
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.name == "self" or parameter.annotation is not inspect.Parameter.empty, parameter
        if name != "Run":  # which is about a store
            needs = parameter.default is parameter.empty and parameter.name in ("store", "progress", "objects", "job")
            assert not needs, parameter


def test_what_type_checkers_see_is_what_is_there() -> None:
    tree = ast.parse(Path(prefprobe.__file__).read_text("utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    seen: dict[str | None, str] = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        assert statement.module is not None
        seen |= {alias.asname: statement.module.removeprefix("prefprobe.") for alias in statement.names}
    assert seen == prefprobe._HOMES


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fit'"):
        prefprobe.fit  # noqa: B018


def test_a_package_of_the_same_name_would_hide_a_function() -> None:
    folder = Path(prefprobe.__file__).parent
    rooms = {path.stem for path in folder.iterdir()}
    assert not rooms & set(NAMES)
