"""Draws the graph that backward will walk: as text, or as an SVG picture.

    print(autograd.graph_text(loss, model.named_parameters()))
    autograd.draw_graph(loss, "loss.svg", model.named_parameters())

Results stand above what they were made from, as backward visits them. Leaves bear the names that are given for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from cordee.trainer.errors import GraphError
from cordee.trainer.tensors import Leaf, Tensor

__all__ = ["draw_graph", "graph_svg", "graph_text"]

Names = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class _Box:
    """A node as it is drawn."""

    title: str
    detail: str
    leaf: bool
    tooltip: str = ""


def _names(names: Names | None) -> dict[int, str]:
    items: Any = names.items() if isinstance(names, Mapping) else names or ()
    return {id(tensor._node): name for name, tensor in items if tensor._node is not None}


def _root(tensor: Tensor) -> Any:
    if tensor._node is None:
        raise GraphError("this tensor has no graph: nothing it came from requires a gradient")
    return tensor._node


def _walk(root: Any) -> list[Any]:
    """All nodes and leaves below a root, each before what it was made from."""
    order, seen, stack = [], {id(root)}, [(root, iter(root.edges))]
    while stack:
        node, edges = stack[-1]
        for edge in edges:
            if edge is not None and id(edge) not in seen:
                seen.add(id(edge))
                stack.append((edge, iter(edge.edges)))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]


def _box(node: Any, names: dict[int, str]) -> _Box:
    if isinstance(node, Leaf):
        tensor = node.ref()
        shape = "" if tensor is None else "×".join(map(str, tensor.shape)) or "one number"
        return _Box(names.get(id(node), "leaf"), shape, leaf=True)
    title = node.op.name
    if title == "output":
        title = f"output {node.params['index']}"
    elif title == "function":
        title = node.params["function"].__name__ if node.params else "function"
    where = node.where
    return _Box(title, f"{Path(where.filename).name}:{where.line}", False, str(where))


def graph_text(tensor: Tensor, names: Names | None = None) -> str:
    """The graph as an indented text: under every operation what it was made from; a part that is met again is named by
    its number only.

    Args:
        names: names of leaves, as `model.named_parameters()` gives them.
    """
    labels, numbers = _names(names), {id(node): i for i, node in enumerate(_walk(_root(tensor)))}
    lines: list[str] = []
    shown: set[int] = set()
    stack: list[tuple[Any, str, str]] = [(_root(tensor), "", "")]
    while stack:
        node, lead, below = stack.pop()
        box, number = _box(node, labels), numbers[id(node)]
        again = id(node) in shown and not box.leaf
        lines.append(f"{lead}{box.title} #{number}" + (" (see above)" if again else f"  {box.detail}"))
        if again:
            continue
        shown.add(id(node))
        edges = [edge for edge in node.edges if edge is not None]
        for i, edge in reversed(list(enumerate(edges))):
            last = i == len(edges) - 1
            deeper = below + ("   " if last else "│  ") if len(below) < _DEEPEST else below
            stack.append((edge, below + ("└─ " if last else "├─ "), deeper))
    return "\n".join(lines)


_DEEPEST = 180
"""Where the text is not moved further to the right: lines of a deep graph would take memory without end."""
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 132, 40, 18, 34, 16
_STYLE = (
    "text{font:12px system-ui,sans-serif;text-anchor:middle;fill:#1f2933}.d{font-size:10px;fill:#5f6c7b}"
    ".o{fill:#eef2f7;stroke:#8a9bb0}.l{fill:#e3f4e8;stroke:#5aa873}path{fill:none;stroke:#8a9bb0}"
)


def graph_svg(tensor: Tensor, names: Names | None = None) -> str:
    """The graph as an SVG picture: a row for each distance from the result, leaves in green."""
    labels, order = _names(names), _walk(_root(tensor))
    level: dict[int, int] = {}
    for node in order:  # results before what they were made from, so that a node's level is known when it is met
        level.setdefault(id(node), 0)
        for edge in node.edges:
            if edge is not None:
                level[id(edge)] = max(level.get(id(edge), 0), level[id(node)] + 1)
    rows: list[list[Any]] = [[] for _ in range(max(level.values()) + 1)]
    for node in order:
        rows[level[id(node)]].append(node)
    columns = _columns(rows)
    width = (max(columns.values()) + 1) * (_WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    height = len(rows) * (_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _MARGIN

    def corner(node: Any) -> tuple[float, float]:
        return _MARGIN + columns[id(node)] * (_WIDTH + _GAP_X), _MARGIN + level[id(node)] * (_HEIGHT + _GAP_Y)

    parts = []
    parts.append(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
    )
    for node in order:
        x, y = corner(node)
        for edge in node.edges:
            if edge is not None:
                to_x, to_y = corner(edge)
                start, end = (x + _WIDTH / 2, y + _HEIGHT), (to_x + _WIDTH / 2, to_y)
                bend = (start[1] + end[1]) / 2
                parts.append(
                    f'<path d="M{start[0]:.0f} {start[1]:.0f}C{start[0]:.0f} {bend:.0f} {end[0]:.0f} {bend:.0f} '
                    f'{end[0]:.0f} {end[1]:.0f}"/>'
                )
    for node in order:
        (x, y), box = corner(node), _box(node, labels)
        parts.append(
            f'<g><title>{escape(box.tooltip or box.title)}</title><rect class="{"l" if box.leaf else "o"}" x="{x:.0f}" '
            f'y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
            f'<text x="{x + _WIDTH / 2:.0f}" y="{y + 17:.0f}">{escape(_short(box.title))}</text>'
            f'<text class="d" x="{x + _WIDTH / 2:.0f}" y="{y + 32:.0f}">{escape(_short(box.detail))}</text></g>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else "…" + text[1 - most :]


def _columns(rows: list[list[Any]]) -> dict[int, float]:
    """Where each node stands in its row: near the middle of those that were made from it."""
    columns: dict[int, float] = {}
    users: dict[int, list[Any]] = {}
    for row in rows:
        for node in row:
            for edge in node.edges:
                if edge is not None:
                    users.setdefault(id(edge), []).append(node)
    for row in rows:
        wanted = {}
        for place, node in enumerate(row):
            above = [columns[id(user)] for user in users.get(id(node), ()) if id(user) in columns]
            wanted[id(node)] = sum(above) / len(above) if above else float(place)
        row.sort(key=lambda node: wanted[id(node)])
        at = -1.0
        for node in row:
            at = max(at + 1, wanted[id(node)] - (len(row) - 1) / 2 if len(row) > 1 else wanted[id(node)])
            columns[id(node)] = at
    least = min(columns.values(), default=0.0)
    return {key: value - least for key, value in columns.items()}


def draw_graph(tensor: Tensor, path: str | Path, names: Names | None = None) -> Path:
    """Write the graph to a file: an SVG picture for `.svg`, text otherwise.

    Returns the path.
    """
    path = Path(path)
    text = graph_svg(tensor, names) if path.suffix == ".svg" else graph_text(tensor, names) + "\n"
    path.write_text(text, encoding="utf-8")
    return path
