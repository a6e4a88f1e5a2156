"""Set-up with the standard library alone: make `.venv`, install into it, go on inside it.

`prepare` is the only door. It leaves an environment alone that already has what the command needs.
Otherwise it works on `.venv` in the project's folder, whose stamp (a small JSON file inside) says
how far set-up came:

    making   the virtual environment itself is being made; found again, it is made anew
    made     pip may have installed any part of what is needed; found again, pip runs again
    done     everything was installed from the `inputs` (a hash) that the stamp names

Long because it is all that runs on a bare and perhaps old Python, where nothing of ours may be
relied on yet.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

from kvlab import files

ROOT = Path(__file__).resolve().parent.parent.parent
STAMP = "kvlab-set-up.json"
LOG = "kvlab-set-up.log"
STARTS = "KVLAB_STARTS"  # how often set-up has already started the command anew
# What .venv takes on the disk while pip unpacks into it: with the CPU's torch, and with CUDA's.
SIZES = {"cpu": 1_500_000_000, "": 6_000_000_000}
# What pip fetches meanwhile into the folder for temporary files, which may be another disk.
DOWNLOADS = {"cpu": 400_000_000, "": 3_000_000_000}
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# The modules that tell whether an extra of pyproject.toml is there; "" is what the engine needs.
MODULES = {
    "": ("torch", "safetensors", "tokenizers", "jinja2", "numpy", "numba"),
    "book": ("jupyterlab", "ipywidgets", "anywidget", "matplotlib"),
    "gguf": ("gguf", "transformers"),
    "site": ("sphinx", "myst_nb", "furo"),
    "completion": ("shtab",),
    "dev": ("pytest", "pytest_timeout", "nbval", "hypothesis", "transformers"),
}
EXTRAS = {
    "lab": ("book",),
    "test": ("book", "dev"),
    "fetch": ("gguf",),
    "site": ("site",),
    "completion": ("completion",),
}

FULL = ("No space left on device", "[Errno 28]", "[WinError 112]", "not enough space on the disk")
FORBIDDEN = ("Permission denied", "[Errno 13]", "[WinError 5]", "Read-only file system")
NETWORK = (
    "Retry(total=0",
    "Max retries exceeded",
    "Failed to establish a new connection",
    "Read timed out",
    "ReadTimeoutError",
    "IncompleteRead",
    "incomplete-download",
    "ConnectionResetError",
    "Network is unreachable",
)


class Trouble(Exception):
    """Set-up cannot go on; the message is one sentence that says what to do."""

    code = 1


class Misuse(Trouble):
    """The command line asks for something that does not exist."""

    code = 2


def prepare(argv, parse, root=ROOT):
    """Sees to it that the command can run.

    `parse` ends the program at a wrong command line; it is asked before anything is fetched.
    Returns the command line without `--torch`, and None if the command is to run in this process,
    or else the exit code of its run inside `.venv`.
    """
    try:
        return _prepare(list(argv), parse, root)
    except Trouble as trouble:
        say(str(trouble))
        return argv, trouble.code
    except KeyboardInterrupt:
        say("stopped. The same command goes on from here.")
        return argv, 130


def _prepare(argv, parse, root):
    starts = int(os.environ.pop(STARTS, "0"))
    argv, torch = take_torch(argv, os.environ.get("KVLAB_TORCH"))
    own = argv[: argv.index("--")] if "--" in argv else argv
    if not own or {"-h", "--help", "--version"} & set(own):
        return argv, None

    command = next((word for word in own if not word.startswith("-")), "")
    extras = EXTRAS.get(command, ())
    venv = root / ".venv"
    inside, lacking = same_path(sys.prefix, venv), ""
    stamp = read_stamp(venv)
    if inside and stamp:
        if is_done(root, extras, inside=True):
            if not starts:
                remark_on_torch(torch, stamp.get("torch", ""))
            return argv, None
    else:
        lacking = lacking_extra(extras, root)
        if lacking is None:
            mine = "kvlab uses this environment as it is"
            remark_on_torch(torch, installed_version("torch"), mine)
            return argv, None
        if not is_project(root):
            raise Trouble(without_project(command, lacking))
    if starts > 1:
        raise Trouble(
            f"the Python in {venv} does not work as set up: delete that folder and run the same"
            " command again."
        )
    if is_done(root, extras):
        remark_on_torch(torch, stamp.get("torch", ""))
    else:
        parse(argv)
        if not inside and sys.prefix != sys.base_prefix:
            remark_on_another(lacking)
        set_up(root, extras, torch)
    return argv, go_on_inside(venv, argv, starts)


def without_project(command, lacking):
    """What an installed package lacks; no index is named, since the name there is not ours."""
    if command in ("lab", "test"):
        return (
            f'"kvlab {command}" needs the project\'s own folder, with the chapters and tests that'
            f" the package leaves out: in it, run python3 -m kvlab {command}"
        )
    part = f"[{lacking}]" if lacking else ""
    return (
        f'this environment lacks a part that "kvlab {command}" needs: in the project\'s folder, run'
        f' {sys.executable} -m pip install ".{part}"'
    )


# ---------------------------------------------------------------- the command line


def take_torch(argv, wish):
    """Takes `--torch cpu` out of the command line, up to a `--`; without it `wish` counts."""
    rest = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--torch":
            wish = next(words, "nothing")
        elif word.startswith("--torch="):
            wish = word[len("--torch=") :]
        else:
            rest.append(word)
    if wish not in (None, "", "cpu"):
        raise Misuse(
            f"--torch (or the variable KVLAB_TORCH) takes cpu or is left out; here it is {wish}."
        )
    return rest, wish or ""


def say(sentence):
    """Prints one line; to stderr, because stdout belongs to the command."""
    print("kvlab: " + sentence, file=sys.stderr, flush=True)


def remark_on_torch(wish, version, remedy="to choose again, delete .venv first"):
    """Says so if `--torch cpu` comes too late: another build is already there."""
    if wish == "cpu" and version and sys.platform == "linux" and not version.endswith("+cpu"):
        say(f"--torch cpu changes nothing here, torch {version} is already installed; {remedy}.")


def remark_on_another(lacking):
    """Says why the environment that the user is in does not serve, and how it would."""
    part = f"[{lacking}]" if lacking else ""
    say(
        f"the environment in {sys.prefix} lacks what this command needs, so .venv is used instead;"
        f' to use that one: {sys.executable} -m pip install -e ".{part}"'
    )


# ---------------------------------------------------------------- what is there


def is_project(root):
    """Whether the package lies in its project's folder, and not among installed packages."""
    try:
        return 'name = "kvlab"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return False


