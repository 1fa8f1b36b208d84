/*
 * The steps of an integer network, one function each, in plain C99: what `c_source` copies from here.
 *
 * Activations are uint8 codes [height][width][channels] in one arena; a code q means (q - zero) * scale.
 * Weights are signed codes of 8, 4 or 2 bits, packed from the low bits of each byte up. Nothing is
 * allocated, nothing is included but stdint.h.
 *
 * Everything between "BEGIN name" and "END" is copied where a network has that step. Compile with
 * -std=c99 (or -ffp-contract=off): a fused multiply-add rounds once where the network was rounded twice.
 */

/* BEGIN base */
typedef struct { int32_t height, width, channels; } Shape;
typedef struct { int32_t height, width, down, across, top, left; } Window;
typedef struct { int32_t zero, low, high; } Codes;

/* The nearest whole number, halves to the even one, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits
   for fractions. Larger ones are far beyond every limit of codes. */
static int32_t nearest(float x) {
    const float shift = 12582912.0f;
    volatile float moved;
    if (x > 1e6f) return 1000000;
    if (x < -1e6f) return -1000000;
    moved = x + shift;
    return (int32_t)(moved - shift);
}

static uint8_t limited(int32_t q, Codes out) {
    q += out.zero;
    return (uint8_t)(q < out.low ? out.low : q > out.high ? out.high : q);
}
/* END */

/* BEGIN weight */
/* Code number i of packed weights. */
static int32_t weight(const uint8_t *codes, int32_t bits, int32_t i) {
    int32_t each, code, sign = 1 << (bits - 1);
    if (bits == 8) return (int8_t)codes[i];
    each = 8 / bits;
    code = (codes[i / each] >> (i % each * bits)) & ((1 << bits) - 1);
    return (code ^ sign) - sign;
}
/* END */

/* BEGIN quantize */
/* Floats [channels][height][width] to codes [height][width][channels]; 1 if one of them is no number. */
static int quantize(const float *x, Shape s, float inverse, Codes out, uint8_t *y) {
    int32_t pixels = s.height * s.width, p, c;
    for (c = 0; c < s.channels; c++)
        for (p = 0; p < pixels; p++) {
            float value = x[c * pixels + p];
            if (value != value) return 1;
            y[p * s.channels + c] = limited(nearest(value * inverse), out);
        }
    return 0;
}
/* END */

/* BEGIN conv2d */
/* y = clip(nearest((bias + sum of (q - zero) w) * factor) + out.zero); weights [outputs][height][width][channels]. */
static void conv2d(const uint8_t *x, Shape s, int32_t zero, const uint8_t *codes, int32_t bits, Window w,
                   const int32_t *bias, const float *factor, Codes out, uint8_t *y, Shape to) {
    int32_t row, column, n, i, j, c;
    for (row = 0; row < to.height; row++)
        for (column = 0; column < to.width; column++)
            for (n = 0; n < to.channels; n++) {
                int32_t sum = bias[n];
                for (i = 0; i < w.height; i++)
                    for (j = 0; j < w.width; j++) {
                        int32_t top = row * w.down - w.top + i, left = column * w.across - w.left + j;
                        int32_t here = (top * s.width + left) * s.channels;
                        int32_t first = ((n * w.height + i) * w.width + j) * s.channels;
                        /* Outside of the image stands the code `zero`, which adds nothing. */
                        if (top < 0 || left < 0 || top >= s.height || left >= s.width) continue;
                        for (c = 0; c < s.channels; c++)
                            sum += (x[here + c] - zero) * weight(codes, bits, first + c);
                    }
                *y++ = limited(nearest((float)sum * factor[n]), out);
            }
}
/* END */

/* BEGIN depthwise */
/* As conv2d, each channel by itself; weights [height][width][channels]. */
static void depthwise(const uint8_t *x, Shape s, int32_t zero, const uint8_t *codes, int32_t bits, Window w,
                      const int32_t *bias, const float *factor, Codes out, uint8_t *y, Shape to) {
    int32_t row, column, c, i, j;
    for (row = 0; row < to.height; row++)
        for (column = 0; column < to.width; column++)
            for (c = 0; c < to.channels; c++) {
                int32_t sum = bias[c];
                for (i = 0; i < w.height; i++)
                    for (j = 0; j < w.width; j++) {
                        int32_t top = row * w.down - w.top + i, left = column * w.across - w.left + j;
                        if (top < 0 || left < 0 || top >= s.height || left >= s.width) continue;
                        sum += (x[(top * s.width + left) * s.channels + c] - zero) *
                               weight(codes, bits, (i * w.width + j) * s.channels + c);
                    }
                *y++ = limited(nearest((float)sum * factor[c]), out);
            }
}
/* END */

/* BEGIN logits_of */
/* The last layer: floats, sum * scale + bias; weights [outputs][inputs]. */
static void logits_of(const uint8_t *x, int32_t inputs, int32_t zero, const uint8_t *codes, int32_t bits,
                      const float *scale, const float *bias, int32_t outputs, float *y) {
    int32_t n, k;
    for (n = 0; n < outputs; n++) {
        int32_t sum = 0;
        for (k = 0; k < inputs; k++) sum += (x[k] - zero) * weight(codes, bits, n * inputs + k);
        y[n] = (float)sum * scale[n] + bias[n];
    }
}
/* END */

