"""Check the Helm chart: lint it, and validate each of its shapes against the schemas of Kubernetes.

Values that must be refused are tried too. Exits with 1 when something is wrong. Objects of the Prometheus
operator are only rendered: no schema of them is here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "deploy" / "helm" / "windshift"
HELM: Final = str(Path(sys.executable).with_name("helm"))
VERSIONS: Final = ("1.26", "1.37")
"""The oldest Kubernetes that the chart supports, and a present one."""

AUTHORIZED: Final[dict[str, Any]] = {"authorization": {"secret": {"name": "windshift-auth"}}}
NATS: Final[dict[str, Any]] = AUTHORIZED | {"replicas": 3, "nats": {"url": "tls://a:4222,tls://b:4222"}}

SHAPES: Final[dict[str, dict[str, Any]]] = {
    "embedded": AUTHORIZED,
    "embedded and open": {"authorization": {"insecure": True}, "persistence": {"storageClass": "fast"}},
    "beside a NATS cluster": NATS,
    "NATS's password in a secret": AUTHORIZED
    | {"nats": {"url": "nats://windshift@nats", "passwordSecret": {"name": "nats", "key": "password"}}},
    "NATS's URL in a secret": AUTHORIZED | {"nats": {"urlSecret": {"name": "nats", "key": "url"}}},
    "everything": NATS
    | {
        "image": {"repository": "registry.example/windshift", "digest": "sha256:" + 64 * "0"},
        "imagePullSecrets": [{"name": "registry"}],
        "nats": {
            "url": "tls://nats:4222",
            "credentialsSecret": {"name": "nats-user", "key": "windshift.creds"},
            "tls": {"secret": "nats-tls", "clientCertificate": True},
        },
        "tls": {"secret": "windshift-tls", "clientAuth": "require"},
        "env": {"GRPC_MAX_CONNECTIONS": 20000, "LOG_LEVEL": "warning"},
        "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4317"}],
        "networkPolicy": {
            "clients": [{"namespaceSelector": {}}],
            "metrics": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        },
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
        "podLabels": {"team": "events"},
        "podAnnotations": {"note": "x"},
        "tolerations": [{"key": "events", "operator": "Exists"}],
        "nodeSelector": {"disk": "ssd"},
        "priorityClassName": "high",
        "service": {"type": "LoadBalancer", "port": 443},
    },
    "as little as possible": NATS
    | {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False},
        "preStopSeconds": 0,
    },
}

REFUSED: Final[dict[str, dict[str, Any]]] = {
    "name the secret with the authorization file": {},
    "the embedded NATS is one server": AUTHORIZED | {"replicas": 2},
    "set url or urlSecret": AUTHORIZED | {"nats": {"url": "nats://a", "urlSecret": {"name": "b"}}},
    "set one of credentialsSecret, nkeySecret": NATS
    | {"nats": {"url": "nats://a", "credentialsSecret": {"name": "a"}, "nkeySecret": {"name": "b"}}},
    "a token belongs in a secret": AUTHORIZED | {"nats": {"url": "nats://token@nats"}},
    "needs tls.secret": AUTHORIZED | {"tls": {"clientAuth": "require"}},
    "the chart sets it by a value of its own": AUTHORIZED | {"env": {"GRPC_PORT": "1"}},
    "replica": AUTHORIZED | {"replica": 2},
    "nats.url: Does not match pattern": AUTHORIZED | {"nats": {"url": "nats://user:password@nats"}},
}
"""Parts of what is told, and the values that it is told of."""


def render(values: dict[str, Any], version: str) -> subprocess.CompletedProcess[str]:
    """Render the chart with some values."""
    command = [HELM, "template", "ws", str(CHART), "--kube-version", version, "--values", "-"]
    return subprocess.run(command, input=json.dumps(values), text=True, capture_output=True, check=False)


def wrong(objects: list[dict[str, Any]], version: str) -> Iterator[str]:
    """Say what is wrong with the objects of a shape."""
    known = set(re.findall(r"(?m)^(?:# )?export (\w+)=", (ROOT / ".envrc.example").read_text()))
    for each in objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        if not each["apiVersion"].startswith("monitoring.coreos.com/"):
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}: {error.message} at {'.'.join(map(str, error.path))}"
        pod = each.get("spec", {}).get("template", {}).get("spec")
        for container in pod["containers"] if pod else ():
            variables = [variable["name"] for variable in container["env"]]
            yield from (f"{name}: there is no {one}" for one in variables if one not in known)
            yield from (f"{name}: {one} twice" for one in set(variables) if variables.count(one) > 1)


def problems() -> Iterator[str]:
    """Say everything that is wrong with the chart."""
    for text, values in REFUSED.items():
        done = render(values, VERSIONS[-1])
        if done.returncode == 0 or text not in done.stderr:
            yield f"not refused with {text!r}: {done.stderr.strip() or 'it was rendered'}"
    for shape, values in SHAPES.items():
        for version in VERSIONS:
            done = render(values, version)
            if done.returncode:
                yield f"{shape}, {version}: {done.stderr.strip()}"
                continue
            objects = [each for each in yaml.safe_load_all(done.stdout) if each]
            yield from (f"{shape}, {version}: {each}" for each in wrong(objects, version))
            print(f"  {shape}, Kubernetes {version}: {len(objects)} objects", flush=True)
    command = [HELM, "lint", "--strict", "--quiet", str(CHART), "--values", "-"]
    done = subprocess.run(command, input=json.dumps(NATS), text=True, capture_output=True, check=False)
    if done.returncode:
        yield f"helm lint: {done.stdout}{done.stderr}"


def main() -> int:
    """Check everything and return the exit status."""
    found = list(problems())
    for each in found:
        print(each)
    print("The chart is wrong." if found else "The chart is right.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
