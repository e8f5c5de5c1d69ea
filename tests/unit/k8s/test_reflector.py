"""Following a collection: whatever breaks, what is known in the end is what exists, and every change was told."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cordee.k8s.reflector import Change, Kind, List, Pause, Reflector, Watch, key_of


def pod(name: str, version: int, uid: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version), "uid": uid or f"u-{name}"}}


def page(*items: dict[str, Any], version: int = 1, token: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}


def event(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": thing}


GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}


def listed(*items: dict[str, Any], version: int = 1) -> Reflector:
    reflector = Reflector(lambda: 1.0)
    assert reflector.next(0.0) == List()
    reflector.listed(page(*items, version=version))
    return reflector


def test_the_list_comes_first_and_its_version_is_watched_from() -> None:
    reflector = Reflector()
    assert reflector.next(0.0) == List()
    assert reflector.listed(page(pod("a", 3), version=5)) == [Change(Kind.ADDED, pod("a", 3))]
    assert reflector.next(0.0) == Watch("5")


def test_pages_are_one_list() -> None:
    reflector = listed(pod("old", 1))
    reflector.event(GONE)
    assert reflector.next(0.0) == List()
    assert reflector.listed(page(pod("a", 7), version=8, token="t")) == []
    assert reflector.next(0.0) == List("t")
    changes = reflector.listed(page(pod("b", 6), version=8))
    assert [(c.kind, key_of(c.object)) for c in changes] == [("DELETED", "n/old"), ("ADDED", "n/a"), ("ADDED", "n/b")]


def test_a_token_that_has_expired_begins_the_list_anew() -> None:
    reflector = listed(pod("a", 1))
    reflector.event(GONE)
    reflector.next(0.0)
    reflector.listed(page(pod("b", 7), version=8, token="t"))
    reflector.failed(410, "the token is too old")
    asked = reflector.next(0.0)
    assert (reflector.next(0.0) if isinstance(asked, Pause) else asked) == List()
    assert [c.kind for c in reflector.listed(page(pod("a", 1), version=9))] == []


def test_bookmarks_move_the_version_and_nothing_else() -> None:
    reflector = listed(pod("a", 1), version=1)
    reflector.next(0.0)
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "77"}}}
    assert reflector.event(bookmark) == []
    reflector.ended(300.0)
    assert reflector.next(300.0) == Watch("77")
    assert set(reflector.objects) == {"n/a"}


def test_gone_lists_at_once_and_what_is_missing_was_deleted() -> None:
    reflector = listed(pod("a", 1), pod("b", 1))
    reflector.next(0.0)
    reflector.event(GONE)
    assert reflector.next(0.0) == List()
    assert reflector.listed(page(pod("b", 1), version=9)) == [Change(Kind.DELETED, pod("a", 1))]


def test_gone_again_and_again_is_not_asked_as_fast_as_one_can() -> None:
    reflector = listed()
    reflector.failed(410, "too old")
    assert reflector.next(0.0) == List()
    reflector.listed(page())
    reflector.next(0.0)
    reflector.failed(410, "too old")
    assert isinstance(reflector.next(0.0), Pause)


def test_a_name_that_came_back_is_a_deletion_and_an_addition() -> None:
    old, new = pod("a", 1, "one"), pod("a", 4, "two")
    assert [c.kind for c in listed(old).listed(page(new, version=5))] == [Kind.DELETED, Kind.ADDED]
    assert listed(old).event(event("MODIFIED", new)) == [Change(Kind.DELETED, old), Change(Kind.ADDED, new)]


def test_pauses_grow_to_a_limit_and_end_with_the_first_word() -> None:
    reflector = listed()
    pauses = []
    for _ in range(12):
        reflector.failed(None, "connection refused")
        asked = reflector.next(0.0)
        assert isinstance(asked, Pause)
        pauses.append(asked.seconds)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.2, 10.0)
    assert reflector.next(0.0) == List()  # so many failures at one version, and everything is listed again
    reflector.listed(page())
    reflector.next(0.0)
    reflector.event(event("ADDED", pod("a", 2)))
    assert reflector.trouble == ""
    reflector.failed(None, "connection refused")
    assert reflector.next(0.0) == Pause(0.2)


def test_what_the_server_asks_for_is_waited() -> None:
    reflector = listed()
    reflector.failed(429, "too many requests", retry_after=7.0)
    assert reflector.next(0.0) == Pause(7.0)


def test_a_watch_that_ends_at_once_is_a_failure_and_one_that_lasted_is_none() -> None:
    reflector = listed()
    reflector.next(100.0)
    reflector.ended(100.1)
    assert isinstance(reflector.next(100.1), Pause)
    reflector.next(100.3)
    reflector.ended(400.0)
    assert reflector.next(400.0) == Watch("1")


def test_a_version_from_the_future_is_given_up() -> None:
    """etcd was restored from a backup: the server says 504 to a watch from a version that it has not come to."""
    reflector = listed(version=10_000)
    reflector.next(0.0)
    reflector.failed(504, "Too large resource version: 10000, current: 12")
    assert reflector.next(0.0) == List()


class Server(RuleBasedStateMachine):
    """A model of the API server with a watch cache that forgets, against the reflector, with every kind of break."""

    @initialize()
    def begin(self) -> None:
        self.reflector = Reflector(lambda: 0.5)
        self.told: dict[str, str] = {}
        self.live: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[int, dict[str, Any]]] = []
        self.version = 1
        self.oldest = 1
        self.watching: int | None = None
        self.num_uids = 0

    # -- the cluster

    @rule(name=st.sampled_from("abcd"))
    def write(self, name: str) -> None:
        self.version += 1
        if name not in self.live:
            self.num_uids += 1
            thing, kind = pod(name, self.version, f"u{self.num_uids}"), "ADDED"
        else:
            thing, kind = pod(name, self.version, self.live[name]["metadata"]["uid"]), "MODIFIED"
        self.live[name] = thing
        self.log.append((self.version, event(kind, thing)))

    @rule(name=st.sampled_from("abcd"))
    def delete(self, name: str) -> None:
        if name in self.live:
            self.version += 1
            old = self.live.pop(name)
            self.log.append((self.version, event("DELETED", pod(name, self.version, old["metadata"]["uid"]))))

    @rule()
    def forget(self) -> None:
        self.oldest = self.version

    # -- the wire

    @rule()
    def ask(self) -> None:
        if self.watching is not None:
            return
        asked = self.reflector.next(0.0)
        if isinstance(asked, List):
            items = sorted(self.live.values(), key=key_of)
            if len(items) > 2 and not asked.token:
                self.page = (items[2:], self.version)
                self.take(self.reflector.listed(page(*items[:2], version=self.version, token="t")))
            elif asked.token:
                rest, version = self.page
                if version < self.oldest:
                    self.reflector.failed(410, "expired")
                else:
                    self.take(self.reflector.listed(page(*rest, version=version)))
            else:
                self.take(self.reflector.listed(page(*items, version=self.version)))
        elif isinstance(asked, Watch):
            if int(asked.version) < self.oldest:
                self.take(self.reflector.event(GONE))
            else:
                self.watching = int(asked.version)

    @precondition(lambda self: self.watching is not None)
    @rule(count=st.integers(1, 5), bookmark=st.booleans())
    def send(self, count: int, bookmark: bool) -> None:
        assert self.watching is not None
        for version, line in [entry for entry in self.log if entry[0] > self.watching][:count]:
            self.watching = version
            self.take(self.reflector.event(line))
        if bookmark and self.watching == self.version:
            self.take(
                self.reflector.event(
                    {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
                )
            )

    @precondition(lambda self: self.watching is not None)
    @rule(how=st.sampled_from(["end", "break", "refuse", "error"]))
    def cut(self, how: str) -> None:
        self.watching = None
        if how == "end":
            self.reflector.ended(0.0)
        elif how == "error":
            self.take(
                self.reflector.event({"type": "ERROR", "object": {"code": 500, "message": "etcd changed its leader"}})
            )
        else:
            self.reflector.failed(None if how == "break" else 429, "no")

    def take(self, changes: list[Change]) -> None:
        for change in changes:
            name, uid = change.object["metadata"]["name"], change.object["metadata"]["uid"]
            match change.kind:
                case Kind.ADDED:
                    assert name not in self.told
                    self.told[name] = uid
                case Kind.MODIFIED:
                    assert self.told[name] == uid
                case Kind.DELETED:
                    assert self.told.pop(name) == uid

    @invariant()
    def what_was_told_is_what_is_known(self) -> None:
        known = {o["metadata"]["name"]: o["metadata"]["uid"] for o in self.reflector.objects.values()}
        assert self.told == known

    def teardown(self) -> None:
        """Once nothing breaks any more, it knows what exists."""
        for _ in range(30):
            self.ask()
            if self.watching is not None:
                self.send(1000, bookmark=False)
                break
        assert self.told == {name: thing["metadata"]["uid"] for name, thing in self.live.items()}


TestServer = Server.TestCase
TestServer.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
