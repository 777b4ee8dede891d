// Kernels of the device path, compiled when the first of them runs. Each has a twin in candle's operations (`kernels.rs`),
// which says what it computes. Sums are f32, in an order that depends on sizes alone.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NO_LIMIT __int_as_float(0x7f800000)

struct bf16 {
    u16 bits;
};

__device__ __forceinline__ float get(float x) { return x; }
__device__ __forceinline__ float get(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

__device__ __forceinline__ void put(float &to, float x) { to = x; }
__device__ __forceinline__ void put(bf16 &to, float x) {
    u32 bits = __float_as_uint(x);
    bits += 0x7fff + ((bits >> 16) & 1); // to the nearest, ties to even
    to.bits = x == x ? (u16)(bits >> 16) : 0x7fff;
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

// ---- Dropout: Philox 4x32-10, the numbers that the CPU draws

struct Drop {
    u64 seed, stream, first; // number of the first element
    float p, keep;           // probability of removal; 1 / (1 - p), or 0 where there is no dropout
};

__device__ __forceinline__ float dropped(const Drop &at, u64 element) {
    element += at.first;
    u32 key0 = (u32)at.seed, key1 = (u32)(at.seed >> 32);
    u64 block = element / 4;
    u32 c0 = (u32)block, c1 = (u32)(block >> 32), c2 = (u32)at.stream, c3 = (u32)(at.stream >> 32);
    for (int round = 0; round < 10; round++) {
        u64 a = (u64)c0 * 0xD2511F53u, b = (u64)c2 * 0xCD9E8D57u;
        u32 n0 = (u32)(b >> 32) ^ c1 ^ key0, n2 = (u32)(a >> 32) ^ c3 ^ key1;
        c0 = n0, c1 = (u32)b, c2 = n2, c3 = (u32)a;
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    u32 which = (u32)(element % 4);
    u32 word = which == 0 ? c0 : which == 1 ? c1 : which == 2 ? c2 : c3;
    return (float)(word >> 8) / 16777216.0f >= at.p ? at.keep : 0.0f;
}

template <class E> __device__ void drop(const E *x, E *y, u64 n, Drop at) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x)
        put(y[i], get(x[i]) * dropped(at, i));
}

// ---- Layer norm: a block a row

template <class Y>
__device__ void norm_forward(const float *x, const float *gain, const float *bias, Y *y, float *stats, u32 d, float eps) {
    x += (u64)blockIdx.x * d, y += (u64)blockIdx.x * d;
    float sum = 0.0f, squares = 0.0f;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) sum += x[i];
    float mean = block_sum(sum) / d;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) squares += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(block_sum(squares) / d + eps);
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) put(y[i], (x[i] - mean) * scale * gain[i] + bias[i]);
    if (threadIdx.x == 0) stats[2 * blockIdx.x] = mean, stats[2 * blockIdx.x + 1] = scale;
}

// dx = add + the gradient of x.
template <class G>
__device__ void norm_backward(const G *dy, const float *x, const float *gain, const float *stats, const float *add,
                              float *dx, u32 d) {
    u64 row = (u64)blockIdx.x * d;
    float mean = stats[2 * blockIdx.x], scale = stats[2 * blockIdx.x + 1], sum = 0.0f, along = 0.0f;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) {
        float g = get(dy[row + i]) * gain[i];
        sum += g, along += g * (x[row + i] - mean) * scale;
    }
    sum = block_sum(sum) / d, along = block_sum(along) / d;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) {
        float g = get(dy[row + i]) * gain[i];
        dx[row + i] = (add ? add[row + i] : 0.0f) + scale * (g - sum - (x[row + i] - mean) * scale * along);
    }
}

// Blocks of 32 columns and 8 rows; block y of the grid sums rows y, y + gridDim.y, … eight at a time.
__device__ __forceinline__ float over_rows(float x) {
    __shared__ float parts[8][33];
    __syncthreads();
    parts[threadIdx.y][threadIdx.x] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int row = 0; row < 8; row++) sum += parts[row][threadIdx.x];
    return sum;
}

