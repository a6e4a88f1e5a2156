"""Submissions that are broken or mean harm, and what each must get.

Each is the learner's notebook with 6.1 answered rightly (3 points) and 6.3 by the attack (one of
them 6.4), or a file that is odd as a whole. A case is (what it does, builder, points, what the
report says).
"""

import copy
import json
from pathlib import Path

from kvlab.course.exercises import ALL
from kvlab.course.grading import notebooks
from kvlab.shell.cli import ROOT

ANSWERS = {e.number: e.second for e in ALL if e.chapter == "6"}
STUBS = ROOT / "exercises" / "06_kv_cache.ipynb"


def audit(body, before=""):
    """An answer to 6.3 that runs `body` when it is called."""
    lines = "\n".join("    " + line for line in body.splitlines())
    return f"import os, sys, torch\n{before}\n\ndef audit(*args):\n{lines}\n"


def filled(**sources):
    """The learner's notebook with these answer cells, by grade id."""
    notebook = copy.deepcopy(notebooks.read(STUBS))
    for cell in notebook["cells"]:
        cell["source"] = sources.get(notebooks.grade_id(cell), cell["source"])
    return notebook


def attack(body, before=""):
    return lambda: filled(q6_1=ANSWERS["6.1"], q6_3=audit(body, before))


def changed(change):
    """The notebook with 6.1 answered, changed as a whole."""

    def build():
        notebook = filled(q6_1=ANSWERS["6.1"])
        return change(notebook) or notebook

    return build


def edit_checks(notebook):
    for cell in notebook["cells"]:
        if notebooks.grade_id(cell).endswith("_check"):
            cell["source"] = "print('passed: 20 of 20')"


def delete_cells(notebook):
    notebook["cells"] = [
        c for c in notebook["cells"] if notebooks.grade_id(c) not in ("q6_2", "q6_1_check")
    ]


def duplicate(notebook):
    stub = next(c for c in notebooks.read(STUBS)["cells"] if notebooks.grade_id(c) == "q6_1")
    notebook["cells"].append(stub)


def reorder(notebook):
    notebook["cells"].reverse()


def strip_metadata(notebook):
    for cell in notebook["cells"]:
        cell["metadata"] = {}


def other_kernel(notebook):
    notebook["metadata"]["kernelspec"] = {"name": "ir", "language": "R", "display_name": "R"}


def other_chapter(notebook):
    for cell in notebook["cells"]:
        if notebooks.grade_id(cell):
            cell["metadata"]["nbgrader"]["grade_id"] = "q99_1"
            cell["source"] = "something_else = 1"


def raise_points(notebook):
    for cell in notebook["cells"]:
        if notebooks.grade_id(cell):
            cell["metadata"]["nbgrader"]["points"] = 1000


def many_cells(notebook):
    stub = next(c for c in notebooks.read(STUBS)["cells"] if notebooks.grade_id(c) == "q6_1")
    notebook["cells"] += [stub] * 30_000


def magic(notebook):
    for cell in notebook["cells"]:
        if notebooks.grade_id(cell) == "q6_1":
            cell["source"] = "%matplotlib inline\n!pip list\n" + "".join(cell["source"])


def text(content):
    return lambda: content


# What must not be found, by its last folder and its name with or without Python's own additions:
# a folder called kvlab is no sign, for `git clone` makes one and installed packages lie in it.
REFERENCES = {
    "ch06": ("q6_",),
    "kvlab": ("cache.",),
    **dict.fromkeys(("solutions", "exercises", "chapters"), ("06_kv_cache.",)),
}
LOOK = f"""found = []
for folder, folders, files in os.walk(TOP):
    if folder.startswith(('/proc', '/sys')): continue
    names = {REFERENCES}.get(folder.removesuffix('/__pycache__').rpartition('/')[2], ())
    found += [folder + '/' + f for f in files if f.startswith(names)]"""
SEARCH = LOOK.replace("TOP", "'/'") + "\nraise ValueError(f'found {found}')"

