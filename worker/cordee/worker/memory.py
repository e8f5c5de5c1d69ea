"""Whether the kernel has killed somebody for want of memory, as the control group that this process is in counts it.

A limit of memory is met by SIGKILL, like an operator's `kill -9`, and where the kernel picks one process of a container
instead of all of them (cgroup v1, and v2 without `memory.oom.group`) nobody but its agent is there to tell the two
apart. The count before and after tells: cgroup v2 keeps it in `memory.events`, v1 in `memory.oom_control`, both as
`oom_kill N`. Without control groups, or on a kernel that does not count, nothing is known.

Standard library only: the agent imports this.
"""

from __future__ import annotations

__all__ = ["RECENT_SECONDS", "Memory", "Recent", "candidates", "describe", "kills_in", "limit_in"]

_ROOT = "/sys/fs/cgroup"
_GROUPS = "/proc/self/cgroup"
_NO_LIMIT_BYTES = 1 << 60
"""v1 says "none" by a number near the greatest there is."""
RECENT_SECONDS = 5.0
"""A count is kept for so long at least: a word of a process may be read after the kernel has killed it."""


class Memory:
    """Of one control group. `groups`: what the kernel says in `/proc/self/cgroup`."""

    def __init__(self, groups: str | None = None, root: str = _ROOT) -> None:
        self._counter = self._limit = ""
        for counter, limit in candidates(_read(_GROUPS) if groups is None else groups, root):
            if kills_in(_read(counter)) is not None:
                self._counter, self._limit = counter, limit
                break

    def kills(self) -> int | None:
        """How many processes of the group were killed for want of memory so far; None: nobody counts."""
        return kills_in(_read(self._counter)) if self._counter else None

    def words(self, before: int | None) -> str:
        """What happened to a process that was killed while there were so many kills `before` it; empty: not that."""
        now = self.kills()
        if before is None or now is None or now <= before:
            return ""
        return describe(limit_in(_read(self._limit)))


class Recent:
    """The kills of the last moments: those of hours ago, of whoever is in the same group, say nothing of a process."""

    def __init__(self, memory: Memory, now: float) -> None:
        self._memory = memory
        self._before = self._newer = memory.kills()
        self._at = now

    def alive(self, now: float) -> None:
        """The process lives: what was counted some seconds ago was not it."""
        if now - self._at >= RECENT_SECONDS:
            self._before, self._newer, self._at = self._newer, self._memory.kills(), now

    def words(self) -> str:
        """What happened to it, now that it was killed; empty: not that."""
        return self._memory.words(self._before)


def candidates(groups: str, root: str = _ROOT) -> list[tuple[str, str]]:
    """Where the count and the limit may be, best first. A container sees its own group as the root of them, whatever
    the kernel calls it."""
    found: list[tuple[str, str]] = []
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            base, counter, limit = f"{root}/memory", "memory.oom_control", "memory.limit_in_bytes"
        elif number == "0" and not controllers:
            base, counter, limit = root, "memory.events", "memory.max"
        else:
            continue
        folders = dict.fromkeys((f"{base}{path.rstrip('/')}", base))
        found += [(f"{folder}/{counter}", f"{folder}/{limit}") for folder in folders]
    return found


def kills_in(text: str) -> int | None:
    """The count in a `memory.events` or a `memory.oom_control`; None: it is not in there."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value) if value.strip().isdigit() else None
    return None


def limit_in(text: str) -> int | None:
    """The limit in a `memory.max` or a `memory.limit_in_bytes`, in bytes; None: there is none."""
    text = text.strip()
    limit = int(text) if text.isdigit() else _NO_LIMIT_BYTES
    return limit if limit < _NO_LIMIT_BYTES else None


def describe(limit: int | None) -> str:
    """How a process ended, after "the worker"."""
    if limit is None:
        return "was killed by the kernel, which had no memory left"
    unit, size = next((u for u in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)) if limit >= u[1]), ("B", 1))
    used = f"more memory was used than the limit of {limit / size:.4g} {unit}"
    return f"was killed by the kernel: {used} (a pod's: spec.pod.resources.memory)"


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123  pathlib costs start-up time
            return file.read()
    except OSError:
        return ""
