// Kernels of the device path. Each has a twin in candle's operations (`kernels.rs`), which says what it computes. Sums are
// f32, in an order that depends on sizes alone.

#include "shared.cuh"

// V numbers that follow each other; four at once need an address that four of them divide.
template <int V> __device__ __forceinline__ void load(const float *from, float (&x)[V]) {
    if constexpr (V == 4) {
        float4 four = *reinterpret_cast<const float4 *>(from);
        x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    } else {
        x[0] = *from;
    }
}
template <int V> __device__ __forceinline__ void load(const bf16 *from, float (&x)[V]) {
    if constexpr (V == 4) {
        uint2 four = *reinterpret_cast<const uint2 *>(from);
        x[0] = __uint_as_float(four.x << 16), x[1] = __uint_as_float(four.x & 0xffff0000u);
        x[2] = __uint_as_float(four.y << 16), x[3] = __uint_as_float(four.y & 0xffff0000u);
    } else {
        x[0] = get(*from);
    }
}
template <int V> __device__ __forceinline__ void store(float *to, const float (&x)[V]) {
    if constexpr (V == 4)
        *reinterpret_cast<float4 *>(to) = make_float4(x[0], x[1], x[2], x[3]);
    else
        *to = x[0];
}
template <int V> __device__ __forceinline__ void store(bf16 *to, const float (&x)[V]) {
    if constexpr (V == 4) {
        bf16 y[4];
        for (int i = 0; i < 4; i++) put(y[i], x[i]);
        *reinterpret_cast<uint2 *>(to) = make_uint2(y[0].bits | (u32)y[1].bits << 16, y[2].bits | (u32)y[3].bits << 16);
    } else {
        put(*to, x[0]);
    }
}

// A reference to what sums up, which over_row and over_all take by value.
template <class F> struct SumOf {
    F &of;
    template <int V> __device__ __forceinline__ void at(u64 i) { of.template at<V>(i); }
};
template <class F> __device__ __forceinline__ SumOf<F> sum_of(F &of) { return SumOf<F>{of}; }

// Runs f.at<V>(i) for the places i of a row of m numbers, V at a time, over the threads of a block.
template <class F> __device__ __forceinline__ void over_row(u32 m, F f) {
    if (m % 4 == 0)
        for (u32 i = threadIdx.x * 4; i < m; i += blockDim.x * 4) f.template at<4>(i);
    else
        for (u32 i = threadIdx.x; i < m; i += blockDim.x) f.template at<1>(i);
}

// The same for n numbers over all blocks.
template <class F> __device__ __forceinline__ void over_all(u64 n, F f) {
    u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x, threads = (u64)gridDim.x * blockDim.x;
    if (n % 4 == 0)
        for (u64 i = thread * 4; i < n; i += threads * 4) f.template at<4>(i);
    else
        for (u64 i = thread; i < n; i += threads) f.template at<1>(i);
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(~0u, x, lane);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int lane = 16; lane > 0; lane >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, lane));
    return x;
}

// Sum over the threads of a block, of which there are a multiple of 32 and at most 1,024.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float parts[32];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f);
}

__device__ __forceinline__ float block_max(float x) {
    __shared__ float parts[32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : -NO_LIMIT);
}

// ---- Dropout

template <class E> __device__ void drop(const E *x, E *y, u64 n, Drop at) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x)
        put(y[i], get(x[i]) * dropped(at, i));
}

// ---- Layer norm: a block a row

template <class Y> struct NormForward {
    const float *x, *gain, *bias;
    Y *y;
    float mean, scale;
    template <int V> __device__ __forceinline__ void at(u32 i) {
        float v[V], g[V], b[V];
        load<V>(x + i, v), load<V>(gain + i, g), load<V>(bias + i, b);
        for (int k = 0; k < V; k++) v[k] = (v[k] - mean) * scale * g[k] + b[k];
        store<V>(y + i, v);
    }
};

struct RowSum {
    const float *x;
    float less, sum, squares;
    template <int V> __device__ __forceinline__ void at(u32 i) {
        float v[V];
        load<V>(x + i, v);
        for (int k = 0; k < V; k++) sum += v[k] - less, squares += (v[k] - less) * (v[k] - less);
    }
};