/* BEGIN conv_logits */
/* A convolution as the last layer: floats [outputs][height][width]. */
static void conv_logits(const uint8_t *x, Shape s, int32_t zero, const uint8_t *codes, int32_t bits, Window w,
                        const float *scale, const float *bias, float *y, Shape to) {
    int32_t row, column, n, i, j, c;
    for (n = 0; n < to.channels; n++)
        for (row = 0; row < to.height; row++)
            for (column = 0; column < to.width; column++) {
                int32_t sum = 0;
                for (i = 0; i < w.height; i++)
                    for (j = 0; j < w.width; j++) {
                        int32_t top = row * w.down - w.top + i, left = column * w.across - w.left + j;
                        int32_t here = (top * s.width + left) * s.channels;
                        int32_t first = ((n * w.height + i) * w.width + j) * s.channels;
                        if (top < 0 || left < 0 || top >= s.height || left >= s.width) continue;
                        for (c = 0; c < s.channels; c++)
                            sum += (x[here + c] - zero) * weight(codes, bits, first + c);
                    }
                *y++ = (float)sum * scale[n] + bias[n];
            }
}
/* END */

/* BEGIN max_pool */
/* The largest code of each window. */
static void max_pool(const uint8_t *x, Shape s, Window w, uint8_t *y, Shape to) {
    int32_t row, column, c, i, j;
    for (row = 0; row < to.height; row++)
        for (column = 0; column < to.width; column++)
            for (c = 0; c < to.channels; c++) {
                uint8_t largest = 0;
                for (i = 0; i < w.height; i++)
                    for (j = 0; j < w.width; j++) {
                        int32_t top = row * w.down - w.top + i, left = column * w.across - w.left + j;
                        uint8_t q;
                        if (top < 0 || left < 0 || top >= s.height || left >= s.width) continue;
                        q = x[(top * s.width + left) * s.channels + c];
                        if (q > largest) largest = q;
                    }
                *y++ = largest;
            }
}
/* END */

/* BEGIN mean_pool */
/* The mean over all pixels; factor = scale / (pixels * the result's scale). */
static void mean_pool(const uint8_t *x, Shape s, int32_t zero, float factor, Codes out, uint8_t *y) {
    int32_t pixels = s.height * s.width, p, c;
    for (c = 0; c < s.channels; c++) {
        int32_t sum = 0;
        for (p = 0; p < pixels; p++) sum += x[p * s.channels + c] - zero;
        y[c] = limited(nearest((float)sum * factor), out);
    }
}
/* END */

/* BEGIN mean_windows */
/* The mean of each window; `padded`: whether padding counts as pixels. */
static void mean_windows(const uint8_t *x, Shape s, Window w, int32_t zero, int32_t padded, float factor,
                         Codes out, uint8_t *y, Shape to) {
    int32_t row, column, c, i, j;
    for (row = 0; row < to.height; row++)
        for (column = 0; column < to.width; column++)
            for (c = 0; c < to.channels; c++) {
                int32_t sum = 0, count = 0;
                for (i = 0; i < w.height; i++)
                    for (j = 0; j < w.width; j++) {
                        int32_t top = row * w.down - w.top + i, left = column * w.across - w.left + j;
                        int inside = top >= 0 && left >= 0 && top < s.height && left < s.width;
                        if (inside) sum += x[(top * s.width + left) * s.channels + c] - zero;
                        if (inside || (padded && top < s.height + w.top && left < s.width + w.left)) count++;
                    }
                *y++ = limited(nearest((float)sum * (factor / (float)count)), out);
            }
}
/* END */

/* BEGIN at */
/* Where a pixel's channel lies; an axis of length 1 stands beside every place of the other. */
static int32_t at(Shape s, int32_t row, int32_t column, int32_t c) {
    row = s.height > 1 ? row : 0;
    column = s.width > 1 ? column : 0;
    return (row * s.width + column) * s.channels + (s.channels > 1 ? c : 0);
}
/* END */

/* BEGIN add */
/* The sum of two activations. */
static void add(const uint8_t *a, Shape sa, int32_t zero_a, float factor_a, const uint8_t *b, Shape sb,
                int32_t zero_b, float factor_b, Codes out, uint8_t *y, Shape to) {
    int32_t row, column, c;
    for (row = 0; row < to.height; row++)
        for (column = 0; column < to.width; column++)
            for (c = 0; c < to.channels; c++) {
                float one = (float)(a[at(sa, row, column, c)] - zero_a) * factor_a;
                float other = (float)(b[at(sb, row, column, c)] - zero_b) * factor_b;
                *y++ = limited(nearest(one + other), out);
            }
}
/* END */

