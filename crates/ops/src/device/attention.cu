// Attention in one kernel for operands of bf16 (Dao 2023, FlashAttention-2): scores stay in registers. Sums are f32, each in
// an order that depends on sizes alone. Rows of queries, keys and values are those of tokens: [B·T, 3·H·k].

#include "shared.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "gptkit needs a GPU of compute capability 8.0 or later: set CUDA_COMPUTE_CAP to that of the GPU"
#endif

#define LOG2_E 1.4426950408889634f

// ---- Tiles: rows of W numbers in shared memory, in pieces of 8 whose places are exchanged within a row so that the pieces of
// 8 rows which are read together lie in different banks

template <int W> __device__ __forceinline__ u32 piece(u32 row, u32 at) { return row * (W / 8) + (at ^ (row & 7)); }

// Begins to copy `rows` rows of `width` numbers, `stride` apart, to a tile of R rows; the rest of the tile is zeros.
template <int R, int W, int THREADS>
__device__ __forceinline__ void copy_tile(uint4 *tile, const bf16 *from, u32 stride, u32 rows, u32 width) {
#pragma unroll
    for (u32 i = threadIdx.x; i < R * W / 8; i += THREADS) {
        u32 row = i / (W / 8), at = i % (W / 8);
        bool lies = row < rows && at * 8 < width;
        const bf16 *source = lies ? from + (u64)row * stride + at * 8 : from;
        u32 to = (u32)__cvta_generic_to_shared(tile + piece<W>(row, at));
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(source), "r"(lies ? 16 : 0));
    }
}
// The same of the first `count` of at most N numbers, which need not be many.
template <int N> __device__ __forceinline__ void copy_numbers(float *to, const float *from, u32 count) {
    if (threadIdx.x >= N) return;
    bool lies = threadIdx.x < count;
    u32 place = (u32)__cvta_generic_to_shared(to + threadIdx.x);
    const float *source = lies ? from + threadIdx.x : from;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(place), "l"(source), "r"(lies ? 4 : 0));
}
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;"); }

__device__ __forceinline__ void read4(const uint4 *at, u32 (&x)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"((u32)__cvta_generic_to_shared(at)));
}
__device__ __forceinline__ void read4_transposed(const uint4 *at, u32 (&x)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"((u32)__cvta_generic_to_shared(at)));
}

// The left operand of a product: rows `row` .. + 16 and numbers 16·step .. + 16 of a tile.
template <int W> __device__ __forceinline__ void read_left(const uint4 *tile, u32 row, u32 step, u32 (&x)[4]) {
    u32 lane = threadIdx.x % 32;
    read4(tile + piece<W>(row + lane % 16, 2 * step + lane / 16), x);
}
// The right operands of two products that sum over a tile's numbers 16·step .. + 16, for its rows `row` .. + 16 as columns.
template <int W> __device__ __forceinline__ void read_rows(const uint4 *tile, u32 row, u32 step, u32 (&x)[4]) {
    u32 lane = threadIdx.x % 32;
    read4(tile + piece<W>(row + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2), x);
}
// The right operands of two products that sum over a tile's rows `row` .. + 16, for its numbers 16·step .. + 16 as columns.
template <int W> __device__ __forceinline__ void read_columns(const uint4 *tile, u32 row, u32 step, u32 (&x)[4]) {
    u32 lane = threadIdx.x % 32;
    read4_transposed(tile + piece<W>(row + lane % 16, 2 * step + lane / 16), x);
}

