"""A pod that exists and a pod that is wished for, as the launcher knows them; and what of them is worth a word.

Pure. People are told what changes, and not what a cluster repeats: a scheduler's sentence counts its nodes anew every
few seconds, a kubelet says by turns that an image cannot be had and that it waits a little.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from cordee.coordinator.service.launchers.base import AgentExit, AgentNotice, AgentSpec
from cordee.k8s.api import Json
from cordee.k8s.diagnosis import Fate, Finding
from cordee.k8s.names import JOB_LABEL

__all__ = ["Pod", "Said", "Wish", "end_of", "notice_of", "version_of"]

Said = tuple[Fate, str, float]
"""What was told last: the word, the sentence, and when."""

_SAY_AGAIN_SECONDS: Final = 60.0
"""The same word with another sentence is told anew no more often."""
_INNOCENT: Final = frozenset({0, 2, 70, 71, 72, 73, 74})
"""Ends of agents that say nothing of the node: they are words of `cordee.worker.exit_codes`."""
_GUILTY: Final = frozenset({Fate.NODE_LOST, Fate.PRESSURE, Fate.OUT_OF_MEMORY, Fate.EXITED})
_QUIET: Final = frozenset({Fate.PENDING, Fate.STARTING})
"""Of these a pod's state tells, and not its history: every pod goes through them."""


@dataclass(slots=True)
class Pod:
    """A pod that exists, as it was heard of last."""

    thing: Json
    stopping: bool = False
    """We asked for its end."""
    forced: bool = False
    """We had to take it out of the books: its node never confirmed that it ended."""
    told: bool = False
    """Its end was reported."""
    due: float = float("inf")
    """When it is to have ended, as we asked."""
    said: Said | None = None
    """What was told of it last, and when."""

    @property
    def name(self) -> str:
        return str(self.thing["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.thing["metadata"]["uid"])

    @property
    def job(self) -> str:
        return str(self.thing["metadata"]["labels"][JOB_LABEL])

    @property
    def node(self) -> str:
        return str(self.thing["spec"].get("nodeName") or "")

    @property
    def leaving(self) -> bool:
        return bool(self.thing["metadata"].get("deletionTimestamp"))


@dataclass(slots=True)
class Wish:
    spec: AgentSpec
    task: asyncio.Task[None] | None = None
    said: Said | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Something has become of the pod that is in its way."""

    def notice(self, finding: Finding, now: float) -> AgentNotice | None:
        """Why there is no pod yet; None: that was told."""
        if not _is_worth(self.said, finding, now):
            return None
        self.said = (finding.fate, finding.words, now)
        words = f"{self.spec.worker}'s pod {finding.words}"
        return AgentNotice(self.spec.worker, self.spec.job, finding.fate.value, words, finding.outlook)


def notice_of(pod: Pod, finding: Finding, now: float) -> AgentNotice | None:
    """What is known of a pod that has not ended; None: that was told, or is as we asked."""
    if (pod.stopping and finding.fate is Fate.DELETED) or not _is_worth(pod.said, finding, now):
        return None
    pod.said = (finding.fate, finding.words, now)
    words = f"{pod.name}'s pod {finding.words}" if finding.words else ""  # empty: it runs
    kind = "" if finding.fate in _QUIET else finding.fate.value
    return AgentNotice(pod.name, pod.job, kind, words, finding.outlook)


def end_of(pod: Pod, finding: Finding) -> tuple[AgentExit, bool]:
    """How a pod ended, and whether that speaks against its node."""
    if pod.forced and pod.node and finding.code is None:
        finding = Finding(Fate.NODE_LOST, "is given up: its node has not said that it ended")
    asked = pod.stopping and finding.fate is Fate.DELETED  # by us
    if finding.taken and not asked:
        words = f"{pod.name}'s pod {finding.words}"
        told = AgentExit(pod.name, pod.job, finding.code, words, taken=True, cause=finding.cause)
    else:
        words, cause = ("", None) if asked else (finding.words, finding.cause)
        told = AgentExit(pod.name, pod.job, finding.code, words, cause=cause)
    return told, bool(pod.node) and finding.fate in _GUILTY and finding.code not in _INNOCENT


def version_of(thing: Json) -> int:
    """Which of two answers is the older one: resource versions are numbers, and may be compared."""
    version = str(thing["metadata"].get("resourceVersion") or "0")
    return int(version) if version.isdigit() else 0


def _is_worth(said: Said | None, finding: Finding, now: float) -> bool:
    if said is None or said[0] is not finding.fate:
        return True
    if said[1].startswith(finding.words):
        return False  # that, or less
    return finding.words.startswith(said[1]) or now - said[2] >= _SAY_AGAIN_SECONDS  # the reason comes a moment later
