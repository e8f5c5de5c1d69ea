"""`cordee coordinator` that dies at a crash point: the service as it is, with a hand on its seams. For tests only.

    python killed_coordinator.py '{"what": "store:SendWorld", "when": "before", "nth": 1, "act": "kill"}' OPTION...

What is done at the n-th time, right before it or right after it. `what` is one of

    create                  a job's first row is written
    answer:submit|scale|cancel   the controller has done what a client asked; "after" is before the client hears of it
    store:<word>            a turn is stored; the words of a turn are the names of its actions, kinds of its events, and
                            the states it enters
    do:<action>             an action of that name is carried out: a message is queued, an agent's start begun
    start                   the launcher begins to start an agent
    spawn                   an agent's process is made; "after": it runs, and nobody has written down its pid
    sent:<message>          a message is written to a worker's stream
    hear:<message>          a worker's message is dealt with

and `act` is kill (kill -9 of itself), stall (whoever comes there from then on stays there; a file `stalled` in the
working folder says so), readonly or full (from now on the database refuses to be written).
"""

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cordee.coordinator.cli.app import main
from cordee.coordinator.core import actions
from cordee.coordinator.service import workers
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.launchers.process import ProcessLauncher
from cordee.coordinator.service.store import Store
from cordee.coordinator.service.turns import Turns


class CrashPoint:
    """Where, when, how often until it acts, and what it does then."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.what, self.when, self.nth, self.act = plan["what"], plan["when"], plan.get("nth", 1), plan["act"]
        self.store: Store | None = None

    def at(self, what: str, when: str) -> bool:
        """Whether this is the moment."""
        if (what, when) != (self.what, self.when):
            return False
        self.nth -= 1
        return self.nth == 0 or (self.act == "stall" and self.nth < 0)

    def pass_by(self, what: str, when: str) -> None:
        if self.at(what, when):
            self.strike()

    def strike(self) -> None:
        if self.act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        assert self.store is not None
        if self.act == "readonly":
            self.store._database.pragma("query_only=ON")
        elif self.act == "full":
            Store.save = in_no_room(Store.save)  # type: ignore[method-assign]
        else:
            raise AssertionError(f"nothing to do with {self.act!r} here")

    async def apass_by(self, what: str, when: str) -> None:
        if self.at(what, when):
            if self.act != "stall":
                self.strike()
            else:
                Path("stalled").touch()
                await asyncio.Event().wait()


def in_no_room(save: Callable[..., None]) -> Callable[..., None]:
    """Within it no file can grow: what a full disk is to SQLite, for this process and this call only."""

    def wrapped(*args: Any, **kwargs: Any) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
        try:
            save(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return wrapped


def install(point: CrashPoint) -> None:
    """Puts the crash point into the service."""

    def around(owner: Any, name: str, what: Any) -> None:
        """A function that is called within a turn: `what` says what it is about, from its arguments."""
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            words = what(*args, **kwargs)
            for word in words:
                point.pass_by(word, "before")
            result = real(*args, **kwargs)
            for word in words:
                point.pass_by(word, "after")
            return result

        setattr(owner, name, wrapped)

    def around_async(owner: Any, name: str, what: str) -> None:
        real = getattr(owner, name)

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            await point.apass_by(what, "before")
            result = await real(*args, **kwargs)
            await point.apass_by(what, "after")
            return result

        setattr(owner, name, wrapped)

    def turn(_turns: Turns, _job: Any, decided: list[actions.Action], _now: float) -> list[str]:
        if not any(isinstance(action, actions.Persist) for action in decided):
            return []
        words = {type(action).__name__ for action in decided}
        words |= {action.kind for action in decided if isinstance(action, actions.RecordEvent)}
        words |= {action.state.value for action in decided if isinstance(action, actions.SetState)}
        return [f"store:{word}" for word in sorted(words)]

    around(Store, "create_job", lambda *_, **_more: ["create"])
    around(Turns, "_persist", turn)
    around(Turns, "_carry_out", lambda _turns, _job, action: [f"do:{type(action).__name__}"])
    around(ProcessLauncher, "_spawn", lambda *_: ["spawn"])
    around_async(ProcessLauncher, "start", "start")
    for name in ("submit", "scale", "cancel"):
        around_async(Controller, name, f"answer:{name}")
    for kind, handler in list(workers._HANDLERS.items()):
        holder = type("Holder", (), {"handle": staticmethod(handler)})
        around(holder, "handle", lambda *_, kind=kind: [f"hear:{kind}"])
        workers._HANDLERS[kind] = holder.handle

    made = Store.__init__

    def remember(store: Store, *args: Any, **kwargs: Any) -> None:
        made(store, *args, **kwargs)
        point.store = store

    Store.__init__ = remember  # type: ignore[method-assign]
    written = workers.WorkerServicer._write

    class Context:
        """A stream whose writes are counted."""

        def __init__(self, context: Any) -> None:
            self._context = context

        async def write(self, message: Any) -> None:
            await point.apass_by(f"sent:{message.WhichOneof('kind')}", "before")
            await self._context.write(message)
            await point.apass_by(f"sent:{message.WhichOneof('kind')}", "after")

    async def write(self: Any, session: Any, context: Any, reader: Any) -> None:
        await written(self, session, Context(context), reader)

    workers.WorkerServicer._write = write  # type: ignore[method-assign]


if __name__ == "__main__":
    install(CrashPoint(json.loads(sys.argv[1])))
    sys.argv = ["cordee", "coordinator", *sys.argv[2:]]
    main()
