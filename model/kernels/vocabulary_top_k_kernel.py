"""The Metal text of `vocabulary_top_k`: maxima of blocks, then the largest of the best blocks."""

from __future__ import annotations

from model.kernels.metal import MetalKernel

_KEYS = """
        // Floats in the order of unsigned integers: 0 is none at all, a NaN is the highest.
        inline uint ordered_key(float value) {
            uint bits = as_type<uint>(value);
            if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
            if (bits == 0x80000000u) bits = 0u;
            return (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
        }
"""

# Each simdgroup finds the maxima of a few blocks. Template: T, V, BLOCKS of a row, SIMDGROUPS, PER.
MAXIMA = MetalKernel(
    name="vocabulary_maxima",
    inputs=("logits",),
    outputs=("maxima",),
    header=_KEYS,
    source="""
        uint lane = thread_index_in_simdgroup;
        uint row = threadgroup_position_in_grid.y;
        uint group = threadgroup_position_in_grid.x * SIMDGROUPS + simdgroup_index_in_threadgroup;
        uint keys[PER];
        #pragma unroll
        for (int n = 0; n < PER; n++) {
            uint low = (group * PER + n) * 64 + lane;
            uint high = low + 32;
            keys[n] = low < V ? ordered_key(float(logits[row * V + low])) : 0u;
            if (high < V) {
                keys[n] = metal::max(keys[n], ordered_key(float(logits[row * V + high])));
            }
        }
        #pragma unroll
        for (int n = 0; n < PER; n++) {
            uint block = group * PER + n;
            uint highest = simd_max(keys[n]);
            if (lane == 0 && block < BLOCKS) maxima[row * BLOCKS + block] = highest;
        }
    """,
)