// partials: [gridDim.y, 2, d], of gain and bias.
template <class G> __device__ void norm_parameters(const G *dy, const float *x, const float *stats, float *partials, u32 n, u32 d) {
    u32 i = blockIdx.x * 32 + threadIdx.x;
    float gain = 0.0f, bias = 0.0f;
    if (i < d)
        for (u32 row = blockIdx.y * 8 + threadIdx.y; row < n; row += gridDim.y * 8) {
            float g = get(dy[(u64)row * d + i]);
            gain += g * (x[(u64)row * d + i] - stats[2 * row]) * stats[2 * row + 1], bias += g;
        }
    gain = over_rows(gain), bias = over_rows(bias);
    if (i < d && threadIdx.y == 0) {
        partials[(u64)blockIdx.y * 2 * d + i] = gain;
        partials[((u64)blockIdx.y * 2 + 1) * d + i] = bias;
    }
}

// partials: [gridDim.y, m].
template <class E> __device__ void column_sums(const E *x, float *partials, u32 n, u32 m) {
    u32 i = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (i < m)
        for (u32 row = blockIdx.y * 8 + threadIdx.y; row < n; row += gridDim.y * 8) sum += get(x[(u64)row * m + i]);
    sum = over_rows(sum);
    if (i < m && threadIdx.y == 0) partials[(u64)blockIdx.y * m + i] = sum;
}

extern "C" __global__ void add_partials(const float *partials, float *out, u32 n, u32 m) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= m) return;
    float sum = 0.0f;
    for (u32 row = 0; row < n; row++) sum += partials[(u64)row * m + i];
    out[i] = sum;
}

// ---- Between products

__device__ __forceinline__ float gate(float x) {
    return tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
}

// x, y: [rows, m], a block a row.
template <class E> __device__ void bias_add(const E *x, const float *bias, E *y, u32 m) {
    x += (u64)blockIdx.x * m, y += (u64)blockIdx.x * m;
    for (u32 i = threadIdx.x; i < m; i += blockDim.x) put(y[i], get(x[i]) + bias[i]);
}

// x, [rows, m], is replaced by x + bias, rounded, of which y is the GELU. A block a row.
template <class E> __device__ void bias_gelu(E *x, const float *bias, E *y, u32 m) {
    x += (u64)blockIdx.x * m, y += (u64)blockIdx.x * m;
    for (u32 i = threadIdx.x; i < m; i += blockDim.x) {
        E sum;
        put(sum, get(x[i]) + bias[i]);
        x[i] = sum;
        put(y[i], 0.5f * get(sum) * (1.0f + gate(get(sum))));
    }
}

template <class E> __device__ void gelu_backward(const E *x, const E *dy, E *dx, u64 n) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        float v = get(x[i]), t = gate(v);
        float slope = 0.5f * (1.0f + t) + 0.5f * v * (1.0f - t * t) * 0.7978845608f * (1.0f + 0.134145f * v * v);
        put(dx[i], get(dy[i]) * slope);
    }
}

// x, y, out: [rows, d], a block a row.
template <class E>
__device__ void add_residual(const float *x, const E *y, const float *bias, float *out, u32 d, Drop at) {
    u64 row = (u64)blockIdx.x * d;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) {
        float more = get(y[row + i]) + bias[i];
        out[row + i] = x[row + i] + (at.keep != 0.0f ? more * dropped(at, row + i) : more);
    }
}

template <class E> __device__ void residual_backward(const float *dout, E *dy, u64 n, Drop at) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x)
        put(dy[i], at.keep != 0.0f ? dout[i] * dropped(at, i) : dout[i]);
}

// ---- Attention

// Place in [parts, B, H, T, K] of number i of the row of token `row` in [B·T, parts·H·K].
__device__ __forceinline__ u64 place(u32 row, u32 i, u32 batch, u32 heads, u32 t, u32 k) {
    u32 head = i / k, b = row / t;
    u64 matrix = ((u64)(head / heads) * batch + b) * heads + head % heads;
    return (matrix * t + row % t) * k + i % k;
}

