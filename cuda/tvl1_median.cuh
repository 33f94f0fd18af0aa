// Medians over windows of 3 x 3 or 5 x 5, of which the columns are sorted once for all windows that share them
// (ops/tvl1/median.rs proves the networks).
#pragma once

__device__ __forceinline__ void order(float& a, float& b) {
    const float low = fminf(a, b);
    b = fmaxf(a, b);
    a = low;
}

__device__ __forceinline__ void sort(float (&v)[3]) {
    order(v[0], v[2]), order(v[0], v[1]), order(v[1], v[2]);
}

__device__ __forceinline__ void sort(float (&v)[5]) {
    order(v[0], v[3]), order(v[1], v[4]), order(v[0], v[2]), order(v[1], v[3]), order(v[0], v[1]);
    order(v[2], v[4]), order(v[1], v[2]), order(v[3], v[4]), order(v[2], v[3]);
}

// The median of K sorted columns beginning with number `first`: `ranks[k]` holds the k-th smallest of every column.
// Once the ranks are sorted along the rows, rows and columns are in order, and only the middle antidiagonals can hold
// the median.
template <int K, int COLUMNS>
__device__ __forceinline__ float median_of_columns(const float (&ranks)[K][COLUMNS], int first) {
    float rows[K][K], main[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
        for (int i = 0; i < K; ++i) rows[k][i] = ranks[k][first + i];
        sort(rows[k]);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) main[k] = rows[k][K - 1 - k];
    sort(main);
    if constexpr (K == 3) {
        return main[1];
    } else {
        static_assert(K == 5, "the networks are for windows of three and five pixels");
        float last[3] = {fmaxf(fmaxf(rows[0][3], rows[1][2]), fmaxf(rows[2][1], rows[3][0])), main[2],
                         fminf(fminf(rows[1][4], rows[2][3]), fminf(rows[3][2], rows[4][1]))};
        sort(last);
        return last[1];
    }
}
