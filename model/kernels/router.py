"""The router's choice: the k largest of E logits and their softmax, without sorting all of them.

Softmax over all experts renormalised over the chosen is the softmax over the chosen. Shapes: N
tokens, E experts, k experts per token.
"""

from __future__ import annotations

import mlx.core as mx

from model.kernels.metal import SIMD, Launch, MetalKernel, Runner, UnsupportedError, run

MAX_EXPERTS = 1024  # a lane keeps at most 32 of them in registers
PARTITIONED = 64  # rows from which on the CPU partitions


def router_top_k(logits: mx.array, k: int, *, shared: bool = False) -> tuple[mx.array, mx.array]:
    """logits [N, E] of any float type -> (experts uint32 [N, k], weights float32 [N, k]). Plain
    operations.

    The chosen come by descending logit, ties by the lower number; a NaN counts as the lowest. With
    `shared` the logits have one more column, the gate of the shared expert, and the results have
    one more column: expert number E, weighted by the sigmoid of that gate.
    """
    logits = logits.astype(mx.float32)
    gate = logits[:, -1:]
    if shared:
        logits = logits[:, :-1]
    experts = _largest(logits, k)
    weights = mx.softmax(mx.take_along_axis(logits, experts, axis=-1), axis=-1)
    if shared:
        last = mx.full((logits.shape[0], 1), logits.shape[1], mx.uint32)
        experts = mx.concatenate([experts, last], axis=-1)
        weights = mx.concatenate([weights, mx.sigmoid(gate)], axis=-1)
    return experts, weights


def _largest(logits: mx.array, k: int) -> mx.array:
    """Numbers of the k largest, uint32 [N, k]. A partition of many rows costs the CPU a quarter of
    their sort; Metal sorts either way."""
    if logits.shape[0] >= PARTITIONED and mx.default_device() == mx.Device(mx.cpu):
        return _largest_by_partition(logits, k)
    # argsort is stable, so equal logits stay in the order of their numbers.
    return mx.argsort(-logits, axis=-1)[:, :k]


def _largest_by_partition(logits: mx.array, k: int) -> mx.array:
    """The same, by keys of which no two are equal: a logit, in the order of integers, and behind it
    the expert's number, so that the sorted keys tell the experts."""
    count = logits.shape[1]
    bits = (logits + 0.0).view(mx.int32)  # of both zeros the same
    ordered = mx.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    ordered = mx.where(mx.isnan(logits), 1 - 2**31, ordered).astype(mx.int64)
    keys = (-ordered << 32) + mx.arange(count, dtype=mx.int64)
    best = mx.sort(mx.partition(keys, k - 1, axis=-1)[:, :k], axis=-1)
    return (best & 0xFFFFFFFF).astype(mx.uint32)


# One simdgroup per row. Template: E experts, K chosen, SHARED whether a column of the shared
# expert's gate follows. Keys are floats in the order of unsigned integers, which holds for numbers
# that are not finite too: 0 is taken, 1 is NaN.
KERNEL = MetalKernel(
    name="router_top_k",
    inputs=("logits",),
    outputs=("experts", "weights"),
    header="""
        inline uint ordered_key(float value) {
            uint bits = as_type<uint>(value);
            if ((bits & 0x7fffffffu) > 0x7f800000u) return 1u;
            if (bits == 0x80000000u) bits = 0u;
            return (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
        }
    """,
    source="""
        constexpr int PER_LANE = (E + 31) / 32;
        constexpr int COLUMNS = SHARED ? E + 1 : E;
        constexpr int CHOSEN = SHARED ? K + 1 : K;
        uint row = threadgroup_position_in_grid.x;
        uint lane = thread_index_in_simdgroup;

        uint keys[PER_LANE];
        #pragma unroll
        for (int n = 0; n < PER_LANE; n++) {
            uint expert = n * 32 + lane;
            keys[n] = expert < E ? ordered_key(float(logits[row * COLUMNS + expert])) : 0u;
        }
        uint mine = 0;
        for (int place = 0; place < K; place++) {
            uint best = 0;
            uint expert = E;
            #pragma unroll
            for (int n = 0; n < PER_LANE; n++) {
                if (keys[n] > best) {
                    best = keys[n];
                    expert = n * 32 + lane;
                }
            }
            uint highest = simd_max(best);
            uint winner = simd_min(best == highest ? expert : uint(E));
            #pragma unroll
            for (int n = 0; n < PER_LANE; n++) {
                if (uint(n * 32) + lane == winner) keys[n] = 0u;
            }
            if (lane == uint(place)) mine = winner;
        }
        bool chosen = lane < K;
        float logit = float(logits[row * COLUMNS + mine]);
        float highest = simd_broadcast(logit, 0);
        float share = chosen ? metal::precise::exp(logit - highest) : 0.0f;
        float total = simd_sum(share);
        if (chosen) {
            experts[row * CHOSEN + lane] = mine;
            weights[row * CHOSEN + lane] = share / total;
        }
        if (SHARED && lane == 0) {
            float gate = float(logits[row * COLUMNS + E]);
            experts[row * CHOSEN + K] = E;
            weights[row * CHOSEN + K] = 1.0f / (1.0f + metal::precise::exp(-gate));
        }
    """,
)


def metal_router_top_k(
    logits: mx.array, k: int, *, shared: bool = False, runner: Runner = run
) -> tuple[mx.array, mx.array]:
    """`router_top_k` in one launch of N simdgroups. Raises UnsupportedError."""
    rows, columns = logits.shape
    count = columns - shared
    if not 0 < k <= min(SIMD, count) or count > MAX_EXPERTS:
        raise UnsupportedError(
            f"{k} of {count} experts: at most {SIMD} of at most {MAX_EXPERTS} are chosen"
        )
    shape = (rows, k + shared)
    experts, weights = runner(
        Launch(
            KERNEL,
            inputs=(logits,),
            template=(("E", count), ("K", k), ("SHARED", shared)),
            grid=(rows * SIMD, 1, 1),
            threadgroup=(SIMD, 1, 1),
            outputs=((shape, mx.uint32), (shape, mx.float32)),
        )
    )
    return experts, weights