def lacking_extra(extras, root):
    """The first extra that this interpreter lacks ("" for the engine's own needs), or None."""
    for extra in ("", *extras):
        if any(importlib.util.find_spec(module) is None for module in MODULES[extra]):
            return extra
    if release(installed_version("torch")) < oldest_torch(root):
        return ""
    return None


def installed_version(name):
    """The version of a distribution in this interpreter, or "" if it has none."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def oldest_torch(root):
    """The oldest torch that pyproject.toml admits; pip has seen to that where there is none."""
    if not is_project(root):
        return ()
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'"torch>=([0-9.]+)', text)
    return release(found.group(1)) if found else ()


def release(version):
    """The numbers that a version begins with."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:2])


def same_path(one, other):
    """Whether two paths mean one place, links followed."""
    return os.path.normcase(os.path.realpath(one)) == os.path.normcase(os.path.realpath(other))


def venv_python(venv):
    """Where a virtual environment has its interpreter."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def venv_config(venv):
    """The settings in pyvenv.cfg; empty if there are none, and so no virtual environment."""
    try:
        lines = (venv / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.partition("=") for line in lines)
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


# ---------------------------------------------------------------- the stamp


def digest(root):
    """A hash of what decides which packages are installed."""
    inputs = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with contextlib.suppress(FileNotFoundError):
            inputs.update((root / name).read_bytes())
        inputs.update(b"\0")
    return inputs.hexdigest()


def read_stamp(venv):
    """The stamp as a dictionary; empty if there is none or it cannot be read."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv, **stamp):
    """Replaces the stamp in one step, so that it is never half written."""
    files.write(venv / STAMP, json.dumps(stamp, indent=1) + "\n")


def is_done(root, extras, inside=False):
    """Whether `.venv` was completely set up, here, from today's inputs, with these extras.

    From `inside`, whether its Python is still the one that was set up, too.
    """
    venv = root / ".venv"
    stamp = read_stamp(venv)
    home = venv_config(venv).get("home", "")
    return (
        stamp.get("state") == "done"
        and stamp.get("root") == str(root)
        and stamp.get("inputs") == digest(root)
        and set(extras) <= set(stamp.get("extras", ()))
        and venv_python(venv).exists()
        and os.path.isdir(home)
        and (not inside or stamp.get("python") == "{}.{}".format(*sys.version_info[:2]))
    )