template <class Y>
__device__ void norm_forward(const float *x, const float *gain, const float *bias, Y *y, float *stats, u32 d, float eps) {
    x += (u64)blockIdx.x * d, y += (u64)blockIdx.x * d;
    RowSum sum{x, 0.0f, 0.0f, 0.0f};
    over_row(d, sum_of(sum));
    float mean = block_sum(sum.sum) / d;
    RowSum squares{x, mean, 0.0f, 0.0f};
    over_row(d, sum_of(squares));
    float scale = 1.0f / sqrtf(block_sum(squares.squares) / d + eps);
    over_row(d, NormForward<Y>{x, gain, bias, y, mean, scale});
    if (threadIdx.x == 0) stats[2 * blockIdx.x] = mean, stats[2 * blockIdx.x + 1] = scale;
}

template <class G> struct NormSums {
    const G *dy;
    const float *x, *gain;
    float mean, scale, sum, along;
    template <int V> __device__ __forceinline__ void at(u32 i) {
        float d[V], v[V], g[V];
        load<V>(dy + i, d), load<V>(x + i, v), load<V>(gain + i, g);
        for (int k = 0; k < V; k++) {
            float from = d[k] * g[k];
            sum += from, along += from * (v[k] - mean) * scale;
        }
    }
};

template <class G> struct NormBackward {
    NormSums<G> of;
    const float *add;
    float *dx;
    template <int V> __device__ __forceinline__ void at(u32 i) {
        float d[V], v[V], g[V], more[V] = {};
        load<V>(of.dy + i, d), load<V>(of.x + i, v), load<V>(of.gain + i, g);
        if (add) load<V>(add + i, more);
        for (int k = 0; k < V; k++)
            d[k] = more[k] + of.scale * (d[k] * g[k] - of.sum - (v[k] - of.mean) * of.scale * of.along);
        store<V>(dx + i, d);
    }
};

// dx = add + the gradient of x.
template <class G>
__device__ void norm_backward(const G *dy, const float *x, const float *gain, const float *stats, const float *add,
                              float *dx, u32 d) {
    u64 row = (u64)blockIdx.x * d;
    NormSums<G> of{dy + row, x + row, gain, stats[2 * blockIdx.x], stats[2 * blockIdx.x + 1], 0.0f, 0.0f};
    over_row(d, sum_of(of));
    of.sum = block_sum(of.sum) / d, of.along = block_sum(of.along) / d;
    over_row(d, NormBackward<G>{of, add ? add + row : add, dx + row});
}

// Blocks of 32 threads in a row, V columns each, and 8 rows; block y of the grid sums rows y, y + gridDim.y, … eight at a time.
template <int V> __device__ __forceinline__ void over_rows(float (&x)[V]) {
    __shared__ float parts[V][8][33];
    __syncthreads();
    for (int k = 0; k < V; k++) parts[k][threadIdx.y][threadIdx.x] = x[k];
    __syncthreads();
    for (int k = 0; k < V; k++) {
        x[k] = 0.0f;
        for (int row = 0; row < 8; row++) x[k] += parts[k][row][threadIdx.x];
    }
}

template <int V, class G>
__device__ __forceinline__ void norm_parameters(const G *dy, const float *x, const float *stats, float *partials, u32 n, u32 d) {
    u32 i = (blockIdx.x * 32 + threadIdx.x) * V;
    float gain[V] = {}, bias[V] = {};
    if (i < d)
        for (u32 row = blockIdx.y * 8 + threadIdx.y; row < n; row += gridDim.y * 8) {
            float g[V], v[V];
            load<V>(dy + (u64)row * d + i, g), load<V>(x + (u64)row * d + i, v);
            for (int k = 0; k < V; k++) gain[k] += g[k] * (v[k] - stats[2 * row]) * stats[2 * row + 1], bias[k] += g[k];
        }
    over_rows(gain), over_rows(bias);
    if (i < d && threadIdx.y == 0) {
        store<V>(partials + (u64)blockIdx.y * 2 * d + i, gain);
        store<V>(partials + ((u64)blockIdx.y * 2 + 1) * d + i, bias);
    }
}

