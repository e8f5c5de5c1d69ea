"""Loops over arrays, in the language of `values`: how a kernel walks through memory, and over threads.

There are two kinds. An elementwise loop says what happens to one element; a loop over rows is given whole arrays and
says which loops run. Either becomes a function that NumPy calls as it calls its own (see `ufuncs`): it finds the data,
and the results' memory, and lets go of the interpreter's lock. Where there is work enough, the team of threads shares
it: each element is computed by one thread in the same way, so that the bits do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from cordee.trainer.kernels.llvm.values import BOOL, BYTE, FLOAT, HALF, INT, LANES, LONG, Code, Value

__all__ = ["GRAIN", "TYPES", "Loop", "Memory", "Rows", "build"]

GRAIN = 1 << 15
"""Elements that a thread has to have at least: waking one costs what computing so many takes."""

TYPES = {"f": FLOAT, "s": FLOAT, "h": HALF, "q": LONG, "b": BYTE, "u": BYTE}
"""Of operands: float32, one float32 for all elements, bits of bfloat16, int64, bool, uint8 below 128."""
_BYTES = {"f": 4, "s": 4, "h": 2, "q": 8, "b": 1, "u": 1}

_POINTER = BYTE.as_pointer()
_LONGS = LONG.as_pointer()
_POINTERS = _POINTER.as_pointer()


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
            return self._widened(Value(code, code.ir.load(pointer, align=_BYTES[self.kind])))
        function = _masked(code, "load", kind)
        zeros = ir.Constant(kind, None)
        align = ir.Constant(INT, _BYTES[self.kind])
        return self._widened(Value(code, code.ir.call(function, [pointer, align, mask.ref, zeros])))

    def put_lanes(self, index: Value, value: Value, mask: Value | None = None) -> None:
        code, kind = self.code, ir.VectorType(TYPES[self.kind], LANES)
        value = self._narrowed(code.splat(value))
        pointer = code.ir.bitcast(self._address(index), kind.as_pointer())
        if mask is None:
            code.ir.store(value.ref, pointer, align=_BYTES[self.kind])
            return
        align = ir.Constant(INT, _BYTES[self.kind])
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

    def _mask(self, count: Value) -> Value:
        """True in the first `count` lanes."""
        numbers = Value(self, ir.Constant(ir.VectorType(INT, LANES), list(range(LANES))))
        return numbers < self.splat(self.convert(count, INT))

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
        return [self.total(_pairwise([part.get() for part in total], lambda a, b: a + b)) for total in sums]

    def max_lanes(self, count: Value, term: Callable[[Value, Value | None], Value], unroll: int = 4) -> Value:
        """The largest of `term(index, mask)`'s lanes; NaN where there is one."""
        parts = [self.variable(self.splat(self.real(float("-inf")))) for _ in range(unroll)]
        turn = 0

        def body(index: Value, mask: Value | None) -> None:
            nonlocal turn
            part = parts[turn % unroll]
            part.set(self.kept(mask, self.maximum(part.get(), term(index, mask)), part.get()))
            turn += 1

        self.lanes(count, body, unroll)
        return self.largest(_pairwise([part.get() for part in parts], self.maximum))


def _pairwise(values: list[Any], combine: Callable[[Any, Any], Any]) -> Any:
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


# -- functions as NumPy calls them -------------------------------------------------------------------------------------

_LOOP = ir.FunctionType(ir.VoidType(), [_POINTERS, _LONGS, _LONGS, _POINTER])
_WORK = ir.FunctionType(ir.VoidType(), [_POINTERS, _LONGS, _LONGS, LONG, LONG])
_CONTEXT = ir.LiteralStructType([_POINTERS, _LONGS, _LONGS, LONG])
_TASK = ir.FunctionType(ir.VoidType(), [_POINTER])
TEAM = ir.LiteralStructType([LONG, LONG, LONG, LONG])
"""Threads, and the addresses of OpenMP's: start a team, which thread am I, how many are we."""
_START = ir.FunctionType(ir.VoidType(), [_TASK.as_pointer(), _POINTER, INT, INT])
_ASK = ir.FunctionType(INT, [])