# ---------------------------------------------------------------- set-up


def set_up(root, extras, torch):
    """Makes `.venv` fit for the command, and returns once it is."""
    venv = root / ".venv"
    started = time.monotonic()
    try:
        with locked(root) as lock:
            if is_done(root, extras):  # another set-up did it while this one waited
                return
            refuse_foreign(venv)
            refuse_small(root, torch)
            usable = is_usable(venv, root)
            announce(usable and read_stamp(venv).get("state") == "done", torch)
            if not usable:
                make_venv(venv, root, lock)
            install(venv, root, extras, torch, lock)
    except OSError as error:
        raise Trouble(why_system(error, root)) from error
    say(f"set up in {time.monotonic() - started:.0f} s.")


@contextlib.contextmanager
def locked(root, name=".venv.lock"):
    """Holds a folder's set-up lock; waits, and says so, while another set-up holds it."""
    with open(root / name, "a", encoding="utf-8") as file:
        if not try_lock(file.fileno()):
            say("another set-up is at work in this folder; waiting for it to end.")
            while not try_lock(file.fileno()):
                time.sleep(0.3)
        yield file.fileno()


def try_lock(fd):
    """Takes the lock, or returns False; a file system without locks counts as free."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(fd, 0, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK, errno.EWOULDBLOCK)
    return True


def refuse_foreign(venv):
    """Stops before anything is deleted that is not a virtual environment, or not this folder's."""
    foreign = read_stamp(venv).get("root") != str(venv.parent)
    if venv.is_symlink() and venv.is_dir() and foreign:
        raise Trouble(
            f"{venv} is a link to {os.path.realpath(venv)}, which was not set up for this folder,"
            " so it was left as it is: remove the link and run the same command again."
        )
    if not os.path.lexists(venv) or venv_config(venv) or read_stamp(venv):
        return
    beginning = "." + Path(STAMP).stem + "-"  # of a stamp whose writing was cut off
    if venv.is_dir() and all(name.startswith(beginning) for name in os.listdir(venv)):
        return
    raise Trouble(
        f"{venv} is there and is no virtual environment, so it was left as it is: move it away and"
        " run the same command again."
    )


def refuse_small(root, torch):
    """Stops before pip fills a disk on which what is needed has no room.

    What is there already counts as room: it is brought up to date, or deleted first.
    """
    build = "cpu" if sys.platform != "linux" or torch == "cpu" else ""
    if torch_of(root / ".venv"):
        return
    places = (
        (root, SIZES[build], "make room"),
        (
            tempfile.gettempdir(),
            DOWNLOADS[build],
            "pip fetches into that folder, so make room there or name another by TMPDIR",
        ),
    )
    for place, needed, remedy in places:
        free = shutil.disk_usage(place).free
        if free < needed:
            raise Trouble(
                f"set-up needs about {needed / 1e9:.1f} GB in {place}, and {free / 1e9:.1f} GB are"
                f" free: {remedy}, and run the same command again."
            )


def announce(again, torch):
    """Says what is about to happen, how much it is and how long it takes."""
    if again:
        say("bringing .venv up to date (most of it is there already).")
    elif sys.platform != "linux" or torch == "cpu":
        say("setting up in .venv, once: a download of about 0.3 GB, one to five minutes.")
    else:
        say("setting up in .venv, once. On Linux PyTorch brings its CUDA libraries: a download of")
        say("about 3 GB, five to twenty minutes. --torch cpu makes it 0.3 GB.")


def is_usable(venv, root):
    """Whether pip can go on in this `.venv`: made to the end, in this place, its Python running."""
    stamp = read_stamp(venv)
    if stamp and (stamp.get("state") == "making" or stamp.get("root") != str(root)):
        return False
    config = venv_config(venv)
    made_with = release(config.get("version", config.get("version_info", "")))
    if not config or made_with < (3, 11):
        return False
    try:
        return python_of(venv) == made_with and has_pip(venv)
    except OSError:
        return False


def python_of(venv):
    """The version that the Python in a virtual environment says it is; () if it says nothing."""
    code = "import sys; print('{}.{}'.format(*sys.version_info[:2]))"
    return release(quietly([venv_python(venv), "-I", "-c", code]).stdout)


def has_pip(venv):
    """Whether pip runs in a virtual environment; puts it there if only pip is missing."""
    pip = [venv_python(venv), "-I", "-m", "pip", "--version"]
    if quietly(pip).returncode == 0:
        return True
    quietly([venv_python(venv), "-I", "-m", "ensurepip"])
    return quietly(pip).returncode == 0


