// 3x3 convolutions of stride 1 and padding 1 by Winograd's algorithm F(4x4, 3x3), in fp32.
//
// A tile of 4x4 outputs takes 36 multiplications for each pair of channels instead of 144. Matrices
// from Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308,
// section 4.3. Each thread takes blocks of tiles that fit its cache through all three steps:
// transform the inputs, 36 matrix products, transform the outputs. A tile's arithmetic does not
// depend on the number of threads or on the tiles beside it.

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
constexpr int ROWS = 12; // tiles of a micro-kernel: with COLUMNS it fills 32 registers
#else
constexpr int LANES = 8;
constexpr int ROWS = 6; // 16 registers
#endif
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

constexpr int POINTS = 36;         // of a transformed tile, 6x6
constexpr int COLUMNS = 2 * LANES; // output channels of a micro-kernel
constexpr int TILES = 60;          // of a block: a few MB with its products
constexpr int MANY_TILES = 144;    // where the kernel is large, and read anew for each block
constexpr long LARGE_KERNEL = 1 << 22; // floats: more than caches hold beside the tiles

Vec load(const float *from) { return *reinterpret_cast<const Vec *>(from); }
void store(float *to, Vec value) { *reinterpret_cast<Vec *>(to) = value; }
Vec all(float x) { return x - Vec{}; }

// B^T d: six values become six, `step` apart.
inline void transform_input(const Vec (&d)[6], Vec *out, int step) {
    Vec a = d[4] - 4.0f * d[2], b = d[3] - 4.0f * d[1];
    Vec c = d[4] - d[2], e = 2.0f * (d[3] - d[1]);
    out[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
    out[step] = a + b;
    out[2 * step] = a - b;
    out[3 * step] = c + e;
    out[4 * step] = c - e;
    out[5 * step] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

// A^T m: six values become four, `step` apart.
inline void transform_output(const Vec (&m)[6], Vec *out, int step) {
    Vec a = m[1] + m[2], b = m[1] - m[2];
    Vec c = m[3] + m[4], e = m[3] - m[4];
    out[0] = m[0] + a + c;
    out[step] = b + 2.0f * e;
    out[2 * step] = a + 4.0f * c;
    out[3 * step] = b + 8.0f * e + m[5];
}

struct Layer {
    const float *images; // (N, H, W, C)
    const float *kernel; // (36, K / COLUMNS, C, COLUMNS), transformed
    const float *bias;   // (K)
    float *out;          // (N, H, W, K), or (N, H / 2, W / 2, K) if pooled
    long n, height, width, n_in, n_out;
    bool relu, pool; // ReLU, and then the largest of each 2x2

    long tiles_down() const { return (height + 3) / 4; }
    long tiles_across() const { return (width + 3) / 4; }
    long n_tiles() const { return n * tiles_down() * tiles_across(); }
    long out_height() const { return pool ? height / 2 : height; }
    long out_width() const { return pool ? width / 2 : width; }
    bool holds(long row, long column) const {
        return row >= 0 && row < height && column >= 0 && column < width;
    }
};

// Where a tile's outputs begin.
struct Place {
    long image, top, left;

    Place(const Layer &layer, long tile)
        : image(tile / layer.tiles_across() / layer.tiles_down()),
          top(tile / layer.tiles_across() % layer.tiles_down() * 4),
          left(tile % layer.tiles_across() * 4) {}
};

void read_tile(const Layer &layer, long tile, float *to, long point_stride) {
    Place place(layer, tile);
    long down = layer.width * layer.n_in;
    long first = (place.image * layer.height + place.top - 1) * down + (place.left - 1) * layer.n_in;
    bool is_inside = place.top > 0 && place.left > 0 && place.top + 5 <= layer.height &&
                     place.left + 5 <= layer.width;
    for (long channel = 0; channel < layer.n_in; channel += LANES) {
        Vec half[POINTS];
        for (int j = 0; j < 6; j++) {
            Vec d[6];
            for (int i = 0; i < 6; i++) {
                bool is_there = is_inside || layer.holds(place.top + i - 1, place.left + j - 1);
                d[i] = is_there ? load(layer.images + (first + i * down + j * layer.n_in + channel)) : Vec{};
            }
            transform_input(d, half + j, 6);
        }
        for (int i = 0; i < 6; i++) {
            Vec d[6], out[6];
            for (int j = 0; j < 6; j++) d[j] = half[6 * i + j];
            transform_input(d, out, 1);
            for (int j = 0; j < 6; j++) store(to + (6 * i + j) * point_stride + channel, out[j]);
        }
    }
}

// The larger, or NaN if one is.
Vec larger(Vec a, Vec b) { return (a > b) | (a != a) ? a : b; }

void write_tile(const Layer &layer, long tile, const float *from, long point_stride) {
    Place place(layer, tile);
    const long side = layer.pool ? 2 : 4, top = place.top * side / 4, left = place.left * side / 4;
    for (long channel = 0; channel < layer.n_out; channel += LANES) {
        Vec half[24], out[4][4], bias = load(layer.bias + channel);
        for (int j = 0; j < 6; j++) {
            Vec m[6];
            for (int i = 0; i < 6; i++) m[i] = load(from + (6 * i + j) * point_stride + channel);
            transform_output(m, half + j, 6);
        }
        for (int i = 0; i < 4; i++) {
            Vec m[6];
            for (int j = 0; j < 6; j++) m[j] = half[6 * i + j];
            transform_output(m, out[i], 1);
        }
        if (layer.pool)
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 2; j++)
                    out[i][j] = larger(larger(out[2 * i][2 * j], out[2 * i][2 * j + 1]),
                                       larger(out[2 * i + 1][2 * j], out[2 * i + 1][2 * j + 1]));
        for (int i = 0; i < side && top + i < layer.out_height(); i++)
            for (int j = 0; j < side && left + j < layer.out_width(); j++) {
                long pixel = (place.image * layer.out_height() + top + i) * layer.out_width() + left + j;
                Vec value = out[i][j] + bias;
                if (layer.relu) value = value < 0.0f ? Vec{} : value; // NaN stays
                store(layer.out + pixel * layer.n_out + channel, value);
            }
    }
}

// (ROWS, n_in) @ (n_in, COLUMNS), in registers.
void multiply(const float *a, const float *b, float *to, long n_in, long n_out) {
    Vec sum[ROWS][2] = {};
    for (long k = 0; k < n_in; k++) {
        Vec left = load(b + k * COLUMNS), right = load(b + k * COLUMNS + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            sum[i][0] += all(a[i * n_in + k]) * left;
            sum[i][1] += all(a[i * n_in + k]) * right;
        }
    }
    for (int i = 0; i < ROWS; i++) {
        store(to + i * n_out, sum[i][0]);
        store(to + i * n_out + LANES, sum[i][1]);
    }
}

void run_block(const Layer &layer, long first, long n_tiles, float *inputs, float *products) {
    long n_rows = (n_tiles + ROWS - 1) / ROWS * ROWS;
    long in_stride = n_rows * layer.n_in, out_stride = n_rows * layer.n_out;
    for (long t = 0; t < n_tiles; t++)
        read_tile(layer, first + t, inputs + t * layer.n_in, in_stride);
    for (int p = 0; p < POINTS; p++) {
        float *rest = inputs + p * in_stride + n_tiles * layer.n_in;
        std::memset(rest, 0, sizeof(float) * (n_rows - n_tiles) * layer.n_in);
        for (long column = 0; column < layer.n_out; column += COLUMNS)
            for (long row = 0; row < n_rows; row += ROWS)
                multiply(inputs + p * in_stride + row * layer.n_in,
                         layer.kernel + (p * layer.n_out + column) * layer.n_in,
                         products + p * out_stride + row * layer.n_out + column, layer.n_in,
                         layer.n_out);
    }
    for (long t = 0; t < n_tiles; t++)
        write_tile(layer, first + t, products + t * layer.n_out, out_stride);
}

// As many tiles for every thread, if there are few.
long tiles_of_block(const Layer &layer, long n_threads) {
    long most = POINTS * layer.n_in * layer.n_out > LARGE_KERNEL ? MANY_TILES : TILES;
    long rounds = (layer.n_tiles() + most * n_threads - 1) / (most * n_threads);
    return (layer.n_tiles() + rounds * n_threads - 1) / (rounds * n_threads);
}

} // namespace

