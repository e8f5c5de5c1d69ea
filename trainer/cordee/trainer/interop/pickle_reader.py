"""Reads a pickle as data: a small machine for its opcodes that imports nothing and calls nothing but a given table.

Python's `pickle` is a language whose programs may call anything. This machine knows the opcodes that build numbers,
text, lists, tuples, dictionaries and sets. A global is looked up in the caller's table and nowhere else; an entry of
the table is a plain value (a dtype, say) or a `Call`, which is all that REDUCE may call; BUILD is given to the caller's
`build`. Anything else ends the reading with a sentence that names the global or opcode. Those sentences never show
values: a few bytes can describe a list whose text would fill the memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Call", "PickleRefusedError", "read_pickle"]


class PickleRefusedError(ValueError):
    """The pickle holds what must not be, or cannot be, read."""


@dataclass(frozen=True)
class Call:
    """A name in a pickle that may be called; `function` is ours."""

    name: str
    function: Callable[..., Any]


class _Mark:
    pass


_MARK = _Mark()
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_LITERALS = frozenset(
    (
        "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT",
        "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    )
)  # fmt: skip
_IGNORED = frozenset(("PROTO", "FRAME"))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    def __init__(
        self, allowed: Mapping[str, Any], persistent: Callable[[Any], Any], build: Callable[[Any, Any], Any]
    ) -> None:
        self.allowed, self.persistent, self.build = allowed, persistent, build
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    # -- opcodes with a method of their own, by name --------------------------------------------------------------

    def op_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def op_pop(self, _: Any) -> None:
        self.stack.pop()

    def op_pop_mark(self, _: Any) -> None:
        self._to_mark()

    def op_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def op_put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    op_binput = op_long_binput = op_put

    def op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_get(self, number: int) -> None:
        self.stack.append(self.memo[number])

    op_binget = op_long_binget = op_get

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._to_mark()))

    def op_list(self, _: Any) -> None:
        self.stack.append(self._to_mark())

    def op_dict(self, _: Any) -> None:
        items = self._to_mark()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def op_frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(self._to_mark()))

    def op_append(self, _: Any) -> None:
        value = self.stack.pop()
        self._container(list).append(value)

    def op_appends(self, _: Any) -> None:
        values = self._to_mark()
        self._container(list).extend(values)

    def op_additems(self, _: Any) -> None:
        values = self._to_mark()
        self._container(set).update(values)

    def op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._container(dict)[key] = value

    def op_setitems(self, _: Any) -> None:
        items = self._to_mark()
        self._container(dict).update(zip(items[::2], items[1::2], strict=True))

    def op_global(self, names: str) -> None:
        self._global(names.replace(" ", ".", 1))

    def op_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._global(f"{module}.{name}")

    def op_reduce(self, _: Any) -> None:
        arguments, call = self.stack.pop(), self.stack.pop()
        if not isinstance(call, Call) or not isinstance(arguments, tuple):
            raise PickleRefusedError(f"it calls a {type(call).__name__}, which is no function")
        self.stack.append(self._call(call, arguments))

    def op_newobj(self, _: Any) -> None:
        self.op_reduce(None)

    def op_binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def op_build(self, _: Any) -> None:
        state = self.stack.pop()
        self.stack[-1] = self.build(self.stack[-1], state)

    # -- help for them ---------------------------------------------------------------------------------------------

    def _to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise PickleRefusedError("it is damaged: a mark is missing")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def _container(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise PickleRefusedError(f"it puts items into a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _global(self, name: str) -> None:
        if name not in self.allowed:
            raise PickleRefusedError(
                f"it asks for {name}, and only tensors, numbers, text and plain containers are read"
            )
        self.stack.append(self.allowed[name])

    @staticmethod
    def _call(call: Call, arguments: tuple[Any, ...]) -> Any:
        try:
            return call.function(*arguments)
        except PickleRefusedError:
            raise
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
            raise PickleRefusedError(f"it calls {call.name} with arguments that do not fit: {error}") from error

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            if len(self.stack) < count:
                raise PickleRefusedError("it is damaged: a tuple's items are missing")
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif opcode not in _IGNORED:
            method = getattr(self, f"op_{opcode.lower()}", None)
            if method is None:
                raise PickleRefusedError(f"it uses the opcode {opcode}, which no file of weights needs")
            method(argument)


def read_pickle(
    data: bytes,
    allowed: Mapping[str, Any],
    persistent: Callable[[Any], Any],
    build: Callable[[Any, Any], Any],
) -> Any:
    """What a pickle describes.

    `allowed` maps "module.name" to a value or a `Call`; `persistent` gets what the writer left to its surroundings;
    `build(object, state)` returns the object with its state. Raises `PickleRefusedError` for anything else.
    """
    machine = _Machine(allowed, persistent, build)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                (result,) = machine.stack
                return result
            machine.step(opcode.name, argument)
    except PickleRefusedError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise PickleRefusedError(f"it is damaged: {type(error).__name__}: {error}") from error
    raise PickleRefusedError("it is damaged: it does not end")
