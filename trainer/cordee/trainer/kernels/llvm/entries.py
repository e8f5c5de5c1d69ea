"""Loops as functions that NumPy calls as it calls its own: they find the data, share the work, and run.

NumPy has found the results' memory, and let go of the interpreter's lock (see `ufuncs`). Where there is work enough,
the team of threads shares it: each element is computed by one thread in the same way, so that the bits do not depend on
how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from cordee.trainer.kernels.llvm.loops import BYTES, TYPES, Loop, Memory, Rows
from cordee.trainer.kernels.llvm.values import BOOL, BYTE, INT, LANES, LONG, Code, Value

__all__ = ["GRAIN", "TEAM", "build"]

GRAIN = 1 << 15
"""Elements that a thread has to have at least: waking one costs what computing so many takes."""

_POINTER = BYTE.as_pointer()
_LONGS = LONG.as_pointer()
_POINTERS = _POINTER.as_pointer()
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
    in_any_order = builder.not_(_accumulates(builder, loop, args, steps))
    for fixed in fixed_sets:
        fits: Any = in_any_order
        for i in varying:
            fits = builder.and_(fits, lies(i, 0 if i in fixed else BYTES[kinds[i]]))
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


def _accumulates(builder: ir.IRBuilder, loop: Loop, args: Any, steps: Any) -> Any:
    """Whether NumPy's `accumulate` calls: each result is an input of the next, so they are computed one by one."""
    inputs, results = loop.operands
    if len(inputs) != 2 or results != inputs[0]:
        return ir.Constant(BOOL, 0)
    first, last = (builder.load(builder.gep(steps, [ir.Constant(LONG, i)])) for i in (0, 2))
    source, target = (builder.ptrtoint(builder.load(builder.gep(args, [ir.Constant(LONG, i)])), LONG) for i in (0, 2))
    behind = builder.icmp_signed("==", builder.sub(target, source), last)
    return builder.and_(behind, builder.icmp_signed("==", first, last))  # of one place (0) it is a reduction


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
        shared = builder.and_(shared, builder.not_(_accumulates(builder, loop, args, steps)))
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