// [B·T, parts·H·K], plus a bias where there is one, to [parts, B, H, T, K]. A block a token.
template <class E>
__device__ void split_heads(const E *x, const float *bias, E *y, u32 width, u32 batch, u32 heads, u32 t, u32 k) {
    x += (u64)blockIdx.x * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
        put(y[place(blockIdx.x, i, batch, heads, t, k)], get(x[i]) + (bias ? bias[i] : 0.0f));
}

// [parts, B, H, T, K] to [B·T, parts·H·K]. A block a token.
template <class E> __device__ void join_heads(const E *x, E *y, u32 width, u32 batch, u32 heads, u32 t, u32 k) {
    y += (u64)blockIdx.x * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) y[i] = x[place(blockIdx.x, i, batch, heads, t, k)];
}

// What a token sees of its window: its segment and its stem; and its position.
struct Sees {
    u32 start, end, stem_start, stem_end, position;
};

__device__ __forceinline__ bool visible(const Sees *tokens, const Sees &query, u32 key, u32 kind, u32 width) {
    bool within = (key >= query.start && key < query.end) || (key >= query.stem_start && key < query.stem_end);
    if (!within) return false;
    if (kind == 0) return true; // both sides
    u32 position = tokens[key].position;
    return position <= query.position && (kind == 1 || position + width > query.position);
}

// scores: [B·H, rows, keys], of queries first .. first + rows and keys 0 .. keys; tokens: [B, T]. Writes the weights,
// and them after dropout where there is any. A block a row.
template <class E>
__device__ void attention_weights(const float *scores, const Sees *tokens, E *weights, E *after, u32 rows,
                                  u32 keys, u32 first, u32 t, u32 heads, float scale, u32 kind, u32 width, Drop at) {
    u64 head = blockIdx.x / rows;
    u32 q = first + blockIdx.x % rows;
    u64 row = (u64)blockIdx.x * keys, window = head / heads * t;
    scores += row, weights += row, tokens += window;
    Sees query = tokens[q];
    float most = -NO_LIMIT, sum = 0.0f;
    for (u32 key = threadIdx.x; key < keys; key += blockDim.x)
        if (visible(tokens, query, key, kind, width)) most = fmaxf(most, scores[key] * scale);
    most = block_max(most);
    for (u32 key = threadIdx.x; key < keys; key += blockDim.x)
        if (visible(tokens, query, key, kind, width)) sum += __expf(scores[key] * scale - most);
    float share = 1.0f / block_sum(sum);
    for (u32 key = threadIdx.x; key < keys; key += blockDim.x) {
        bool is_seen = visible(tokens, query, key, kind, width);
        float weight = is_seen ? __expf(scores[key] * scale - most) * share : 0.0f;
        put(weights[key], weight);
        if (at.keep != 0.0f) put(after[row + key], weight * dropped(at, (head * t + q) * t + key));
    }
}

// dweights, [B·H, rows, keys], is replaced by the gradient of the scores. A block a row.
template <class E>
__device__ void attention_weights_backward(const E *weights, E *dweights, u32 rows, u32 keys, u32 first, u32 t, float scale,
                                           Drop at) {
    u64 head = blockIdx.x / rows, row = (u64)blockIdx.x * keys;
    u32 q = first + blockIdx.x % rows;
    weights += row, dweights += row;
    float along = 0.0f;
    for (u32 key = threadIdx.x; key < keys; key += blockDim.x) {
        float d = get(dweights[key]);
        if (at.keep != 0.0f) d *= dropped(at, (head * t + q) * t + key);
        along += d * get(weights[key]);
    }
    along = block_sum(along);
    for (u32 key = threadIdx.x; key < keys; key += blockDim.x) {
        float d = get(dweights[key]);
        if (at.keep != 0.0f) d *= dropped(at, (head * t + q) * t + key);
        put(dweights[key], get(weights[key]) * (d - along) * scale);
    }
}

// ---- Tables

