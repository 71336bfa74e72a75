"""Look for known vulnerabilities in what requirements.lock names, by pip-audit.

    audit.py                 exit 1 for vulnerabilities, 3 when there is no database at hand
    audit.py --if-possible   exit 0 then: where a machine reaches none, it is said and no reason to fail

Runs with the interpreter of `.venv-audit`. What is inside of packages, as libnghttp2 is in ngh2, no such
database knows: docs/supply-chain.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_FOUND, _NO_DATABASE = 1, 3


def ask() -> list[dict[str, Any]]:
    """Ask for every package of the lock. Return what pip-audit says of each; nothing when it cannot ask."""
    tool = Path(sys.executable).with_name("pip-audit")
    command = [
        str(tool),
        "--disable-pip",
        "--require-hashes",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    command += ["--requirement", str(ROOT / "requirements.lock")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answer: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    except ValueError:
        print(done.stderr, file=sys.stderr)
        return []
    return answer["dependencies"]


def judge(answers: list[dict[str, Any]], *, if_possible: bool) -> tuple[int, list[str]]:
    """Return the exit status, and what is to be said."""
    unknown = [each["name"] for each in answers if "skip_reason" in each]
    if len(unknown) == len(answers):
        return 0 if if_possible else _NO_DATABASE, ["no database at hand: nothing was audited"]
    said = [
        f"{each['name']} {each['version']}: {vulnerability['id']}, mended in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version'}"
        for each in answers
        for vulnerability in each.get("vulns", ())
    ]
    said += [f"{name}: the database does not know it" for name in unknown]
    return _FOUND if said else 0, said or [f"no known vulnerabilities in {len(answers)} packages"]


def main(arguments: list[str]) -> int:
    """Ask, and return the exit status."""
    status, said = judge(ask(), if_possible=arguments == ["--if-possible"])
    print("\n".join(said))
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