// c, [16, 8], += a, [16, 16], times b, [16, 8].
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 two(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
// Sums of two products beside each other, [16, 16], as a left operand.
__device__ __forceinline__ void as_left(const float (&c)[4], const float (&d)[4], u32 (&x)[4]) {
    x[0] = two(c[0], c[1]), x[1] = two(c[2], c[3]), x[2] = two(d[0], d[1]), x[3] = two(d[2], d[3]);
}

__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Σ over the four threads that hold a row of sums.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

// ---- Who sees whom

// Of 64 queries that follow each other: no other keys than low .. high are seen by one; all of full_low .. full_high by all, as
// far as the mask allows; whether one of them has a stem.
struct Span {
    u32 low, high, full_low, full_high, has_stem;
};

// The mask of a layer over queries q .. q + 64.
struct Masked {
    Span span;
    u32 q, kind, width;
    // Keys below and from which on none is visible.
    __device__ __forceinline__ u32 low() const {
        return kind == 2 && !span.has_stem && q + 1 > width ? max(span.low, q + 1 - width) : span.low;
    }
    __device__ __forceinline__ u32 high() const { return kind == 0 ? span.high : min(span.high, q + 64); }
    // Whether all queries see all keys key .. key + n.
    __device__ __forceinline__ bool is_full(u32 key, u32 n) const {
        return key >= span.full_low && key + n <= span.full_high && (kind == 0 || key + n <= q + 1) &&
               (kind != 2 || key + width > q + 63);
    }
};

struct AttentionArguments {
    const bf16 *qkv;
    const Sees *tokens; // [B, T]
    const Span *spans;  // [B, ⌈T/64⌉]
    const u32 *kept;    // bits of the weights that dropout keeps, [B·H, T, ⌈T/32⌉]; null without dropout
    float keep;         // what it multiplies them by
    u32 t, heads, k;
    float scale;
    u32 kind, width;
};

// The place of a block in the batch: blockIdx.x numbers heads of windows.
struct Place {
    u32 b, head, stride;
    u64 first; // token
    __device__ __forceinline__ Place(const AttentionArguments &of)
        : b(blockIdx.x / of.heads), head(blockIdx.x % of.heads), stride(3 * of.heads * of.k), first((u64)b * of.t) {}
    // Queries (0), keys (1) or values (2) of this head from token t on.
    __device__ __forceinline__ const bf16 *rows(const AttentionArguments &of, u32 part, u32 t) const {
        return of.qkv + (first + t) * stride + ((u64)part * of.heads + head) * of.k;
    }
    __device__ __forceinline__ Masked masked(const AttentionArguments &of, u32 q) const {
        return Masked{of.spans[(u64)b * ((of.t + 63) / 64) + q / 64], q, of.kind, of.width};
    }
};

// The bits of query q for keys key .. key + 32, which begin where 32 divides.
__device__ __forceinline__ u32 kept_bits(const AttentionArguments &of, u32 q, u32 key) {
    return q < of.t && key < of.t ? of.kept[((u64)blockIdx.x * of.t + q) * ((of.t + 31) / 32) + key / 32] : 0;
}

// Dropout of the weights, or of their gradients, of two rows of queries, 8 apart, and keys key .. key + 8·N.
template <int N>
__device__ __forceinline__ void drop_rows(const AttentionArguments &of, float (&weights)[N][4], u32 row, u32 key) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int word = 0; word < N / 4; word++) {
            u32 bits = kept_bits(of, row + 8 * half, key + 32 * word) >> lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) weights[4 * word + n][2 * half + i] *= bits >> (8 * n + i) & 1 ? of.keep : 0.0f;
        }
}

// Writes the sums of a warp, [16, k] · factor, to rows `row` .. + 16 of at most `rows`, `stride` apart.
template <int N>
__device__ __forceinline__ void write_rows(bf16 *to, u64 stride, u32 row, u32 rows, u32 k, const float (&sums)[N][4],
                                           float upper, float lower) {
    u32 lane = threadIdx.x % 32, r = row + lane / 4;
#pragma unroll
    for (int n = 0; n < N; n++) {
        u32 column = 8 * n + lane % 4 * 2;
        if (column >= k) continue;
        if (r < rows) *reinterpret_cast<u32 *>(to + r * stride + column) = two(sums[n][0] * upper, sums[n][1] * upper);
        if (r + 8 < rows)
            *reinterpret_cast<u32 *>(to + (r + 8) * stride + column) = two(sums[n][2] * lower, sums[n][3] * lower);
    }
}

// scores, [16, 8·N], = left, [16, W], times the rows `row` .. of a tile.
template <int N, int W>
__device__ __forceinline__ void score(float (&scores)[N][4], const u32 (&left)[W / 16][4], const uint4 *tile) {
#pragma unroll
    for (int n = 0; n < N; n++) scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0.0f;
#pragma unroll
    for (int step = 0; step < W / 16; step++)
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            u32 right[4];
            read_rows<W>(tile, 8 * n, step, right);
            multiply(scores[n], left[step], right[0], right[1]);
            multiply(scores[n + 1], left[step], right[2], right[3]);
        }
}

