// What the kernels have in common: numbers, dropout, and who sees whom.

#pragma once

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

// ---- Dropout: Philox 4x32-10, the numbers that the CPU draws

struct Drop {
    u64 seed, stream, first; // number of the first element
    float p, keep;           // probability of removal; 1 / (1 - p), or 0 where there is no dropout
};

// The four words of a block of Philox, of elements 4·block .. + 4 as the CPU numbers them.
__device__ __forceinline__ uint4 philox(const Drop &at, u64 block) {
    u32 key0 = (u32)at.seed, key1 = (u32)(at.seed >> 32);
    u32 c0 = (u32)block, c1 = (u32)(block >> 32), c2 = (u32)at.stream, c3 = (u32)(at.stream >> 32);
    for (int round = 0; round < 10; round++) {
        u64 a = (u64)c0 * 0xD2511F53u, b = (u64)c2 * 0xCD9E8D57u;
        u32 n0 = (u32)(b >> 32) ^ c1 ^ key0, n2 = (u32)(a >> 32) ^ c3 ^ key1;
        c0 = n0, c1 = (u32)b, c2 = n2, c3 = (u32)a;
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

// Whether dropout keeps the element whose number has the remainder `which` in its block.
__device__ __forceinline__ bool keeps(const Drop &at, uint4 words, u32 which) {
    u32 word = which == 0 ? words.x : which == 1 ? words.y : which == 2 ? words.z : words.w;
    return (float)(word >> 8) / 16777216.0f >= at.p;
}

// What dropout multiplies an element by.
__device__ __forceinline__ float dropped(const Drop &at, u64 element) {
    element += at.first;
    return keeps(at, philox(at, element / 4), (u32)(element % 4)) ? at.keep : 0.0f;
}

// ---- Attention

// What a token sees of its window: its segment and its stem; and its position.
struct Sees {
    u32 start, end, stem_start, stem_end, position;
};

// kind: 0 both sides, 1 causal, 2 a band of `width` positions; q: the query's place.
__device__ __forceinline__ bool visible(const Sees &query, u32 q, u32 key, u32 kind, u32 width) {
    bool own = key >= query.start && key < query.end, stem = key >= query.stem_start && key < query.stem_end;
    if (!(own || stem) || (kind != 0 && key > q)) return false;
    u32 position = own ? query.position + key - q : key - query.stem_start;
    return kind != 2 || position + width > query.position;
}