// Adds row n of dy, [n, d], to row ids[n] of sums, [v, d], in order. A warp a row of the table and 256 columns.
extern "C" __global__ void add_rows(const u32 *ids, const float *dy, float *sums, u32 n, u32 v, u32 d) {
    __shared__ u32 chunk[1024];
    u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.y * 256 + lane;
    float sum[8] = {};
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
                for (int part = 0; part < 8; part++)
                    if (column + 32 * part < d) sum[part] += dy[at + 32 * part];
            }
        }
    }
    if (!found || row >= v) return;
#pragma unroll
    for (int part = 0; part < 8; part++)
        if (column + 32 * part < d) sums[(u64)row * d + column + 32 * part] += sum[part];
}

// ---- Losses: a block a row of scores

__device__ __forceinline__ void row_sums(const float *scores, u32 v, float scale, float &most, float &total) {
    float top = -NO_LIMIT, sum = 0.0f;
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) top = fmaxf(top, scores[i]);
    most = block_max(top);
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) sum += __expf((scores[i] - most) * scale);
    total = block_sum(sum);
}

// losses: −log softmax(row)[target], 0 where the target is IGNORE; gradient, where it is wanted: share·(softmax − one-hot).
template <class E>
__device__ void loss_rows(const float *scores, const u32 *targets, const float *share, float *losses, E *gradient, u32 v) {
    u64 row = (u64)blockIdx.x * v;
    u32 target = targets[blockIdx.x];
    scores += row;
    float most, total;
    row_sums(scores, v, 1.0f, most, total);
    bool counts = target < v;
    if (threadIdx.x == 0) losses[blockIdx.x] = counts ? most + logf(total) - scores[target] : target == ~0u ? 0.0f : __int_as_float(0x7fc00000);
    if (!gradient) return;
    float scale = counts ? share[0] / total : 0.0f, one = counts ? share[0] : 0.0f;
    for (u32 i = threadIdx.x; i < v; i += blockDim.x)
        put(gradient[row + i], __expf(scores[i] - most) * scale - (i == target ? one : 0.0f));
}

// Of softmax(scale·scores): the log-probability of the token to found, and the entropy n further on.
extern "C" __global__ void log_prob_rows(const float *scores, const u32 *tokens, float *found, u32 v, u32 n, float scale) {
    scores += (u64)blockIdx.x * v;
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
__device__ void log_prob_rows_backward(const float *scores, const u32 *tokens, const float *dfound, E *gradient, u32 v, u32 n,
                                       float scale) {
    u64 row = (u64)blockIdx.x * v;
    scores += row;
    u32 token = tokens[blockIdx.x];
    float most, total, weighted = 0.0f, dlog_prob = dfound[blockIdx.x], dentropy = dfound[n + blockIdx.x];
    row_sums(scores, v, scale, most, total);
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float z = (scores[i] - most) * scale;
        weighted += z * __expf(z);
    }
    float mean = block_sum(weighted) / total;
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float z = (scores[i] - most) * scale;
        float d = -scale * (__expf(z) / total) * (dlog_prob + dentropy * (z - mean));
        put(gradient[row + i], d + (i == token ? scale * dlog_prob : 0.0f));
    }
}

// ---- The update

extern "C" __global__ void adamw(float *w, float *m, float *s, const float *g, u64 n, float scale, float beta1, float beta2,
                                 float eps, float keep, float rate, float root) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        float grad = g[i] * scale;
        float mean = beta1 * m[i] + (1.0f - beta1) * grad;
        float square = beta2 * s[i] + (1.0f - beta2) * grad * grad;
        m[i] = mean, s[i] = square;
        w[i] = keep * w[i] - rate * mean / (sqrtf(square) * root + eps);
    }
}

// Σ x² of parts of x to partials, [gridDim.x].
extern "C" __global__ void squares(const float *x, double *partials, u64 n) {
    double sum = 0.0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x)
        sum += (double)x[i] * (double)x[i];
    __shared__ double parts[256];
    parts[threadIdx.x] = sum;
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) partials[blockIdx.x] = parts[0];
}

