// Building blocks of a fused kernel: images as [height][width][channels], channels padded to whole vectors, each image
// with a border of zeros where a convolution wants padding. All sizes are constants, so the compiler unrolls the inner
// blocks and keeps their sums in registers. Comparisons are written so that NaN stays NaN, as in torch.

#include <cstring>

template <int V> struct Vector { typedef float type __attribute__((vector_size(4 * V), aligned(4), may_alias)); };
template <int V> using vec = typename Vector<V>::type;

// What lies between layers: float, or bfloat16 in pairs that are multiplied and added up two at a time in float.
#ifdef BFLOAT16
#include <immintrin.h>
using number = unsigned short;
constexpr int TOGETHER = 2;
template <int V> struct Halves { typedef number type __attribute__((vector_size(2 * V), aligned(2), may_alias)); };
template <int V> struct Words { typedef unsigned type __attribute__((vector_size(4 * V))); };
typedef int word __attribute__((aligned(2), may_alias));

template <int V> static inline vec<V> load(const number* p) {
    typedef typename Halves<V>::type halves;
    typedef typename Words<V>::type words;
    return (vec<V>)(__builtin_convertvector(*(const halves*)p, words) << 16);
}
template <int V> static inline void store(number* p, vec<V> v) {
    if constexpr (V == 16) _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
    else if constexpr (V == 8) _mm_storeu_si128((__m128i*)p, (__m128i)_mm256_cvtneps_pbh((__m256)v));
    else _mm_storel_epi64((__m128i*)p, (__m128i)_mm_cvtneps_pbh((__m128)v));
}
template <int V> static inline void accumulate(vec<V>& sum, const number* x, vec<V> weight) {
    const int pair = *(const word*)x;
    if constexpr (V == 16)
        sum = (vec<V>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)weight);
    else if constexpr (V == 8)
        sum = (vec<V>)_mm256_dpbf16_ps((__m256)sum, (__m256bh)_mm256_set1_epi32(pair), (__m256bh)weight);
    else sum = (vec<V>)_mm_dpbf16_ps((__m128)sum, (__m128bh)_mm_set1_epi32(pair), (__m128bh)weight);
}
template <int V> static inline void accumulate_last(vec<V>& sum, const number* x, vec<V> weight) {
    const word alone = *x;  // without its neighbour, which is padding and may be NaN
    accumulate<V>(sum, (const number*)&alone, weight);
}
static inline float to_float(number x) {
    const unsigned bits = unsigned(x) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
static inline number to_number(float value) {  // to the nearest, ties to even
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return value != value ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
#else
using number = float;
constexpr int TOGETHER = 1;
template <int V> static inline vec<V> load(const number* p) { return *(const vec<V>*)p; }
template <int V> static inline void store(number* p, vec<V> v) { *(vec<V>*)p = v; }
template <int V> static inline void accumulate(vec<V>& sum, const number* x, vec<V> weight) { sum += *x * weight; }
template <int V> static inline void accumulate_last(vec<V>& sum, const number* x, vec<V> weight) {}
static inline float to_float(number x) { return x; }
static inline number to_number(float value) { return value; }
#endif
template <int V> static inline vec<V> load_weight(const float* p) { return *(const vec<V>*)p; }
template <int V> static inline vec<V> relu_of(vec<V> v) { return v < 0 ? vec<V>{} : v; }

// An image: C channels at a distance of CS floats, H x W pixels, a border of B pixels on every side.
template <int C_, int CS_, int H_, int W_, int B_> struct Image {
    static constexpr int C = C_, CS = CS_, H = H_, W = W_, B = B_;
    static constexpr long ROW = long(W_ + 2 * B_) * CS_;
    static inline long at(int y, int x) { return (y + B_) * ROW + long(x + B_) * CS_; }
};

constexpr int words(int inputs) { return (inputs + TOGETHER - 1) / TOGETHER; }

// P pixels of a row times Q vectors of output channels, all sums in registers; rows FIRST to LAST of the filter.
template <class I, int V, int Q, int P, int KW, int SW, int DH, int DW, bool ADD, bool RELU>
static inline __attribute__((always_inline)) void convolve_block(
    int first_row, int last_row, const number* x, const float* w, const float* bias, const number* added,
    long added_step, number* out, long out_step) {
    vec<V> sum[P][Q];
#pragma GCC unroll 32
    for (int p = 0; p < P; p++)
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++) sum[p][q] = load_weight<V>(bias + q * V);
    w += first_row * KW * words(I::C) * Q * V;
#pragma GCC unroll 1
    for (int ky = first_row; ky < last_row; ky++)
#pragma GCC unroll 1
        for (int kx = 0; kx < KW; kx++) {
            const number* from = x + ky * DH * I::ROW + kx * DW * I::CS;
#pragma GCC unroll 4
            for (int c = 0; c < I::C; c += TOGETHER, w += Q * V) {
                vec<V> weight[Q];
#pragma GCC unroll 8
                for (int q = 0; q < Q; q++) weight[q] = load_weight<V>(w + q * V);
#pragma GCC unroll 32
                for (int p = 0; p < P; p++)
#pragma GCC unroll 8
                    for (int q = 0; q < Q; q++) {
                        if (c + TOGETHER <= I::C) accumulate<V>(sum[p][q], from + p * SW * I::CS + c, weight[q]);
                        else accumulate_last<V>(sum[p][q], from + p * SW * I::CS + c, weight[q]);
                    }
            }
        }
#pragma GCC unroll 32
    for (int p = 0; p < P; p++)
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++) {
            vec<V> made = sum[p][q];
            if (ADD) made += load<V>(added + p * added_step + q * V);
            store<V>(out + p * out_step + q * V, RELU ? relu_of<V>(made) : made);
        }
}

