//: popcount
#if defined(__GNUC__) && !defined(PORTABLE)
#define ONES(x) __builtin_popcountll(x)
#else
static int ONES(uint64_t x) {
  x -= (x >> 1) & 0x5555555555555555;
  x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return (int)((x * 0x0101010101010101) >> 56);
}
#endif
//: window
/* What one layer reads: a map, the kernel over it, and its number of outputs. */
typedef struct {
  int32_t c, h, w, o, kh, kw, stride, pad;
} window;
//: bit_sums popcount window
/* Sums at one place, of signs by signs: c - 2 (bits that differ), for each pair of planes. */
static void bit_sums(const window *s, const uint64_t *x, int xbits, const uint64_t *weights, int wbits, int32_t y,
                     int32_t z, int32_t *sums) {
  const int32_t words = (s->c + 63) / 64, plane = s->h * s->w * words, apart = s->o * s->kh * s->kw * words;
  for (int32_t o = 0; o < s->o; o++) {
    int32_t sum = 0;
    for (int32_t a = 0; a < s->kh; a++) {
      const int32_t row = y * s->stride + a - s->pad;
      if (row < 0 || row >= s->h) continue;
      for (int32_t b = 0; b < s->kw; b++) {
        const int32_t column = z * s->stride + b - s->pad;
        if (column < 0 || column >= s->w) continue;
        const uint64_t *from = x + (row * s->w + column) * words;
        const uint64_t *tap = weights + ((o * s->kh + a) * s->kw + b) * words;
        for (int i = 0; i < xbits; i++)
          for (int j = 0; j < wbits; j++) {
            int32_t differ = 0;
            for (int32_t k = 0; k < words; k++) differ += ONES(from[i * plane + k] ^ tap[j * apart + k]);
            sum += (s->c - 2 * differ) * (1 << (i + j));
          }
      }
    }
    sums[o] = sum;
  }
}
//: ternary_sums popcount window
/* Sums at one place, of signs by -1, 0, 1: the first plane of weights says where they are not 0. */
static void ternary_sums(const window *s, const uint64_t *x, int xbits, const uint64_t *weights, int32_t y, int32_t z,
                         int32_t *sums) {
  const int32_t words = (s->c + 63) / 64, plane = s->h * s->w * words, apart = s->o * s->kh * s->kw * words;
  for (int32_t o = 0; o < s->o; o++) {
    int32_t sum = 0;
    for (int32_t a = 0; a < s->kh; a++) {
      const int32_t row = y * s->stride + a - s->pad;
      if (row < 0 || row >= s->h) continue;
      for (int32_t b = 0; b < s->kw; b++) {
        const int32_t column = z * s->stride + b - s->pad;
        if (column < 0 || column >= s->w) continue;
        const uint64_t *from = x + (row * s->w + column) * words;
        const uint64_t *tap = weights + ((o * s->kh + a) * s->kw + b) * words;
        for (int i = 0; i < xbits; i++) {
          int32_t count = 0;
          for (int32_t k = 0; k < words; k++)
            count += ONES(tap[k]) - 2 * ONES(tap[k] & (from[i * plane + k] ^ tap[apart + k]));
          sum += count * (1 << i);
        }
      }
    }
    sums[o] = sum;
  }
}
//: weight
/* One integer weight of a dense array of bits, plane after plane; 0 bits are -1, 0, 1 in two planes. */
static int32_t weight(const uint8_t *planes, int32_t bytes, int bits, int32_t at) {
  int32_t code = 0;
  for (int i = 0; i < (bits ? bits : 2); i++) code |= (planes[i * bytes + at / 8] >> (at % 8) & 1) << i;
  return bits ? 2 * code - (1 << bits) + 1 : (code & 1) * (code & 2 ? 1 : -1);
}
//: pixel_sums weight window
/* Sums at one place, of bytes by integer weights; a byte stands for `level[byte]`. Bytes are (c, h, w). */
static void pixel_sums(const window *s, const uint8_t *x, const int16_t *level, const uint8_t *weights, int32_t bytes,
                       int wbits, int32_t y, int32_t z, int32_t *sums) {
  for (int32_t o = 0; o < s->o; o++) {
    int32_t sum = 0;
    for (int32_t a = 0; a < s->kh; a++) {
      const int32_t row = y * s->stride + a - s->pad;
      if (row < 0 || row >= s->h) continue;
      for (int32_t b = 0; b < s->kw; b++) {
        const int32_t column = z * s->stride + b - s->pad;
        if (column < 0 || column >= s->w) continue;
        const int32_t tap = ((o * s->kh + a) * s->kw + b) * s->c;
        for (int32_t c = 0; c < s->c; c++)
          sum += level[x[(c * s->h + row) * s->w + column]] * weight(weights, bytes, wbits, tap + c);
      }
    }
    sums[o] = sum;
  }
}
//: integer_sums weight window
/* Sums at one place, of whole numbers (h, w, c) by integer weights. */
static void integer_sums(const window *s, const int32_t *x, const uint8_t *weights, int32_t bytes, int wbits,
                         int32_t y, int32_t z, int32_t *sums) {
  for (int32_t o = 0; o < s->o; o++) {
    int32_t sum = 0;
    for (int32_t a = 0; a < s->kh; a++) {
      const int32_t row = y * s->stride + a - s->pad;
      if (row < 0 || row >= s->h) continue;
      for (int32_t b = 0; b < s->kw; b++) {
        const int32_t column = z * s->stride + b - s->pad;
        if (column < 0 || column >= s->w) continue;
        const int32_t tap = ((o * s->kh + a) * s->kw + b) * s->c;
        for (int32_t c = 0; c < s->c; c++)
          sum += x[(row * s->w + column) * s->c + c] * weight(weights, bytes, wbits, tap + c);
      }
    }
    sums[o] = sum;
  }
}
//: float_sums weight window
/* A convolution of floats (h, w, c), added tap by tap, rounded after every product and sum. Weights are floats, or,
   where these are 0, integers in planes of bits. */
