import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvlab.kernels import building

KERNEL = """
import numpy as np
from kvlab.kernels import cpu
x = np.ones((1, 4), np.float32)
for _ in range(2):
    cpu.swiglu(x, x)
    cpu.swiglu(x.astype(np.float64), x.astype(np.float64))
print(cpu.swiglu.stats.cache_path)
"""


def run(folder):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    root = str(Path(__file__).parents[2])
    env |= {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": root}
    return subprocess.run(
        [sys.executable, "-c", KERNEL], env=env, capture_output=True, text=True, check=True
    )


def test_kernels_say_once_that_they_are_compiled_and_nothing_when_they_were_kept(tmp_path):
    first = run(tmp_path)
    assert first.stderr.count("\n") == 1
    assert first.stderr.startswith("kvlab: compiling the compiled step for this machine, once")
    assert run(tmp_path).stderr == ""


def test_nothing_is_said_where_output_is_compared_or_of_other_functions(monkeypatch, capsys):
    def heard(module):
        function = SimpleNamespace(py_func=SimpleNamespace(__module__=module))
        announcer.on_start(SimpleNamespace(data={"dispatcher": function}))
        return capsys.readouterr().err

    announcer = building.Announcer()
    monkeypatch.setenv("PYTEST_VERSION", "9")
    assert heard("kvlab.kernels.cpu") == ""
    monkeypatch.delenv("PYTEST_VERSION")
    announcer = building.Announcer()
    assert heard("cpu") == heard("kvlab.kernels.floats") == ""
    assert "packed rows" in heard("kvlab.kernels.packed")
    assert heard("kvlab.kernels.packed") == "" != heard("kvlab.kernels.packing")


@pytest.mark.skipif(os.name == "nt", reason="folders have no modes there")
def test_where_nothing_can_be_kept_the_users_temporary_folder_serves(tmp_path, monkeypatch):
    def refuse(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(building.numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.setattr(building, "njit", refuse)
    building.keep()
    folder = tmp_path / f"kvlab-kernels-{os.getuid()}"
    assert building.numba.config.CACHE_DIR == os.environ["NUMBA_CACHE_DIR"] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert building.temporary() == str(folder)
    folder.chmod(0o777)  # others may have put code there
    other = Path(building.temporary())
    assert other != folder and stat.S_IMODE(other.stat().st_mode) == 0o700
    folder.rmdir()
    folder.symlink_to(other)
    assert building.temporary() not in (str(folder), str(other))
