"""Turning: the arrays of some rows → the columns of their items, a cache line of each, in registers.

Who turns which: `kernel.py`. Importing this module imports numba.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from efd_pipelines.addresses import intrinsic, pointer_to

LINE_BYTES = 64


def _turning(size: int) -> Any:
    """What copies as many items, of so many bytes, of as many rows as fill a cache line to the items' columns."""
    lanes = LINE_BYTES // size
    line = ir.VectorType(ir.IntType(8 * size), lanes)

    @intrinsic
    def turn(context: Any, memory: Any, sources: Any, item: Any, target: Any, step: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            memory, sources, item, target, step = arguments
            number = sources.type
            lines = []
            for lane in range(lanes):
                place = builder.add(sources, number(8 * lane))
                source = builder.load(pointer_to(builder, memory, place, number), align=1)
                place = builder.add(source, builder.mul(item, number(size)))
                lines.append(builder.load(pointer_to(builder, memory, place, line), align=1))
            _exchange(builder, lines)
            for lane in range(lanes):
                place = builder.add(target, builder.mul(step, number(lane)))
                stored = builder.store(lines[lane], pointer_to(builder, memory, place, line), align=LINE_BYTES)
                # Past the caches, which columns do not fit: the line need not be read before it is written.
                stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return types.none(types.voidptr, types.int64, types.int64, types.int64, types.int64), generate

    return turn


def _exchange(builder: Any, lines: list[Any]) -> None:
    """Turns a square of numbers in registers: its halves are exchanged, then their halves, and so on."""
    lanes = len(lines)
    index = ir.VectorType(ir.IntType(32), lanes)
    distance = lanes // 2
    while distance:
        low = [n if n & distance == 0 else n - distance + lanes for n in range(lanes)]
        high = [n + distance if n & distance == 0 else n + lanes for n in range(lanes)]
        for one in [n for n in range(lanes) if n & distance == 0]:
            pair = lines[one], lines[one + distance]
            lines[one] = builder.shuffle_vector(*pair, ir.Constant(index, low))
            lines[one + distance] = builder.shuffle_vector(*pair, ir.Constant(index, high))
        distance //= 2


turn4 = _turning(4)
turn8 = _turning(8)
