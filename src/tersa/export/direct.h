/* Layers of a network as direct loops in C99: no library, no allocation, no threads.
   Images are (C, H, W); a padded tap contributes nothing. Integer layers add exact int32 products. */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct {
  int c, h, w, o, oh, ow;               /* input and output */
  int kh, kw, sh, sw, pt, pl, dh, dw;   /* kernel, stride, padding, dilation */
  int g;                                /* groups */
} window;

static int first(int pad, int tap, int stride) { return pad > tap ? (pad - tap + stride - 1) / stride : 0; }

static int last(int size, int pad, int tap, int stride, int out) {
  int end = size - 1 + pad - tap;
  end = end < 0 ? 0 : end / stride + 1;
  return end < out ? end : out;
}

static void conv_f32(const float *x, const float *weight, const float *bias, float *y, window s) {
  const int inside = s.c / s.g, outside = s.o / s.g;
  for (int o = 0; o < s.o; o++)
    for (int i = 0; i < s.oh; i++) {
      float *restrict row = y + ((long)o * s.oh + i) * s.ow;
      for (int j = 0; j < s.ow; j++) row[j] = bias ? bias[o] : 0.0f;
      for (int c = 0; c < inside; c++)
        for (int a = 0; a < s.kh; a++) {
          const int line = i * s.sh + a * s.dh - s.pt;
          if (line < 0 || line >= s.h) continue;
          const float *from = x + ((long)(o / outside * inside + c) * s.h + line) * s.w;
          for (int b = 0; b < s.kw; b++) {
            const float tap = weight[(((long)o * inside + c) * s.kh + a) * s.kw + b];
            const int start = first(s.pl, b * s.dw, s.sw), end = last(s.w, s.pl, b * s.dw, s.sw, s.ow);
            const float *restrict at = from + b * s.dw - s.pl;
            if (s.sw == 1)
              for (int j = start; j < end; j++) row[j] += tap * at[j];
            else
              for (int j = start; j < end; j++) row[j] += tap * at[j * s.sw];
          }
        }
    }
}

static void conv_i8(const uint8_t *x, int zero, const int8_t *weight, const float *scale, const float *bias,
                    float *y, int32_t *restrict sum, window s) {
  const int inside = s.c / s.g, outside = s.o / s.g;
  for (int o = 0; o < s.o; o++)
    for (int i = 0; i < s.oh; i++) {
      memset(sum, 0, s.ow * sizeof *sum);
      for (int c = 0; c < inside; c++)
        for (int a = 0; a < s.kh; a++) {
          const int line = i * s.sh + a * s.dh - s.pt;
          if (line < 0 || line >= s.h) continue;
          const uint8_t *from = x + ((long)(o / outside * inside + c) * s.h + line) * s.w;
          for (int b = 0; b < s.kw; b++) {
            const int32_t tap = weight[(((long)o * inside + c) * s.kh + a) * s.kw + b];
            const int start = first(s.pl, b * s.dw, s.sw), end = last(s.w, s.pl, b * s.dw, s.sw, s.ow);
            const uint8_t *restrict at = from + b * s.dw - s.pl;
            if (s.sw == 1)
              for (int j = start; j < end; j++) sum[j] += tap * (at[j] - zero);
            else
              for (int j = start; j < end; j++) sum[j] += tap * (at[j * s.sw] - zero);
          }
        }
      float *row = y + ((long)o * s.oh + i) * s.ow;
      for (int j = 0; j < s.ow; j++) row[j] = (float)sum[j] * scale[o] + (bias ? bias[o] : 0.0f);
    }
}

static void linear_f32(const float *x, const float *weight, const float *bias, float *y, int in, int out) {
  for (int o = 0; o < out; o++) {
    const float *restrict row = weight + (long)o * in;
    float part[16] = {0}, sum = bias ? bias[o] : 0.0f;
    int i = 0;
    for (; i + 16 <= in; i += 16)
      for (int k = 0; k < 16; k++) part[k] += row[i + k] * x[i + k];
    for (; i < in; i++) sum += row[i] * x[i];
    for (int k = 0; k < 16; k++) sum += part[k];
    y[o] = sum;
  }
}

static void linear_i8(const uint8_t *x, int zero, const int8_t *weight, const float *scale, const float *bias,
                      float *y, int in, int out) {
  for (int o = 0; o < out; o++) {
    const int8_t *restrict row = weight + (long)o * in;
    int32_t sum = 0;
    for (int i = 0; i < in; i++) sum += (int32_t)row[i] * (x[i] - zero);
    y[o] = (float)sum * scale[o] + (bias ? bias[o] : 0.0f);
  }
}

static void max_pool(const float *x, float *y, window s) {
  for (int c = 0; c < s.c; c++)
    for (int i = 0; i < s.oh; i++)
      for (int j = 0; j < s.ow; j++) {
        float most = -INFINITY;
        for (int a = 0; a < s.kh; a++)
          for (int b = 0; b < s.kw; b++) {
            const int line = i * s.sh + a * s.dh - s.pt, column = j * s.sw + b * s.dw - s.pl;
            if (line < 0 || line >= s.h || column < 0 || column >= s.w) continue;
            const float value = x[((long)c * s.h + line) * s.w + column];
            if (value > most) most = value;
          }
        y[((long)c * s.oh + i) * s.ow + j] = most;
      }
}

static void mean_pool(const float *x, float *y, window s, int padded) {
  for (int c = 0; c < s.c; c++)
    for (int i = 0; i < s.oh; i++)
      for (int j = 0; j < s.ow; j++) {
        float sum = 0.0f;
        int count = 0;
        for (int a = 0; a < s.kh; a++)
          for (int b = 0; b < s.kw; b++) {
            const int line = i * s.sh + a * s.dh - s.pt, column = j * s.sw + b * s.dw - s.pl;
            if (line < 0 || line >= s.h || column < 0 || column >= s.w) continue;
            sum += x[((long)c * s.h + line) * s.w + column];
            count++;
          }
        y[((long)c * s.oh + i) * s.ow + j] = sum / (padded ? s.kh * s.kw : count);
      }
}

static void clip(const float *x, float *y, long size, float low, float high) {
  for (long i = 0; i < size; i++) {
    const float value = x[i] > low ? x[i] : low;
    y[i] = value < high ? value : high;
  }
}

static void add(const float *a, const float *b, float *y, long size) {
  for (long i = 0; i < size; i++) y[i] = a[i] + b[i];
}

/* y = x * scale + shift, one pair for each channel */
static void affine(const float *x, const float *scale, const float *shift, float *y, int channels, long area) {
  for (int c = 0; c < channels; c++)
    for (long i = 0; i < area; i++) y[c * area + i] = x[c * area + i] * scale[c] + shift[c];
}

static void quantise(const float *x, uint8_t *y, long size, float scale, int zero) {
  for (long i = 0; i < size; i++) {
    const float value = rintf(x[i] / scale) + (float)zero;
    y[i] = (uint8_t)(value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value);
  }
}

static void dequantise(const uint8_t *x, float *y, long size, float scale, int zero) {
  for (long i = 0; i < size; i++) y[i] = scale * (float)(x[i] - zero);
}
