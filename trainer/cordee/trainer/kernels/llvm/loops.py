"""Loops over arrays, in the language of `values`: how a kernel walks through memory.

There are two kinds. An elementwise loop says what happens to one element; a loop over rows is given whole arrays and
says which loops run. What becomes of them is in `entries`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from cordee.trainer.kernels.llvm.values import BOOL, BYTE, FLOAT, HALF, INT, LANES, LONG, Code, Value

__all__ = ["BYTES", "TYPES", "Loop", "Memory", "Rows", "Variable", "pairwise"]

TYPES = {"f": FLOAT, "s": FLOAT, "h": HALF, "q": LONG, "b": BYTE, "u": BYTE}
"""Of operands: float32, one float32 for all elements, bits of bfloat16, int64, bool, uint8 below 128."""
BYTES = {"f": 4, "s": 4, "h": 2, "q": 8, "b": 1, "u": 1}
"""Of one element."""


@dataclass(frozen=True)
class Loop:
    """A loop to be generated.

    With a `signature`, NumPy's for generalised ufuncs, over whole arrays in row-major order: `body(rows, *arrays)`;
    else over single elements: `body(code, *values)` returns the results.
    """

    name: str
    types: str
    """One letter of `TYPES` per operand, inputs and results parted by `->`."""
    body: Callable[..., Any]
    signature: str = ""
    shared: str = ""
    """Of a loop over arrays: the dimension that threads share; "" if one does everything."""

    @property
    def operands(self) -> tuple[str, str]:
        inputs, _, results = self.types.partition("->")
        return inputs, results

    @property
    def dimensions(self) -> list[str]:
        """The signature's names, in the order in which NumPy tells their sizes."""
        found: list[str] = []
        for operand in self.signature.replace("->", ",").replace("(", " ").replace(")", " ").split():
            found += [name for name in operand.split(",") if name and name not in found]
        return found

    @property
    def largest(self) -> list[str]:
        """The dimensions of the operand that has most: their product is the amount of work."""
        operands = self.signature.replace("->", ",")[1:-1].split("),(")
        return max((operand.split(",") for operand in operands), key=len)


class Memory:
    """An array's elements of one type, from an address on."""

    def __init__(self, code: Code, pointer: Any, kind: str) -> None:
        self.code = code
        self.pointer = pointer
        self.kind = kind

    def at(self, index: Value) -> Memory:
        """From this element on."""
        return Memory(self.code, self._address(index), self.kind)

    def _address(self, index: Value) -> Any:
        return self.code.ir.gep(self.pointer, [index.ref])

    def get(self, index: Value) -> Value:
        """One element. (bfloat16 as the float32 that it is, bool as a truth value.)"""
        return self._widened(Value(self.code, self.code.ir.load(self._address(index))))

    def put(self, index: Value, value: Value) -> None:
        self.code.ir.store(self._narrowed(value).ref, self._address(index))

    def lanes(self, index: Value, mask: Value | None = None) -> Value:
        """16 elements; under a mask, zeros where it is false, and no access there."""
        code, kind = self.code, ir.VectorType(TYPES[self.kind], LANES)
        pointer = code.ir.bitcast(self._address(index), kind.as_pointer())
        if mask is None:
            return self._widened(Value(code, code.ir.load(pointer, align=BYTES[self.kind])))
        function = _masked(code, "load", kind)
        zeros = ir.Constant(kind, None)
        align = ir.Constant(INT, BYTES[self.kind])
        return self._widened(Value(code, code.ir.call(function, [pointer, align, mask.ref, zeros])))

    def put_lanes(self, index: Value, value: Value, mask: Value | None = None) -> None:
        code, kind = self.code, ir.VectorType(TYPES[self.kind], LANES)
        value = self._narrowed(code.splat(value))
        pointer = code.ir.bitcast(self._address(index), kind.as_pointer())
        if mask is None:
            code.ir.store(value.ref, pointer, align=BYTES[self.kind])
            return
        align = ir.Constant(INT, BYTES[self.kind])
        code.ir.call(_masked(code, "store", kind), [value.ref, pointer, align, mask.ref])

    def _widened(self, value: Value) -> Value:
        code = self.code
        if self.kind == "h":
            return code.from_bits(code.convert(value, INT) << 16)
        if self.kind == "u":
            return code.convert(value, INT)
        return value.differs(0) if self.kind == "b" else value

    def _narrowed(self, value: Value) -> Value:
        code = self.code
        if self.kind == "h":  # to the nearest, halves to the even one; NaN stays NaN
            bits = code.bits(value)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return code.convert(code.where(value.differs(value), (bits >> 16) | 0x40, rounded), HALF)
        return code.convert(value, BYTE) if self.kind in "bu" else value


