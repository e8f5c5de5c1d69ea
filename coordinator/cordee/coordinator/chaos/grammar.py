"""A plan from one line of words, or the position in it that is wrong, and why.

    spec      clause (";" clause)*
    clause    kinds "@" ["~"] TIME             a fault so often: kill*2,stop@29s; ~ is exponential
            | preset                           soak, all: once per 29 s
            | "at" (TIME | "step" N) fault     at 10s kill w2; at step 500 kill rank 0
            | "calm" TIME "every" TIME         calm 1m every 6m: no fault of a rate in the first minute of every six
            | "for" TIME                       how long (else: until the job has ended)
            | "seed" N
    fault     KIND (who | N of "mass")* ["times" NUMBER] ["for" TIME]
    who       "wN" | "rank" N
    TIME      29s, 1.5m, 2h, 300ms, 29

`for` and `seed` may follow a rate without a semicolon.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Final

from cordee.coordinator.chaos.plan import KINDS, MASS, PRESETS, Plan, PlanError, Rate, Scheduled, Who
from cordee.coordinator.errors import CoordinatorError, InvalidError
from cordee.coordinator.faults import FAULTS, check_fault

__all__ = ["ChaosSpecError", "parse_kinds", "parse_plan", "parse_time"]

PRESET_SECONDS: Final = 29.0
"""One fault per 29 s: the schedule of the best figure that was published (97.7 % of the throughput kept)."""

_TOKEN = re.compile(r"\s*(?:([A-Za-z0-9][A-Za-z0-9.\-]*)|([,;@~*]))")
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_WORKER = re.compile(r"(?:[a-z0-9-]+-)?w(\d+)")
_FORMS = "give a rate such as kill,stop@29s, a moment such as 'at 10s kill w2', or soak, or all"


class ChaosSpecError(CoordinatorError):
    """A spec that cannot be read."""

    code = "usage"


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    position: int


def parse_plan(text: str, *, seed: int | None = None, seconds: float | None = None) -> Plan:
    """The plan of a spec; `seed` and `seconds`, where given, go over those in it."""
    return _Parser(text).plan(seed, seconds)


def parse_kinds(text: str) -> tuple[tuple[str, float], ...]:
    """`kill*2,stop`: kinds and weights."""
    parser = _Parser(text)
    kinds = parser.kinds()
    parser.expect_end()
    return kinds


def parse_time(text: str) -> float:
    """Seconds of `29s`, `1.5m`; a `PlanError` if it is no time."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise PlanError(f"{text!r} is no time; give one such as 29s, 1.5m, 2h, 300ms")
    return float(match[1]) * _UNITS[match[2]]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._words: list[_Word] = []
        self._next = 0
        end = 0
        while end < len(text.rstrip()):
            match = _TOKEN.match(text, end)
            if match is None:
                start = end + len(text[end:]) - len(text[end:].lstrip())
                raise self._wrong(start, f"{text[start]!r} means nothing here", _FORMS)
            self._words.append(_Word(match[1] or match[2], match.start(1 if match[1] else 2)))
            end = match.end()

    def plan(self, seed: int | None, seconds: float | None) -> Plan:
        rates: list[Rate] = []
        schedule: list[Scheduled] = []
        said: dict[str, float] = {}
        calm: tuple[float, float] | None = None
        if not self._words:
            raise self._wrong(0, "it is empty", _FORMS)
        while self._next < len(self._words):
            if self._taken(";"):
                continue
            word = self._words[self._next]
            if word.text in {"for", "seed"}:
                if word.text in said:
                    raise self._wrong(word.position, f"{word.text!r} stands there twice")
                self._next += 1
                said[word.text] = self._time() if word.text == "for" else self._whole("a seed, such as 7")
            elif word.text == "calm":
                if calm is not None:
                    raise self._wrong(word.position, "'calm' stands there twice")
                calm = self._calm(word)
                self._end_of_clause()
            elif word.text == "at":
                self._next += 1
                schedule.append(self._scheduled())
                self._end_of_clause()
            else:
                rates.append(self._rate())
                if self._peek() not in {"for", "seed"}:
                    self._end_of_clause()
        if not (rates or schedule):
            raise self._wrong(len(self._text), "there is no fault in it", _FORMS)
        length = said.get("for") if seconds is None else seconds
        return Plan(tuple(rates), tuple(schedule), length, int(said.get("seed", 0)) if seed is None else seed, calm)

    def kinds(self) -> tuple[tuple[str, float], ...]:
        weights: dict[str, float] = {}
        while True:
            word = self._take("a kind of fault")
            names = PRESETS.get(word.text) or (self._kind(word),)
            weight = 1.0
            if self._taken("*"):
                weight = self._number("a weight, such as kill*2")
            for name in names:
                if FAULTS.get(name) is not None and FAULTS[name].fails_job:
                    raise self._wrong(
                        word.position,
                        f"{name!r} fails the job, as it should, and is nothing to do at random",
                        f"give a moment: at 10s {name}",
                    )
                weights[name] = weights.get(name, 0.0) + weight
            if not self._taken(","):
                return tuple(weights.items())

    def expect_end(self) -> None:
        if self._next < len(self._words):
            word = self._words[self._next]
            raise self._wrong(word.position, f"{word.text!r} is one word too many")

    def _calm(self, word: _Word) -> tuple[float, float]:
        self._next += 1
        seconds = self._time()
        if not self._taken("every"):
            raise self._wrong(self._position(), "'every' is missing", "such as calm 1m every 6m")
        every = self._time()
        if not 0 < seconds < every:
            raise self._wrong(word.position, "the calm must be longer than nothing and shorter than the whole")
        return seconds, every

    def _rate(self) -> Rate:
        start = self._words[self._next]
        kinds = self.kinds()
        if self._taken("@"):
            exponential = self._taken("~")
            word = self._words[self._next] if self._next < len(self._words) else None
            every = self._time()
            if every <= 0:
                raise self._wrong(word.position if word else 0, "the interval must be longer than nothing")
            return Rate(kinds, every, exponential)
        if start.text in PRESETS and len(kinds) == len(PRESETS[start.text]):
            return Rate(kinds, PRESET_SECONDS)
        raise self._wrong(self._position(), "how often is missing", f"such as {start.text}@29s")

    def _scheduled(self) -> Scheduled:
        at_seconds: float | None = None
        at_step: int | None = None
        if self._taken("step"):
            at_step = self._whole("a step, such as 500")
        else:
            at_seconds = self._time()
        word = self._take("a kind of fault")
        kind = self._kind(word)
        who: list[Who] = []
        count = self._whole("how many workers") if kind == MASS and (self._peek() or ";")[0].isdigit() else None
        while (name := self._peek()) is not None and (name == "rank" or _WORKER.fullmatch(name)):
            self._next += 1
            match = _WORKER.fullmatch(name)
            who.append(Who("worker", int(match[1])) if match else Who("rank", self._whole("a rank, such as 0")))
        amount = self._number("how many times, such as 3") if self._taken("times") else None
        seconds = self._time() if self._taken("for") else None
        scheduled = Scheduled(kind, at_seconds, at_step, tuple(who), count, seconds, amount)
        if problem := _problem(scheduled):
            raise self._wrong(word.position, problem)
        return scheduled

    def _kind(self, word: _Word) -> str:
        if word.text in KINDS:
            return word.text
        near = difflib.get_close_matches(word.text, (*KINDS, *PRESETS), n=1, cutoff=0.5)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise self._wrong(
            word.position, f"there is no fault {word.text!r}", f"{meant}the kinds are: {', '.join(KINDS)}"
        )

    def _time(self) -> float:
        word = self._take("a time, such as 29s")
        try:
            return parse_time(word.text)
        except PlanError as error:
            raise self._wrong(word.position, str(error)) from None

    def _whole(self, what: str) -> int:
        word = self._take(what)
        if not word.text.isdigit():
            raise self._wrong(word.position, f"{word.text!r} is no whole number; give {what}")
        return int(word.text)

    def _number(self, what: str) -> float:
        word = self._take(what)
        if not re.fullmatch(r"\d+(\.\d+)?", word.text) or float(word.text) <= 0:
            raise self._wrong(word.position, f"{word.text!r} is no number above 0; give {what}")
        return float(word.text)

    def _end_of_clause(self) -> None:
        if self._next < len(self._words) and not self._taken(";"):
            raise self._wrong(
                self._position(), f"{self._words[self._next].text!r} does not belong there", "end clauses with ';'"
            )

    def _peek(self) -> str | None:
        return self._words[self._next].text if self._next < len(self._words) else None

    def _position(self) -> int:
        return self._words[self._next].position if self._next < len(self._words) else len(self._text)

    def _take(self, what: str) -> _Word:
        if self._next >= len(self._words) or self._words[self._next].text in {",", ";", "@", "~", "*"}:
            found = "its end" if self._next >= len(self._words) else repr(self._words[self._next].text)
            raise self._wrong(self._position(), f"{what} is missing before {found}")
        self._next += 1
        return self._words[self._next - 1]

    def _taken(self, text: str) -> bool:
        if self._peek() == text:
            self._next += 1
            return True
        return False

    def _wrong(self, position: int, problem: str, hint: str = "") -> ChaosSpecError:
        return ChaosSpecError(
            f"the chaos spec is wrong at position {position + 1}: {problem}\n  {self._text}\n  {' ' * position}^", hint
        )


def _problem(scheduled: Scheduled) -> str:
    """What a fault at a moment must not be told."""
    known = FAULTS.get(scheduled.kind)
    victims = len(scheduled.who)
    if known is None:
        for what, is_there in (
            ("a length", scheduled.seconds is not None),
            ("an amount", scheduled.amount is not None),
        ):
            if is_there:
                return f"{scheduled.kind!r} has no {what.split()[1]}"
        if victims:
            return f"{scheduled.kind!r} takes no worker's name"
        return "a mass of 0 is nobody" if scheduled.count == 0 else ""
    if victims > (1 if known.peer == "none" else 2):
        return f"{victims} workers are too many for {scheduled.kind!r}"
    if victims == 2 and scheduled.who[0] == scheduled.who[1]:
        return f"{scheduled.who[0]} is not its own peer"
    try:
        check_fault(scheduled.kind, "w", scheduled.seconds, "x" if known.peer == "both" else "", scheduled.amount)
    except InvalidError as error:
        return error.message
    return ""
