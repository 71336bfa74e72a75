"""What the scripts of the supply chain decide without a network."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import subprocess
from pathlib import Path

import ngh2
import pytest
import yaml

from scripts import artifacts, audit, images, lock, release
from windshift.rpc import libnghttp2_version

ROOT = Path(__file__).resolve().parent.parent
DIGEST = f"sha256:{'0' * 64}"
OTHER = f"sha256:{'1' * 64}"


def test_images_are_pinned() -> None:
    """All images that are pulled are, in the files as they are committed."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    (base,) = re.findall(r"(?m)^ARG PYTHON=(.+)$", dockerfile)
    pulled = [f"python:{base}", *(each["image"] for each in services if "build" not in each)]
    assert set(re.findall(r"(?m)^FROM (\S+)", dockerfile)) == {"python:${PYTHON}"}
    assert [each for each in pulled if not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", each)] == []


def test_images_are_pinned_anew() -> None:
    """Every image that is pulled gets its digest, and another one when it is asked again."""
    asked: list[str] = []

    def ask(image: str) -> str:
        asked.append(image)
        return DIGEST if len(asked) <= 3 else OTHER

    dockerfile = images.pinned_dockerfile((ROOT / "Dockerfile").read_text(), ask)
    compose = images.pinned_compose((ROOT / "compose.yaml").read_text(), ask)
    (tag,) = re.findall(r"(?m)^ARG PYTHON=([\w.-]+)", (ROOT / "Dockerfile").read_text())
    assert f"\nARG PYTHON={tag}@{DIGEST}\n" in dockerfile
    services = yaml.safe_load(compose)["services"].values()
    pulled = [each["image"] for each in services if "build" not in each]
    assert [each.partition("@")[2] for each in pulled] == [DIGEST] * len(pulled)
    assert asked == [f"python:{tag}", *(each.partition("@")[0] for each in pulled)]
    assert images.pinned_compose(compose, ask) == compose.replace(DIGEST, OTHER)


def test_the_digest_of_an_image() -> None:
    """It is that of the list of platforms, as buildx writes it; what is no digest is written nowhere."""
    manifest = {"schemaVersion": 2, "digest": DIGEST, "size": 517, "manifests": [{"digest": OTHER}]}
    assert images.digest_in(json.dumps(manifest, indent=2)) == DIGEST
    with pytest.raises(ValueError, match="no digest"):
        images.digest_in('{"digest": "latest"}')
    with pytest.raises(ValueError, match="Expecting value"):
        images.digest_in(f"Name: python:3.13\nDigest: {DIGEST}\n")


@pytest.mark.parametrize("name", sorted(each.file.name for each in lock.locks()))
def test_every_locked_file_has_a_digest(name: str) -> None:
    """No package can be installed from a lock without one."""
    (file,) = (each.file for each in lock.locks() if each.file.name == name)
    entries = re.findall(r"(?m)^[a-z0-9-]+==(?:.*\\\n)*.*\n", file.read_text())
    assert entries
    assert [each for each in entries if "--hash=sha256:" not in each] == []
    assert "://" not in file.read_text()


def test_an_image_can_be_built_from_what_is_released() -> None:
    """The archive of a release has all that the Dockerfile copies, and no more beside it."""
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text())
    assert sorted(artifacts.IMAGE) == sorted({"Dockerfile", *" ".join(copied).split()})