def make_venv(venv, root, lock):
    """Makes the virtual environment anew; what an earlier one held is deleted."""
    venv.mkdir(exist_ok=True)
    if venv_config(venv):
        say("the .venv that is here cannot be used as it is; making it anew.")
    write_stamp(venv, state="making", root=str(root))
    for child in venv.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name != STAMP:
            child.unlink()
    base = getattr(sys, "_base_executable", None) or sys.executable
    done = quietly([base, "-I", "-m", "venv", venv], lock)
    if done.returncode:
        raise Trouble(why_no_venv(done.stdout + done.stderr, root))
    write_stamp(venv, state="made", root=str(root))


def install(venv, root, extras, torch, lock):
    """Runs pip for the project and the extras, and stamps the result."""
    extras = sorted({"book", *extras, *read_stamp(venv).get("extras", ())})
    # From here to the end a killed set-up must not look complete.
    write_stamp(venv, state="made", root=str(root), extras=extras)
    drop_half_installed(venv)
    if torch == "cpu":
        install_cpu_torch(venv, root, lock)
    log = venv / LOG
    with contextlib.suppress(FileNotFoundError):
        log.unlink()
    target = ".[{}]".format(",".join(extras))
    inputs = digest(root)
    arguments = ["--log", log, "--constraint", "constraints.txt", "--editable", target]
    if pip_install(venv, arguments, root, lock):
        raise Trouble(why_pip_failed(log, root))
    python, build = "{}.{}".format(*python_of(venv)), torch_of(venv)
    done = {"state": "done", "root": str(root), "inputs": inputs, "python": python}
    write_stamp(venv, extras=extras, torch=build, **done)
    with contextlib.suppress(OSError):
        log.unlink()  # tens of megabytes that only a failure is worth
    remark_on_torch(torch, build)


def install_cpu_torch(venv, root, lock):
    """Takes torch from PyTorch's CPU index where that can be reached; never an obstacle."""
    if sys.platform != "linux" or torch_of(venv):
        return
    pin = pinned(root, "torch")
    if not pin or not is_reachable(CPU_INDEX + "/torch/", seconds=3):
        say("PyTorch's CPU index could not be reached; the usual one may bring CUDA (3 GB).")
        return
    arguments = ["--no-deps", "--retries", "1", "--timeout", "15", "--index-url", CPU_INDEX, pin]
    if pip_install(venv, arguments, root, lock):
        say("PyTorch's CPU index did not serve torch; the usual one may bring CUDA (3 GB).")


def pinned(root, name):
    """A package's line in constraints.txt, such as `torch==2.13.0`; "" if it has none."""
    with contextlib.suppress(FileNotFoundError):
        for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
            if line.startswith(name + "=="):
                return line.partition(";")[0].strip()
    return ""


def is_reachable(url, seconds):
    """Whether an address answers in time; looking up its name is part of the time."""
    from urllib.request import urlopen

    answers = []

    def ask():
        with contextlib.suppress(OSError, ValueError), urlopen(url, timeout=seconds) as answer:
            answers.append(answer.status)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def torch_of(venv):
    """The version of torch in a virtual environment, with its build (`2.13.0+cpu`); "" if none."""
    for packages in site_packages(venv):
        for folder in packages.glob("torch-*.dist-info"):
            return folder.name[len("torch-") : -len(".dist-info")]
    return ""


def drop_half_installed(venv):
    """Forgets packages whose installation was cut off, so that pip installs them again.

    pip writes INSTALLER after all of a package's files; without it the package may lack some.
    """
    for packages in site_packages(venv):
        for folder in packages.glob("*.dist-info"):
            if not (folder / "INSTALLER").exists():
                shutil.rmtree(folder)
        for folder in packages.glob("~*"):  # what pip puts aside while it replaces a package
            shutil.rmtree(folder, ignore_errors=True)


def site_packages(venv):
    """The folders that hold a virtual environment's packages."""
    return [*venv.glob("lib/python3*/site-packages"), *venv.glob("Lib/site-packages")]


# ---------------------------------------------------------------- other programs


def child_environment(**more):
    """The environment for a Python other than this one."""
    leave = ("PYTHONHOME", "__PYVENV_LAUNCHER__")
    return {**{key: value for key, value in os.environ.items() if key not in leave}, **more}