WRITE = f"""done = []
for place in ({str(ROOT / "solutions")!r}, {str(ROOT)!r}, '/', '/etc', '/usr', '/root', '/var/tmp',
              sys.prefix, os.path.dirname(torch.__file__)):
    try:
        open(place + '/kvlab-was-here', 'w').write('x')
        done.append(place)
    except OSError:
        pass
raise ValueError(f'wrote {{done}}')"""

SOCKET = """import socket
said = []
for host, port in (('127.0.0.1', PORT), ('192.0.2.1', 80)):
    try:
        socket.create_connection((host, port), 2)
        said.append(host)
    except OSError:
        pass
raise ValueError(f'reached {said}')"""

PROC = """pids = [p for p in os.listdir('/proc') if p.isdigit()]
lines = [open(f'/proc/{p}/cmdline').read() for p in pids]
for p in pids:
    try:
        os.listdir(f'/proc/{p}/root')
    except PermissionError:
        pass
own = open('/proc/self/cmdline').read()  # of which the one that starts answers has a copy
raise ValueError(f'{len(pids)} process, grader seen: {any(l != own for l in lines)}')"""

PATCH_TORCH = """import torch as t
for name in ('equal', 'isclose', 'allclose', 'eq'):
    setattr(t, name, lambda *a, **k: t.tensor(True))
t.Tensor.__eq__ = t.Tensor.equal = lambda *a: True"""

PATCH_NUMPY = """import numpy
numpy.array_equal = numpy.allclose = numpy.isclose = lambda *a, **k: True
numpy.ndarray = type('ndarray', (), {'__eq__': lambda *a: True})"""

PATCH_PYTEST = """try:
    import _pytest.python, doctest, unittest
    _pytest.python.Function.runtest = lambda *a: None
    doctest.DocTestRunner.run = lambda *a, **k: None
    unittest.TestCase.run = lambda *a, **k: None
except ImportError:
    pass"""

PATCH_IPYTHON = """import ast
from IPython import get_ipython
class NoAsserts(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(NoAsserts())"""

FORGE = """import gc, json
for thing in gc.get_objects():
    if type(thing).__name__ == 'Talk':
        wire = sys.modules['kvlab.course.sandbox.wire']
        thing._send(wire.pack({'state': 'passed', 'value': 'reuses', 'echo': [None, *args[1:]]}))
return 'reuses'"""

EVERYTHING = """class Everything:
    def __eq__(self, other): return True
    def __getattr__(self, name): return Everything()
    def __iter__(self): return iter([Everything()] * 3)"""

NO_RULES = """sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'Refuse']
import importlib
importlib.import_module('kvlab.course.ch06')
return 'reuses'"""

SNOOP = """import gc, inspect
seen, frame = [], inspect.currentframe()
while frame:
    seen += [n for n in frame.f_locals if n in ('case', 'law', 'exercise', 'seed', 'subject')]
    frame = frame.f_back
seen += [type(o).__name__ for o in gc.get_objects()
         if type(o).__name__ in ('Exercise', 'Law', 'Subject', 'Case', 'Verdict')]
raise ValueError(f'seen {seen}')"""

FLOOD = """import threading, time
def flood():
    while True:
        for fd in range(3, 40):
            try:
                os.write(fd, b'passed' * 100)
            except OSError:
                pass
threading.Thread(target=flood, daemon=True).start()
time.sleep(1)
return 'reuses'"""

LATE = """import atexit, threading, time
def late():
    time.sleep(0.2)
    os.write(1, b'passed')
    args[0].run(None)
atexit.register(late)
threading.Thread(target=late).start()
return 'nothing'"""

LIAR = """class Meta(type):
    __hash__ = type.__hash__
    def __eq__(self, other): return True
    def __instancecheck__(self, other): return True
class Liar(metaclass=Meta):
    __module__ = 'numpy'
    __hash__ = object.__hash__
    def __eq__(self, other): return True
    def __array_function__(self, *a, **k): return True"""

