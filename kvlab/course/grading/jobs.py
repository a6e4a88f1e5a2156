"""What `kvlab jobs` does: one job per submission, for Kubernetes or Docker. It grades nothing."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import math
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvlab.course.exercises import exercises
from kvlab.course.grading import report, roster
from kvlab.course.grading.command import check_chapter
from kvlab.course.grading.names import file_name
from kvlab.course.grading.submissions import find_submissions

MARKS_MIB = 1  # for one notebook's verdicts, with room


def run(args: argparse.Namespace) -> int:
    """Write the jobs for a folder of submissions, and say what they need.

    Raises: ValueError for a folder that is not there, is empty, or has a name that is no text.
    """
    check_chapter(args.chapter)
    if not Path(args.folder).is_dir():
        raise ValueError(f"{args.folder} is not a folder; expected one of submissions.")
    found = {_utf8(name): path for name, path in find_submissions([args.folder]).items()}
    for name in found:
        if not name.isprintable():
            raise ValueError(f"{name!r} is no name that a job can be told; rename it.")
    known = roster.read(args.roster) if args.roster else None
    how = {name: _options(name, args.chapter, known) for name in found}
    make = _docker if args.docker else _kubernetes
    text = make(args, found, how)
    if args.out == "-":
        print(text, end="")
    else:
        report.write(args.out, text)
    print(_needs(args, found), file=sys.stderr)
    return 0


def _utf8(name: str) -> str:
    """A file's name as the other machine reads it, whatever this one's locale makes of it."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _options(name: str, chapter: str | None, known: roster.Roster | None) -> list[str]:
    """What `kvlab grade --one` is told of a submission."""
    line = [f"--name={name}", *(["--chapter", chapter] if chapter else [])]
    if any(e.variant for e in exercises()):
        owner = roster.whose(name, known)
        line += [f"--student={owner.id or owner.name}"]
    return line


def _needs(args: argparse.Namespace, found: Mapping[str, Path]) -> str:
    size = math.ceil(sum(path.stat().st_size for path in found.values()) / 2**20)
    many = "1 job" if len(found) == 1 else f"{len(found)} jobs"
    if args.docker:
        return f"{many}; the folder marks will have up to {MARKS_MIB * len(found)} MiB."
    return (
        f"{many}. The claim submissions needs {size} MiB and holds {args.folder} as it is "
        f"here; the claim marks needs {MARKS_MIB * len(found)} MiB. Jobs on several nodes need "
        "ReadOnlyMany for the first and ReadWriteMany for the second."
    )


def label(name: str) -> str:
    """A submission's name as Kubernetes takes names: at most 63 of a-z, 0-9 and hyphens.

    What is left of it is for people; eight digits of its hash keep it one of a kind.
    """
    plain = unicodedata.normalize("NFKD", name).casefold().encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return "-".join(filter(None, ["grade", plain, mark]))


def _inside(path: Path) -> str:
    """The notebook in its container: begins as it does here, and is not called like anybody."""
    return f"/marked/{file_name(path.stem)}-handed-in.ipynb"


def _kubernetes(
    args: argparse.Namespace, found: Mapping[str, Path], how: Mapping[str, list[str]]
) -> str:
    """A list of jobs as JSON, which `kubectl apply -f` reads."""
    items = [
        _job(
            args.image,
            label(name),
            path,
            _utf8(path.relative_to(args.folder).as_posix()),
            how[name],
        )
        for name, path in found.items()
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=1) + "\n"


def _container(image: str, name: str, path: Path, inner: str, options: list[str]) -> dict[str, Any]:
    """What runs in a job. It sees its own notebook and folder for marks, and no neighbour's."""
    return {
        "name": "grade",
        "image": image,
        "args": ["--one", _inside(path), *options, "--json", "/marks/marks.json"],
        "resources": {
            "requests": {"cpu": "1", "memory": "2Gi"},
            "limits": {"cpu": "1", "memory": "4Gi", "ephemeral-storage": "1Gi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            # Lets the grader make its own namespaces inside the container; where the cluster
            # forbids it, the report says "limits" and the container is the only wall.
            "seccompProfile": {"type": "Unconfined"},
        },
        "volumeMounts": [
            {"name": "submissions", "mountPath": _inside(path), "subPath": inner, "readOnly": True},
            {"name": "marks", "mountPath": "/marks", "subPath": name},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _job(image: str, name: str, path: Path, inner: str, options: list[str]) -> dict[str, Any]:
    """One submission's job."""
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "containers": [_container(image, name, path, inner, options)],
        "volumes": [
            {
                "name": "submissions",
                "persistentVolumeClaim": {"claimName": "submissions", "readOnly": True},
            },
            {"name": "marks", "persistentVolumeClaim": {"claimName": "marks"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
        ],
    }
    times = {"backoffLimit": 1, "activeDeadlineSeconds": 1800, "ttlSecondsAfterFinished": 86400}
    about = {"name": name, "labels": {"app": "kvlab-grade"}}
    spec = {**times, "template": {"metadata": {"labels": about["labels"]}, "spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": about, "spec": spec}


DOCKER = [
    *("docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp"),
    *("--memory", "4g", "--pids-limit", "256", "--security-opt", "seccomp=unconfined"),
]


def _docker(
    args: argparse.Namespace, found: Mapping[str, Path], how: Mapping[str, list[str]]
) -> str:
    """A shell script with a line per submission; one that fails stops no other."""
    lines = ["#!/bin/sh", "mkdir -p marks"]
    for name, path in found.items():
        inside = _inside(path)
        mount = _fields(
            "type=bind", f"source={_utf8(str(path.absolute()))}", f"target={inside}", "readonly"
        )
        line = [*DOCKER, "--mount", mount, args.image, "--one", inside, *how[name], "--json"]
        lines.append(f"{shlex.join(line)} > {shlex.quote(f'marks/{label(name)}.json')}")
    return "\n".join(lines) + "\n"


def _fields(*fields: str) -> str:
    """Docker reads a mount as a line of CSV, in which a path may have commas and quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()