// I: image in, O: image out, A: image that is added. Weights lie as [channels out / (Q V)][KH][KW][channels in][Q V].
// Rows of the filter that lie wholly in the border are skipped.
template <class I, class O, class A, int V, int Q, int P, int KH, int KW, int SH, int SW, int PH, int PW, int DH, int DW,
          bool ADD, bool RELU>
static void convolve(const number* x, const float* w, const float* bias, const number* added, number* out) {
    constexpr int BLOCKS = O::CS / (Q * V), REST = O::W % P;
    for (int block = 0; block < BLOCKS; block++, w += KH * KW * words(I::C) * Q * V) {
        const int channel = block * Q * V;
        for (int y = 0; y < O::H; y++) {
            const int top = y * SH - PH;
            int first = 0, last = KH, column = 0;
            while (first < last && top + first * DH < 0) first++;
            while (last > first && top + (last - 1) * DH >= I::H) last--;
            for (; column + P <= O::W; column += P)
                convolve_block<I, V, Q, P, KW, SW, DH, DW, ADD, RELU>(
                    first, last, x + I::at(top, column * SW - PW), w, bias + channel,
                    added + A::at(y, column) + channel, A::CS, out + O::at(y, column) + channel, O::CS);
            if constexpr (REST > 0)
                convolve_block<I, V, Q, REST, KW, SW, DH, DW, ADD, RELU>(
                    first, last, x + I::at(top, column * SW - PW), w, bias + channel,
                    added + A::at(y, column) + channel, A::CS, out + O::at(y, column) + channel, O::CS);
        }
    }
}

// P samples times Q vectors of outputs. A sample's inputs lie as [pixels][channels], at a distance of CS floats.
template <int V, int Q, int P, int PIXELS, int C, int CS, bool ADD, bool RELU>
static inline __attribute__((always_inline)) void multiply_block(
    const number* x, long x_step, const float* w, const float* bias, const number* added, long added_step, number* out,
    long out_step) {
    vec<V> sum[P][Q];
#pragma GCC unroll 32
    for (int p = 0; p < P; p++)
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++) sum[p][q] = load_weight<V>(bias + q * V);
    for (int pixel = 0; pixel < PIXELS; pixel++, x += CS)
#pragma GCC unroll 4
        for (int c = 0; c < C; c += TOGETHER, w += Q * V) {
            vec<V> weight[Q];
#pragma GCC unroll 8
            for (int q = 0; q < Q; q++) weight[q] = load_weight<V>(w + q * V);
#pragma GCC unroll 32
            for (int p = 0; p < P; p++)
#pragma GCC unroll 8
                for (int q = 0; q < Q; q++) {
                    if (c + TOGETHER <= C) accumulate<V>(sum[p][q], x + p * x_step + c, weight[q]);
                    else accumulate_last<V>(sum[p][q], x + p * x_step + c, weight[q]);
                }
        }
#pragma GCC unroll 32
    for (int p = 0; p < P; p++)
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++) {
            vec<V> made = sum[p][q];
            if (ADD) made += load<V>(added + p * added_step + q * V);
            store<V>(out + p * out_step + q * V, RELU ? relu_of<V>(made) : made);
        }
}