PTRACE = """import ctypes
libc = ctypes.CDLL(None)
done = [libc.ptrace(16, pid, 0, 0) == 0 for pid in (os.getppid(), 1, 2, 3)]
raise ValueError(f'attached {sum(done)}')"""

COVER = f"""import ctypes
libc = ctypes.CDLL(None)
libc.unshare(0x10020000)
for path in ({str(ROOT / "kvlab")!r}, {str(ROOT / "solutions")!r}, '/'):
    libc.umount2(path.encode(), 2)
    libc.mount(b'none', path.encode(), b'tmpfs', 0, None)
    libc.mount({str(ROOT)!r}.encode(), b'/answer', None, 4096, None)
found = [p for p in ({str(ROOT / "kvlab" / "cache.py")!r}, '/answer/kvlab/cache.py')
         if os.path.exists(p)]
raise ValueError(f'found {{found}}')"""

CUSTOMIZE = """for name in ('sitecustomize', 'usercustomize', 'torch', 'kvlab/course/worker'):
    for place in ('.', os.environ['HOME'], *sys.path):
        try:
            os.makedirs(os.path.dirname(f'{place}/{name}.py'), exist_ok=True)
            open(f'{place}/{name}.py', 'w').write("print('passed')")
        except OSError:
            pass
return 'nothing'"""

LINES = 'raise ValueError("x).\\n\\n6.3 Prove the reuse: passed.\\n  total    20 of 20")'

FILL = """

def cached_generate(model, tokens_BS, n_new):
    caches = []
    while True:
        caches.append(model.new_cache(8, 500))
"""

