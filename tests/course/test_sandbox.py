"""The sandbox itself, at every level that this machine can show."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kvlab.course.author import LentFunction
from kvlab.course.sandbox import walls
from kvlab.course.sandbox.answer import (
    AnswerRaised,
    LocalAnswer,
    NotData,
    Stopped,
    Unavailable,
)
from kvlab.course.sandbox.limits import Limits
from kvlab.course.sandbox.nursery import Nursery
from kvlab.course.sandbox.remote import RemoteAnswer
from kvlab.course.sandbox.walls import LEVELS
from kvlab.shell.cli import ROOT

ECHO = "import os, sys, torch\nclass f:\n    def __new__(cls, code): return eval(code)\n"


def works(name):
    if name == "clock" or (name == "limits" and os.name == "posix"):
        return True
    return sys.platform == "linux" and walls._works(name)


@pytest.fixture(scope="module", params=list(LEVELS))
def nursery(request):
    if not works(request.param):
        pytest.skip(f"this machine has no {request.param}")
    with Nursery(LEVELS[request.param], Limits(cpu_seconds=5)) as made:
        yield made


def enough_said(nursery):
    """Windows' way starts Python anew for each answer: seconds, and no other path through it."""
    if nursery.level.name == "clock":
        pytest.skip("shown at the other levels")


def evaluate(nursery, code, allows=(), forbids=()):
    with RemoteAnswer(nursery, ECHO, "f", allows=allows, forbids=forbids) as answer:
        return answer(code)


def test_data_goes_in_and_comes_back_at_every_level(nursery):
    source = "import torch\ndef f(x, y): return [x + y, 3, None, 'text', [True, 0.5]]"
    with RemoteAnswer(nursery, source, "f") as answer:
        total, *rest = answer(torch.ones(2, 3), torch.ones(3))
    assert torch.equal(total, 2 * torch.ones(2, 3)) and rest == [3, None, "text", [True, 0.5]]


def test_the_environment_and_the_folder_are_bare(nursery, monkeypatch):
    monkeypatch.setenv("KVLAB_SECRET", "42")
    code = "[sorted(os.environ), os.listdir('.'), os.environ['HOME'], os.getcwd()]"
    names, files, home, here = evaluate(nursery, code)
    assert "KVLAB_SECRET" not in names and files == []
    assert os.path.realpath(home) == os.path.realpath(here)
    assert evaluate(nursery, "sys.flags.utf8_mode") == 1  # any text can be printed


def test_imports_that_answer_the_question_are_refused(nursery):
    enough_said(nursery)
    with pytest.raises(AnswerRaised, match=r"kvlab\.cache may not be used"):
        evaluate(nursery, "__import__('kvlab.cache')")
    with pytest.raises(AnswerRaised, match="wave may not be used"):
        evaluate(nursery, "__import__('wave')", forbids=("wave",))
    for code in ("__import__('numpy')", "__import__('numpy.linalg')"):  # torch has loaded it
        with pytest.raises(AnswerRaised, match="may not be used"):
            evaluate(nursery, code, forbids=("numpy",))


def test_what_one_exercise_allows_is_shown_to_its_answers_only(nursery):
    """One nursery serves exercises of all kinds, in any order."""
    enough_said(nursery)
    code = "[n for n in sorted(sys.modules) if n.startswith('kvlab') and 'course' not in n]"
    for name in ("kvlab.ops", "kvlab.checks", "kvlab.ops"):
        found = evaluate(nursery, f"__import__({name!r}) and {code}", allows=(name,))
        assert found == ["kvlab", name]
    with pytest.raises(AnswerRaised, match=r"kvlab\.ops may not be used"):
        evaluate(nursery, "__import__('kvlab.ops')")


