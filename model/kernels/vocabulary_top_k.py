"""The few largest of a vocabulary's logits, and the random numbers of their tokens.

On Metal two launches, of which the first alone touches the vocabulary: it finds the maximum of
every block of 64 logits. The second, a threadgroup per row, sorts the blocks by their maxima and
then what the best ones hold (model/largest.py says why the others cannot matter), each simdgroup a
list of 32 or 64 in its registers, and draws for these tokens only what mx.random draws for all.

Shapes: B rows, V logits of each, `count` of them wanted.
"""

from __future__ import annotations

import mlx.core as mx

from model.kernels.metal import (
    MAX_THREADS,
    SIMD,
    Launch,
    Runner,
    UnsupportedError,
    run,
)
from model.kernels.vocabulary_top_k_kernel import FINISH, MAXIMA
from model.largest import BLOCK, MOST, largest

_BELOW_ONE = 1 - 2**-24  # the float32 before it
_MAXIMA_SIMDGROUPS, _MAXIMA_BLOCKS = 8, 4  # of a threadgroup; blocks of each simdgroup


def vocabulary_top_k(
    logits: mx.array, keys: mx.array, count: int
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """logits [B, V] of any float type, keys [B, 2] uint32 -> ids uint32, logits and uniform random
    numbers float32 of the largest, all [B, min(count, V)], largest first, equal ones in the order
    of their ids; and between them the maximum of each row [B], as model.largest gives it. Plain
    operations.

    A token has the number that mx.random.uniform draws for it with its row's key, among all V.
    """
    ids, values, highest = largest(logits, count)
    return ids, values, highest, uniform_of(ids, keys, logits.shape[-1])


def uniform_of(ids: mx.array, keys: mx.array, vocabulary: int) -> mx.array:
    """Of the tokens `ids` [B, n]: what mx.random.uniform would draw for them among all."""
    if vocabulary % 2:
        drawn = mx.vmap(lambda key: mx.random.uniform(shape=(vocabulary,), key=key))(keys)
        return mx.take_along_axis(drawn, ids, axis=-1)
    # A key is split into the random bits that its numbers are made of.
    bits = mx.vmap(lambda key: mx.random.split(key, vocabulary // 2))(keys).flatten(1)
    chosen = mx.take_along_axis(bits, ids, axis=-1).astype(mx.float32)
    return mx.minimum(chosen / float(2**32 - 1), _BELOW_ONE)


def metal_vocabulary_top_k(
    logits: mx.array,
    keys: mx.array,
    count: int,
    *,
    simdgroups: int = MAX_THREADS // SIMD,
    runner: Runner = run,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """`vocabulary_top_k` in two launches; `simdgroups`, a power of two, of each of the second's
    threadgroups. Raises UnsupportedError."""
    rows, vocabulary = logits.shape
    if not 0 < count <= min(MOST, vocabulary) or rows * vocabulary >= 1 << 32:
        raise UnsupportedError(
            f"{count} of {rows} times {vocabulary} logits: at most {MOST}, of 2^32 in all"
        )
    blocks = -(-vocabulary // BLOCK)
    sizes = (("T", logits.dtype), ("V", vocabulary), ("BLOCKS", blocks))
    threads = _MAXIMA_SIMDGROUPS * SIMD
    (maxima,) = runner(
        Launch(
            MAXIMA,
            inputs=(logits,),
            template=(*sizes, ("SIMDGROUPS", _MAXIMA_SIMDGROUPS), ("PER", _MAXIMA_BLOCKS)),
            grid=(-(-blocks // (_MAXIMA_SIMDGROUPS * _MAXIMA_BLOCKS)) * threads, rows, 1),
            threadgroup=(threads, 1, 1),
            outputs=(((rows, blocks), mx.uint32),),
        )
    )
    shape = (rows, count)
    ids, values, highest, uniform = runner(
        Launch(
            FINISH,
            inputs=(logits, maxima, keys),
            template=(
                *sizes,
                ("COUNT", count),
                ("M", -(-count // SIMD)),
                ("SIMDGROUPS", simdgroups),
            ),
            grid=(rows * simdgroups * SIMD, 1, 1),
            threadgroup=(simdgroups * SIMD, 1, 1),
            outputs=(
                (shape, mx.uint32),
                (shape, logits.dtype),
                ((rows,), logits.dtype),
                (shape, mx.float32),
            ),
        )
    )
    return ids, values, highest, uniform
