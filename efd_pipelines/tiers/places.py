"""Places: numbers at addresses, read and written one by one or sixteen."""

from __future__ import annotations

from typing import Any

from numba.core import types

from efd_pipelines.tiers.vectors import (
    Values,
    after,
    constant,
    intrinsic,
    load,
    store,
)


@intrinsic
def item(context: Any, like: Any, address: Any, place: Any) -> Any:
    """A number of the type of `like`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, size = context.get_value_type(like.dtype), like.dtype.bitwidth // 8
        return load(builder, after(builder, arguments[1], arguments[2], constant(size)), kind, size)

    return like.dtype(like, types.int64, types.int64), generate


@intrinsic
def put_item(context: Any, like: Any, address: Any, place: Any, number: Any) -> Any:
    """Stores a number of the type of `like`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        size = like.dtype.bitwidth // 8
        store(builder, arguments[3], after(builder, arguments[1], arguments[2], constant(size)), size)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64, like.dtype), generate


@intrinsic
def copy_row(context: Any, like: Any, source: Any, target: Any) -> Any:
    """Sixteen values from one place to another."""
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, target = arguments
        store(builder, load(builder, source, kind.keys, kind.bytes), target, kind.bytes)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64), generate
