"""Jobs for Kubernetes and Docker, from names as people have them to marks put together."""

import csv
import io
import json
import re
import shlex
import shutil

import pytest

from kvlab.course.grading import jobs, notebooks
from kvlab.shell.cli import main
from tests.course.answering import ANSWERS, STUBS

NAMES = ['Jürgen O\'Müller, b "x"', "李", "-ann", "ANN", "ann", "a" * 150, "$(id) `id`; rm -r x"]


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "handed in"
    for name in NAMES:
        (home / name).mkdir(parents=True)
        shutil.copy(STUBS, home / name / "06_kv_cache.ipynb")
    shutil.copy(STUBS, home / "eve.ipynb")
    return home


def written(folder, capsys, *more):
    assert main(["jobs", str(folder), "--chapter", "6", *more]) == 0
    found = capsys.readouterr()
    return found.out, found.err


def test_kubernetes_takes_every_name(folder, capsys):
    out, err = written(folder, capsys, "--image", "registry.example.org/grader")
    items = json.loads(out)["items"]
    names = [job["metadata"]["name"] for job in items]
    assert len(set(names)) == len(items) == len(NAMES) + 1
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in names)
    assert any(name.startswith("grade-jurgen-o-muller-b-x-06-kv-cache-") for name in names)
    assert f"{len(items)} jobs" in err and "submissions needs 1 MiB" in err
    assert f"marks needs {len(items)} MiB" in err and "ReadWriteMany" in err
    paths = set()
    for job in items:
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert (folder / mounts["submissions"]["subPath"]).is_file()
        assert (
            mounts["submissions"]["readOnly"]
            and mounts["submissions"]["mountPath"] in (container["args"])
        )
        assert mounts["marks"]["subPath"] == job["metadata"]["name"]  # nobody else's
        assert container["image"] == "registry.example.org/grader"
        assert {volume["name"] for volume in pod["volumes"]} == mounts.keys()
        paths.add(mounts["submissions"]["subPath"])
    assert paths == {f"{name}/06_kv_cache.ipynb" for name in NAMES} | {"eve.ipynb"}


def test_a_shell_reads_dockers_script_as_it_is_meant(folder, capsys):
    out, _ = written(folder, capsys, "--docker")
    lines = [shlex.split(line) for line in out.splitlines() if line.startswith("docker")]
    named = {}
    for line in lines:
        ((kind, source, target, only),) = csv.reader(io.StringIO(line[line.index("--mount") + 1]))
        (called,) = (part.removeprefix("--name=") for part in line if part.startswith("--name="))
        named[called] = source.removeprefix("source=")
        assert (kind, only) == ("type=bind", "readonly")
        assert line[line.index("--one") + 1] == target.removeprefix("target=")
        assert re.fullmatch(r"marks/grade-[a-z0-9-]+\.json", line[-1]) and line[-2] == ">"
    assert named == {f"{n}/06_kv_cache": f"{folder}/{n}/06_kv_cache.ipynb" for n in NAMES} | {
        "eve": f"{folder}/eve.ipynb"
    }


def test_what_jobs_write_is_put_together_under_the_students_names(folder, tmp_path, capsys):
    """The arguments of three jobs, run here with the notebook where a pod would see it."""
    filled = notebooks.read(STUBS)
    for cell in filled["cells"]:
        if notebooks.grade_id(cell) == "q6_6":
            cell["source"] = ANSWERS["6.6"]
    notebooks.write(folder / NAMES[0] / "06_kv_cache.ipynb", filled)
    for name in NAMES[2:]:
        shutil.rmtree(folder / name)
    out, _ = written(folder, capsys)
    files = []
    for job in json.loads(out)["items"]:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        seen = tmp_path / "pod" / job["metadata"]["name"]
        (seen / "marked").mkdir(parents=True)
        mount = container["volumeMounts"][0]
        shutil.copy(folder / mount["subPath"], f"{seen}{mount['mountPath']}")
        files.append(str(seen / "marks.json"))
        line = [f"{seen}{a}" if a == mount["mountPath"] else a for a in container["args"]]
        assert main(["grade", *line[:-1], files[-1]]) == 0
    roster = tmp_path / "class.csv"
    roster.write_text(
        f'id,name\n1,"{NAMES[0].replace(chr(34), chr(34) * 2)}"\n2,李\n3,eve\n', "utf-8"
    )
    capsys.readouterr()
    assert main(["marks", *files, "--roster", str(roster), "--per-student"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(r["id"], r["points"], r["notes"]) for r in rows] == [
        ("1", "1", ""), ("2", "0", ""), ("3", "0", "")
    ]  # fmt: skip


def test_what_cannot_be_a_job_is_refused(tmp_path, capsys):
    for line, said in [
        (["jobs", str(tmp_path / "none")], "is not a folder; expected one of submissions"),
        (["jobs", str(tmp_path)], "has no notebook"),
        (["jobs", str(tmp_path), "--chapter", "99"], "Chapter '99' was asked for"),
        (["grade", str(STUBS), "--name", "ann"], "it names the one notebook after --one"),
    ]:
        assert main(line) == 1 and said in capsys.readouterr().err
    odd = tmp_path / "a\nb"
    odd.mkdir()
    shutil.copy(STUBS, odd / "x.ipynb")
    assert main(["jobs", str(tmp_path)]) == 1
    assert r"'a\nb/x' is no name that a job can be told" in capsys.readouterr().err


def test_labels_differ_where_what_is_left_of_names_does_not():
    assert jobs.label("Ann") != jobs.label("ann") and len(jobs.label("x" * 300)) <= 63
    assert re.fullmatch(r"grade-[0-9a-f]{8}", jobs.label("李"))