static void float_sums(const window *s, const float *x, const float *floats, const uint8_t *planes, int32_t bytes,
                       int wbits, int32_t y, int32_t z, float *sums) {
  for (int32_t o = 0; o < s->o; o++) {
    float sum = 0.0f;
    for (int32_t a = 0; a < s->kh; a++) {
      const int32_t row = y * s->stride + a - s->pad;
      if (row < 0 || row >= s->h) continue;
      for (int32_t b = 0; b < s->kw; b++) {
        const int32_t column = z * s->stride + b - s->pad;
        if (column < 0 || column >= s->w) continue;
        const int32_t tap = ((o * s->kh + a) * s->kw + b) * s->c;
        for (int32_t c = 0; c < s->c; c++) {
          const float factor = floats ? floats[tap + c] : (float)weight(planes, bytes, wbits, tap + c);
          const float product = x[(row * s->w + column) * s->c + c] * factor;
          sum += product;
        }
      }
    }
    sums[o] = sum;
  }
}
//: put
/* Write a code of one channel of one place: a bit into each plane. */
static void put(uint64_t *y, int32_t plane, int32_t at, int32_t channel, int bits, int code) {
  for (int i = 0; i < bits; i++) {
    uint64_t *word = y + i * plane + at + channel / 64;
    if (channel % 64 == 0) *word = 0;
    *word |= (uint64_t)(code >> i & 1) << (channel % 64);
  }
}
//: get
/* The level of one channel of one place. */
static int32_t get(const uint64_t *x, int32_t plane, int32_t at, int32_t channel, int bits) {
  int32_t code = 0;
  for (int i = 0; i < bits; i++) code |= (int32_t)(x[i * plane + at + channel / 64] >> (channel % 64) & 1) << i;
  return 2 * code - (1 << bits) + 1;
}
//: pixel_codes put
/* Bytes (c, h, w) to planes of codes. */
static void pixel_codes(const uint8_t *x, const int16_t *level, int bits, int32_t c, int32_t places, uint64_t *y) {
  const int32_t words = (c + 63) / 64;
  for (int32_t p = 0; p < places; p++)
    for (int32_t k = 0; k < c; k++)
      put(y, places * words, p * words, k, bits, (level[x[k * places + p]] + (1 << bits) - 1) / 2);
}
//: threshold put
/* Codes of one place: how many of the channel's thresholds are reached. */
static void threshold(const int32_t *sums, const int32_t *table, int32_t c, int bits, int32_t places, int32_t p,
                      uint64_t *y) {
  const int32_t words = (c + 63) / 64, count = (1 << bits) - 1;
  for (int32_t k = 0; k < c; k++) {
    int code = 0;
    for (int32_t t = 0; t < count; t++) code += sums[k] >= table[k * count + t];
    put(y, places * words, p * words, k, bits, code);
  }
}
//: levels put
/* Codes of floats (place, channel): how many thresholds are reached. */
static void levels(const float *x, const float *table, int32_t c, int bits, int32_t places, uint64_t *y) {
  const int32_t words = (c + 63) / 64, count = (1 << bits) - 1;
  for (int32_t p = 0; p < places; p++)
    for (int32_t k = 0; k < c; k++) {
      int code = 0;
      for (int32_t t = 0; t < count; t++) code += x[p * c + k] >= table[t];
      put(y, places * words, p * words, k, bits, code);
    }
}
//: max_codes
/* Largest codes of windows: for one bit an OR, for more from the highest plane down. */
static void max_codes(const uint64_t *x, int32_t c, int32_t h, int32_t w, int bits, int32_t size, int32_t stride,
                      int32_t oh, int32_t ow, uint64_t *y) {
  const int32_t words = (c + 63) / 64, plane = h * w * words, made = oh * ow * words;
  for (int32_t p = 0; p < oh * ow; p++)
    for (int32_t k = 0; k < words; k++) {
      const int32_t to = p * words + k;
      for (int i = 0; i < bits; i++) y[i * made + to] = 0;
      for (int32_t q = 0; q < size * size; q++) {
        const int32_t row = p / ow * stride + q / size, column = p % ow * stride + q % size;
        const int32_t from = (row * w + column) * words + k;
        uint64_t larger = 0, equal = ~(uint64_t)0;
        for (int i = bits - 1; i >= 0; i--) {
          const uint64_t a = x[i * plane + from], b = y[i * made + to];
          larger |= equal & a & ~b;
          equal &= ~(a ^ b);
        }
        for (int i = 0; i < bits; i++)
          y[i * made + to] = (larger & x[i * plane + from]) | (~larger & y[i * made + to]);
      }
    }
}
//: max_floats
static void max_floats(const float *x, int32_t c, int32_t w, int32_t size, int32_t stride, int32_t oh, int32_t ow,
                       float *y) {
  for (int32_t p = 0; p < oh * ow; p++)
    for (int32_t k = 0; k < c; k++) {
      const int32_t row = p / ow * stride, column = p % ow * stride;
      float best = x[(row * w + column) * c + k];
      for (int32_t q = 1; q < size * size; q++) {
        const float next = x[((row + q / size) * w + column + q % size) * c + k];
        if (next > best) best = next;
      }
      y[p * c + k] = best;
    }
}
//: sum_codes get
/* Sums of levels over the map, negated where a channel is turned. */
static void sum_codes(const uint64_t *x, const uint8_t *turned, int32_t c, int32_t places, int bits, int32_t *y) {
  const int32_t words = (c + 63) / 64;
  for (int32_t k = 0; k < c; k++) {
    y[k] = 0;
    for (int32_t p = 0; p < places; p++) y[k] += get(x, places * words, p * words, k, bits);
    if (turned && turned[k]) y[k] = -y[k];
  }
}
//: sum_floats
static void sum_floats(const float *x, int32_t c, int32_t places, float *y) {
  for (int32_t k = 0; k < c; k++) {
    y[k] = 0.0f;
    for (int32_t p = 0; p < places; p++) y[k] += x[p * c + k];
  }
}
//: affine
/* x [alpha] scale + shift of one place, rounded after each step. `x` and `y` may be the same. */
static void affine(const float *x, const float *alpha, const float *scale, const float *shift, int32_t c, float *y) {
  for (int32_t k = 0; k < c; k++) {
    float value = alpha ? x[k] * alpha[k] : x[k];
    value = value * scale[k];
    y[k] = value + shift[k];
  }
}
//: to_floats
static void to_floats(const int32_t *x, int32_t count, float *y) {
  for (int32_t k = 0; k < count; k++) y[k] = (float)x[k];
}
//: code_floats get
static void code_floats(const uint64_t *x, int32_t c, int32_t places, int bits, float *y) {
  const int32_t words = (c + 63) / 64;
  for (int32_t p = 0; p < places; p++)
    for (int32_t k = 0; k < c; k++) y[p * c + k] = (float)get(x, places * words, p * words, k, bits);
}
//: normalised
/* Bytes (c, h, w) to floats (place, channel). */
static void normalised(const uint8_t *x, const float *mean, const float *std, int32_t c, int32_t places, float *y) {
  for (int32_t p = 0; p < places; p++)
    for (int32_t k = 0; k < c; k++) {
      float value = (float)x[k * places + p] / 255.0f;
      value = value - mean[k];
      y[p * c + k] = value / std[k];
    }
}
//: relu
static void relu(const float *x, int32_t count, float *y) {
  for (int32_t k = 0; k < count; k++) y[k] = x[k] > 0.0f ? x[k] : 0.0f;
}
//: add
static void add(const float *x, const float *z, int32_t count, float *y) {
  for (int32_t k = 0; k < count; k++) y[k] = x[k] + z[k];
}
//: repeat
static void repeat(const float *x, int32_t c, int32_t places, int32_t copies, float *y) {
  for (int32_t p = 0; p < places; p++)
    for (int32_t k = 0; k < c * copies; k++) y[p * c * copies + k] = x[p * c + k % c];
}
//: mean
/* Means of windows side by side; one at the edge is as large as what is left of it. */
static void mean(const float *x, int32_t c, int32_t h, int32_t w, int32_t size, float *y) {
  const int32_t oh = (h + size - 1) / size, ow = (w + size - 1) / size;
  for (int32_t p = 0; p < oh * ow; p++)
    for (int32_t k = 0; k < c; k++) {
      float total = 0.0f;
      int32_t count = 0;
      for (int32_t row = p / ow * size; row < h && row < (p / ow + 1) * size; row++)
        for (int32_t column = p % ow * size; column < w && column < (p % ow + 1) * size; column++, count++)
          total += x[(row * w + column) * c + k];
      y[p * c + k] = total / (float)count;
    }
}