def build(module: ir.Module, loop: Loop) -> None:
    """Append the functions of a loop to a module; the one that NumPy calls bears the loop's name."""
    work = ir.Function(module, _WORK, f"{loop.name}.work")
    work.linkage = "internal"
    if loop.signature:
        _build_rows(work, loop)
    else:
        _build_elements(work, loop)
    _build_entry(module, loop, work)


def _argument(builder: ir.IRBuilder, args: Any, index: int, kind: str) -> Any:
    pointer = builder.load(builder.gep(args, [ir.Constant(LONG, index)]))
    return builder.bitcast(pointer, TYPES[kind].as_pointer())


def _build_rows(work: ir.Function, loop: Loop) -> None:
    args, dims, _, first, last = work.args
    builder = ir.IRBuilder(work.append_basic_block("entry"))
    start = builder.append_basic_block("start")
    builder.branch(start)
    builder.position_at_end(start)
    code = Code(builder)
    sizes = {
        name: Value(code, builder.load(builder.gep(dims, [ir.Constant(LONG, i + 1)])))
        for i, name in enumerate(loop.dimensions)
    }
    rows = Rows(builder, sizes, Value(code, first), Value(code, last))
    inputs, results = loop.operands
    loop.body(rows, *(Memory(rows, _argument(builder, args, i, kind), kind) for i, kind in enumerate(inputs + results)))
    builder.ret_void()


def _build_elements(work: ir.Function, loop: Loop) -> None:
    """One loop for operands that lie without gaps, one for each of two inputs that is one number for all, and one for
    all else, element by element."""
    args, _, steps, first, last = work.args
    builder = ir.IRBuilder(work.append_basic_block("entry"))
    start = builder.append_basic_block("start")
    builder.branch(start)
    builder.position_at_end(start)
    rows = Rows(builder, {}, Value(Code(builder), first), Value(Code(builder), last))
    inputs, results = loop.operands
    kinds = inputs + results
    memory = [Memory(rows, _argument(builder, args, i, kind), kind) for i, kind in enumerate(kinds)]
    strides = [builder.load(builder.gep(steps, [ir.Constant(LONG, i)])) for i in range(len(kinds))]

    def lies(i: int, size: int) -> Any:
        return builder.icmp_signed("==", strides[i], ir.Constant(LONG, size))

    varying = [i for i, kind in enumerate(kinds) if kind != "s"]
    fixed_sets: list[set[int]] = [set()]
    if len([i for i in varying if i < len(inputs)]) == 2:
        fixed_sets += [{i} for i in varying if i < len(inputs)]
    done = builder.append_basic_block("done")
    for fixed in fixed_sets:
        fits: Any = ir.Constant(BOOL, 1)
        for i in varying:
            fits = builder.and_(fits, lies(i, 0 if i in fixed else _BYTES[kinds[i]]))
        with builder.if_then(fits):
            constant = {i: rows.splat(memory[i].get(rows.index(0))) for i in range(len(inputs)) if kinds[i] == "s"}
            constant |= {i: rows.splat(memory[i].get(rows.index(0))) for i in fixed}
            shifted = [each if i in constant else each.at(rows.first) for i, each in enumerate(memory)]

            def body(index: Value, mask: Value | None, constant: Any = constant, shifted: Any = shifted) -> None:
                given = [constant.get(i) or shifted[i].lanes(index, mask) for i in range(len(inputs))]
                for i, value in enumerate(_results(loop.body(rows, *given))):
                    shifted[len(inputs) + i].put_lanes(index, value, mask)

            rows.lanes(rows.last - rows.first, body)
            builder.branch(done)
            builder.position_at_end(builder.append_basic_block("unreached"))

    def single(index: Value) -> None:
        def place(i: int) -> Memory:
            raw = builder.bitcast(memory[i].pointer, _POINTER)
            moved = builder.gep(raw, [builder.mul(index.ref, strides[i])])
            return Memory(rows, builder.bitcast(moved, TYPES[kinds[i]].as_pointer()), kinds[i])

        zero = rows.index(0)
        given = [(memory[i] if kinds[i] == "s" else place(i)).get(zero) for i in range(len(inputs))]
        for i, value in enumerate(_results(loop.body(rows, *given))):
            place(len(inputs) + i).put(zero, value)

    rows.share(single)
    builder.branch(done)
    builder.position_at_end(done)
    builder.ret_void()


