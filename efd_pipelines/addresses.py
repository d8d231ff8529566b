"""Addresses: how compiled code reads, writes and calls what lies at an address.

Kernels work by address where numba would count references to arrays, which takes longer than what is done with them,
and where Arrow's memory or a library's function is nothing but an address. Nothing here checks a bound: who asks does.
Importing this module imports numba, which takes a second: only kernels do. numba keeps a kernel's compiled code until
the kernel's own file changes: who changes something here touches them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types

intrinsic: Callable[[Callable[..., Any]], Any] = extending.intrinsic


@intrinsic
def origin(context: Any) -> Any:
    """A pointer to address 0, from which all others are reckoned.

    LLVM must not see that it is: before a function is compiled into its caller, numba has had it translated, which
    leaves pointers behind that begin at null, and what is written through these a second pass may take out.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, pointer = ir.IntType(64), ir.PointerType(ir.IntType(8))
        hidden = builder.asm(ir.FunctionType(number, [number]), "", "=r,0", [ir.Constant(number, 0)], False)
        return builder.inttoptr(hidden, pointer)

    return types.voidptr(), generate


def pointer_to(builder: Any, memory: Any, address: Any, kind: Any) -> Any:
    """For intrinsics: a pointer to something of a type of LLVM's."""
    return builder.bitcast(builder.gep(memory, [address]), ir.PointerType(kind))


def accesses(bits: int, *, signed: bool = False) -> tuple[Any, Any]:
    """What loads and stores, unaligned, a number of so many bits; in between it has 64, its sign kept if it has one."""
    kind = ir.IntType(bits)

    @intrinsic
    def load(context: Any, memory: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(pointer_to(builder, arguments[0], arguments[1], kind), align=1)
            extend = builder.sext if signed else builder.zext
            return extend(value, ir.IntType(64)) if bits < 64 else value

        return types.int64(types.voidptr, types.int64), generate

    @intrinsic
    def store(context: Any, memory: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.trunc(arguments[2], kind) if bits < 64 else arguments[2]
            builder.store(value, pointer_to(builder, arguments[0], arguments[1], kind), align=1)
            return context.get_dummy_value()

        return types.none(types.voidptr, types.int64, types.int64), generate

    return load, store


load1, store1 = accesses(8)
load4, store4 = accesses(32)
load8, store8 = accesses(64)


@intrinsic
def prefetch(context: Any, memory: Any, address: Any) -> Any:
    """Has the processor fetch what lies at an address, if it can."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        builder.call(prefetch, [builder.gep(arguments[0], [arguments[1]]), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.none(types.voidptr, types.int64), generate


@intrinsic
def copy(context: Any, memory: Any, source: Any, size: Any, target: Any) -> Any:
    """Copies bytes to where none of them lies."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory, source, size, target = arguments
        pointer, flag = ir.PointerType(ir.IntType(8)), ir.IntType(1)
        kind = ir.FunctionType(ir.VoidType(), [pointer, pointer, size.type, flag])
        copying = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, size.type], kind)
        builder.call(copying, [builder.gep(memory, [target]), builder.gep(memory, [source]), size, flag(0)])
        return context.get_dummy_value()

    return types.none(types.voidptr, types.int64, types.int64, types.int64), generate


def calling(*bits: int) -> Any:
    """What calls a function of C at an address, whose arguments are numbers or addresses of so many bits.

    It returns a number of 64 bits, which is anything where the function returns nothing.
    """
    number = ir.IntType(64)

    @intrinsic
    def call(context: Any, function: Any, numbers: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            function, numbers = given
            kind = ir.FunctionType(number, [ir.IntType(size) for size in bits])
            called = builder.inttoptr(function, ir.PointerType(kind))
            whole = [builder.extract_value(numbers, n) for n in range(len(bits))]
            fitted = [
                each if size == 64 else builder.trunc(each, ir.IntType(size))
                for each, size in zip(whole, bits, strict=True)
            ]
            return builder.call(called, fitted)

        return types.int64(types.int64, types.UniTuple(types.int64, len(bits))), generate  # type: ignore[no-untyped-call]

    return call