#define BOTH(E, name)                                                                                                       \
    extern "C" __global__ void drop_##name(const E *x, E *y, u64 n, Drop at) { drop(x, y, n, at); }                         \
    extern "C" __global__ void norm_forward_##name(const float *x, const float *gain, const float *bias, E *y, float *stats,\
                                                   u32 d, float eps) {                                                      \
        norm_forward(x, gain, bias, y, stats, d, eps);                                                                      \
    }                                                                                                                       \
    extern "C" __global__ void norm_backward_##name(const E *dy, const float *x, const float *gain, const float *stats,     \
                                                    const float *add, float *dx, u32 d) {                                   \
        norm_backward(dy, x, gain, stats, add, dx, d);                                                                      \
    }                                                                                                                       \
    extern "C" __global__ void norm_parameters_##name(const E *dy, const float *x, const float *stats, float *partials,     \
                                                      u32 n, u32 d) {                                                       \
        norm_parameters(dy, x, stats, partials, n, d);                                                                      \
    }                                                                                                                       \
    extern "C" __global__ void column_sums_##name(const E *x, float *partials, u32 n, u32 m) {                              \
        column_sums(x, partials, n, m);                                                                                     \
    }                                                                                                                       \
    extern "C" __global__ void bias_add_##name(const E *x, const float *bias, E *y, u32 m) { bias_add(x, bias, y, m); }     \
    extern "C" __global__ void bias_gelu_##name(E *x, const float *bias, E *y, u32 m) { bias_gelu(x, bias, y, m); }         \
    extern "C" __global__ void gelu_backward_##name(const E *x, const E *dy, E *dx, u64 n) { gelu_backward(x, dy, dx, n); } \
    extern "C" __global__ void add_residual_##name(const float *x, const E *y, const float *bias, float *out, u32 d, Drop at) {\
        add_residual(x, y, bias, out, d, at);                                                                               \
    }                                                                                                                       \
    extern "C" __global__ void residual_backward_##name(const float *dout, E *dy, u64 n, Drop at) {                         \
        residual_backward(dout, dy, n, at);                                                                                 \
    }                                                                                                                       \
    extern "C" __global__ void split_heads_##name(const E *x, const float *bias, E *y, u32 width, u32 batch, u32 heads, u32 t,\
                                                  u32 k) {                                                                  \
        split_heads(x, bias, y, width, batch, heads, t, k);                                                                 \
    }                                                                                                                       \
    extern "C" __global__ void join_heads_##name(const E *x, E *y, u32 width, u32 batch, u32 heads, u32 t, u32 k) {         \
        join_heads(x, y, width, batch, heads, t, k);                                                                        \
    }                                                                                                                       \
    extern "C" __global__ void attention_weights_##name(const float *scores, const Sees *tokens, E *weights,                \
                                                        E *after, u32 rows, u32 keys, u32 first, u32 t, u32 heads,          \
                                                        float scale, u32 kind, u32 width, Drop at) {                        \
        attention_weights(scores, tokens, weights, after, rows, keys, first, t, heads, scale, kind, width, at);             \
    }                                                                                                                       \
    extern "C" __global__ void attention_weights_backward_##name(const E *weights, E *dweights, u32 rows, u32 keys,         \
                                                                 u32 first, u32 t, float scale, Drop at) {                  \
        attention_weights_backward(weights, dweights, rows, keys, first, t, scale, at);                                     \
    }                                                                                                                       \
    extern "C" __global__ void loss_rows_##name(const float *scores, const u32 *targets, const float *share, float *losses, \
                                                E *gradient, u32 v) {                                                       \
        loss_rows(scores, targets, share, losses, gradient, v);                                                             \
    }                                                                                                                       \
    extern "C" __global__ void log_prob_rows_backward_##name(const float *scores, const u32 *tokens, const float *dfound,   \
                                                             E *gradient, u32 v, u32 n, float scale) {                      \
        log_prob_rows_backward(scores, tokens, dfound, gradient, v, n, scale);                                              \
    }

BOTH(float, f32)
BOTH(bf16, bf16)
