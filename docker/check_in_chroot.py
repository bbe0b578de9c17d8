#!/usr/bin/env python3
"""Carries out a Dockerfile's own steps in clean chroots, and serves from the last one.

For machines without a Docker engine: a proof that the steps install what the server needs. Only
the base image is another: Debian from debootstrap, with its own Python. Needs Linux and root.

    python docker/check_in_chroot.py /tmp/chroots --arg EXTRAS=server,demo

The server runs as the image's user, without capabilities, on a root file system that is mounted
read-only but for the volumes and /tmp; the image's health check and a streamed completion follow.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

ROOT = Path(__file__).parents[1]
PACKAGES = "ca-certificates,python3,python3-venv,python-is-python3"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $0 is the root file system, the arguments are what to run in it.
ENTER = 'mount -t proc proc "$0/proc"; {mounts} exec chroot "$0" "$@"'
READ_ONLY = (
    'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; mount -t tmpfs tmpfs "$0/tmp"; {mounts}'
)
DROP = "setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs --bounding-set=-all"


@dataclass(frozen=True)
class Step:
    """One instruction, e.g. `RUN`, and what comes after the word."""

    word: str
    text: str


@dataclass
class Stage:
    """A root file system, and what the instructions have set for it.

    Attributes:
        root: Where it is.
        args: Build arguments.
        env: Environment of the image.
        workdir: Where RUN runs.
        user: Who runs the image, `uid:gid`.
        volumes: Folders that stay writable.
        commands: Arguments of ENTRYPOINT, CMD and HEALTHCHECK.
    """

    root: Path
    args: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=lambda: {"PATH": SYSTEM_PATH})
    workdir: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    commands: dict[str, list[str]] = field(default_factory=dict)


def read_steps(dockerfile: str) -> list[Step]:
    """Instructions of a Dockerfile: continued lines joined, comments left out."""
    lines = (line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [Step(word.upper(), text.strip()) for word, _, text in pairs]


def expand(text: str, values: dict[str, str]) -> str:
    """`text` with `$NAME` and `${NAME}` replaced; what is not known becomes empty."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: values.get(m[1] or m[2], ""), text)


def inside(root: Path, path: str, workdir: str = "/") -> Path:
    """Where `path` of a root file system is on this machine."""
    return root / (Path(workdir) / path).relative_to("/")


class Build:
    """Carries out the steps of a Dockerfile.

    Args:
        folder: Where the root file systems are, one a stage.
        given: Values for ARG.
        share: Files of this machine that RUN sees too, e.g. its certificates.
        env: More environment for RUN that is no part of the image.
    """

    def __init__(
        self, folder: Path, given: dict[str, str], share: list[str], env: dict[str, str]
    ) -> None:
        self._folder = folder
        self._given = given
        self._share = ["/etc/resolv.conf", *share]
        self._env = env
        self._stages: dict[str, Stage] = {}

    def run(self, steps: list[Step], first: int, last: int) -> Stage:
        """Carry out the steps `first` to `last`, those before having been; returns the last stage.

        Steps that only set something are always taken.
        """
        stage = None
        for number, step in enumerate(steps, 1):
            if step.word == "FROM":
                stage = self._begin(step.text.partition(" AS ")[2] or "final")
            if stage is None:
                raise SystemExit(f"a Dockerfile that begins with {step.word} is not supported")
            if step.word not in ("FROM", "RUN", "COPY", "WORKDIR"):
                self._declare(stage, step)
                continue
            if step.word == "WORKDIR":
                stage.workdir = step.text
            if first <= number <= last:
                print(f"[{number}/{len(steps)}] {step.word} {step.text}", flush=True)
                begun = time.monotonic()
                self._change(stage, step)
                print(f"    {time.monotonic() - begun:.1f} s", flush=True)
        if stage is None:
            raise SystemExit("the Dockerfile is empty")
        return stage

    def _begin(self, name: str) -> Stage:
        self._stages[name] = Stage(self._folder / name)
        return self._stages[name]

    def _declare(self, stage: Stage, step: Step) -> None:
        if step.word == "ARG":
            name, _, default = step.text.partition("=")
            stage.args[name] = self._given.get(name, "".join(shlex.split(default)))
        elif step.word == "ENV":
            known = stage.args | stage.env
            pairs = (pair.partition("=") for pair in shlex.split(step.text))
            stage.env |= {name: expand(value, known) for name, _, value in pairs}
        elif step.word == "USER":
            stage.user = step.text
        elif step.word == "VOLUME":
            stage.volumes.append(step.text)
        elif step.word in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
            stage.commands[step.word] = json.loads(step.text[step.text.index("[") :])
        elif step.word != "EXPOSE":
            raise SystemExit(f"{step.word} is not supported")

    def _change(self, stage: Stage, step: Step) -> None:
        if step.word == "FROM":
            shutil.rmtree(stage.root, ignore_errors=True)
            subprocess.run(["cp", "-a", self._base(), stage.root], check=True)
        elif step.word == "WORKDIR":
            inside(stage.root, step.text).mkdir(parents=True, exist_ok=True)
        elif step.word == "COPY":
            self._copy(stage, step.text.split())
        else:
            self._shell(stage, step.text)

    def _base(self) -> Path:
        base = self._folder / "base"
        if not base.exists():
            command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm"]
            subprocess.run([*command, base], check=True, stdout=subprocess.DEVNULL)
        return base

    def _copy(self, stage: Stage, words: list[str]) -> None:
        source = ROOT
        if words[0].startswith("--from="):
            source = self._stages[words.pop(0).removeprefix("--from=")].root
        *names, target = words
        for name in names:
            path = inside(source, name)
            into = inside(stage.root, target, stage.workdir)
            if path.is_dir():
                subprocess.run(["cp", "-aT", path, into], check=True)
            else:
                shutil.copy(path, into)

    def _shell(self, stage: Stage, command: str) -> None:
        mounts = ""
        for path in self._share:
            target = inside(stage.root, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
            mounts += f'mount --bind {path} "$0{path}"; '
        script = f"set -e; {ENTER.format(mounts=mounts)}"
        shell = ["/bin/sh", "-c", f"cd {stage.workdir} && {command}"]
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, stage.root, *shell],
            check=True,
            env=self._env | stage.args | stage.env,
        )