// sums, [16, W], += parts, [16, 8·N], rounded, times a tile of 8·N rows.
template <int N, int W>
__device__ __forceinline__ void mix(float (&sums)[W / 8][4], const float (&parts)[N][4], const uint4 *tile) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        u32 left[4];
        as_left(parts[n], parts[n + 1], left);
#pragma unroll
        for (int step = 0; step < W / 16; step++) {
            u32 right[4];
            read_columns<W>(tile, 8 * n, step, right);
            multiply(sums[2 * step], left, right[0], right[1]);
            multiply(sums[2 * step + 1], left, right[2], right[3]);
        }
    }
}

// Where keys key .. key + KEYS lie, followed by their values: one of two places, in turn.
template <int W, int KEYS>
__device__ __forceinline__ uint4 *key_tile(uint4 *shared, u32 key) {
    return shared + (key / KEYS & 1) * 2 * (KEYS * W / 8);
}
// Begins to copy them there.
template <int W, int KEYS>
__device__ __forceinline__ void copy_keys(const AttentionArguments &of, const Place &place, uint4 *shared, u32 key) {
    uint4 *tile = key_tile<W, KEYS>(shared, key);
    u32 rows = min((u32)KEYS, of.t - key);
    copy_tile<KEYS, W, 128>(tile, place.rows(of, 1, key), place.stride, rows, of.k);
    copy_tile<KEYS, W, 128>(tile + KEYS * W / 8, place.rows(of, 2, key), place.stride, rows, of.k);
}

// ---- Forward: a block takes 64 queries of a head, a warp 16 of them; keys come KEYS at a time

// mixed: [B·T, H·k]; logs: log2 Σ 2^score of each query, [B·H, T].
template <int W, int KEYS>
__device__ __forceinline__ void forward(const AttentionArguments &of, bf16 *mixed, float *logs) {
    extern __shared__ uint4 shared[];
    constexpr u32 TILE = KEYS * W / 8;
    constexpr int N = KEYS / 8;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, q0 = (gridDim.y - 1 - blockIdx.y) * 64;
    Place place(of);
    Masked masked = place.masked(of, q0);
    u32 low = masked.low() / KEYS * KEYS, high = masked.high();

    u32 queries[W / 16][4];
    copy_tile<64, W, 128>(shared, place.rows(of, 0, q0), place.stride, min(64u, of.t - q0), of.k);
    wait_for_copies();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < W / 16; step++) read_left<W>(shared, warp * 16, step, queries[step]);
    __syncthreads();

    float sums[W / 8][4] = {}, most[2] = {-NO_LIMIT, -NO_LIMIT}, total[2] = {};
    float per_score = of.scale * LOG2_E;
    u32 row = q0 + warp * 16 + lane / 4;
    Sees sees[2] = {};
    for (int half = 0; half < 2; half++)
        if (row + 8 * half < of.t) sees[half] = of.tokens[place.first + row + 8 * half];
    copy_keys<W, KEYS>(of, place, shared, low);
    for (u32 key = low; key < high; key += KEYS) {
        wait_for_copies();
        __syncthreads();
        if (key + KEYS < high) copy_keys<W, KEYS>(of, place, shared, key + KEYS);
        const uint4 *tile = key_tile<W, KEYS>(shared, key);
        float scores[N][4];
        score<N, W>(scores, queries, tile);
        if (!masked.is_full(key, KEYS)) {
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    u32 at = key + 8 * n + lane % 4 * 2 + i % 2;
                    if (!visible(sees[i / 2], row + i / 2 * 8, at, of.kind, of.width)) scores[n][i] = -NO_LIMIT;
                }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = most[half];
#pragma unroll
            for (int n = 0; n < N; n++) top = fmaxf(top, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
            top = row_max(top);
            float less = top == -NO_LIMIT ? 0.0f : top * per_score; // no key of this row was visible so far
            float shrink = power_of_2(most[half] * per_score - less);
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    scores[n][i] = power_of_2(scores[n][i] * per_score - less);
                    sum += scores[n][i];
                }
            total[half] = total[half] * shrink + sum;
            most[half] = top;
#pragma unroll
            for (int n = 0; n < W / 8; n++) sums[n][2 * half] *= shrink, sums[n][2 * half + 1] *= shrink;
        }
        if (of.kept) drop_rows<N>(of, scores, row, key);
        mix<N, W>(sums, scores, tile + TILE);
    }
    for (int half = 0; half < 2; half++) total[half] = row_sum(total[half]);
    u32 width = of.heads * of.k;
    write_rows(mixed + (place.first + q0) * width + place.head * of.k, width, warp * 16, of.t - q0, of.k, sums,
               1.0f / total[0], 1.0f / total[1]);
    for (int half = 0; half < 2; half++)
        if (lane % 4 == 0 && row + 8 * half < of.t)
            logs[(u64)blockIdx.x * of.t + row + 8 * half] = most[half] * per_score + log2f(total[half]);
}