# One threadgroup per row. Template: T, V, BLOCKS, COUNT, M (a list has 32·M places, place p in
# register p / 32 of lane p % 32), SIMDGROUPS, a power of two.
FINISH = MetalKernel(
    name="vocabulary_top_k",
    inputs=("logits", "maxima", "random_keys"),
    outputs=("ids", "values", "highest", "drawn"),
    header=_KEYS
    + """
        inline bool comes_first(uint key, uint id, uint other_key, uint other_id) {
            return key > other_key || (key == other_key && id < other_id);
        }

        // Puts places that are `apart` in order: falling where `falling` is 0 or not among the
        // place's bits, else rising.
        template <int M>
        inline void exchange_places(
            thread uint (&keys)[M], thread uint (&ids)[M], uint lane, uint apart, uint rising) {
            if (apart == 32) {
                if (rising == 0 ? comes_first(keys[M - 1], ids[M - 1], keys[0], ids[0])
                                : comes_first(keys[0], ids[0], keys[M - 1], ids[M - 1])) {
                    uint key = keys[0], id = ids[0];
                    keys[0] = keys[M - 1];
                    ids[0] = ids[M - 1];
                    keys[M - 1] = key;
                    ids[M - 1] = id;
                }
                return;
            }
            #pragma unroll
            for (int m = 0; m < M; m++) {
                uint place = m * 32 + lane;
                uint key = simd_shuffle_xor(keys[m], apart);
                uint id = simd_shuffle_xor(ids[m], apart);
                bool lower = (place & apart) == 0;
                bool falls = rising == 0 || (place & rising) != 0;
                bool taken = lower == falls ? comes_first(key, id, keys[m], ids[m])
                                            : comes_first(keys[m], ids[m], key, id);
                keys[m] = taken ? key : keys[m];
                ids[m] = taken ? id : ids[m];
            }
        }

        template <int M>
        inline void sort_rising(thread uint (&keys)[M], thread uint (&ids)[M], uint lane) {
            for (uint size = 2; size <= 32 * M; size *= 2) {
                for (uint apart = size / 2; apart > 0; apart /= 2) {
                    exchange_places<M>(keys, ids, lane, apart, size);
                }
            }
        }

        // Of a falling list and a rising one the first 32·M, falling.
        template <int M>
        inline void merge_lists(
            thread uint (&keys)[M], thread uint (&ids)[M],
            thread uint (&other_keys)[M], thread uint (&other_ids)[M], uint lane) {
            #pragma unroll
            for (int m = 0; m < M; m++) {
                if (comes_first(other_keys[m], other_ids[m], keys[m], ids[m])) {
                    keys[m] = other_keys[m];
                    ids[m] = other_ids[m];
                }
            }
            for (uint apart = 16 * M; apart > 0; apart /= 2) {
                exchange_places<M>(keys, ids, lane, apart, 0);
            }
        }

        // Number `place` of `count` that a Threefry key of 2 x 32 bits gives, as mlx lays them out.
        inline uint random_bits(uint first, uint second, uint count, uint place) {
            const uint turns[8] = {13, 15, 26, 6, 17, 29, 16, 24};
            const uint keys[3] = {first, second, first ^ second ^ 0x1BD11BDAu};
            uint middle = (count + 1) / 2;
            bool later = place >= middle;
            uint low = later ? place - middle : place;
            uint high = low + middle < count ? low + middle : 0;
            low += keys[0];
            high += keys[1];
            for (uint n = 0; n < 5; n++) {
                for (uint i = 0; i < 4; i++) {
                    uint by = turns[n % 2 * 4 + i];
                    low += high;
                    high = ((high << by) | (high >> (32 - by))) ^ low;
                }
                low += keys[(n + 1) % 3];
                high += keys[(n + 2) % 3] + n + 1;
            }
            return later ? high : low;
        }
    """,
    source="""
        constexpr uint PLACES = 32 * M;
        constexpr uint CHOSEN = COUNT < BLOCKS ? COUNT : BLOCKS;
        threadgroup uint shared_keys[SIMDGROUPS * PLACES];
        threadgroup uint shared_ids[SIMDGROUPS * PLACES];
        threadgroup uint best[PLACES];
        threadgroup uint highest_keys[SIMDGROUPS];
        uint lane = thread_index_in_simdgroup;
        uint simdgroup = simdgroup_index_in_threadgroup;
        uint row = threadgroup_position_in_grid.x;

        uint keys[M];
        uint found[M];
        uint highest_key = 0;
        // First the blocks, then what the best of them hold.
        for (int phase = 0; phase < 2; phase++) {
            uint many = phase == 0 ? uint(BLOCKS) : CHOSEN * 64;
            for (int m = 0; m < M; m++) {
                keys[m] = 0;
                found[m] = 0xffffffffu;
            }
            for (uint start = simdgroup * PLACES; start < many; start += SIMDGROUPS * PLACES) {
                uint other_keys[M];
                uint others[M];
                for (int m = 0; m < M; m++) {
                    uint place = start + m * 32 + lane;
                    uint key = 0;
                    uint id = 0xffffffffu;
                    if (place < many) {
                        id = phase == 0 ? place : best[place / 64] * 64 + place % 64;
                        if (phase == 0) {
                            key = maxima[row * BLOCKS + id];
                            highest_key = metal::max(highest_key, key);
                        } else if (id < V) {
                            key = ordered_key(float(logits[row * V + id]));
                        }
                    }
                    other_keys[m] = key;
                    others[m] = id;
                }
                sort_rising<M>(other_keys, others, lane);
                merge_lists<M>(keys, found, other_keys, others, lane);
            }
            for (int m = 0; m < M; m++) {
                shared_keys[simdgroup * PLACES + m * 32 + lane] = keys[m];
                shared_ids[simdgroup * PLACES + m * 32 + lane] = found[m];
            }
            if (phase == 0) {
                highest_key = simd_max(highest_key);
                if (lane == 0) highest_keys[simdgroup] = highest_key;
            }
            for (uint apart = 1; apart < SIMDGROUPS; apart *= 2) {
                threadgroup_barrier(mem_flags::mem_threadgroup);
                if (simdgroup % (2 * apart) == 0) {
                    uint other_keys[M];
                    uint others[M];
                    for (int m = 0; m < M; m++) {
                        uint place = (simdgroup + apart + 1) * PLACES - 1 - (m * 32 + lane);
                        other_keys[m] = shared_keys[place];
                        others[m] = shared_ids[place];
                    }
                    merge_lists<M>(keys, found, other_keys, others, lane);
                    for (int m = 0; m < M; m++) {
                        shared_keys[simdgroup * PLACES + m * 32 + lane] = keys[m];
                        shared_ids[simdgroup * PLACES + m * 32 + lane] = found[m];
                    }
                }
            }
            if (phase == 0 && simdgroup == 0) {
                for (int m = 0; m < M; m++) best[m * 32 + lane] = found[m];
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        if (simdgroup == 0) {
            for (int s = 0; s < SIMDGROUPS; s++) {
                highest_key = metal::max(highest_key, highest_keys[s]);
            }
            for (int m = 0; m < M; m++) {
                uint place = m * 32 + lane;
                if (place < COUNT) {
                    uint id = found[m];
                    uint bits = random_bits(random_keys[row * 2], random_keys[row * 2 + 1], V, id);
                    T value = logits[row * V + id];
                    ids[row * COUNT + place] = id;
                    values[row * COUNT + place] = value;
                    drawn[row * COUNT + place] =
                        metal::min(float(bits) * 2.3283064365386963e-10f, 0.99999994f);
                    if (place == 0) {
                        highest[row] = highest_key == 0xffffffffu ? static_cast<T>(NAN) : value;
                    }
                }
            }
        }
    """,
)