// partials: [gridDim.y, 2, d], of gain and bias. A thread takes four columns where four divides d.
template <class G> __device__ void norm_parameters(const G *dy, const float *x, const float *stats, float *partials, u32 n, u32 d) {
    if (d % 4 == 0)
        norm_parameters<4>(dy, x, stats, partials, n, d);
    else
        norm_parameters<1>(dy, x, stats, partials, n, d);
}

template <int V, class E> __device__ __forceinline__ void column_sums(const E *x, float *partials, u32 n, u32 m) {
    u32 i = (blockIdx.x * 32 + threadIdx.x) * V;
    float sum[V] = {};
    if (i < m)
        for (u32 row = blockIdx.y * 8 + threadIdx.y; row < n; row += gridDim.y * 8) {
            float v[V];
            load<V>(x + (u64)row * m + i, v);
            for (int k = 0; k < V; k++) sum[k] += v[k];
        }
    over_rows(sum);
    if (i < m && threadIdx.y == 0) store<V>(partials + (u64)blockIdx.y * m + i, sum);
}

// partials: [gridDim.y, m]. A thread takes four columns where four divides m.
template <class E> __device__ void column_sums(const E *x, float *partials, u32 n, u32 m) {
    if (m % 4 == 0)
        column_sums<4>(x, partials, n, m);
    else
        column_sums<1>(x, partials, n, m);
}

extern "C" __global__ void add_partials(const float *partials, float *out, u32 n, u32 m, u32 is_sum) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= m) return;
    float sum = 0.0f;
    for (u32 row = 0; row < n; row++) sum += partials[(u64)row * m + i];
    out[i] = is_sum ? out[i] + sum : sum;
}

// ---- Between products

__device__ __forceinline__ float gate(float x) {
    return 1.0f - 2.0f / (1.0f + __expf(2.0f * 0.7978845608f * (x + 0.044715f * x * x * x)));
}

template <class E> struct BiasAdd {
    const E *x;
    const float *bias;
    E *y;
    template <int V> __device__ __forceinline__ void at(u32 i) {
        float v[V], b[V];
        load<V>(x + i, v), load<V>(bias + i, b);
        for (int k = 0; k < V; k++) v[k] += b[k];
        store<V>(y + i, v);
    }
};

// x, y: [rows, m], a block a row.
template <class E> __device__ void bias_add(const E *x, const float *bias, E *y, u32 m) {
    over_row(m, BiasAdd<E>{x + (u64)blockIdx.x * m, bias, y + (u64)blockIdx.x * m});
}

template <class E> struct BiasGelu {
    E *x;
    const float *bias;
    E *y;
    template <int V> __device__ __forceinline__ void at(u32 i) {
        float v[V], b[V];
        load<V>(x + i, v), load<V>(bias + i, b);
        for (int k = 0; k < V; k++) v[k] += b[k];
        store<V>(x + i, v);
        load<V>(x + i, v); // as rounded
        for (int k = 0; k < V; k++) v[k] = 0.5f * v[k] * (1.0f + gate(v[k]));
        store<V>(y + i, v);
    }
};

// x, [rows, m], is replaced by x + bias, rounded, of which y is the GELU. A block a row.
template <class E> __device__ void bias_gelu(E *x, const float *bias, E *y, u32 m) {
    over_row(m, BiasGelu<E>{x + (u64)blockIdx.x * m, bias, y + (u64)blockIdx.x * m});
}

template <class E> struct GeluBackward {
    const E *x, *dy;
    E *dx;
    template <int V> __device__ __forceinline__ void at(u64 i) {
        float v[V], d[V];
        load<V>(x + i, v), load<V>(dy + i, d);
        for (int k = 0; k < V; k++) {
            float t = gate(v[k]);
            d[k] *= 0.5f * (1.0f + t) + 0.5f * v[k] * (1.0f - t * t) * 0.7978845608f * (1.0f + 0.134145f * v[k] * v[k]);
        }
        store<V>(dx + i, d);
    }
};

template <class E> __device__ void gelu_backward(const E *x, const E *dy, E *dx, u64 n) {
    over_all(n, GeluBackward<E>{x, dy, dx});
}

