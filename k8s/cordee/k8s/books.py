"""What the launcher knows of pods: those that there are, those that are wished for, and what was told of each.

News of a pod come from the watch and from answers, in whichever order; each end is told once. Nothing is asked of
anybody here: who has to act on what is noted (a pod that nobody wants, a job without pods) is called.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from cordee.coordinator.service.launchers.base import AgentExit, AgentNotice
from cordee.k8s.api import Json
from cordee.k8s.diagnosis import Fate, Finding, diagnose
from cordee.k8s.identity import KnownPod
from cordee.k8s.names import WORKER_LABEL
from cordee.k8s.pod_state import Pod, Wish, end_of, notice_of, version_of
from cordee.k8s.watch import Change, Kind

__all__ = ["Books"]

_log = logging.getLogger(__name__)

_OFFENCES: Final = 2
"""A node on which so many pods of a job failed is avoided by its next ones."""
_DEAD: Final = 10_000


class Books:
    """Used on one event loop. `unwanted` is called with a pod that is nobody's wish, `left` with a job that has neither
    pods nor wishes any more."""

    def __init__(self, *, unwanted: Callable[[Pod], None], left: Callable[[str], None]) -> None:
        self.pods: dict[str, Pod] = {}
        """By worker."""
        self.wishes: dict[str, Wish] = {}
        self.ended: dict[str, Pod] = {}
        """Reported, to be removed, by worker."""
        self.nodes: dict[str, str] = {}
        """The nodes that pods are on, by worker."""
        self.news: asyncio.Queue[AgentExit | AgentNotice] = asyncio.Queue()
        self.complete: Callable[[], bool] = lambda: False
        """Whether all pods that there are have been listed: what comes after that, somebody has made."""
        self._unwanted, self._left = unwanted, left
        self._dead: dict[str, None] = {}  # uids: an answer of ours may come after the news of its end
        self._offences: dict[str, Counter[str]] = {}

    # -- hearing

    def changed(self, changes: Sequence[Change]) -> None:
        """What the watch tells."""
        for change in changes:
            try:
                self.heard(change.object, gone=change.kind is Kind.DELETED)
            except Exception:
                _log.exception("what has become of the pod %s cannot be told", change.object["metadata"]["name"])

    def heard(self, thing: Json, *, gone: bool = False) -> None:
        """News of a pod, from the watch or from an answer."""
        metadata = thing["metadata"]
        name, uid = str(metadata["name"]), str(metadata["uid"])
        if uid in self._dead or WORKER_LABEL not in (metadata.get("labels") or {}):
            return
        pod = self.pods.get(name)
        if pod is not None and pod.uid != uid:
            self._lost(pod)
            pod = None
        if pod is None:
            pod = self.pods[name] = Pod(thing)
            if name not in self.wishes and self.complete():
                # An answer that was lost, or another coordinator's: nobody wants it any more.
                _log.warning("the pod %s is nobody's wish, and is deleted", name)
                pod.stopping = True
                self._unwanted(pod)
        elif version_of(thing) >= version_of(pod.thing) or gone:
            pod.thing = thing
        if pod.node:
            self.nodes[name] = pod.node
        finding = diagnose(pod.thing, gone=gone)
        if (finding.over or gone) and not pod.told:
            self._tell_end(pod, finding)
        elif not pod.told:
            self._tell_of(pod, finding)
        if gone:
            self.forget(pod)
        wish = self.wishes.get(name)
        if wish is not None:
            wish.changed.set()

    def forget(self, pod: Pod) -> None:
        """It is gone."""
        if not pod.told:
            self._tell_end(pod, diagnose(pod.thing, gone=True))
        self._dead[pod.uid] = None
        if len(self._dead) > _DEAD:
            del self._dead[next(iter(self._dead))]
        if self.pods.get(pod.name) is pod:
            del self.pods[pod.name]
            self.nodes.pop(pod.name, None)
            if not self.is_present(pod.job):
                self._offences.pop(pod.job, None)
                self._left(pod.job)
        if self.ended.get(pod.name) is pod:
            del self.ended[pod.name]
        wish = self.wishes.get(pod.name)
        if wish is not None:
            wish.changed.set()

    def _lost(self, pod: Pod) -> None:
        """Another pod has its name: it is gone, and nobody said how."""
        if not pod.told:
            self._tell_end(pod, Finding(Fate.DELETED, "was deleted", over=True))
        self.forget(pod)

    # -- telling

    def say_of_wish(self, wish: Wish, finding: Finding) -> None:
        """Why there is no pod yet."""
        told = wish.notice(finding, time.monotonic())
        if told is not None:
            self.news.put_nowait(told)

    def _tell_end(self, pod: Pod, finding: Finding) -> None:
        pod.told = True
        self.ended[pod.name] = pod
        told, guilty = end_of(pod, finding)
        if guilty:
            self._offences.setdefault(pod.job, Counter())[pod.node] += 1
        self.news.put_nowait(told)

    def _tell_of(self, pod: Pod, finding: Finding) -> None:
        told = notice_of(pod, finding, time.monotonic())
        if told is not None:
            self.news.put_nowait(told)

    # -- questions

    def known_pod(self, worker: str) -> KnownPod | None:
        """The worker's pod, as long as it is one that may speak."""
        pod = self.pods.get(worker)
        if pod is None or pod.told:
            return None
        account = str(pod.thing["spec"].get("serviceAccountName") or "default")
        return KnownPod(pod.job, pod.uid, account)

    def is_present(self, job: str) -> bool:
        """Whether a job has pods, or wishes for some."""
        wishes = (wish.spec.job for wish in self.wishes.values())
        return job in wishes or any(pod.job == job for pod in self.pods.values())

    def avoided(self, job: str) -> list[str]:
        """Nodes that the job's next pods had better not go to."""
        return [node for node, times in self._offences.get(job, Counter()).items() if times >= _OFFENCES]