// Weights lie as [outputs / (Q V)][inputs][Q V].
template <int V, int Q, int P, int PIXELS, int C, int CS, int OUT, bool ADD, bool RELU>
static void multiply(int rows, const number* x, long x_step, const float* w, const float* bias, const number* added,
                     long added_step, number* out, long out_step) {
    for (int block = 0; block < OUT / (Q * V); block++, w += long(PIXELS) * words(C) * Q * V) {
        const int first = block * Q * V;
        int row = 0;
        for (; row + P <= rows; row += P)
            multiply_block<V, Q, P, PIXELS, C, CS, ADD, RELU>(
                x + row * x_step, x_step, w, bias + first, added + row * added_step + first, added_step,
                out + row * out_step + first, out_step);
        for (; row < rows; row++)
            multiply_block<V, Q, 1, PIXELS, C, CS, ADD, RELU>(
                x + row * x_step, x_step, w, bias + first, added + row * added_step + first, added_step,
                out + row * out_step + first, out_step);
    }
}

// out = relu(x * scale + shift + added), channel by channel; each part only where it is asked for.
template <class I, class O, class A, int V, bool AFFINE, bool ADD, bool RELU>
static void elementwise(const number* x, const float* scale, const float* shift, const number* added, number* out) {
    for (int y = 0; y < O::H; y++)
        for (int column = 0; column < O::W; column++)
            for (int c = 0; c < O::CS; c += V) {
                vec<V> made = load<V>(x + I::at(y, column) + c);
                if (AFFINE) made = made * load_weight<V>(scale + c) + load_weight<V>(shift + c);
                if (ADD) made += load<V>(added + A::at(y, column) + c);
                store<V>(out + O::at(y, column) + c, RELU ? relu_of<V>(made) : made);
            }
}

template <class I, class O, int V, int KH, int KW, int SH, int SW, int PH, int PW>
static void max_pool(const number* x, number* out) {
    for (int y = 0; y < O::H; y++)
        for (int column = 0; column < O::W; column++)
            for (int c = 0; c < O::CS; c += V) {
                vec<V> best = vec<V>{} - __builtin_inff();
#pragma GCC unroll 4
                for (int ky = 0; ky < KH; ky++)
#pragma GCC unroll 4
                    for (int kx = 0; kx < KW; kx++) {
                        const int from_y = y * SH - PH + ky, from_x = column * SW - PW + kx;
                        if ((PH || PW) && (from_y < 0 || from_y >= I::H || from_x < 0 || from_x >= I::W)) continue;
                        const vec<V> value = load<V>(x + I::at(from_y, from_x) + c);
                        best = best >= value ? best : (best != best ? best : value);
                    }
                store<V>(out + O::at(y, column) + c, best);
            }
}

template <class I, class O, int V, int KH, int KW, int SH, int SW>
static void average_pool(const number* x, number* out) {
    for (int y = 0; y < O::H; y++)
        for (int column = 0; column < O::W; column++)
            for (int c = 0; c < O::CS; c += V) {
                vec<V> sum = {};
                for (int ky = 0; ky < KH; ky++)
                    for (int kx = 0; kx < KW; kx++) sum += load<V>(x + I::at(y * SH + ky, column * SW + kx) + c);
                store<V>(out + O::at(y, column) + c, sum / float(KH * KW));
            }
}

// Every SH-th row and SW-th column; channels shifted by OFFSET, the rest zero.
template <class I, class O, int SH, int SW, int OFFSET> static void select(const number* x, number* out) {
    for (int y = 0; y < O::H; y++)
        for (int column = 0; column < O::W; column++) {
            number* to = out + O::at(y, column);
            std::memset(to, 0, O::CS * sizeof(number));
            std::memcpy(to + OFFSET, x + I::at(y * SH, column * SW), I::C * sizeof(number));
        }
}

// One sample from the data, [channels][height][width], into an image: a sum of SOURCES tensors, weighed.
template <class O, int SOURCES>
static void enter(const float* const* sources, const float* factors, long sample, number* out) {
    constexpr long SIZE = long(O::C) * O::H * O::W;
    for (int c = 0; c < O::C; c++)
        for (int y = 0; y < O::H; y++) {
            const long from = sample * SIZE + (long(c) * O::H + y) * O::W;
            for (int column = 0; column < O::W; column++) {
                float value = sources[0][from + column];
                for (int s = 1; s < SOURCES; s++) value += factors[s] * sources[s][from + column];
                out[O::at(y, column) + c] = to_number(value);
            }
        }
}

// The same for vectors; factors[0] is 1.
template <int SIZE, int SOURCES, bool RELU>
static void enter_rows(const float* const* sources, const float* factors, long start, int rows, number* out,
                       long step) {
    for (int row = 0; row < rows; row++) {
        const long from = (start + row) * SIZE;
        for (int i = 0; i < SIZE; i++) {
            float value = sources[0][from + i];
#pragma GCC unroll 8
            for (int s = 1; s < SOURCES; s++) value += factors[s] * sources[s][from + i];
            out[row * step + i] = to_number(RELU && value < 0 ? 0 : value);
        }
    }
}