template <class E> struct AddResidual {
    const float *x;
    const E *y;
    const float *bias;
    float *out;
    u64 row;
    Drop drop;
    template <int V> __device__ __forceinline__ void at(u32 i) {
        float v[V], more[V], b[V];
        load<V>(x + row + i, v), load<V>(y + row + i, more), load<V>(bias + i, b);
        for (int k = 0; k < V; k++) {
            more[k] += b[k];
            v[k] += drop.keep != 0.0f ? more[k] * dropped(drop, row + i + k) : more[k];
        }
        store<V>(out + row + i, v);
    }
};

// x, y, out: [rows, d], a block a row.
template <class E>
__device__ void add_residual(const float *x, const E *y, const float *bias, float *out, u32 d, Drop at) {
    over_row(d, AddResidual<E>{x, y, bias, out, (u64)blockIdx.x * d, at});
}

template <class E> struct ResidualBackward {
    const float *dout;
    E *dy;
    Drop drop;
    template <int V> __device__ __forceinline__ void at(u64 i) {
        float d[V];
        load<V>(dout + i, d);
        if (drop.keep != 0.0f)
            for (int k = 0; k < V; k++) d[k] *= dropped(drop, i + k);
        store<V>(dy + i, d);
    }
};

template <class E> __device__ void residual_backward(const float *dout, E *dy, u64 n, Drop at) {
    over_all(n, ResidualBackward<E>{dout, dy, at});
}

// ---- Attention

// Place in [parts, B, H, T, K] of number i of the row of token `row` in [B·T, parts·H·K].
__device__ __forceinline__ u64 place(u32 row, u32 i, u32 batch, u32 heads, u32 t, u32 k) {
    u32 head = i / k, b = row / t;
    u64 matrix = ((u64)(head / heads) * batch + b) * heads + head % heads;
    return (matrix * t + row % t) * k + i % k;
}

// As over_row, of rows of heads of k numbers each, none of which is read together with numbers of another.
template <class F> __device__ __forceinline__ void over_heads(u32 width, u32 k, F f) {
    if (k % 4 == 0)
        over_row(width, f);
    else
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) f.template at<1>(i);
}

template <class E> struct SplitHeads {
    const E *x;
    const float *bias;
    E *y;
    u32 batch, heads, t, k;
    template <int V> __device__ __forceinline__ void at(u32 i) {
        float v[V], b[V] = {};
        load<V>(x + i, v);
        if (bias) load<V>(bias + i, b);
        for (int n = 0; n < V; n++) v[n] += b[n];
        store<V>(y + place(blockIdx.x, i, batch, heads, t, k), v);
    }
};

// [B·T, parts·H·K], plus a bias where there is one, to [parts, B, H, T, K]. A block a token.
template <class E>
__device__ void split_heads(const E *x, const float *bias, E *y, u32 width, u32 batch, u32 heads, u32 t, u32 k) {
    SplitHeads<E> one{x + (u64)blockIdx.x * width, bias, y, batch, heads, t, k};
    over_heads(width, k, one);
}

template <class E> struct JoinHeads {
    const E *x;
    E *y;
    u32 batch, heads, t, k;
    template <int V> __device__ __forceinline__ void at(u32 i) {
        float v[V];
        load<V>(x + place(blockIdx.x, i, batch, heads, t, k), v);
        store<V>(y + i, v);
    }
};

// [parts, B, H, T, K] to [B·T, parts·H·K]. A block a token.
template <class E> __device__ void join_heads(const E *x, E *y, u32 width, u32 batch, u32 heads, u32 t, u32 k) {
    over_heads(width, k, JoinHeads<E>{x, y + (u64)blockIdx.x * width, batch, heads, t, k});
}

// Runs f(step, key) for the places of a row of `keys` numbers that a thread of a warp takes, V at a time: at most N, known
// when this is compiled so that what is held of each stays in registers; any number where N is 0.
template <int V, int N, class F> __device__ __forceinline__ void over_steps(u32 keys, F f) {
    if constexpr (N == 0) {
        for (u32 key = threadIdx.x % 32 * V; key < keys; key += 32 * V) f(0, key);
    } else {
#pragma unroll
        for (int step = 0; step < N; step++) {
            u32 key = (step * 32 + threadIdx.x % 32) * V;
            if (key < keys) f(step, key);
        }
    }
}