def _masked(code: Code, what: str, kind: Any) -> Any:
    """LLVM's function for loads or stores of some lanes."""
    mask = ir.VectorType(BOOL, LANES)
    element = {FLOAT: "f32", HALF: "i16", LONG: "i64", BYTE: "i8"}[kind.element]
    name = f"llvm.masked.{what}.v{LANES}{element}.p0"
    if what == "load":
        return code._declared(name, kind, [kind.as_pointer(), INT, mask, kind])
    return code._declared(name, ir.VoidType(), [kind, kind.as_pointer(), INT, mask])


class Rows(Code):
    """What the body of a loop over arrays builds with: the dimensions' sizes, its part of the shared one, and loops."""

    def __init__(self, builder: ir.IRBuilder, sizes: dict[str, Value], first: Value, last: Value) -> None:
        super().__init__(builder)
        self.sizes = sizes
        self.first = first
        self.last = last

    def share(self, body: Callable[[Value], None]) -> None:
        """`body(index)` for this thread's part of the shared dimension."""
        self.count(self.first, self.last, 1, body)

    def count(self, first: Value, last: Value, step: int, body: Callable[[Value], None]) -> None:
        """`body(index)` from `first` to before `last`."""
        builder = self.ir
        before = builder.block
        head, inner, after = (builder.append_basic_block(name) for name in ("head", "inner", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(LONG)
        index.add_incoming(first.ref, before)
        builder.cbranch(builder.icmp_signed("<", index, last.ref), inner, after)
        builder.position_at_end(inner)
        body(Value(self, index))
        index.add_incoming(builder.add(index, ir.Constant(LONG, step)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)

    def blocks(self, first: Value, last: Value, size: int, body: Callable[[Value, int], None]) -> None:
        """`body(index, size)` for so many at once, as long as there are; `body(index, 1)` for the rest."""
        whole = first + (last - first) / size * size
        self.count(first, whole, size, lambda index: body(index, size))
        self.count(whole, last, 1, lambda index: body(index, 1))

    def when(self, condition: Value, body: Callable[[], None]) -> None:
        with self.ir.if_then(condition.ref):
            body()

    def variable(self, start: Value) -> Variable:
        """A number or vector that changes from one turn of a loop to the next."""
        return Variable(self, start)

    def lanes(self, count: Value, body: Callable[[Value, Value | None], None], unroll: int = 1) -> None:
        """`body(index, mask)` for each 16 of `count` elements; the last ones, if they are fewer, under a mask.

        `unroll`: so many times in a turn, that sums need not wait for each other.
        """
        whole = count & -(LANES * unroll)

        def turn(index: Value) -> None:
            for k in range(unroll):
                body(index + LANES * k, None)

        self.count(self.index(0), whole, LANES * unroll, turn)
        done = whole
        if unroll > 1:
            full = count & -LANES
            self.count(whole, full, LANES, lambda i: body(i, None))
            done = full
        self.when(done < count, lambda: body(done, self._mask(count - done)))

    def clear(self, count: Value, *places: Memory) -> None:
        """Zeros in so many elements of each."""
        zero = self.real(0.0)
        for place in places:
            self.lanes(count, lambda i, mask, place=place: place.put_lanes(i, zero, mask))  # type: ignore[misc]

    def lane_numbers(self) -> Value:
        """0 to 15."""
        return Value(self, ir.Constant(ir.VectorType(INT, LANES), list(range(LANES))))

    def _mask(self, count: Value) -> Value:
        """True in the first `count` lanes."""
        return self.lane_numbers() < self.splat(self.convert(count, INT))

    def kept(self, mask: Value | None, new: Value, old: Value) -> Value:
        """The new lanes where the mask is true (or there is none), else the old ones: for sums under a mask."""
        return new if mask is None else self.where(mask, new, old)

    def sum_lanes(self, count: Value, term: Callable[[Value, Value | None], Value], unroll: int = 4) -> Value:
        """The sum of `term(index, mask)`'s lanes, in a fixed order: `unroll` vectors side by side, then their lanes."""
        return self.sums_lanes(count, lambda i, mask: (term(i, mask),), 1, unroll)[0]

    def sums_lanes(
        self, count: Value, terms: Callable[[Value, Value | None], Sequence[Value]], number: int, unroll: int = 4
    ) -> list[Value]:
        """Several sums in one loop."""
        zero = self.splat(self.real(0.0))
        sums = [[self.variable(zero) for _ in range(unroll)] for _ in range(number)]
        turn = 0

        def body(index: Value, mask: Value | None) -> None:
            nonlocal turn
            for total, term in zip(sums, terms(index, mask), strict=True):
                part = total[turn % unroll]
                part.set(self.kept(mask, part.get() + term, part.get()))
            turn += 1

        self.lanes(count, body, unroll)
        return [self.total(pairwise([part.get() for part in total], lambda a, b: a + b)) for total in sums]

    def max_lanes(self, count: Value, term: Callable[[Value, Value | None], Value], unroll: int = 4) -> Value:
        """The largest of `term(index, mask)`'s lanes; NaN where there is one."""
        return self.extreme_lanes(count, term, True, unroll)

    def extreme_lanes(
        self, count: Value, term: Callable[[Value, Value | None], Value], largest: bool, unroll: int = 4
    ) -> Value:
        """The largest of the lanes, or the smallest; NaN where there is one."""
        spoilt = self.variable(self.splat(Value(self, ir.Constant(BOOL, 0))))

        def combine(known: Value, more: Value) -> Value:
            spoilt.set(spoilt.get() | more.differs(more))
            return self.where(more > known if largest else more < known, more, known)

        start = float("-inf" if largest else "inf")
        found = self.lanes_together(count, term, start, combine, unroll)
        found = self.where(spoilt.get(), self.splat(self.real(float("nan"))), found)
        return self.largest(found) if largest else self.smallest(found)

    def lanes_together(
        self, count: Value, term: Callable[[Value, Value | None], Value], start: float,
        combine: Callable[[Value, Value], Value], unroll: int = 4,
    ) -> Value:  # fmt: skip
        """16 lanes, each what `combine` makes of its terms; `start` is what makes no difference."""
        neutral = self.splat(self.real(start))
        parts = [self.variable(neutral) for _ in range(unroll)]
        turn = 0

        def body(index: Value, mask: Value | None) -> None:
            nonlocal turn
            part, given = parts[turn % unroll], term(index, mask)
            if mask is not None:
                given = self.where(mask, given, neutral)
            part.set(combine(part.get(), given))
            turn += 1

        self.lanes(count, body, unroll)
        return pairwise([part.get() for part in parts], combine)  # type: ignore[no-any-return]


def pairwise(values: list[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """One of many, neighbours first."""
    while len(values) > 1:
        values = [combine(*values[i : i + 2]) if i + 1 < len(values) else values[i] for i in range(0, len(values), 2)]
    return values[0]


class Variable:
    """A place on the stack; LLVM makes a register of it."""

    def __init__(self, code: Code, start: Value) -> None:
        self.code = code
        with code.ir.goto_entry_block():
            self.place = code.ir.alloca(start.ref.type)
        self.set(start)

    def get(self) -> Value:
        return Value(self.code, self.code.ir.load(self.place))

    def set(self, value: Value) -> None:
        self.code.ir.store(value.ref, self.place)