def quietly(command, lock=None):
    """Runs a command and keeps what it prints."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return wait_for(command, lock, text=True, errors="replace", **pipes)


def pip_install(venv, arguments, root, lock):
    """Runs pip in the project's folder, its progress visible, and returns its exit code.

    pip's own configuration stays in force, but for `user`, which no virtual environment can serve.
    """
    options = ["--disable-pip-version-check", "--no-input", "--no-warn-script-location"]
    command = [venv_python(venv), "-I", "-m", "pip", "install", *options, *arguments]
    env = child_environment(PIP_USER="0")
    return wait_for(command, lock, cwd=str(root), stdout=2, env=env).returncode


def wait_for(command, lock, **options):
    """Runs a command to its end; at Ctrl-C it gets a moment to end by itself.

    The child holds the set-up's lock too: if this process is killed, the next set-up waits for it.
    """
    if lock is not None and os.name != "nt":
        options["pass_fds"] = (lock,)
    options.setdefault("env", child_environment())
    command = [str(word) for word in command]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **options) as process:
        try:
            out, err = process.communicate()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.terminate()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def go_on_inside(venv, argv, starts):
    """Runs the same command with the Python of `.venv`."""
    env = child_environment(**{STARTS: str(starts + 1)})
    # -P: what lies in the working folder is not looked at for modules
    return become([str(venv_python(venv)), "-P", "-m", "kvlab", *argv], env)


def become(command, env=None):
    """Turns this process into another program; on Windows, where that cannot be, waits for it."""
    env = dict(os.environ) if env is None else env
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "nt":
        os.execve(command[0], command, env)
    with subprocess.Popen(command, env=env) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the child has got it too, and decides
                continue


# ---------------------------------------------------------------- reasons


def why_system(error, root):
    """One sentence for what the operating system refused."""
    if error.errno == errno.ENOSPC or getattr(error, "winerror", 0) == 112:
        return disk_full(root)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return not_writable(error.filename or root)
    return f"set-up failed ({error}): mend that and run the same command again."


def why_no_venv(output, root):
    """One sentence for a virtual environment that could not be made."""
    if any(mark in output for mark in FULL) or is_full(root):
        return disk_full(root)
    if any(mark in output for mark in FORBIDDEN):
        return not_writable(root)
    if re.search(r"ensurepip is not\s+available|No module named '?(ensurepip|venv)", output):
        return (
            "this Python cannot make a virtual environment, because its venv module is not"
            " complete: install it (on Debian and Ubuntu: sudo apt install python3-venv) and run"
            " the same command again."
        )
    last = (output.strip().splitlines() or ["no message"])[-1]
    return f"the virtual environment could not be made: {last}"


def why_pip_failed(log, root):
    """One sentence for pip's failure, from its log."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    if any(mark in text for mark in FULL) or is_full(root):
        return disk_full(root)
    if any(mark in text for mark in NETWORK):
        return (
            "no package index could be reached: connect to the network (behind a proxy set"
            f" HTTPS_PROXY, for a mirror PIP_INDEX_URL) and run the same command again. Log: {log}"
        )
    if any(mark in text for mark in FORBIDDEN):
        return not_writable(root) + f" Log: {log}"
    errors = re.findall(r"^\S*[ ]+ERROR: (?:\[present-\w+\] )?(.*)$", text, re.MULTILINE)
    missing = [line for line in errors if line.startswith("No matching distribution found for ")]
    if missing:
        return (
            "pip found no {} for Python {}.{} on {}: see that the network is up and that pip may"
            " use an index that has it (pip config list), or use another Python. Log: {}".format(
                missing[-1][len("No matching distribution found for ") :],
                *sys.version_info[:2],
                sysconfig.get_platform(),
                log,
            )
        )
    errors = [line for line in errors if "for help visit" not in line]
    lines = errors or [line.partition(" ")[2] for line in text.splitlines()] or ["it left no log"]
    return "pip failed: {}. Mend that and run the same command again. Log: {}".format(
        lines[-1].strip().rstrip("."), log
    )


def is_full(root):
    """Whether there is no room left to speak of, whatever the failed program said."""
    return min(shutil.disk_usage(folder).free for folder in (root, tempfile.gettempdir())) < 2**20


def disk_full(root):
    """The sentence for a full disk; pip unpacks in the folder for temporary files."""
    return (
        f"the disk is full: make room in {root} and in {tempfile.gettempdir()} (1.5 GB, or 6 GB"
        " with CUDA) and run the same command again."
    )


def not_writable(path):
    """The sentence for a folder that may not be written to."""
    return (
        f"{path} may not be written to: use a copy of the project in a folder of your own, or"
        " change its permissions, and run the same command again."
    )