// Output channels come in panels of so many; input channels in half as many.
extern "C" int columns() { return COLUMNS; }

// Returns 0, or 1 if memory is short. n_in is a multiple of LANES, n_out of COLUMNS.
extern "C" int convolve(const float *images, const float *kernel, const float *bias, float *out,
                        long n, long height, long width, long n_in, long n_out, int relu,
                        int pool, int n_threads) {
    Layer layer{images, kernel, bias, out, n, height, width, n_in, n_out, relu != 0, pool != 0};
    long n_tiles = layer.n_tiles();
    if (n_tiles == 0) return 0;
    long size = tiles_of_block(layer, n_threads);
    int failed = 0;
#pragma omp parallel num_threads(n_threads) reduction(| : failed)
    {
        long n_floats = POINTS * (size + ROWS) * (n_in + n_out);
        float *scratch = static_cast<float *>(std::malloc(sizeof(float) * n_floats));
        failed = scratch == nullptr;
#pragma omp for schedule(dynamic)
        for (long first = 0; first < n_tiles; first += size) {
            long here = n_tiles - first < size ? n_tiles - first : size;
            if (scratch) {
                float *products = scratch + POINTS * (size + ROWS) * n_in;
                run_block(layer, first, here, scratch, products);
            }
        }
        std::free(scratch);
    }
    return failed;
}
