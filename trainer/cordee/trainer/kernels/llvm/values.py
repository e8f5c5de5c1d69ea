"""The language that generated loops are written in: numbers and vectors of 16 lanes, with Python's operators.

A kernel is a Python function that is run once, when it is compiled: each operator on a `Value` appends an instruction
of LLVM's. Sixteen lanes whatever the CPU has: then a sum is added up in the same order everywhere, and only the library
of matrix products knows which CPU this is. Nothing is reassociated; a multiply-add is one rounding where it says `fma`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

from llvmlite import ir  # type: ignore[import-untyped]

__all__ = ["BOOL", "BYTE", "FLOAT", "HALF", "INT", "LANES", "LONG", "Code", "Number", "Value", "float_constant"]

LANES = 16

FLOAT, INT, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
HALF, BYTE, BOOL = ir.IntType(16), ir.IntType(8), ir.IntType(1)  # HALF: the bits of a bfloat16

Number: TypeAlias = "Value | float | int"


def float_constant(value: float) -> float:
    """The float32 next to a number, as LLVM's text wants it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


class Value:
    """A number, or 16 of them: of float32, of whole numbers, or of truth values (which masks are)."""

    __slots__ = ("code", "ref")

    def __init__(self, code: Code, ref: Any) -> None:
        self.code = code
        self.ref = ref

    @property
    def is_vector(self) -> bool:
        return isinstance(self.ref.type, ir.VectorType)

    @property
    def element(self) -> Any:
        """The type of one lane."""
        return self.ref.type.element if self.is_vector else self.ref.type

    @property
    def is_float(self) -> bool:
        return bool(self.element == FLOAT)

    def _with(self, other: Number, on_floats: str, on_ints: str, swapped: bool = False) -> Value:
        a, b = self.code.alike(self, other)
        if swapped:
            a, b = b, a
        return Value(self.code, getattr(self.code.ir, on_floats if self.is_float else on_ints)(a.ref, b.ref))

    def __add__(self, other: Number) -> Value:
        return self._with(other, "fadd", "add")

    def __radd__(self, other: Number) -> Value:
        return self._with(other, "fadd", "add", swapped=True)

    def __sub__(self, other: Number) -> Value:
        return self._with(other, "fsub", "sub")

    def __rsub__(self, other: Number) -> Value:
        return self._with(other, "fsub", "sub", swapped=True)

    def __mul__(self, other: Number) -> Value:
        return self._with(other, "fmul", "mul")

    def __rmul__(self, other: Number) -> Value:
        return self._with(other, "fmul", "mul", swapped=True)

    def __truediv__(self, other: Number) -> Value:
        return self._with(other, "fdiv", "sdiv")

    def __rtruediv__(self, other: Number) -> Value:
        return self._with(other, "fdiv", "sdiv", swapped=True)

    def __and__(self, other: Number) -> Value:
        return self._with(other, "and_", "and_")

    def __or__(self, other: Number) -> Value:
        return self._with(other, "or_", "or_")

    def __xor__(self, other: Number) -> Value:
        return self._with(other, "xor", "xor")

    def __lshift__(self, other: Number) -> Value:
        return self._with(other, "shl", "shl")

    def __rshift__(self, other: Number) -> Value:
        """Of whole numbers, with zeros moving in."""
        return self._with(other, "lshr", "lshr")

    def __neg__(self) -> Value:
        return Value(self.code, self.code.ir.fneg(self.ref)) if self.is_float else 0 - self

    def __invert__(self) -> Value:
        return Value(self.code, self.code.ir.not_(self.ref))

    def _compare(self, sign: str, other: Number) -> Value:
        a, b = self.code.alike(self, other)
        builder = self.code.ir
        if self.is_float:  # false of NaN, but for !=
            compare = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
            return Value(self.code, compare(sign, a.ref, b.ref))
        return Value(self.code, builder.icmp_signed(sign, a.ref, b.ref))

    def __lt__(self, other: Number) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Number) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Number) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Number) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Number) -> Value:
        return self._compare("==", other)

    def differs(self, other: Number) -> Value:
        """Of a NaN, true of everything."""
        return self._compare("!=", other)