// scores: [B·H, rows, keys], of queries first .. first + rows and keys low .. low + keys, which may be changed; tokens:
// [B, T]. Writes the weights, and them after dropout where there is any. A warp a row.
template <int V, int N, class E>
__device__ void attention_weights(float *scores, const Sees *tokens, E *weights, E *after, u32 n, u32 rows, u32 keys,
                                  u32 first, u32 low, u32 t, u32 heads, float scale, u32 kind, u32 width, Drop at) {
    u32 number = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (number >= n) return;
    u64 head = number / rows, row = (u64)number * keys;
    u32 q = first + number % rows;
    Sees query = tokens[head / heads * t + q];
    u32 end = kind == 0 ? keys : min(keys, q + 1 - low); // no key from here on is visible
    float held[N > 0 ? N : 1][V];
    float most = -NO_LIMIT, sum = 0.0f;
    auto masked = [&](int step, u32 key) {
        load<V>(scores + row + key, held[step]);
        for (int k = 0; k < V; k++) {
            held[step][k] = visible(query, q, low + key + k, kind, width) ? held[step][k] * scale : -NO_LIMIT;
            most = fmaxf(most, held[step][k]);
        }
    };
    over_steps<V, N>(end, masked);
    most = warp_max(most);
    over_steps<V, N>(end, [&](int step, u32 key) {
        if (N == 0) masked(step, key);
        for (int k = 0; k < V; k++) held[step][k] = __expf(held[step][k] - most), sum += held[step][k];
        if (N == 0) store<V>(scores + row + key, held[step]);
    });
    float share = 1.0f / warp_sum(sum);
    over_steps<V, N>(keys, [&](int step, u32 key) {
        float weight[V] = {};
        if (N == 0 && key < end) load<V>(scores + row + key, held[step]);
        if (key < end)
            for (int k = 0; k < V; k++) weight[k] = held[step][k] * share;
        store<V>(weights + row + key, weight);
        if (at.keep == 0.0f) return;
        for (int k = 0; k < V; k++) weight[k] *= dropped(at, (head * t + q) * t + low + key + k);
        store<V>(after + row + key, weight);
    });
}

// dweights, [B·H, rows, keys], is replaced by the gradient of the scores. A warp a row.
template <int V, int N, class E>
__device__ void attention_weights_backward(const E *weights, E *dweights, u32 n, u32 rows, u32 keys, u32 first, u32 low,
                                           u32 t, float scale, u32 kind, Drop at) {
    u32 number = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (number >= n) return;
    u64 head = number / rows, row = (u64)number * keys;
    u32 q = first + number % rows, end = kind == 0 ? keys : min(keys, q + 1 - low);
    float d[N > 0 ? N : 1][V];
    float along = 0.0f;
    auto read = [&](int step, u32 key) {
        load<V>(dweights + row + key, d[step]);
        if (at.keep != 0.0f)
            for (int k = 0; k < V; k++) d[step][k] *= dropped(at, (head * t + q) * t + low + key + k);
    };
    over_steps<V, N>(end, [&](int step, u32 key) {
        float weight[V];
        load<V>(weights + row + key, weight);
        read(step, key);
        for (int k = 0; k < V; k++) along += d[step][k] * weight[k];
    });
    along = warp_sum(along);
    over_steps<V, N>(keys, [&](int step, u32 key) {
        float weight[V] = {};
        if (key < end) {
            load<V>(weights + row + key, weight);
            if (N == 0) read(step, key);
            for (int k = 0; k < V; k++) weight[k] *= (d[step][k] - along) * scale;
        }
        store<V>(dweights + row + key, weight);
    });
}

// ---- Tables

