"""Vectors: LLVM's own vector types, from which the operations of the kernel are put together.

numba compiles loops and leaves it to LLVM to find vectors in them, which fails as soon as they move data across
lanes; here they are written down, and LLVM turns them into whatever the processor has (AVX-512, AVX2, NEON), lane for
lane with the same outcome. All operations take addresses; `like` is an array of the type of the values, of which
nothing else is used. A key is a value's bits as an integer that sorts as the value does, −0.0 below +0.0 and NaN at
both ends. The operations: on numbers one by one `places.py`, between rows and columns `squares.py`, statistics
`sweeps.py`, and on keys `keys.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils as _cgutils
from numba.core import types

LANES = 16
"""Lanes of one vector. A tile has four of them or one."""

intrinsic: Callable[[Callable[..., Any]], Any] = extending.intrinsic

cgutils: Any = _cgutils
INDEX = ir.IntType(64)
SHORT = ir.IntType(32)
DOUBLE = ir.DoubleType()


class Values:
    """LLVM's types and constants for vectors of one type of values."""

    def __init__(self, like: Any, lanes: int = LANES) -> None:
        self.is_float = isinstance(like.dtype, types.Float)
        self.bits = int(like.dtype.bitwidth)
        self.bytes = self.bits // 8
        self.lanes = lanes
        self.integer = ir.IntType(self.bits)
        self.keys = ir.VectorType(self.integer, lanes)
        self.reals = ir.VectorType(DOUBLE, lanes)
        self.floats = ir.VectorType(ir.FloatType() if self.bits == 32 else DOUBLE, lanes)
        self.numbers = self.floats if self.is_float else self.keys

    def splat(self, value: int) -> ir.Constant:
        return ir.Constant(self.keys, [value] * self.lanes)

    @property
    def largest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def infinity(self) -> int:
        """The key of +∞; that of −∞ is its complement."""
        return 0x7F800000 if self.bits == 32 else 0x7FF0000000000000

    def flipped(self, builder: Any, bits: Any) -> Any:
        """Keys of bits, and bits of keys."""
        if not self.is_float:
            return bits
        sign = builder.ashr(bits, self.splat(self.bits - 1))
        return builder.xor(bits, builder.and_(sign, self.splat(self.largest)))

    def doubles(self, builder: Any, bits: Any) -> Any:
        if not self.is_float:
            return builder.sitofp(bits, self.reals)
        values = builder.bitcast(bits, self.floats)
        return values if self.bits == 64 else builder.fpext(values, self.reals)

    def deviations(self, builder: Any, bits: Any, origin: Any) -> Any:
        """Distances from `origin`, exact where the type allows; those of integers beyond 2⁶³ wrap around."""
        if not self.is_float and self.bits == 64:
            return builder.sitofp(builder.sub(bits, origin), self.reals)
        return builder.fsub(self.doubles(builder, bits), self.doubles(builder, origin))

    def extremes(self, builder: Any, one: Any, other: Any) -> tuple[Any, Any]:
        """The smaller value and the larger, one of each where they are equal; the other where one is NaN."""
        compare = builder.fcmp_ordered if self.is_float else builder.icmp_signed
        below = compare("<", one, other)
        return builder.select(below, one, other), builder.select(below, other, one)

    def ends(self) -> tuple[Any, Any]:
        """The smallest number that there is, and the largest."""
        if self.is_float:
            infinity = float("inf")
            return ir.Constant(self.floats, [-infinity] * self.lanes), ir.Constant(self.floats, [infinity] * self.lanes)
        return self.splat(~self.largest), self.splat(self.largest)

    def is_present(self, builder: Any, keys: Any) -> Any:
        """Which keys are no NaN."""
        below = builder.icmp_signed("<=", keys, self.splat(self.infinity))
        return builder.and_(below, builder.icmp_signed(">=", keys, self.splat(~self.infinity)))


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    return builder.load(_pointer(builder, address, kind), align=align)


def store(builder: Any, value: Any, address: Any, align: int) -> None:
    builder.store(value, _pointer(builder, address, value.type), align=align)


def store_past(builder: Any, value: Any, address: Any) -> None:
    """Stores a whole cache line, which nobody reads soon, without fetching it first."""
    line = builder.store(value, _pointer(builder, address, value.type), align=64)
    line.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(SHORT, 1)]))


def after(builder: Any, address: Any, count: Any, step_bytes: Any) -> Any:
    return builder.add(address, builder.mul(count, step_bytes))


def constant(value: int) -> ir.Constant:
    return ir.Constant(INDEX, value)


def minimum(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def maximum(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), other, one)


def integer_of(like: Any) -> Any:
    """The type of the keys."""
    return types.int32 if like.dtype.bitwidth == 32 else types.int64


def variable(builder: Any, value: Any) -> Any:
    return cgutils.alloca_once_value(builder, value)


def called(builder: Any, name: str, returned: Any, argument: Any) -> Any:
    """One of LLVM's own functions."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(returned, [argument.type]), name)
    return builder.call(function, [argument])


def prefetch(builder: Any, address: Any) -> None:
    """Asks for the cache line of an address, which need not exist."""
    place = _pointer(builder, address, ir.IntType(8))
    kind = ir.FunctionType(ir.VoidType(), [place.type, SHORT, SHORT, SHORT])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [place, *(ir.Constant(SHORT, hint) for hint in (0, 2, 1))])


def fenced(builder: Any, value: Any) -> Any:
    """The value, which LLVM must have before it looks at what is done with it."""
    name = f"llvm.arithmetic.fence.v{value.type.count}{_suffix(value.type.element)}"
    return called(builder, name, value.type, value)


def _suffix(kind: Any) -> str:
    return "f64" if kind == DOUBLE else "f32"


def splat(builder: Any, value: Any, kind: Any) -> Any:
    nowhere = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(nowhere, value, ir.Constant(SHORT, 0))
    zeros = ir.Constant(ir.VectorType(SHORT, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, nowhere, zeros)


def any_of(builder: Any, mask: Any) -> Any:
    """Whether any lane is set."""
    bits = builder.bitcast(mask, ir.IntType(LANES))
    return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))
