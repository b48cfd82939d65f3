"""Builds deploy/Dockerfile without Docker, in a folder: its RUN lines run as they are in a fresh root of the base image's system.

    python benchmarks/image.py /tmp/root

needs root and `mmdebstrap` (apt), takes about ten minutes and 7 GB. `--run 'sweeper plan quickstart'` then runs a command in it.
Not shown by it: Docker itself, its layers, and the NVIDIA driver that the host adds.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[1]
DOCKERFILE = PROJECT / "deploy/Dockerfile"

# What the build takes from this machine, as Docker's builder would: name resolution, certificates, pip's settings and local wheels.
FROM_HERE = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/apt/apt.conf.d",
    "/etc/xdg/pip",
    "/opt/pypi",
    "/opt/pypi-more",
    "/opt/wheels",
]


CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""Mounted at a place of its own, since installing the package ca-certificates replaces this file."""


def read_dockerfile(path: Path = DOCKERFILE) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile in order, as (INSTRUCTION, rest); comments are dropped, continued lines joined."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def build(root: Path, commit: str, *, is_built: bool = False) -> tuple[dict[str, str], str]:
    """Build the image in the folder `root`; returns the environment and the working folder of what is run in it."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "dumb"}
    arguments: dict[str, str] = {}
    folder = "/"
    for instruction, rest in read_dockerfile():
        if is_built and instruction in ("FROM", "RUN", "COPY"):
            continue
        print(f"{instruction} {rest[:110]}", flush=True)
        if instruction == "FROM":
            _make_root(root, rest)
        elif instruction == "RUN":
            _run(root, folder, environment, rest)
        elif instruction == "ENV":
            pairs = (pair.partition("=") for pair in shlex.split(rest))
            environment |= {name: arguments.get(value.removeprefix("$"), value) for name, _, value in pairs}
        elif instruction == "ARG":
            name, _, default = rest.partition("=")
            arguments[name] = commit if name == "COMMIT" else default
        elif instruction == "WORKDIR":
            folder = rest
            (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY":
            _copy(root / folder.lstrip("/"), rest.split())
        else:
            raise SystemExit(f"{DOCKERFILE}: the instruction {instruction} is not known here")
    return environment, folder


def _make_root(root: Path, image: str) -> None:
    """The base image's system: `debian:bookworm-slim` is Debian's minimal bookworm."""
    distribution, _, release = image.partition(":")
    if distribution != "debian":
        raise SystemExit(f"{DOCKERFILE}: FROM {image} is not a Debian image")
    if not (root / "etc/os-release").exists():
        subprocess.run(["mmdebstrap", "--variant=minbase", "--quiet", release.removesuffix("-slim"), str(root)], check=True)


def _run(root: Path, folder: str, environment: dict[str, str], command: str) -> None:
    """Run a RUN line with `sh -c` in the root, in a mount namespace of its own: what is mounted for it is gone afterwards."""
    mounts = ["mount -t proc proc proc", "mount --rbind /dev dev"]
    for path in filter(os.path.exists, FROM_HERE):
        place = path.lstrip("/")
        mounts.append(
            f"if [ -d {path} ]; then mkdir -p {place}; else mkdir -p $(dirname {place}); touch {place}; fi; mount --bind {path} {place}"
        )
    if os.path.exists(CERTIFICATES):
        mounts.append(f"touch run/certificates.crt; mount --bind {CERTIFICATES} run/certificates.crt")
    inner = f"cd {folder} && exec /bin/sh -c {shlex.quote(command)}"
    script = f"set -e; cd {shlex.quote(str(root))}; {'; '.join(mounts)}; exec chroot . /bin/sh -c {shlex.quote(inner)}"
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy") or name.startswith(("PIP_", "SSL_"))}
    proxies["PIP_CERT"] = "/run/certificates.crt"
    subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", script], env=proxies | environment, check=True)


def _copy(folder: Path, paths: list[str]) -> None:
    *sources, target = paths
    for source in sources:
        place = PROJECT / source
        if place.is_dir():
            shutil.copytree(place, folder / target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(place, folder / target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build deploy/Dockerfile in a folder, without Docker.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--run", metavar="COMMAND", help="do not build: run this in the image that was built there")
    given = parser.parse_args()
    root = given.root.resolve()
    environment, folder = build(root, given.commit, is_built=given.run is not None)
    if given.run is not None:
        _run(root, folder, environment, given.run)