// Adds row n of dy, [n, d], to row ids[n] of sums, [v, d], in order. A warp a row of the table and 1,024 columns.
extern "C" __global__ void add_rows(const u32 *ids, const float *dy, float *sums, u32 n, u32 v, u32 d) {
    constexpr int PARTS = 32;
    __shared__ u32 chunk[1024];
    u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.y * 32 * PARTS + lane;
    float sum[PARTS] = {};
    bool found = false;
    for (u32 first = 0; first < n; first += 1024) {
        u32 count = min(1024u, n - first);
        __syncthreads();
        for (u32 i = threadIdx.x; i < count; i += blockDim.x) chunk[i] = ids[first + i];
        __syncthreads();
        for (u32 i = 0; i < count; i += 32) {
            u32 hits = __ballot_sync(~0u, i + lane < count && chunk[i + lane] == row);
            while (hits) {
                u64 at = (u64)(first + i + __ffs(hits) - 1) * d + column;
                hits &= hits - 1, found = true;
#pragma unroll
                for (int part = 0; part < PARTS; part++)
                    if (column + 32 * part < d) sum[part] += dy[at + 32 * part];
            }
        }
    }
    if (!found || row >= v) return;
#pragma unroll
    for (int part = 0; part < PARTS; part++)
        if (column + 32 * part < d) sums[(u64)row * d + column + 32 * part] += sum[part];
}

// ---- Losses: a block a row of v scores; rows of scores and of their gradients begin `stride` apart

// The largest of the block's threads' numbers, and the sum of their sums of exponentials, each relative to its own.
__device__ __forceinline__ void join_sums(float scale, float &most, float &total) {
    float top = block_max(most);
    total = block_sum(total > 0.0f ? total * __expf((most - top) * scale) : 0.0f);
    most = top;
}

__device__ __forceinline__ void row_sums(const float *scores, u32 v, float scale, float &most, float &total) {
    most = -NO_LIMIT, total = 0.0f;
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float score = scores[i];
        if (score > most) total *= __expf((most - score) * scale), most = score;
        total += __expf((score - most) * scale);
    }
    join_sums(scale, most, total);
}

// losses: −log softmax(row)[target], 0 where the target is IGNORE; gradient, where it is wanted: share·(softmax − one-hot).
// Rows of at most blockDim.x·N scores are read once. What lies between rows of gradients becomes zeros.
template <int N, class E>
__device__ void loss_rows(const float *scores, const u32 *targets, const float *share, float *losses, E *gradient, u32 v,
                          u32 stride) {
    u64 row = (u64)blockIdx.x * stride;
    u32 target = targets[blockIdx.x];
    scores += row;
    float held[N > 0 ? N : 1];
    float most = -NO_LIMIT, total = 0.0f;
    bool counts = target < v;
    float of_target = counts ? scores[target] : 0.0f;
    if constexpr (N > 0) {
#pragma unroll
        for (int step = 0; step < N; step++) {
            u32 i = step * blockDim.x + threadIdx.x;
            held[step] = i < v ? scores[i] : -NO_LIMIT;
        }
#pragma unroll
        for (int step = 0; step < N; step++) most = fmaxf(most, held[step]);
        most = block_max(most);
#pragma unroll
        for (int step = 0; step < N; step++) held[step] = __expf(held[step] - most), total += held[step];
        total = block_sum(total);
    } else {
        row_sums(scores, v, 1.0f, most, total);
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = counts ? most + logf(total) - of_target : target == ~0u ? 0.0f : __int_as_float(0x7fc00000);
    if (!gradient) return;
    for (u32 i = v + threadIdx.x; i < stride; i += blockDim.x) put(gradient[row + i], 0.0f);
    float scale = counts ? share[0] / total : 0.0f, one = counts ? share[0] : 0.0f;
    if constexpr (N > 0) {
#pragma unroll
        for (int step = 0; step < N; step++) {
            u32 i = step * blockDim.x + threadIdx.x;
            if (i < v) put(gradient[row + i], held[step] * scale - (i == target ? one : 0.0f));
        }
    } else {
        for (u32 i = threadIdx.x; i < v; i += blockDim.x)
            put(gradient[row + i], __expf(scores[i] - most) * scale - (i == target ? one : 0.0f));
    }
}

// Of softmax(scale·scores): the log-probability of the token to found, and the entropy n further on.
extern "C" __global__ void log_prob_rows(const float *scores, const u32 *tokens, float *found, u32 v, u32 stride, u32 n,
                                         float scale) {
    scores += (u64)blockIdx.x * stride;
    float most, total, weighted = 0.0f;
    row_sums(scores, v, scale, most, total);
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float z = (scores[i] - most) * scale;
        weighted += z * __expf(z);
    }
    weighted = block_sum(weighted);
    if (threadIdx.x == 0) {
        found[blockIdx.x] = (scores[tokens[blockIdx.x]] - most) * scale - logf(total);
        found[n + blockIdx.x] = logf(total) - weighted / total;
    }
}