@pytest.mark.parametrize(
    "call",
    [
        "torch.cat([torch.ones(2)] * 2)",
        "torch.ops.aten.cat([torch.ones(2)] * 2)",
        "torch.cat.__call__([torch.ones(2)] * 2)",
        "torch._C._VariableFunctions.cat([torch.ones(2)] * 2)",
        "torch.concat([torch.ones(2)] * 2)",
        "torch.ops.aten.cat.default([torch.ones(2)] * 2)",
        "torch.vstack([torch.ones(2)] * 2)",
        "[torch._C.DisableTorchFunction().__enter__(), torch.cat([torch.ones(2)] * 2)]",
        "torch.jit.CompilationUnit('def f(a):\\n return torch.cat([a, a])\\n').f(torch.ones(2))",
    ],
)
def test_a_forbidden_call_of_torch_is_refused_however_it_is_reached(call):
    """In a thread of its own: one of them switches off, and not on again, what torch asks of it."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(LocalAnswer(eval, forbids=("cat",)), call)
        with pytest.raises(AnswerRaised, match="cat may not be used|TorchScript interpreter"):
            asked.result()


def test_an_answer_that_ends_itself_says_so_and_the_next_one_works(nursery):
    with pytest.raises(Stopped, match=r"ended its own process \(exit code 7\)"):
        evaluate(nursery, "os._exit(7)")
    if nursery.level.name != "clock":
        assert evaluate(nursery, "1 + 1") == 2


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_an_error_that_would_end_a_program_is_an_error_of_the_answer(nursery, error):
    with pytest.raises(AnswerRaised, match=error.split("(")[0]):
        evaluate(nursery, f"(_ for _ in ()).throw({error})")


def test_check_leaves_an_interrupt_to_the_reader_and_no_other_end():
    with pytest.raises(KeyboardInterrupt):
        LocalAnswer(eval)("(_ for _ in ()).throw(KeyboardInterrupt())")
    with pytest.raises(AnswerRaised, match="SystemExit: 3"):
        LocalAnswer(eval)("(_ for _ in ()).throw(SystemExit(3))")


def test_what_is_lent_is_given_the_same_in_check_and_in_grade(nursery):
    """Arrays, numbers of numpy's and views are data, whoever asks."""
    enough_said(nursery)
    source = """
import collections, numpy as np, torch
def f(lent):
    kinds = [np.ones(2), np.int64(3), np.float32(0.5), (1, 2), collections.deque([1]), range(2),
             torch.nn.Parameter(torch.ones(1)), torch.ones(2, 2).T]
    return [lent(one) for one in kinds] + [lent(x=np.ones(1))]
"""
    names, lent = {}, LentFunction(lambda x: f"{type(x).__name__} {x}")
    exec(source, names)
    with RemoteAnswer(nursery, source, "f") as answer:
        assert answer(lent) == LocalAnswer(names["f"])(lent)


def test_an_answer_may_use_what_is_lent_from_several_threads(nursery):
    source = """
from concurrent.futures import ThreadPoolExecutor
def f(square):
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(square, range(300)))
"""
    with RemoteAnswer(nursery, source, "f") as answer:
        assert answer(LentFunction(lambda n: n * n)) == [n * n for n in range(300)]


def test_an_answer_that_kills_its_keeper_ends_with_it_and_the_next_one_works(nursery):
    """At the other levels the keeper is out of reach, or there is none."""
    if nursery.level.name not in ("bubblewrap", "limits"):
        pytest.skip("no keeper that an answer could reach")
    with pytest.raises(Stopped, match="killed, and its keeper with it"):
        evaluate(nursery, "[os.kill(os.getppid(), 9), __import__('time').sleep(30)]")
    assert evaluate(nursery, "1 + 1") == 2


def test_time_is_limited(nursery):
    limited = Nursery(nursery.level, Limits(cpu_seconds=1, call_seconds=20.0))
    with limited, pytest.raises(Stopped, match="1 seconds of processor time|longer than 20"):
        evaluate(limited, "[0 for _ in iter(int, 1)]")


def test_the_time_of_all_its_processes_counts(nursery):
    """Each of them stays below the limit that the system has for one."""
    if nursery.level.name == "clock" or sys.platform != "linux":
        pytest.skip("children are counted on Linux alone")
    source = """
import os, time
def f(n):
    for _ in range(n):
        if os.fork() == 0:
            end = time.process_time() + 1.5
            while time.process_time() < end:
                pass
            os._exit(0)
    time.sleep(60)
"""
    limited = Nursery(nursery.level, Limits(cpu_seconds=2))
    stopped = pytest.raises(Stopped, match="after 2 seconds of processor time")
    with limited, RemoteAnswer(limited, source, "f") as answer, stopped:
        answer(4)


RIVAL = """
import time
while True:  # has the core between two ticks of the clock, and sleeps when one comes
    tick = (time.monotonic_ns() // 4_000_000 + 1) * 4_000_000
    while time.monotonic_ns() < tick - 500_000:
        pass
    time.sleep(max(0, tick + 100_000 - time.monotonic_ns()) / 1e9)
"""


def test_the_limit_on_time_is_named_where_the_kernel_counts_more_than_the_answer_ran(nursery):
    """With a rival that sleeps over the ticks, all of them are the answer's.

    On a kernel whose ticks are not 4 ms apart, the rival takes some of the core and proves less.
    """
    if nursery.level.name != "namespaces":
        pytest.skip("where an answer is not process 1, the limit's own signal ends it")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    rival = subprocess.Popen([sys.executable, "-c", RIVAL])
    try:
        limited = Nursery(nursery.level, Limits(cpu_seconds=3))
        with limited, pytest.raises(Stopped, match="after 3 seconds of processor time"):
            evaluate(limited, "[0 for _ in iter(int, 1)]")
    finally:
        os.sched_setaffinity(0, cores)
        rival.kill()
        rival.wait()


HUGE = {
    "10**10000": "a whole number of about 10,001 digits",
    "[1, {'a': -10**10000}]": "a whole number of about 10,001 digits",
    "(_ for _ in ()).throw(ValueError(10**10000))": "ValueError: its text cannot be shown",
}


@pytest.mark.parametrize("code", HUGE)
def test_numbers_of_thousands_of_digits_come_back_with_a_sentence(code, nursery):
    enough_said(nursery)
    for answer in (lambda: evaluate(nursery, code), lambda: LocalAnswer(eval)(code)):
        with pytest.raises((NotData, AnswerRaised), match=HUGE[code]):
            answer()
    assert evaluate(nursery, "10**1000") == 10**1000