class Container:
    """The image's command, running as its user on a read-only root.

    Args:
        stage: The last stage.
        env: More environment.
    """

    def __init__(self, stage: Stage, env: dict[str, str]) -> None:
        self._stage = stage
        self._env = stage.env | env
        self._uid, self._gid = stage.user.split(":")
        volumes = "".join(  # a bind mount of what is read-only is read-only too
            f'mount --bind "$0{path}" "$0{path}"; mount -o remount,bind,rw "$0{path}"; '
            for path in stage.volumes
        )
        drop = DROP.format(uid=self._uid, gid=self._gid).split()
        script = f"set -e; {ENTER.format(mounts=READ_ONLY.format(mounts=volumes))}"
        command = [*drop, *stage.commands["ENTRYPOINT"], *stage.commands["CMD"]]
        self._begun = time.monotonic()
        self._child = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, stage.root, *command], env=self._env
        )
        self._url = f"http://127.0.0.1:{self._env['LLAMACART_PORT']}"

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._begun

    def execute(self, user: str, *command: str) -> bool:
        """Whether a command of `user` (`uid:gid`) ends well inside."""
        uid, gid = user.split(":")
        enter = ["nsenter", f"--target={self._child.pid}", "--mount", "--root", "--wd"]
        enter += ["--setuid", uid, "--setgid", gid]
        done = subprocess.run([*enter, *command], env=self._env, capture_output=True)
        return done.returncode == 0

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for `/ready`."""
        while self.seconds < seconds:
            if self._child.poll() is not None:
                raise SystemExit(f"the server ended with {self._child.returncode}")
            try:
                urllib.request.urlopen(f"{self._url}/ready", timeout=5).close()
                return
            except (URLError, OSError):
                time.sleep(0.02)
        raise SystemExit(f"not ready after {seconds:g} s")

    def first_token(self) -> str:
        """The first text of a streamed completion."""
        with urllib.request.urlopen(f"{self._url}/v1/models", timeout=60) as response:
            model = json.load(response)["data"][0]["id"]
        body = {"model": model, "prompt": "The capital of France is", "stream": True}
        request = urllib.request.Request(
            f"{self._url}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                    if event["choices"][0]["text"]:
                        return str(event["choices"][0]["text"])
        raise SystemExit("the stream ended without text")

    def facts(self) -> dict[str, bool]:
        """What is expected of it."""
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        volumes = self._stage.volumes
        return {
            "it runs as the image's user": fields["Uid"].split() == [self._uid] * 4,
            "it has no capability": int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0,
            "it can get no new privileges": fields["NoNewPrivs"].strip() == "1",
            "not even root can write to /": not self.execute("0:0", "touch", "/opt/x"),
            "its user can write to the volumes": all(
                self.execute(self._stage.user, "sh", "-c", f"touch {path}/x && rm {path}/x")
                for path in volumes
            ),
            "the health check passes": self.execute(
                self._stage.user, *self._stage.commands["HEALTHCHECK"]
            ),
        }

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self._child.send_signal(signal.SIGTERM)
        return self._child.wait(60)


def serve(stage: Stage, env: dict[str, str]) -> bool:
    """Start to first token, and whether everything is as expected."""
    container = Container(stage, env)
    try:
        container.wait_until_ready(120)
        ready = container.seconds
        text = container.first_token()
        print(f"ready after {ready:.2f} s, first token {text!r} after {container.seconds:.2f} s")
        facts = container.facts()
    finally:
        status = container.stop()
    facts["SIGTERM ends it with status 0"] = status == 0
    for name, holds in facts.items():
        print(f"{'yes' if holds else 'NO ':3} {name}")
    return all(facts.values())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for the root file systems; a few GB")
    parser.add_argument("--dockerfile", type=Path, default=ROOT / "docker/Dockerfile")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for RUN")
    parser.add_argument("--share", action="append", default=[], metavar="FILE", help="for RUN")
    parser.add_argument("--first", type=int, default=1, help="number of the first step to take")
    parser.add_argument("--last", type=int, default=1000, help="and of the last")
    parser.add_argument("--run-env", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    if os.geteuid():
        parser.error("only root may change root file systems")
    args, env, run_env = (
        dict(pair.split("=", 1) for pair in pairs)
        for pairs in (given.arg, given.env, given.run_env)
    )
    steps = read_steps(given.dockerfile.read_text("utf-8"))
    given.folder.mkdir(parents=True, exist_ok=True)
    build = Build(given.folder.resolve(), args, given.share, env)
    stage = build.run(steps, given.first, given.last)
    if given.last >= len(steps):
        sys.exit(0 if serve(stage, run_env) else 1)


if __name__ == "__main__":
    main()