def _results(given: Any) -> Sequence[Value]:
    return given if isinstance(given, tuple) else (given,)


def _build_entry(module: ir.Module, loop: Loop, work: ir.Function) -> None:
    """The function that NumPy calls: alone, or by the team."""
    team_global: Any = module.globals.get("team") or ir.GlobalVariable(module, TEAM.as_pointer(), "team")
    team_global.initializer = ir.Constant(TEAM.as_pointer(), None)
    task = _build_task(module, loop, work, team_global)
    entry = ir.Function(module, _LOOP, loop.name)
    args, dims, steps, _ = entry.args
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    if loop.signature and not loop.shared:
        builder.call(work, [args, dims, steps, ir.Constant(LONG, 0), ir.Constant(LONG, 0)])
        builder.ret_void()
        return
    if loop.signature:
        names = loop.dimensions
        sizes = [builder.load(builder.gep(dims, [ir.Constant(LONG, i + 1)])) for i in range(len(names))]
        count = sizes[names.index(loop.shared)]
        total: Any = ir.Constant(LONG, 1)
        for name in loop.largest:
            total = builder.mul(total, sizes[names.index(name)])
    else:
        count = total = builder.load(dims)
    team = builder.load(team_global)
    threads = builder.load(_field(builder, team, 0))
    enough = builder.icmp_signed(">=", total, ir.Constant(LONG, 2 * GRAIN))
    shared = builder.and_(enough, builder.icmp_signed(">", threads, ir.Constant(LONG, 1)))
    if not loop.signature:  # a reduction writes to one place again and again: it is one thread's
        inputs, results = loop.operands
        for i in range(len(inputs), len(inputs + results)):
            step = builder.load(builder.gep(steps, [ir.Constant(LONG, i)]))
            shared = builder.and_(shared, builder.icmp_signed("!=", step, ir.Constant(LONG, 0)))
    together, alone = builder.append_basic_block("together"), builder.append_basic_block("alone")
    builder.cbranch(shared, together, alone)
    builder.position_at_end(alone)
    builder.call(work, [args, dims, steps, ir.Constant(LONG, 0), count])
    builder.ret_void()
    builder.position_at_end(together)
    context = builder.alloca(_CONTEXT)
    for i, value in enumerate((args, dims, steps, count)):
        builder.store(value, _field(builder, context, i))
    start = builder.inttoptr(builder.load(_field(builder, team, 1)), _START.as_pointer())
    wanted = builder.trunc(threads, INT)
    builder.call(start, [task, builder.bitcast(context, _POINTER), wanted, ir.Constant(INT, 0)])
    builder.ret_void()


def _build_task(module: ir.Module, loop: Loop, work: ir.Function, team_global: Any) -> ir.Function:
    """One thread's part."""
    task = ir.Function(module, _TASK, f"{loop.name}.task")
    task.linkage = "internal"
    builder = ir.IRBuilder(task.append_basic_block("entry"))
    context = builder.bitcast(task.args[0], _CONTEXT.as_pointer())
    args, dims, steps, count = (builder.load(_field(builder, context, i)) for i in range(4))
    team = builder.load(team_global)
    me, all_of_us = (
        builder.sext(
            builder.call(builder.inttoptr(builder.load(_field(builder, team, i)), _ASK.as_pointer()), []), LONG
        )
        for i in (2, 3)
    )
    # Parts begin at multiples of 16 elements: no two threads write to the same line of the cache.
    unit = 1 if loop.signature else LANES
    units = builder.sdiv(builder.add(count, ir.Constant(LONG, unit - 1)), ir.Constant(LONG, unit))

    def boundary(thread: Any) -> Any:
        at = builder.mul(builder.sdiv(builder.mul(units, thread), all_of_us), ir.Constant(LONG, unit))
        return builder.select(builder.icmp_signed("<", at, count), at, count)

    builder.call(work, [args, dims, steps, boundary(me), boundary(builder.add(me, ir.Constant(LONG, 1)))])
    builder.ret_void()
    return task


def _field(builder: ir.IRBuilder, struct: Any, index: int) -> Any:
    return builder.gep(struct, [ir.Constant(INT, 0), ir.Constant(INT, index)])