class Code:
    """Where instructions are appended, and the functions that are no operators."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.ir = builder

    # -- constants and types

    def real(self, value: float) -> Value:
        return Value(self, ir.Constant(FLOAT, float_constant(value)))

    def index(self, value: int) -> Value:
        return Value(self, ir.Constant(LONG, value))

    def whole(self, value: int) -> Value:
        return Value(self, ir.Constant(INT, value))

    def like(self, number: Number, other: Value) -> Value:
        """A Python number as a constant of another value's type."""
        if isinstance(number, Value):
            return number
        value = float_constant(number) if other.is_float else number
        return Value(self, ir.Constant(other.element, value))

    def splat(self, value: Value) -> Value:
        """The number in all lanes."""
        if value.is_vector:
            return value
        kind = ir.VectorType(value.element, LANES)
        if isinstance(value.ref, ir.Constant):
            return Value(self, ir.Constant(kind, [value.ref.constant] * LANES))
        one = self.ir.insert_element(ir.Constant(kind, ir.Undefined), value.ref, ir.Constant(INT, 0))
        zeros = ir.Constant(ir.VectorType(INT, LANES), [0] * LANES)
        return Value(self, self.ir.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros))

    def alike(self, a: Number, b: Number) -> tuple[Value, Value]:
        """Both as values, both numbers or both vectors."""
        if not isinstance(a, Value):
            assert isinstance(b, Value)
            a = self.like(a, b)
        elif not isinstance(b, Value):
            b = self.like(b, a)
        if a.is_vector != b.is_vector:
            a, b = self.splat(a), self.splat(b)
        return a, b

    def bits(self, value: Value) -> Value:
        """The bits of floats, as whole numbers of 32 bits."""
        return self._bitcast(value, INT)

    def from_bits(self, value: Value) -> Value:
        return self._bitcast(value, FLOAT)

    def _bitcast(self, value: Value, element: Any) -> Value:
        kind = ir.VectorType(element, LANES) if value.is_vector else element
        return Value(self, self.ir.bitcast(value.ref, kind))

    def convert(self, value: Value, element: Any) -> Value:
        """To another type of number: floats to whole ones towards zero, whole ones of other widths with their sign."""
        kind = ir.VectorType(element, LANES) if value.is_vector else element
        source = value.element
        if source == element:
            return value
        if source == FLOAT:
            return Value(self, self.ir.fptosi(value.ref, kind))
        if element == FLOAT:
            convert = self.ir.uitofp if source.width == 1 else self.ir.sitofp
            return Value(self, convert(value.ref, kind))
        if source.width > element.width:
            return Value(self, self.ir.trunc(value.ref, kind))
        unsigned = source in (BOOL, HALF)
        return Value(self, (self.ir.zext if unsigned else self.ir.sext)(value.ref, kind))

    # -- functions

    def _intrinsic(self, name: str, *values: Value) -> Value:
        kind = values[0].ref.type
        suffix = f"v{LANES}" if isinstance(kind, ir.VectorType) else ""
        element = {FLOAT: "f32", INT: "i32", LONG: "i64"}[values[0].element]
        function = self._declared(f"llvm.{name}.{suffix}{element}", kind, [value.ref.type for value in values])
        return Value(self, self.ir.call(function, [value.ref for value in values]))

    def _declared(self, name: str, result: Any, arguments: Sequence[Any]) -> Any:
        module = self.ir.module
        known = module.globals.get(name)
        return known if known is not None else ir.Function(module, ir.FunctionType(result, list(arguments)), name)

    def fma(self, a: Value, b: Number, c: Number) -> Value:
        """`a · b + c`, rounded once."""
        first, second = self.alike(a, b)
        first, third = self.alike(first, c)
        first, second = self.alike(first, second)
        return self._intrinsic("fma", first, second, third)

    def sqrt(self, a: Value) -> Value:
        return self._intrinsic("sqrt", a)

    def abs(self, a: Value) -> Value:
        return self._intrinsic("fabs", a)

    def round(self, a: Value) -> Value:
        """To the next whole number, halves to the even one."""
        return self._intrinsic("roundeven", a)

    def floor(self, a: Value) -> Value:
        return self._intrinsic("floor", a)

    def copysign(self, size: Value, sign: Value) -> Value:
        """Of the first one's magnitude, and the second one's sign."""
        return self._intrinsic("copysign", *self.alike(size, sign))

    def where(self, condition: Value, a: Number, b: Number) -> Value:
        if not isinstance(a, Value) and not isinstance(b, Value):
            a = self.real(a)
        first, second = self.alike(a, b)
        if condition.is_vector != first.is_vector:
            condition, first, second = self.splat(condition), self.splat(first), self.splat(second)
        return Value(self, self.ir.select(condition.ref, first.ref, second.ref))

    def maximum(self, a: Value, b: Number) -> Value:
        """The larger one; NaN where one of both is."""
        first, second = self.alike(a, b)
        return self.where((first > second) | first.differs(first), first, second)

    def minimum(self, a: Value, b: Number) -> Value:
        """The smaller one; NaN where one of both is."""
        first, second = self.alike(a, b)
        return self.where((first < second) | first.differs(first), first, second)

    def clamp(self, a: Value, low: float, high: float) -> Value:
        """Between two numbers; NaN stays."""
        lower = self.where(a < low, self.like(low, a), a)
        return self.where(lower > high, self.like(high, a), lower)

    def polynomial(self, x: Value, *coefficients: float) -> Value:
        """By Horner's rule, the highest power first."""
        result = self.alike(coefficients[0], x)[0]
        for coefficient in coefficients[1:]:
            result = self.fma(result, x, coefficient)
        return result

    # -- over the lanes of one vector

    def fold(self, vector: Value, combine: Any) -> Value:
        """The lanes combined in a fixed order: halves with halves, down to one."""
        ref, width = vector.ref, LANES
        while width > 1:
            width //= 2
            undefined = ir.Constant(ref.type, ir.Undefined)
            mask = ir.VectorType(INT, width)
            low = self.ir.shuffle_vector(ref, undefined, ir.Constant(mask, list(range(width))))
            high = self.ir.shuffle_vector(ref, undefined, ir.Constant(mask, list(range(width, 2 * width))))
            ref = combine(_Narrow(self, low), _Narrow(self, high)).ref
        return Value(self, self.ir.extract_element(ref, ir.Constant(INT, 0)))

    def total(self, vector: Value) -> Value:
        return self.fold(vector, lambda a, b: a + b)

    def product(self, vector: Value) -> Value:
        return self.fold(vector, lambda a, b: a * b)

    def largest(self, vector: Value) -> Value:
        return self.fold(vector, lambda a, b: a.extreme(">", b))

    def smallest(self, vector: Value) -> Value:
        return self.fold(vector, lambda a, b: a.extreme("<", b))


class _Narrow:
    """A part of a vector's lanes, while they are folded."""

    __slots__ = ("code", "ref")

    def __init__(self, code: Code, ref: Any) -> None:
        self.code = code
        self.ref = ref

    def __add__(self, other: _Narrow) -> _Narrow:
        return _Narrow(self.code, self.code.ir.fadd(self.ref, other.ref))

    def __mul__(self, other: _Narrow) -> _Narrow:
        return _Narrow(self.code, self.code.ir.fmul(self.ref, other.ref))

    def extreme(self, sign: str, other: _Narrow) -> _Narrow:
        """Lane by lane whichever is larger (">") or smaller ("<"); NaN where one of both is."""
        builder = self.code.ir
        own = builder.or_(
            builder.fcmp_ordered(sign, self.ref, other.ref), builder.fcmp_unordered("uno", self.ref, self.ref)
        )
        return _Narrow(self.code, builder.select(own, self.ref, other.ref))