// The gradient of the scores from those of both.
template <class E>
__device__ void log_prob_rows_backward(const float *scores, const u32 *tokens, const float *dfound, E *gradient, u32 v,
                                       u32 stride, u32 n, float scale) {
    u64 row = (u64)blockIdx.x * stride;
    scores += row;
    u32 token = tokens[blockIdx.x];
    float most, total, weighted = 0.0f, dlog_prob = dfound[blockIdx.x], dentropy = dfound[n + blockIdx.x];
    row_sums(scores, v, scale, most, total);
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float z = (scores[i] - most) * scale;
        weighted += z * __expf(z);
    }
    float mean = block_sum(weighted) / total;
    for (u32 i = v + threadIdx.x; i < stride; i += blockDim.x) put(gradient[row + i], 0.0f);
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float z = (scores[i] - most) * scale;
        float d = -scale * (__expf(z) / total) * (dlog_prob + dentropy * (z - mean));
        put(gradient[row + i], d + (i == token ? scale * dlog_prob : 0.0f));
    }
}

// ---- The update

struct Adam {
    float *w, *m, *s;
    const float *g;
    float scale, beta1, beta2, eps, keep, rate, root;
    template <int V> __device__ __forceinline__ void at(u64 i) {
        float weight[V], mean[V], square[V], grad[V];
        load<V>(w + i, weight), load<V>(m + i, mean), load<V>(s + i, square), load<V>(g + i, grad);
        for (int k = 0; k < V; k++) {
            grad[k] *= scale;
            mean[k] = beta1 * mean[k] + (1.0f - beta1) * grad[k];
            square[k] = beta2 * square[k] + (1.0f - beta2) * grad[k] * grad[k];
            weight[k] = keep * weight[k] - rate * mean[k] / (sqrtf(square[k]) * root + eps);
        }
        store<V>(w + i, weight), store<V>(m + i, mean), store<V>(s + i, square);
    }
};

extern "C" __global__ void adamw(float *w, float *m, float *s, const float *g, u64 n, float scale, float beta1, float beta2,
                                 float eps, float keep, float rate, float root) {
    over_all(n, Adam{w, m, s, g, scale, beta1, beta2, eps, keep, rate, root});
}

struct Squares {
    const float *x;
    double sum;
    template <int V> __device__ __forceinline__ void at(u64 i) {
        float v[V];
        load<V>(x + i, v);
        for (int k = 0; k < V; k++) sum += (double)v[k] * (double)v[k];
    }
};

// Σ x² of parts of x to partials, [gridDim.x].
extern "C" __global__ void squares(const float *x, double *partials, u64 n) {
    Squares squares{x, 0.0};
    over_all(n, sum_of(squares));
    __shared__ double parts[256];
    parts[threadIdx.x] = squares.sum;
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) partials[blockIdx.x] = parts[0];
}

#define ATTENTION(E, name, V, N, size)                                                                                       \
    extern "C" __global__ void attention_weights_##size##_##name(                                                            \
        float *scores, const Sees *tokens, E *weights, E *after, u32 n, u32 rows, u32 keys, u32 first, u32 low, u32 t,       \
        u32 heads, float scale, u32 kind, u32 width, Drop at) {                                                              \
        attention_weights<V, N>(scores, tokens, weights, after, n, rows, keys, first, low, t, heads, scale, kind, width, at);\
    }                                                                                                                        \
    extern "C" __global__ void attention_weights_backward_##size##_##name(const E *weights, E *dweights, u32 n, u32 rows,    \
                                                                          u32 keys, u32 first, u32 low, u32 t, float scale, u32 kind,\
                                                                          Drop at) {                                         \
        attention_weights_backward<V, N>(weights, dweights, n, rows, keys, first, low, t, scale, kind, at);                  \
    }