// ---- Backward

// The gradients of 64 queries, to dqkv; and of each query, Σ mixed·dmixed to along, [B·H, T]. mixed, dmixed: [B·T, H·k].
template <int W, int KEYS>
__device__ __forceinline__ void backward_queries(const AttentionArguments &of, const bf16 *mixed, const bf16 *dmixed,
                                                 const float *logs, float *along, bf16 *dqkv) {
    extern __shared__ uint4 shared[];
    constexpr u32 TILE = KEYS * W / 8;
    constexpr int N = KEYS / 8;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, q0 = (gridDim.y - 1 - blockIdx.y) * 64;
    Place place(of);
    Masked masked = place.masked(of, q0);
    u32 low = masked.low() / KEYS * KEYS, high = masked.high(), rows = min(64u, of.t - q0);
    u32 width = of.heads * of.k, row = q0 + warp * 16 + lane / 4;
    u64 begin = (place.first + q0) * width + place.head * of.k;

    u32 queries[W / 16][4], dmixes[W / 16][4];
    float less[2], sums_along[2] = {};
    copy_tile<64, W, 128>(shared, dmixed + begin, width, rows, of.k);
    copy_tile<64, W, 128>(shared + 64 * W / 8, mixed + begin, width, rows, of.k);
    wait_for_copies();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < W / 16; step++) {
        u32 mixes[4];
        read_left<W>(shared, warp * 16, step, dmixes[step]);
        read_left<W>(shared + 64 * W / 8, warp * 16, step, mixes);
#pragma unroll
        for (int i = 0; i < 4; i++)
            sums_along[i % 2] += __uint_as_float(mixes[i] << 16) * __uint_as_float(dmixes[step][i] << 16) +
                                 __uint_as_float(mixes[i] & 0xffff0000u) * __uint_as_float(dmixes[step][i] & 0xffff0000u);
    }
    __syncthreads();
    copy_tile<64, W, 128>(shared, place.rows(of, 0, q0), place.stride, rows, of.k);
    wait_for_copies();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < W / 16; step++) read_left<W>(shared, warp * 16, step, queries[step]);
    __syncthreads();
    Sees sees[2] = {};
    for (int half = 0; half < 2; half++) {
        sums_along[half] = row_sum(sums_along[half]);
        u32 q = row + 8 * half;
        less[half] = q < of.t ? logs[(u64)blockIdx.x * of.t + q] : NO_LIMIT;
        if (q >= of.t) continue;
        sees[half] = of.tokens[place.first + q];
        if (lane % 4 == 0) along[(u64)blockIdx.x * of.t + q] = sums_along[half];
    }

    float sums[W / 8][4] = {}, per_score = of.scale * LOG2_E;
    copy_keys<W, KEYS>(of, place, shared, low);
    for (u32 key = low; key < high; key += KEYS) {
        wait_for_copies();
        __syncthreads();
        if (key + KEYS < high) copy_keys<W, KEYS>(of, place, shared, key + KEYS);
        const uint4 *tile = key_tile<W, KEYS>(shared, key);
        float scores[N][4], dweights[N][4];
        score<N, W>(scores, queries, tile);
        score<N, W>(dweights, dmixes, tile + TILE);
        if (of.kept) drop_rows<N>(of, dweights, row, key);
        bool is_full = masked.is_full(key, KEYS);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 q = row + i / 2 * 8, at = key + 8 * n + lane % 4 * 2 + i % 2;
                bool counts = is_full || visible(sees[i / 2], q, at, of.kind, of.width);
                float weight = counts ? power_of_2(scores[n][i] * per_score - less[i / 2]) : 0.0f;
                scores[n][i] = weight * (dweights[n][i] - sums_along[i / 2]);
            }
        mix<N, W>(sums, scores, tile);
    }
    write_rows(dqkv + (place.first + q0) * place.stride + place.head * of.k, place.stride, warp * 16, rows, of.k, sums,
               of.scale, of.scale);
}

