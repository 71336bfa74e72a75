"""Run the examples of other languages against a server with TLS and tokens, and compare what they print.

    languages.py [NAME…]    all, or some of: go, node, typescript, java, csharp

Those whose tools are not installed are skipped, and named. What they need of other packages is fetched by the
tools of the language. Exits with 1 when one prints something else than it should.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
EXAMPLES = ROOT / "examples" / "languages"
EXPECTED = """\
stored as event 1, duplicate: false
stored as event 1, duplicate: true
order A-17 costs 3490, attempt 1
acknowledged [1]
REVISION_MISMATCH: expected 2, actual 1
"""
LIMIT = 900.0
"""Seconds that fetching, compiling and running an example may take."""


@dataclass(frozen=True, slots=True)
class Example:
    """An example: the programs that it needs, and its commands; the last one runs it."""

    needs: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


NPM = ("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
RUNS = {
    "go": Example(("go",), (("buf", "generate"), ("go", "run", "."))),
    "node": Example(("node", "npm"), (NPM, ("node", "main.js"))),
    "typescript": Example(
        ("node", "npm"), (NPM, ("buf", "generate"), ("npx", "tsc"), ("node", "build/main.js"))
    ),
    "java": Example(("java", "mvn"), (("mvn", "-q", "-B", "compile"), ("mvn", "-q", "-B", "exec:java"))),
    "csharp": Example(("dotnet",), (("dotnet", "run"),)),
}


def certificate(folder: Path) -> None:
    """Write a certificate for 127.0.0.1, which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "windshift")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)


RULES = """\
[[principals]]
name = "shop"
token_sha256 = ["{digest}"]
roles = ["everything"]

[role.everything]
publish = [">"]
streams = {{ manage = ["*"], bind = [">"], consume = ["*"], subjects = [">"] }}
consumers = {{ use = ["*"] }}
stores = {{ manage = ["*"], read = ["*"], write = ["*"], keys = [">"] }}
"""


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """Run a server, and give the variables that clients need."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate(folder)
        token = f"ws_shop_{secrets.token_urlsafe(32)}"  # as `windshift auth token shop` makes it
        (folder / "auth.toml").write_text(RULES.format(digest=sha256(token.encode()).hexdigest()))
        (folder / "auth.toml").chmod(0o600)
        settings = {
            "GRPC_PORT": "0",
            "GRPC_TLS_CERT": str(folder / "cert.pem"),
            "GRPC_TLS_KEY": str(folder / "key.pem"),
            "HEALTH_PORT": "0",
            "WINDSHIFT_AUTH_FILE": str(folder / "auth.toml"),
            "WINDSHIFT_DATA_DIR": str(folder / "data"),
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("WINDSHIFT_")}
        out = folder / "out"
        with out.open("w") as log:
            process = subprocess.Popen([BIN / "windshift", "serve"], env=inherited | settings, stdout=log)
        try:
            while "API on " not in out.read_text():
                if process.poll() is not None:
                    raise SystemExit("languages: the server did not start, see above")
                time.sleep(0.05)
            address = out.read_text().partition("API on ")[2].split()[0].rstrip(",")
            yield {
                "WINDSHIFT_ADDRESS": address,
                "WINDSHIFT_TLS_CA": str(folder / "cert.pem"),
                "WINDSHIFT_TOKEN": token,
            }
            process.send_signal(signal.SIGTERM)
            process.wait()
        finally:
            process.kill()
            process.wait()


def run(name: str, variables: dict[str, str]) -> bool:
    """Run an example, say how it went, and tell whether it printed what it should."""
    environment = os.environ | variables | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = None
    for command in RUNS[name].commands:
        done = subprocess.run(
            command,
            cwd=EXAMPLES / name,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            check=False,
        )
        if done.returncode != 0:
            print(f"  {name}: `{' '.join(command)}` failed\n{done.stdout}", flush=True)
            return False
    if done is None or EXPECTED not in done.stdout:
        print(f"  {name}: printed something else\n{done.stdout if done else ''}", flush=True)
        return False
    print(f"  {name}: ok", flush=True)
    return True


def main(names: Sequence[str]) -> int:
    """Run the named examples, or all, and return the exit status."""
    results = []
    with server() as variables:
        for name in names or RUNS:
            missing = [program for program in RUNS[name].needs if shutil.which(program) is None]
            if missing:
                print(f"  {name}: skipped, {' and '.join(missing)} not installed", flush=True)
            else:
                results.append(run(name, variables))
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