def test_the_first_release_keeps_its_version_and_changelog(tmp_path: Path) -> None:
    """Nothing is bumped: what was unreleased gets version and date, in a commit with a tag."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "--quiet")
    git("config", "user.name", "t")
    git("config", "user.email", "t@example.org")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- Everything.\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "feat: everything")
    with pytest.raises(ValueError, match=r"the first release is 0\.1\.0, not 1\.0\.0"):
        release.release_first(tmp_path, dt.date(2027, 1, 2), "1.0.0")
    assert git("status", "--porcelain") == git("tag") == ""
    assert release.release_first(tmp_path, dt.date(2027, 1, 2), "v0.1.0") == "v0.1.0"
    assert git("show", "v0.1.0:CHANGELOG.md") == "# Changelog\n\n## v0.1.0 (2027-01-02)\n\n- Everything.\n"
    assert git("status", "--porcelain") == ""
    assert git("rev-parse", "v0.1.0") == git("rev-parse", "HEAD")


def test_the_server_has_what_was_tried() -> None:
    """The lock of the server has the versions of the one that the tests run with."""
    everything, server = (
        dict(re.findall(r"(?m)^([a-z0-9-]+)==([^\s;]+)", file.read_text()))
        for file in (lock.EVERYTHING, lock.SERVER)
    )
    assert {name: everything.get(name) for name in server} == server


def test_materials_with_another_engine(tmp_path: Path) -> None:
    """A wheel of `make engine` takes the place of the locked ngh2: its version, digest and libnghttp2."""
    assert artifacts.engine_wheels(tmp_path) == []
    for name, content in (("cp311-cp311", b"one"), ("cp313-cp313", b"two")):
        (tmp_path / f"ngh2-0.3.0+nghttp2.1.70.1-{name}-linux_x86_64.whl").write_bytes(content)
    component = {
        "name": "ngh2",
        "version": "0.3.0",
        "components": [{"type": "library", "name": "nghttp2", "version": "1.70.0"}],
    }
    artifacts.replace_engine(component, artifacts.engine_wheels(tmp_path))
    url, inner = "pkg:pypi/ngh2@0.3.0%2Bnghttp2.1.70.1", "pkg:generic/nghttp2@1.70.1"
    digests = [hashlib.sha256(each).hexdigest() for each in (b"one", b"two")]
    assert component == {
        "name": "ngh2",
        "version": "0.3.0+nghttp2.1.70.1",
        "bom-ref": url,
        "purl": url,
        "properties": [{"name": "windshift:sha256", "value": each} for each in digests],
        "components": [
            {"type": "library", "name": "nghttp2", "version": "1.70.1", "bom-ref": inner, "purl": inner}
        ],
    }


@pytest.mark.parametrize("others", [["0.3.0+nghttp2.1.70.2"], ["0.2.2+nghttp2.1.70.1"]])
def test_no_materials_with_engines_that_do_not_fit(tmp_path: Path, others: list[str]) -> None:
    """Neither with two libraries, nor with a wheel of an ngh2 that the lock has no more."""
    fitting = ["0.3.0+nghttp2.1.70.1"] if others[0].startswith("0.3.0") else []
    for version in (*fitting, *others):
        (tmp_path / f"ngh2-{version}-cp313-cp313-linux_x86_64.whl").touch()
    with pytest.raises(artifacts.Incomplete, match=re.escape(others[0])):
        artifacts.replace_engine({"version": "0.3.0", "components": [{}]}, artifacts.engine_wheels(tmp_path))


def test_materials_name_the_library_that_servers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bill of materials and `windshift version` say the same of the locked ngh2."""
    version, name, library, url = artifacts.INSIDE["ngh2"]
    monkeypatch.setattr(ngh2, "__version__", version)
    assert (name, library, url) == ("nghttp2", libnghttp2_version(), f"pkg:generic/nghttp2@{library}")


GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


def test_an_audit() -> None:
    """Vulnerabilities fail it, and packages that the database does not know; no database only where told."""
    assert audit.judge([GOOD], if_possible=False) == (0, ["no known vulnerabilities in 1 packages"])
    assert audit.judge([GOOD, BAD], if_possible=True) == (1, ["bad 2: CVE-1, mended in 3"])
    assert audit.judge([GOOD, UNKNOWN], if_possible=True)[0] == 1
    nothing = ["no database at hand: nothing was audited"]
    assert audit.judge([UNKNOWN], if_possible=False) == (3, nothing)
    assert audit.judge([], if_possible=True) == (0, nothing)
