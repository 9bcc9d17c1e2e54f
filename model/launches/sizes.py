"""Where MLX's Metal back end changes kernels by size: sorts, reductions, products, attention.

Follows mlx/backend/metal at 0.32.2 (sort.cpp, reduce.cpp, quantized.cpp, matmul.cpp,
scaled_dot_product_attention.cpp) for an M3 Max. Pure arithmetic on layouts.
"""

from __future__ import annotations

from math import ceil, prod

from model.launches.layouts import Layout

SORTED_BY_THREAD = 4
ALL_AT_ONCE = 4096  # elements that one threadgroup reduces
ATTENTION_IN_TWO = 1024  # keys from which a step's attention takes two passes


def sort_launches(length: int) -> int:
    """Of sorting `length` numbers of at most 4 bytes, rows beside each other: one up to a block,
    else a sort of each block, a partition and a merge each time their size doubles, and a copy."""
    threads = -(-length // SORTED_BY_THREAD)
    block = next((n for n in (32, 64, 128, 256) if threads <= n), 512) * SORTED_BY_THREAD
    blocks = -(-length // block)
    return 1 if blocks == 1 else 2 + 2 * (blocks - 1).bit_length()


def reduction(source: Layout, axes: tuple[int, ...], out: int) -> tuple[int, int]:
    """(kernels, copies) of reducing `axes` of an array to `out` numbers."""
    everything = source.dense and source.size == prod(source.shape)
    if everything and len(axes) == len(source.shape):
        return (1 if source.size <= ALL_AT_ONCE else 2), 0
    sizes, strides = _reduced(source, axes)
    if strides[-1] == 1:
        return 1, 0
    copies = int(not (source.row_contiguous or _strided(source, axes, strides[-1])))
    stride, total = strides[-1], prod(sizes)
    if copies:
        stride = prod(source.shape[axes[-1] + 1 :])
        if stride == 1:
            return 1, 1
    if total < 32:
        return 1, copies
    long_column = stride < 32 and total >= 1024
    return (2 if long_column or (total > 256 and out // 32 < 1024) else 1), copies


def _reduced(source: Layout, axes: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Sizes and strides of the reduced axes, the widest stride first, neighbours joined."""
    pairs = [(source.strides[a], source.shape[a]) for a in axes if source.shape[a] > 1]
    pairs.sort(key=lambda pair: (pair[0] != 0, -pair[0]))
    joined: list[tuple[int, int]] = []
    for stride, size in reversed(pairs):
        if joined and stride == joined[-1][0] * joined[-1][1]:
            joined[-1] = (joined[-1][0], joined[-1][1] * size)
        else:
            joined.append((stride, size))
    joined.reverse()
    return [size for _, size in joined], [stride for stride, _ in joined]


def _strided(source: Layout, axes: tuple[int, ...], stride: int) -> bool:
    """Whether what lies inside the reduced axis lies together."""
    size, stretched = 1, False
    for axis in reversed(range(len(source.shape))):
        if axis == axes[-1]:
            continue
        step, length = source.strides[axis], source.shape[axis]
        if step == 0 and length != 1:
            stretched = True
            break
        if length != 1 and step != size:
            break
        size *= length
    return stride > 0 and (size > stride or (size == stride and not stretched))


def quantized_launches(rows: int, columns: int, inner: int, out: int) -> int:
    """Of a quantized product with `rows` rows of `inner` numbers: one, or two where many rows of a
    single matrix are worth splitting `inner` for."""
    small = inner <= 4096 and columns <= 4096
    limit = 13 if not small or (inner <= 2048 and columns <= 2048) else 15
    if rows < limit or out != rows * columns:
        return 1
    tiles = ceil(columns / 32) * ceil(rows / 32)
    parts = min(max(1, 512 // tiles), inner // 64)
    while parts > 1 and inner % (parts * 64):
        parts -= 1
    return 2 if parts > 1 else 1


def product_in_place(x: Layout, *, vector: bool) -> bool:
    """Whether a product reads this factor where it lies."""
    outer, inner = x.strides[-2], x.strides[-1]
    straight = inner == 1 and (not vector or outer == x.shape[-1])
    return straight or (outer == 1 and (not vector or inner == x.shape[-2]))


def product_launches(left: Layout, right: Layout, rows: int, columns: int, inner: int) -> int:
    """Of a product rows x inner x columns; batched where the factors have more axes."""
    batch = max(prod(left.shape[:-2]), prod(right.shape[:-2]))
    if rows == columns == batch == 1 and left.row_contiguous and right.row_contiguous:
        return 3  # a dot product: partial sums, their sum, and its type
    wide = rows <= 15 and columns > 1 and inner % 4 == 0 and right.strides[-2] == 1
    if min(rows, columns) == 1 or wide or batch > 1:
        return 1
    tiles = ceil(rows / 16) * ceil(columns / 16)
    return 2 if tiles <= 2048 and inner >= 128 and inner >= max(rows, columns) else 1


def queries_in_place(x: Layout) -> bool:
    """Whether the attention of a step reads queries [B, H, T, D] where they lie."""
    if x.row_contiguous:
        return True
    if x.shape[0] != 1 and x.shape[1] != 1:
        return False
    other = 1 if x.shape[0] == 1 else 0
    return (
        x.strides[3] == 1
        and x.strides[2] == x.shape[3] * x.shape[other]
        and x.strides[other] == x.shape[3]
    )


def keys_in_place(x: Layout) -> bool:
    """Whether it reads keys or values [B, K, N, D] where they lie."""
    if x.strides[-1] != 1:
        return False
    return x.shape[0] == 1 or x.shape[1] == 1 or x.strides[0] == x.strides[1] * x.shape[1]