/* BEGIN multiply */
/* The product of two activations. */
static void multiply(const uint8_t *a, Shape sa, int32_t zero_a, const uint8_t *b, Shape sb, int32_t zero_b,
                     float factor, Codes out, uint8_t *y, Shape to) {
    int32_t row, column, c;
    for (row = 0; row < to.height; row++)
        for (column = 0; column < to.width; column++)
            for (c = 0; c < to.channels; c++) {
                int32_t one = a[at(sa, row, column, c)] - zero_a, other = b[at(sb, row, column, c)] - zero_b;
                *y++ = limited(nearest((float)(one * other) * factor), out);
            }
}
/* END */

/* BEGIN look_up */
/* Any function of a code: one table of 256 codes, or one for each channel. */
static void look_up(const uint8_t *x, int32_t pixels, int32_t channels, const uint8_t *table, int32_t tables,
                    uint8_t *y) {
    int32_t p, c;
    for (p = 0; p < pixels; p++)
        for (c = 0; c < channels; c++) *y++ = table[(tables > 1 ? c : 0) * 256 + *x++];
}
/* END */

/* BEGIN side_by_side */
/* One of several activations that become one: its channels begin at `first` of `all`. */
static void side_by_side(const uint8_t *x, Shape s, const uint8_t *table, int32_t first, int32_t all,
                         uint8_t *y) {
    int32_t p, c;
    for (p = 0; p < s.height * s.width; p++)
        for (c = 0; c < s.channels; c++) y[p * all + first + c] = table[*x++];
}
/* END */

/* BEGIN pad */
static int32_t mirrored(int32_t i, int32_t length) {
    if (i < 0) i = -i;
    return i >= length ? 2 * (length - 1) - i : i;
}

static int32_t clamped(int32_t i, int32_t length) { return i < 0 ? 0 : i >= length ? length - 1 : i; }

/* Pixels around an image: mode 0 the code `zero`, 1 the image mirrored, 2 its edge repeated. */
static void pad(const uint8_t *x, Shape s, int32_t top, int32_t left, int32_t mode, int32_t zero, uint8_t *y,
                Shape to) {
    int32_t row, column, c;
    for (row = 0; row < to.height; row++)
        for (column = 0; column < to.width; column++) {
            int32_t i = row - top, j = column - left;
            int outside = mode == 0 && (i < 0 || j < 0 || i >= s.height || j >= s.width);
            if (mode == 1) i = mirrored(i, s.height), j = mirrored(j, s.width);
            if (mode == 2) i = clamped(i, s.height), j = clamped(j, s.width);
            for (c = 0; c < s.channels; c++)
                *y++ = outside ? (uint8_t)zero : x[(i * s.width + j) * s.channels + c];
        }
}
/* END */

/* BEGIN spread */
/* The code `zero` between pixels and behind the last ones. */
static void spread(const uint8_t *x, Shape s, int32_t down, int32_t across, int32_t zero, uint8_t *y,
                   Shape to) {
    int32_t row, column, c;
    for (row = 0; row < to.height; row++)
        for (column = 0; column < to.width; column++) {
            int32_t i = row / down, j = column / across;
            int there = row % down == 0 && column % across == 0 && i < s.height && j < s.width;
            for (c = 0; c < s.channels; c++)
                *y++ = there ? x[(i * s.width + j) * s.channels + c] : (uint8_t)zero;
        }
}
/* END */

/* BEGIN upsample */
/* Each pixel `down` times `across` times. */
static void upsample(const uint8_t *x, Shape s, int32_t down, int32_t across, uint8_t *y, Shape to) {
    int32_t row, column, c;
    for (row = 0; row < to.height; row++)
        for (column = 0; column < to.width; column++)
            for (c = 0; c < s.channels; c++)
                *y++ = x[(row / down * s.width + column / across) * s.channels + c];
}
/* END */

/* BEGIN flatten */
/* [height][width][channels] to [channels][height][width], the order of the next layer's weights. */
static void flatten(const uint8_t *x, Shape s, uint8_t *y) {
    int32_t pixels = s.height * s.width, p, c;
    for (c = 0; c < s.channels; c++)
        for (p = 0; p < pixels; p++) *y++ = x[p * s.channels + c];
}
/* END */

/* BEGIN unflatten */
/* The way back. */
static void unflatten(const uint8_t *x, uint8_t *y, Shape to) {
    int32_t pixels = to.height * to.width, p, c;
    for (p = 0; p < pixels; p++)
        for (c = 0; c < to.channels; c++) *y++ = x[c * pixels + p];
}
/* END */

/* BEGIN chosen */
/* Channels by their places. */
static void chosen(const uint8_t *x, int32_t pixels, int32_t channels, const int32_t *places, int32_t count,
                   uint8_t *y) {
    int32_t p, c;
    for (p = 0; p < pixels; p++)
        for (c = 0; c < count; c++) *y++ = x[p * channels + places[c]];
}
/* END */

/* BEGIN dequantize */
/* Codes to floats [channels][height][width]. */
static void dequantize(const uint8_t *x, Shape s, int32_t zero, float scale, float *y) {
    int32_t pixels = s.height * s.width, p, c;
    for (c = 0; c < s.channels; c++)
        for (p = 0; p < pixels; p++) *y++ = (float)(x[p * s.channels + c] - zero) * scale;
}
/* END */
