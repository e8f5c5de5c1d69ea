"""What the dashboards and alerts ask Prometheus, read from the files that are shipped; and what of it is a name.

A small reader of PromQL, good for finding the metrics and labels that a query names, and no more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["DASHBOARDS", "ROOT", "RULES", "TARGET_LABELS", "Asked", "Names", "alerts", "asked", "names", "panels"]

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "helm" / "cordee" / "files"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((FILES / "dashboards").glob("*.json"))}
RULES = FILES / "rules" / "cordee.yaml"
TARGET_LABELS = frozenset({"namespace", "job", "instance", "le"})
"""What the scraper adds, and histograms."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_SELECTOR = re.compile(r"([A-Za-z_:][\w:]*)?\s*\{([^{}]*)\}")
_MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")\s*(?:,|$)')
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\S+|\$\w+")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})


@dataclass(frozen=True)
class Asked:
    """A query, and where it stands."""

    where: str
    expr: str
    instant: bool = False
    legend: str = ""
    interval: str = ""
    labels_needed: frozenset[str] = frozenset()
    """Labels that what shows it looks at."""


@dataclass
class Names:
    """What a query names."""

    metrics: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    matched: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Metric, label, operator, value."""


def names(expr: str) -> Names:
    """The metrics and labels of a query."""
    found = Names()

    def grouping(match: re.Match[str]) -> str:
        found.labels.update(re.findall(r"\w+", match[1]))
        return " "

    def selector(match: re.Match[str]) -> str:
        end = 0
        for matcher in _MATCHER.finditer(match[2]):
            found.matched.append((match[1] or "", matcher[1], matcher[2], json.loads(matcher[3])))
            found.labels.add(matcher[1])
            end = matcher.end()
        assert not match[2][end:].strip(), f"cannot read {match[0]!r} of {expr!r}"
        return f" {match[1] or ''} "

    rest = _SELECTOR.sub(selector, expr)
    rest = _GROUPING.sub(grouping, rest)
    rest = _RANGE.sub(" ", _STRING.sub(" ", rest))
    for match in re.finditer(r"[A-Za-z_:][\w:]*", rest):
        if match[0].lower() not in _WORDS and not rest[match.end() :].lstrip().startswith("("):
            found.metrics.add(match[0])
    return found


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, those within rows included."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def _table_labels(panel: dict[str, Any]) -> frozenset[str]:
    """The labels that a table's columns show."""
    for change in panel.get("transformations") or ():
        if change["id"] == "organize":
            return frozenset(name for name in change["options"]["renameByName"] if not name.startswith("Value #"))
    return frozenset()


def asked(name: str) -> Iterator[Asked]:
    """Every query of a dashboard: of its panels, annotations and variables."""
    dashboard = DASHBOARDS[name]
    for panel in panels(dashboard):
        for target in panel.get("targets") or ():
            legend = target.get("legendFormat", "")
            instant = bool(target.get("instant"))
            yield Asked(f"{name} / {panel['title']} / {target['refId']}", target["expr"], instant, legend)
    for annotation in dashboard["annotations"]["list"]:
        target = annotation["target"]
        assert target["expr"] == annotation["expr"]
        needed = frozenset(re.findall(r"{{(\w+)}}", annotation["titleFormat"] + annotation["textFormat"]))
        needed |= set(annotation["tagKeys"].split(","))
        yield Asked(
            f"{name} / annotation {annotation['name']}",
            target["expr"],
            interval=target["interval"],
            labels_needed=needed,
        )
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            text = variable["query"]["query"]
            assert variable["definition"] == text
            match = re.fullmatch(r"query_result\((.*)\)", text)
            if match:
                yield Asked(f"{name} / variable {variable['name']}", match[1], instant=True)
            else:
                match = re.fullmatch(r"label_values\((\w+),\s*(\w+)\)", text)
                assert match, text
                expr = f"count by ({match[2]}) ({match[1]})"
                yield Asked(f"{name} / variable {variable['name']}", expr, True, labels_needed=frozenset({match[2]}))


def alerts() -> list[dict[str, Any]]:
    """The alerting rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]
