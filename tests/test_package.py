"""The house: what imports what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kvlab

PACKAGE = Path(kvlab.__file__).parent
FLOORS = {
    "files": 0, "config": 0, "ops": 0, "rows": 0, "tokenizer": 0, "cache": 1, "attention": 2,
    "prune": 2, "packed": 2, "policies": 3, "model": 3, "loading": 4, "exporting": 5, "fused": 4,
    "int8": 4, "generation": 5, "graphs": 6, "hf": 6, "quality": 6, "laws": 7, "probe": 7,
    "measure": 7,
}  # fmt: skip
STANDARD_ONLY = ["__init__", "__main__", "bootstrap", "files", "lab", "cli"]


def imports(path, top_level=False):
    """Names of the modules that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inner(path):
    """Rooms of kvlab that a file imports: "cache", "course", ..."""
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("kvlab.")}
    return {kvlab._HOME.get(room, room) for room in rooms}


@pytest.mark.parametrize("module", FLOORS)
def test_the_engine_imports_only_downward(module):
    for other in inner(PACKAGE / f"{module}.py") - {"__version__"}:
        if other == "kernels" and FLOORS[module] > 1:
            continue
        assert other in FLOORS, f"{module} imports {other}, which is not in the engine"
        assert FLOORS[other] < FLOORS[module], f"{module} imports {other}"


def test_kernels_import_nothing_of_ours_but_each_other():
    for path in (PACKAGE / "kernels").glob("*.py"):
        assert inner(path) <= {"kernels"}, path.name


def test_nothing_of_the_engine_or_the_pocket_model_watches_itself():
    pocket = set((PACKAGE / "pocket").glob("*.py")) - {PACKAGE / "pocket" / "inside.py"}
    for path in [*(PACKAGE / f"{m}.py" for m in FLOORS), *pocket]:
        assert "probe" not in inner(path), path.name


@pytest.mark.parametrize("module", STANDARD_ONLY)
def test_set_up_needs_the_standard_library_alone(module):
    for name in imports(PACKAGE / f"{module}.py", top_level=True):
        room = name.split(".")[0]
        assert room in {"kvlab", "__future__"} or room in sys.stdlib_module_names, name


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys; import kvlab; heavy = {'torch', 'numpy', 'tokenizers'}; "
        "print([m for m in sys.modules if m in heavy or m.startswith('kvlab.')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in kvlab.__all__:
        assert getattr(kvlab, name) is not None
    assert set(kvlab.__all__) <= set(dir(kvlab))
    with pytest.raises(AttributeError, match="frobnicate"):
        kvlab.frobnicate  # noqa: B018


def test_every_module_has_its_tests():
    tests = Path(__file__).parent
    for module in [
        *FLOORS,
        "cli",
        "demo",
        "doctor",
        "bootstrap",
        "lab",
        "progress",
        "prune_report",
    ]:
        assert (tests / f"test_{module}.py").is_file(), module
