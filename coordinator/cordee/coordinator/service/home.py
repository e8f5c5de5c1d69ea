"""The place that a store's jobs live in, remembered: a coordinator that is pointed at another one must not decide.

Where agents are elsewhere than beside the state folder (a namespace of a cluster), a wrong setting, or a store that was
restored somewhere else, looks like a catastrophe: every agent is gone at once, and every job's object. Starting all
workers a second time, and cancelling what people are thought to have deleted, would make it one. So the first
coordinator of a store notes where its jobs are, and a later one that looks elsewhere while some of them run refuses to.
"""

import json
from typing import Final

from cordee.coordinator.core.model import TERMINAL_STATES
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.launchers.base import Home
from cordee.coordinator.service.store import Store

__all__ = ["HomeError", "settle"]

_NAME: Final = "home"
"""The entry in the store."""


class HomeError(CoordinatorError):
    """Jobs run elsewhere than where they would be looked for."""

    code = "home"


def settle(store: Store, home: Home) -> None:
    """Note that the store's jobs are in this place. Raises HomeError where they are in another, and have not ended."""
    told = store.recall(_NAME)
    before = Home(**json.loads(told)) if told is not None else None
    if before is not None and not _same(before, home) and not _is_left(before, home):
        running = [row.id for row in store.jobs() if row.state not in TERMINAL_STATES]
        if running:
            raise _elsewhere(before, home, running)
    uid = home.uid or (before.uid if before is not None and before.name == home.name else "")
    tell = json.dumps({"name": home.name, "uid": uid})
    if tell != told:
        store.remember(_NAME, tell)


def _same(before: Home, home: Home) -> bool:
    """As far as is known: where uids may not be read, names decide."""
    return before.name == home.name and (before.uid == home.uid or not before.uid or not home.uid)


def _is_left(before: Home, home: Home) -> bool:
    """Somebody says that the earlier place is left for this one. By its uid, where both have the same name."""
    names = {before.uid} if before.name == home.name else {before.uid, before.name}
    return home.moved_from in names - {""}


def _elsewhere(before: Home, home: Home, running: list[str]) -> HomeError:
    jobs = f"the job {running[0]}" if len(running) == 1 else f"{len(running)} jobs"
    verb = "runs" if len(running) == 1 else "run"
    if before.name == home.name:
        here = "that this coordinator is pointed at is another one of that name (another cluster, or made anew)"
        message = f"{jobs} of this store {verb} in the namespace {before.name} (uid {before.uid}), and the one {here}"
    else:
        message = f"{jobs} of this store {verb} in the namespace {before.name}, and this coordinator is pointed at "
        message += home.name
    former = before.uid if before.name == home.name else before.name
    return HomeError(
        f"{message}: it would start their workers a second time, and cancel what kubectl made",
        hint="set kubernetes.namespace, kubernetes.kubeconfig or the database in the coordinator's configuration back "
        f"to what they were. If that place is gone for good, kubernetes.movedFrom: {former} takes the jobs up here; "
        "those made with kubectl are cancelled, since their objects stayed behind",
    )