#define BOTH(E, name)                                                                                                        \
    extern "C" __global__ void drop_##name(const E *x, E *y, u64 n, Drop at) { drop(x, y, n, at); }                          \
    extern "C" __global__ void norm_forward_##name(const float *x, const float *gain, const float *bias, E *y, float *stats, \
                                                   u32 d, float eps) {                                                       \
        norm_forward(x, gain, bias, y, stats, d, eps);                                                                       \
    }                                                                                                                        \
    extern "C" __global__ void norm_backward_##name(const E *dy, const float *x, const float *gain, const float *stats,      \
                                                    const float *add, float *dx, u32 d) {                                    \
        norm_backward(dy, x, gain, stats, add, dx, d);                                                                       \
    }                                                                                                                        \
    extern "C" __global__ void norm_parameters_##name(const E *dy, const float *x, const float *stats, float *partials,      \
                                                      u32 n, u32 d) {                                                        \
        norm_parameters(dy, x, stats, partials, n, d);                                                                       \
    }                                                                                                                        \
    extern "C" __global__ void column_sums_##name(const E *x, float *partials, u32 n, u32 m) {                               \
        column_sums(x, partials, n, m);                                                                                      \
    }                                                                                                                        \
    extern "C" __global__ void bias_add_##name(const E *x, const float *bias, E *y, u32 m) { bias_add(x, bias, y, m); }      \
    extern "C" __global__ void bias_gelu_##name(E *x, const float *bias, E *y, u32 m) { bias_gelu(x, bias, y, m); }          \
    extern "C" __global__ void gelu_backward_##name(const E *x, const E *dy, E *dx, u64 n) { gelu_backward(x, dy, dx, n); }  \
    extern "C" __global__ void add_residual_##name(const float *x, const E *y, const float *bias, float *out, u32 d, Drop at) {\
        add_residual(x, y, bias, out, d, at);                                                                                \
    }                                                                                                                        \
    extern "C" __global__ void residual_backward_##name(const float *dout, E *dy, u64 n, Drop at) {                          \
        residual_backward(dout, dy, n, at);                                                                                  \
    }                                                                                                                        \
    extern "C" __global__ void split_heads_##name(const E *x, const float *bias, E *y, u32 width, u32 batch, u32 heads, u32 t,\
                                                  u32 k) {                                                                   \
        split_heads(x, bias, y, width, batch, heads, t, k);                                                                  \
    }                                                                                                                        \
    extern "C" __global__ void join_heads_##name(const E *x, E *y, u32 width, u32 batch, u32 heads, u32 t, u32 k) {          \
        join_heads(x, y, width, batch, heads, t, k);                                                                         \
    }                                                                                                                        \
    ATTENTION(E, name, 4, 8, 1024)                                                                                           \
    ATTENTION(E, name, 4, 16, 2048)                                                                                          \
    ATTENTION(E, name, 1, 0, any)                                                                                            \
    extern "C" __global__ void loss_rows_##name(const float *scores, const u32 *targets, const float *share, float *losses,  \
                                                E *gradient, u32 v, u32 stride) {                                            \
        loss_rows<0>(scores, targets, share, losses, gradient, v, stride);                                                   \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(1024) loss_rows_once_##name(const float *scores, const u32 *targets,        \
                                                                             const float *share, float *losses, E *gradient, \
                                                                             u32 v, u32 stride) {                            \
        loss_rows<50>(scores, targets, share, losses, gradient, v, stride);                                                  \
    }                                                                                                                        \
    extern "C" __global__ void log_prob_rows_backward_##name(const float *scores, const u32 *tokens, const float *dfound,    \
                                                             E *gradient, u32 v, u32 stride, u32 n, float scale) {           \
        log_prob_rows_backward(scores, tokens, dfound, gradient, v, stride, n, scale);                                       \
    }

BOTH(float, f32)
BOTH(bf16, bf16)