def test_sleep_is_limited(nursery):
    enough_said(nursery)
    slow = Nursery(nursery.level, Limits(call_seconds=3.0))
    with slow, pytest.raises(Stopped, match="longer than 3 seconds for one call"):
        evaluate(slow, "__import__('time').sleep(99)")


def test_memory_and_files_are_limited(nursery):
    if nursery.level.name == "clock":
        pytest.skip("this level limits time only")
    with pytest.raises(AnswerRaised, match="may take 1024 MiB"):
        evaluate(nursery, "len(bytes(2**31))")
    with pytest.raises(AnswerRaised, match="OSError"):
        evaluate(nursery, "open('big', 'wb').write(bytes(2**21))")


def test_a_sandbox_shows_neither_course_nor_network_nor_processes(nursery):
    if nursery.level.name not in ("namespaces", "bubblewrap"):
        pytest.skip("this level hides nothing")
    for path in (ROOT / "solutions", ROOT / "kvlab" / "cache.py", ROOT / "tests", "/home"):
        assert not evaluate(nursery, f"os.path.exists({str(path)!r})")
    assert evaluate(nursery, "[p for p in os.listdir('/proc') if p.isdigit()].__len__()") <= 4
    with pytest.raises(AnswerRaised, match="unreachable"):
        evaluate(nursery, "__import__('socket').create_connection(('192.0.2.1', 80))")
    for folder in ("/", "/dev", ROOT / "kvlab", "/usr"):
        code = f"open(os.path.join({str(folder)!r}, 'x'), 'w').close()"
        with pytest.raises(AnswerRaised, match="OSError|PermissionError|NotFound"):
            evaluate(nursery, code)
    capget = (
        "(lambda c, words: [c.CDLL(None).capget((c.c_uint32 * 2)(0x20080522, 0), words), *words])"
        "(__import__('ctypes'), (__import__('ctypes').c_uint32 * 6)())"
    )
    assert evaluate(nursery, capget) == [0] * 7


def test_nothing_of_an_answer_lives_on(nursery):
    if nursery.level.name != "namespaces":
        pytest.skip("only a process namespace of its own ends everything")
    marker = f"kvlab-left-behind-{time.time_ns()}"
    code = (
        f"os.fork() or (os.setsid(), __import__('ctypes').CDLL(None).prctl(15, b'{marker[-9:]}'),"
        " __import__('time').sleep(60))"
    )
    with RemoteAnswer(nursery, ECHO, "f") as answer:
        answer(code)
    names = subprocess.run(["ps", "-eo", "comm"], capture_output=True, text=True).stdout
    assert marker[-9:] not in names


def test_many_threads_may_ask_one_nursery(nursery):
    enough_said(nursery)
    found = []

    def ask(i):
        found.append(evaluate(nursery, f"{i} * 2"))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 2, 4, 6]


def test_a_nursery_that_died_is_replaced(nursery):
    if nursery.level.name == "clock":
        pytest.skip("this level has no nursery")
    nursery._process.kill()
    nursery._process.wait()
    assert evaluate(nursery, "40 + 2") == 42


def test_a_sandbox_that_cannot_be_made_runs_nothing(monkeypatch):
    """Asked for namespaces where there are none, the answer must not run without them."""
    if not works("namespaces"):
        pytest.skip("this machine has no namespaces")
    with Nursery(LEVELS["namespaces"]) as made:
        real = made._send

        def send(order, *more):
            real(order.replace(b'"folder_bytes": 16777216', b'"folder_bytes": "nonsense"'), *more)

        monkeypatch.setattr(made, "_send", send)
        with pytest.raises(Unavailable, match="sandbox could not be made"):
            evaluate(made, "1")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_user_without_rights_gets_namespaces_too(tmp_path):
    """Run by root, because nobody else can become somebody else."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    stage = _readable_copy()
    if stage is None:
        pytest.skip("this Python lies where other users cannot read it")
    code = "from kvlab.course.sandbox import walls; print(walls.best().name)"
    line = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
    done = subprocess.run(
        [*line, code], capture_output=True, text=True, cwd=stage, env={"PYTHONPATH": str(stage)}
    )
    shutil.rmtree(stage)
    assert done.stdout.strip() in ("namespaces", "bubblewrap", "limits"), done.stderr


def _readable_copy():
    """The package where everybody can read it, or None if Python itself cannot be."""
    probe = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
    if subprocess.run([*probe, "import json"], capture_output=True).returncode:
        return None
    stage = tempfile.mkdtemp()
    os.chmod(stage, 0o755)
    shutil.copytree(ROOT / "kvlab" / "course", f"{stage}/kvlab/course")
    shutil.copy(ROOT / "kvlab" / "__init__.py", f"{stage}/kvlab/__init__.py")
    return stage


def test_the_level_is_named_by_the_doctor_and_says_when_it_is_for_honest_mistakes(capsys):
    from kvlab.shell import doctor

    assert walls.best().name in doctor._isolation()
    for name, level in LEVELS.items():
        assert ("honest mistakes" in level.says) == (name in ("limits", "clock"))