// The gradients of 64 keys and their values, to dqkv. A warp takes 16 of the keys; queries come QUERIES at a time.
template <int W, int QUERIES>
__device__ __forceinline__ void backward_keys(const AttentionArguments &of, const bf16 *dmixed, const float *logs,
                                              const float *along, bf16 *dqkv) {
    extern __shared__ uint4 shared[];
    constexpr u32 TILE = QUERIES * W / 8, OWN = 64 * W / 8;
    constexpr int N = QUERIES / 8;
    __shared__ float less[2][QUERIES], sums_along[2][QUERIES];
    __shared__ Sees sees[QUERIES];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, k0 = blockIdx.y * 64;
    Place place(of);
    u32 width = of.heads * of.k, rows = min(64u, of.t - k0), key = k0 + warp * 16 + lane / 4;
    uint4 *own = shared, *stream = shared + 2 * OWN;
    copy_tile<64, W, 128>(own, place.rows(of, 1, k0), place.stride, rows, of.k);
    copy_tile<64, W, 128>(own + OWN, place.rows(of, 2, k0), place.stride, rows, of.k);

    auto copy = [&](u32 q) {
        u32 which = q / QUERIES & 1, count = min((u32)QUERIES, of.t - q);
        uint4 *tile = stream + which * 2 * TILE;
        copy_tile<QUERIES, W, 128>(tile, place.rows(of, 0, q), place.stride, count, of.k);
        copy_tile<QUERIES, W, 128>(tile + TILE, dmixed + (place.first + q) * width + place.head * of.k, width, count, of.k);
        // Queries beyond the window have gradients of zeros: it does not matter that their weights are not.
        copy_numbers<QUERIES>(less[which], logs + (u64)blockIdx.x * of.t + q, count);
        copy_numbers<QUERIES>(sums_along[which], along + (u64)blockIdx.x * of.t + q, count);
    };
    auto masked_at = [&](u32 q) { return place.masked(of, min(q, of.t - 1) / 64 * 64); };
    // Goes on from q, where the mask is `masked`, to the next queries of which one may see one of the keys.
    auto advance = [&](u32 &q, Masked &masked) {
        while (q < of.t && !(masked.low() < k0 + 64 && masked.high() > k0)) q += QUERIES, masked = masked_at(q);
    };
    float dkeys[W / 8][4] = {}, dvalues[W / 8][4] = {}, per_score = of.scale * LOG2_E;
    u32 q = of.kind == 0 ? 0 : k0;
    Masked masked = masked_at(q);
    advance(q, masked);
    if (q < of.t) copy(q);
    Masked ahead = masked_at(q + QUERIES); // is read long before it is needed
    while (q < of.t) {
        u32 following = q + QUERIES, which = q / QUERIES & 1;
        Masked next = ahead;
        advance(following, next);
        ahead = masked_at(following + QUERIES);
        // Copies of tiles that are not neighbors may have the same place.
        bool is_apart = following < of.t && (following / QUERIES & 1) != which;
        wait_for_copies();
        __syncthreads();
        if (is_apart) copy(following);
        bool is_full = masked.is_full(k0, 64);
        if (!is_full) {
            for (u32 i = threadIdx.x; i < QUERIES; i += 128) sees[i] = q + i < of.t ? of.tokens[place.first + q + i] : Sees{};
            __syncthreads();
        }
        // Of two queries: the lower halves of each are bits of the warp's keys, from this thread's first on.
        u32 keeps[N] = {};
        if (of.kept) {
#pragma unroll
            for (int n = 0; n < N; n++) {
                u32 first = q + 8 * n + lane % 4 * 2, from = k0 + warp * 16, down = warp * 16 % 32 + lane / 4;
                keeps[n] = (kept_bits(of, first, from & ~31u) >> down & 0xffff) | kept_bits(of, first + 1, from & ~31u) >> down << 16;
            }
        }
        const uint4 *tile = stream + which * 2 * TILE;
        float weights[N][4], dweights[N][4];
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) weights[n][i] = dweights[n][i] = 0.0f;
#pragma unroll
        for (int step = 0; step < W / 16; step++) {
            u32 keys[4], values[4];
            read_left<W>(own, warp * 16, step, keys);
            read_left<W>(own + OWN, warp * 16, step, values);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                u32 right[4];
                read_rows<W>(tile, 8 * n, step, right);
                multiply(weights[n], keys, right[0], right[1]);
                multiply(weights[n + 1], keys, right[2], right[3]);
                read_rows<W>(tile + TILE, 8 * n, step, right);
                multiply(dweights[n], values, right[0], right[1]);
                multiply(dweights[n + 1], values, right[2], right[3]);
            }
        }
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 at = 8 * n + lane % 4 * 2 + i % 2;
                bool counts = is_full || visible(sees[at], q + at, key + i / 2 * 8, of.kind, of.width);
                float weight = counts ? power_of_2(weights[n][i] * per_score - less[which][at]) : 0.0f;
                float keep = keeps[n] >> (i % 2 * 16 + i / 2 * 8) & 1 ? of.keep : 0.0f;
                float d = of.kept ? dweights[n][i] * keep : dweights[n][i];
                weights[n][i] = of.kept ? weight * keep : weight;
                dweights[n][i] = weight * (d - sums_along[which][at]);
            }
        mix<N, W>(dvalues, weights, tile + TILE);
        mix<N, W>(dkeys, dweights, tile);
        if (!is_apart && following < of.t) {
            __syncthreads();
            copy(following);
        }
        q = following, masked = next;
    }
    wait_for_copies();
    bf16 *to = dqkv + (place.first + k0) * place.stride + (u64)(of.heads + place.head) * of.k;
    write_rows(to, place.stride, warp * 16, rows, of.k, dkeys, of.scale, of.scale);
    write_rows(to + of.heads * of.k, place.stride, warp * 16, rows, of.k, dvalues, 1.0f, 1.0f);
}