ENDED = "ended its own process"
CASES = [
    ("loops for ever", attack("while True: pass"), 3, "processor time|longer than"),
    ("a fork bomb", attack("while True: os.fork()"), 3, "unavailable|stopped|ended|killed"),
    ("`os._exit(0)`", attack("os._exit(0)"), 3, ENDED),
    ("`sys.exit()`", attack("sys.exit()"), 3, "raised SystemExit"),
    ("a memory bomb in torch", attack("return torch.ones(2**33)"), 3, "may take 1024 MiB"),
    ("a memory bomb in lists", attack("x = []\nwhile True: x.append(bytes(2**24))"), 3,
     "MemoryError"),
    ("prints 1 GB", attack("return 'nothing'", "for _ in range(1000): print('x' * 10**6)"), 3,
     "expected"),
    ("returns 256 MB", attack("return 'x' * 2**28"), 3,
     "MiB came|cannot be sent|longer than"),
    ("returns a list that holds itself", attack("x = []\nx.append(x)\nreturn x"), 3,
     "cannot be sent"),
    ("fills the disk", attack("for i in range(10**6): open(f'f{i}', 'wb').write(bytes(2**19))"), 3,
     "OSError.*No space"),
    ("writes a 1 GB file", attack("open('big', 'wb').write(bytes(2**29))"), 3, "OSError.*large"),
    ("returns an object equal to everything", attack("return Everything()", EVERYTHING), 3,
     "of type Everything"),
    ("patches torch", attack("return 'nothing'", PATCH_TORCH), 3, "expected"),
    ("patches numpy", attack("return 'nothing'", PATCH_NUMPY), 3, "expected"),
    ("patches pytest, doctest and unittest", attack("return 'nothing'", PATCH_PYTEST), 3,
     "expected"),
    ("patches IPython", attack("return 'nothing'", PATCH_IPYTHON), 3, "expected"),
    ("forges the grader's messages", attack(FORGE), 3, "expected"),
    ("looks for the references on the disk", attack(SEARCH), 3, r"found \[\]"),
    ("imports the references", attack("import kvlab.course.ch06"), 3, "may not be used"),
    ("imports them after removing the rule", attack(NO_RULES), 3, "No module named|ImportError"),
    ("imports the module under study", attack("from kvlab import KVCache"), 3, "may not be used"),
    ("reads `/proc`", attack(PROC), 3, "FEW process, grader seen: False"),
    ("reads the parent's memory",
     attack("open(f'/proc/{os.getppid()}/mem', 'rb').read(1)"), 3,
     "FileNotFoundError|PermissionError"),
    ("kills every process",
     attack("os.kill(os.getppid(), 9)\nos.kill(-1, 9)\nraise ValueError('alive')"), 3,
     "ProcessLookupError|killed|alive"),
    ("writes outside its folder", attack(WRITE), 3, r"wrote \[\]"),
    ("opens a socket", attack(SOCKET), 3, r"reached \[\]"),
    ("looks for expected values in frames and in gc", attack(SNOOP), 3, r"seen \[\]"),
    ("writes into every open file from a thread", attack(FLOOD), 3, "broke off|makes no sense"),
    ("goes on after its answer (thread, atexit)", attack(LATE), 3,
     "expected|broke off|new thread|cannot be sent"),
    ("a metaclass equal to every type", attack("return Liar()", LIAR), 3, "your code returned"),
    ("attaches to other processes", attack(PTRACE), 3, "attached 0"),
    ("lifts the cover from the course in namespaces of its own", attack(COVER), 3,
     r"found \[\]"),
    ("leaves modules for the next answer to import", attack(CUSTOMIZE), 3, "expected"),
    ("crashes the interpreter", attack("import ctypes\nctypes.string_at(0)"), 3, "signal 11"),
    ("an error that looks like the grader's report", attack(LINES), 3, "raised ValueError: x"),
    ("fills the judge's memory with caches it was lent",
     lambda: filled(q6_1=ANSWERS["6.1"], q6_4=FILL), 3, "beyond any need"),
    ("uses what it was lent for ever", attack("while True: args[0].run(None)"), 3,
     "more than 5000 times|processor time|longer than"),
    ("source that breaks a parser", lambda: filled(q6_1=ANSWERS["6.1"], q6_3="(" * 10**5), 3,
     "does not run"),
    ("a link to the solution", lambda: ROOT / "solutions" / "06_kv_cache.ipynb", 0, "is a link"),
    ("33 MB of widgets", text("[" + "0," * 2**24 + "0]" + " " * 2**20), 0, "is not read"),
    ("30,000 more cells of one id", changed(many_cells), 3, "more than once"),
    ("raises its points in the metadata", changed(raise_points), 3, ""),
    ("edited check cells", changed(edit_checks), 3, ""),
    ("deleted cells", changed(delete_cells), 3, "no answer cell for 6.2"),
    ("an answer cell twice, the second empty", changed(duplicate), 3, "more than once"),
    ("cells in another order", changed(reorder), 3, ""),
    ("stripped metadata", changed(strip_metadata), 3, "lost its metadata"),
    ("lines with % and !", changed(magic), 3, ""),
    ("wrong kernel (R)", changed(other_kernel), 3, "is for R"),
    ("a notebook of another chapter", changed(other_chapter), 0, "no answer cell of any"),
    ("not JSON", text("this is no notebook"), 0, "not JSON"),
    ("an empty file", text(""), 0, "not JSON"),
    ("JSON, but no notebook", text('{"cells": null}'), 0, "no list of cells"),
    ("JSON nested 100,000 deep", text("[" * 10**5), 0, "not JSON|too deep"),
]  # fmt: skip


def build(folder, port):
    """Write all of them, one folder each, and two honest ones; names in the order of `CASES`."""
    honest = {
        "an honest neighbour": notebooks.read(ROOT / "solutions" / "06_kv_cache.ipynb"),
        "another": filled(**{f"q{n.replace('.', '_')}": s for n, s in ANSWERS.items()}),
    }
    made = [(name, case()) for name, case, _, _ in CASES] + list(honest.items())
    for i, (_, content) in enumerate(made):
        path = folder / f"student{i:02d}" / "06_kv_cache.ipynb"
        path.parent.mkdir()
        if isinstance(content, Path):
            path.symlink_to(content)
            continue
        content = content if isinstance(content, str) else json.dumps(content)
        path.write_text(content.replace("PORT", str(port)))
    return [name for name, _ in made]
