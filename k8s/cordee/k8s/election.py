"""Who leads: one of several coordinators, by a Lease, decided without I/O.

The rules are those of Kubernetes' own components (k8s.io/client-go/tools/leaderelection). A holder renews its Lease;
who wants it waits until it has seen the same version of it, by its own clock, for the Lease's whole duration. No clock
is compared with another one's; only their rates are taken to be alike. A holder that could not renew for a while
(`Times.renew`) steps down by itself, before anybody may follow, counted from when its last good renewal was *sent*.

A process that is suspended just after it looked at its clock still believes that it leads for as long as its next
statement takes: that is what the store's terms are for (`Store.take_over`).
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["Elector", "Lease", "Times", "Write"]

_FOREVER: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Times:
    """In seconds: a Lease's duration, how long a leader goes on without having renewed it, and between two tries."""

    duration: float = 15.0
    renew: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew < self.duration:
            raise ValueError(
                f"a lease's retry ({self.retry:g} s) must be below its renew ({self.renew:g} s), and that below its "
                f"duration ({self.duration:g} s)"
            )


@dataclass(frozen=True, slots=True)
class Lease:
    """A Lease as it was read. `version` changes with every write; an empty holder has given it back."""

    holder: str
    duration: float
    transitions: int
    version: str


@dataclass(frozen=True, slots=True)
class Write:
    """Write the Lease with us as its holder; only if it is still `version` (None: only if there is none yet)."""

    version: str | None
    transitions: int
    """How often it has changed hands, with this time."""
    taken: bool
    """It was not ours before: since when we have it is now."""


class Elector:
    """One candidate. `identity` is this process' alone; all times are of one monotonic clock, in seconds."""

    def __init__(self, identity: str, times: Times) -> None:
        if not identity:
            raise ValueError("a candidate needs an identity; an empty one means that nobody holds the lease")
        self.identity = identity
        self.times = times
        self._seen: Lease | None = None
        self._seen_at = _FOREVER
        self._leads_until = _FOREVER

    @property
    def holder(self) -> str:
        """Who held it when we last looked; empty: nobody, or we know nothing."""
        return self._seen.holder if self._seen is not None else ""

    def leads(self, now: float) -> bool:
        """Whether this one may decide at this moment."""
        return now < self._leads_until

    @property
    def leads_until(self) -> float:
        """When leadership ends unless it is renewed."""
        return self._leads_until

    def look(self, lease: Lease | None, now: float) -> Write | None:
        """What to do about the Lease as it was just read; None: wait, and read again after `times.retry`."""
        if lease is None:
            return Write(None, transitions=0, taken=True)
        if self._seen is None or self._seen.version != lease.version:
            self._seen, self._seen_at = lease, now
        if lease.holder == self.identity:
            return Write(lease.version, lease.transitions, taken=False)
        if lease.holder and now < self._seen_at + lease.duration:
            return None
        return Write(lease.version, lease.transitions + 1, taken=True)

    def written(self, lease: Lease, sent_at: float) -> None:
        """The write that was sent at that time succeeded, with this result."""
        self._seen, self._seen_at = lease, sent_at
        self._leads_until = max(self._leads_until, sent_at + self.times.renew)

    def give_up(self) -> None:
        """Lead no longer, from now on; the Lease may be given back."""
        self._leads_until = _FOREVER