// Draws the bits of the weights that dropout keeps: kept, [B·H, T, ⌈T/32⌉]. A thread a word; `words`: of all.
extern "C" __global__ void fused_attention_kept(u32 *kept, u64 words, u32 t, u32 kind, Drop at) {
    u64 word = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (word >= words) return;
    u32 a_row = (t + 31) / 32, first = word % a_row * 32;
    u64 row = word / a_row; // of B·H·T
    if (kind != 0 && first > row % t) return; // no query sees a later key
    u64 element = at.first + row * t + first;
    u32 bits = 0, count = min(32u, t - first), skipped = (u32)(element % 4);
    for (u32 i = 0; i < skipped + count; i += 4) { // a block of Philox at a time
        uint4 words = philox(at, element / 4 + i / 4);
#pragma unroll
        for (u32 which = 0; which < 4; which++)
            if (i + which >= skipped && i + which < skipped + count)
                bits |= (keeps(at, words, which) ? 1u : 0u) << (i + which - skipped);
    }
    kept[word] = bits;
}

#define ARGUMENTS                                                                                                            \
    const bf16 *qkv, const Sees *tokens, const Span *spans, const u32 *kept, float keep, u32 t, u32 heads, u32 k,            \
        float scale, u32 kind, u32 width
#define OF {qkv, tokens, spans, kept, keep, t, heads, k, scale, kind, width}
// Heads of at most W numbers; keys and queries that stream by in the backward pass; and blocks of each kernel for which a
// multiprocessor shall have room.
#define ATTENTION(W, STREAMED_KEYS, STREAMED_QUERIES, FORWARD, QUERIES, KEYS)                                                                       \
    extern "C" __global__ void __launch_bounds__(128, FORWARD) fused_attention_##W(ARGUMENTS, bf16 *mixed, float *logs) {    \
        forward<W, 64>(OF, mixed, logs);                                                                                     \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128, QUERIES) fused_attention_backward_queries_##W(                         \
        ARGUMENTS, const bf16 *mixed, const bf16 *dmixed, const float *logs, float *along, bf16 *dqkv) {                     \
        backward_queries<W, STREAMED_KEYS>(OF, mixed, dmixed, logs, along, dqkv);                                                 \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128, KEYS) fused_attention_backward_keys_##W(                               \
        ARGUMENTS, const bf16 *dmixed, const float *logs, const float *along, bf16 *dqkv) {                                  \
        backward_keys<W, STREAMED_QUERIES>(OF, dmixed, logs, along, dqkv);                                                           \
    }

ATTENTION(64, 64, 32, 4, 3, 4)
ATTENTION(128, 32, 32, 2, 2, 2)
