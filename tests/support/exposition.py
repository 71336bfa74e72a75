"""What a scrape of /metrics gave, and what queries want of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import promql_parser
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "windshift.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

TARGET_LABELS = {"job", "instance"}
"""Prometheus adds these itself."""
TARGET_METRICS = {"up"}


@dataclass(frozen=True)
class Exposition:
    """A scrape, parsed by Prometheus's own library, which takes its time: only what a test looks at."""

    content_type: str
    text: str

    @cached_property
    def families(self) -> dict[str, Any]:
        """All families by their names."""
        parse = parse_openmetrics if "openmetrics" in self.content_type else parse_text
        return {family.name: family for family in parse(self.text)}

    @property
    def samples(self) -> list[Any]:
        """All samples."""
        return [sample for family in self.families.values() for sample in family.samples]

    def named(self, name: str) -> Iterator[Any]:
        """Yield the samples of a name."""
        lines = "".join(line for line in self.text.splitlines(keepends=True) if line.startswith(name))
        for family in parse_text(lines):
            yield from (sample for sample in family.samples if sample.name == name)

    def value(self, name: str, **labels: str) -> float:
        """Add up the samples of this name that have these labels, among others."""
        return sum(
            float(sample.value) for sample in self.named(name) if labels.items() <= sample.labels.items()
        )

    def has(self, name: str, **labels: str) -> bool:
        """Tell whether there is a sample of this name with these labels, among others."""
        return any(labels.items() <= sample.labels.items() for sample in self.named(name))

    def labels(self, name: str) -> dict[str, set[str]]:
        """Give the labels of a name with their values."""
        found: dict[str, set[str]] = {}
        for sample in self.named(name):
            for label, value in sample.labels.items():
                found.setdefault(label, set()).add(value)
        return found


def scrape(port: int, accept: str = "") -> Exposition:
    """Scrape a server."""
    request = Request(f"http://127.0.0.1:{port}/metrics", headers={"accept": accept})
    with urlopen(request, timeout=30) as response:  # noqa: S310 - http
        return Exposition(response.headers["content-type"], response.read().decode())


# --- Queries ----------------------------------------------------------------------------------------------


def dashboard_queries() -> list[tuple[str, str, str]]:
    """Give the title, the query and the legend of each target of the dashboard."""
    return list(_dashboard_queries())


def _dashboard_queries() -> Iterator[tuple[str, str, str]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$__rate_interval", "5m")
            yield (
                panel["title"],
                query.replace("$job", ".*").replace("$instance", ".*"),
                target["legendFormat"],
            )


def alert_rules() -> list[dict[str, Any]]:
    """Give the alert rules."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric that a query reads."""

    name: str
    equal: dict[str, str]
    """Labels that must have a value."""
    labels: set[str]
    """Labels that the query mentions for it."""


def selectors(query: str) -> list[Selector]:
    """Parse a query, and give what it reads; raise ValueError when it is no PromQL."""
    return list(_selectors(promql_parser.parse(query), set()))


def _selectors(expression: Any, grouped: set[str]) -> Iterator[Selector]:
    match expression:
        case promql_parser.VectorSelector():
            matchers = expression.matchers.matchers
            equal = {each.name: each.value for each in matchers if each.op == promql_parser.MatchOp.Equal}
            yield Selector(expression.name or "", equal, grouped | {each.name for each in matchers})
        case promql_parser.MatrixSelector():
            yield from _selectors(expression.vector_selector, grouped)
        case promql_parser.AggregateExpr():
            labels = set(expression.modifier.labels) if expression.modifier else set()
            yield from _selectors(expression.expr, grouped | labels)
        case promql_parser.Call():
            for argument in expression.args:
                yield from _selectors(argument, grouped)
        case promql_parser.BinaryExpr():
            yield from _selectors(expression.lhs, grouped)
            yield from _selectors(expression.rhs, grouped)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _selectors(expression.expr, grouped)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:
            raise ValueError(f"cannot read {type(expression).__name__}")


def placeholders(text: str) -> set[str]:
    """Give the labels that a legend or an annotation puts in."""
    return set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text))
