"""The house: who imports whom. The street answers a prompt; folders beside it are its wings."""

import ast
import re
import subprocess
import sys
import warnings
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import kvlab

PACKAGE = Path(kvlab.__file__).parent
TESTS = Path(__file__).parent
OLD = sorted(path.stem for path in (PACKAGE / "old").glob("[!_]*.py"))
ENTRY = {"__init__", "__main__"}  # the package's own two, which stand before the street
# Rooms that use the engine; the engine does not know them.
USERS = {"course", "pocket", "shell", "view"}
# Who looks inside a model at work; `pocket.heads` examines what attention heads do.
WATCHERS = {"course", "shell", "pocket.heads"}
STANDARD_ONLY = [
    "__init__",
    "__main__",
    "shell.__init__",
    "files",
    "shell.bootstrap",
    "shell.lab",
    "shell.cli",
    "shell.examples",
    "shell.options",
    "shell.surroundings",
]

# Old names that do what they did, where the new ones do less by themselves.
AS_IT_WAS = {("prune_report", "run")}


def name_of(path):
    """A file as the module that it is: "cache", "prune.tokens", "prune.__init__"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


FILES = {
    name_of(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "old" not in path.relative_to(PACKAGE).parts
}
STREET = {name for name in FILES if "." not in name} - ENTRY
WINGS = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))} - {"old"}


def imports(path, top_level=False):
    """Names of all that a file imports, inside functions and for types alone as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(name):
    """The module that an imported name of ours is, or is in; None for the package's version and for
    what gives old names their new meaning."""
    inner = name.removeprefix("kvlab.")
    inner = kvlab._HOME.get(inner, inner)
    while inner:
        for module in (inner, f"{inner}.__init__"):
            if module in FILES:
                return module
        inner = inner.rpartition(".")[0]
    known = name == "kvlab.__version__" or name.startswith("kvlab.old.")
    return None if known else f"nothing that lives here: {name}"


GRAPH = {
    name: {module_of(other) for other in imports(path) if re.match(r"kvlab\.(?!old\.)", other)}
    - {None}
    for name, path in FILES.items()
}


def room(module):
    """The street's file or the folder that a module is in."""
    return module.split(".")[0]


def broken(importers, forbidden):
    """Imports of forbidden rooms by some modules."""
    return [
        f"{module} imports {other}"
        for module in importers
        for other in GRAPH[module]
        if forbidden(room(other)) and room(other) != room(module)
    ]


def circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return None


def test_no_module_imports_what_has_moved_or_never_was():
    strange = [f"{m} imports {o}" for m, others in GRAPH.items() for o in others if o not in FILES]
    assert strange == []


def test_no_circle_between_two_modules():
    assert circle(GRAPH) is None


def test_no_circle_between_two_rooms():
    rooms = {}
    for module, others in GRAPH.items():
        found = {room(other) for other in others}
        rooms.setdefault(room(module), set()).update(found - {room(module)})
    assert circle(rooms) is None


def test_the_street_imports_no_wing():
    """But for `hf`, which answers no prompt itself: it brings policies into others' models."""
    assert broken(STREET - {"hf"}, lambda other: other in WINGS) == []


def test_the_street_stands_in_reading_order():
    tree = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    read = re.findall(r"^  (\w+)\.py ", tree, re.M)
    assert set(read) == STREET and len(read) == len(STREET)
    for place, module in enumerate(read):
        ahead = (GRAPH[module] & STREET) - set(read[:place])
        assert ahead == set(), f"{module} imports {ahead}, which come after it"


def test_the_engine_knows_none_of_its_users():
    engine = [module for module in GRAPH if room(module) not in USERS | ENTRY]
    assert broken(engine, lambda other: other in USERS) == []


def test_kernels_import_nothing_of_ours_but_each_other():
    kernels = [module for module in GRAPH if room(module) == "kernels"]
    assert broken(kernels, lambda other: True) == []


def test_few_look_inside_a_model_at_work():
    looking = {module for module, others in GRAPH.items() if "measure.probe" in others}
    assert {module for module in looking if not {module, room(module)} & WATCHERS} == set()


@pytest.mark.parametrize("module", STANDARD_ONLY)
def test_set_up_needs_the_standard_library_alone(module):
    for name in imports(PACKAGE / f"{module.replace('.', '/')}.py", top_level=True):
        first = name.split(".")[0]
        if first == "kvlab":
            other = module_of(name)
            assert other is None or room(other) in ("shell", "files"), name
        else:
            assert first == "__future__" or first in sys.stdlib_module_names, name


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


def test_a_module_is_an_attribute_and_a_name_that_is_not_there_is_refused():
    code = "import kvlab; print(kvlab.quality.measure.__name__, kvlab.policies.snapkv.__name__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["measure", "snapkv"]
    with pytest.raises(AttributeError, match="module 'kvlab' has no attribute 'frobnicate'"):
        kvlab.frobnicate  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'frobnicate'"):
        from kvlab import frobnicate  # noqa: F401


def test_a_module_that_lacks_something_says_what(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("import no_such_package\n")
    monkeypatch.setattr(kvlab, "__path__", [*kvlab.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        kvlab.lacking  # noqa: B018


def test_what_was_called_policies_is_the_scores():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from kvlab.policies import snapkv

        from kvlab import policies
    scores = import_module("kvlab.prune.scores")
    assert policies is kvlab.policies is scores and snapkv is scores.snapkv


@pytest.mark.parametrize("name", [name for name in OLD if name != "policies"])
@pytest.mark.parametrize("line", ["import kvlab.{}", "from kvlab import {}", "kvlab.{}"])
def test_an_old_name_warns_once_where_it_is_used(name, line, tmp_path):
    assert not (PACKAGE / f"{name}.py").exists()
    user = tmp_path / "user.py"
    user.write_text("import kvlab\n\n" + line.format(name) + "\n" + line.format(name) + "\n")
    for module in [m for m in sys.modules if m == f"kvlab.{name}"]:
        del sys.modules[module]
    vars(kvlab).pop(name, None)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        exec(compile(user.read_text(), str(user), "exec"), {"__name__": "user"})
    (warning,) = seen
    assert warning.category is FutureWarning and (warning.filename, warning.lineno) == (
        str(user),
        3,
    )
    places = re.findall(r"kvlab(?:\.\w+)+", str(warning.message).partition(" has moved to ")[2])
    assert places and all(module_of(place) in FILES for place in places)
    given = vars(sys.modules[f"kvlab.{name}"])
    for place in places:
        home = vars(import_module(place))
        same = [one for one in home if not one.startswith("_") and (name, one) not in AS_IT_WAS]
        assert all(given[one] is home[one] for one in same)


def test_every_room_has_its_tests():
    for module in STREET:
        assert (TESTS / f"test_{module}.py").is_file(), module
    for wing in WINGS:
        assert any((TESTS / wing).glob("test_*.py")), wing


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone, and would collect only one of them."""
    names = [path.name for path in (PACKAGE.parent / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
