// What the operators of this folder have in common: strips as the lanes of vectors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

extern "C" {

// A (N, S, G, L, D) tensor: strides in elements. `data` may be null where a result is not wanted.
struct View {
  void *data;
  int64_t batch, strip, head, place, channel;
};

struct Sizes {
  int64_t batches, strips, heads, length, depth, value_depth;
  int64_t half;    // keys seen on either side of a query, L - 1 for all
  int64_t tables;  // 1: the heads share the tables, else G
  int64_t threads;
};
}

namespace {

// Aligned, zeroed memory, or null. Of bytes: a vector type loses its size as a template's argument.
struct Memory {
  void *data;
  explicit Memory(size_t bytes) {
    bytes = std::max<size_t>((bytes + 63) / 64 * 64, 64);
    data = std::aligned_alloc(64, bytes);
    if (data) std::memset(data, 0, bytes);
  }
  Memory(const Memory &) = delete;
  ~Memory() { std::free(data); }
};

// W strips of one head side by side, each in its own lane.
template <class T, int W>
struct Strips {
  typedef T V __attribute__((vector_size(W * sizeof(T))));
  typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));

  struct Vectors : Memory {
    V *at;
    explicit Vectors(int64_t count) : Memory(count * sizeof(V)), at(static_cast<V *>(data)) {}
  };
  struct Scalars : Memory {
    T *at;
    explicit Scalars(int64_t count) : Memory(count * sizeof(T)), at(static_cast<T *>(data)) {}
  };

  const Sizes &sizes;
  const int64_t length;

  explicit Strips(const Sizes &s) : sizes(s), length(s.length) {}

  static T sum(V a) {
    T total = 0;
    for (int w = 0; w < W; ++w) total += a[w];
    return total;
  }

  // Swaps, of two rows, the blocks of S lanes off the diagonal: one step of a transpose.
  template <int S>
  static void exchange(V &a, V &b) {
    typedef typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type Index;
    typedef Index I __attribute__((vector_size(W * sizeof(T))));
    I low, high;
    for (int w = 0; w < W; ++w) {
      low[w] = (w & S) ? W + w - S : w;
      high[w] = (w & S) ? W + w : w + S;
    }
    V first = __builtin_shuffle(a, b, low), second = __builtin_shuffle(a, b, high);
    a = first, b = second;
  }

  // Within each four lanes of four rows, turns rows into columns.
  static void transpose(V (&x)[4]) {
    exchange<1>(x[0], x[1]), exchange<1>(x[2], x[3]);
    exchange<2>(x[0], x[2]), exchange<2>(x[1], x[3]);
  }

  // ---- from strips to lanes and back ----------------------------------------------------------

  struct Group {  // W strips of a head
    int64_t head, first, count;
  };

  static T *origin(const View &view, const Sizes &sizes, int64_t head, int64_t strip) {
    return static_cast<T *>(view.data) + (strip / sizes.strips) * view.batch +
           (strip % sizes.strips) * view.strip + head * view.head;
  }

  // Reads a group into [place][channel]; lanes without a strip repeat the last, or are zero.
  void pack(const View &view, const Group &group, int64_t channels, bool repeat, V *out) const {
    const T *lane[W];
    for (int w = 0; w < W; ++w) {
      int64_t strip = group.first + std::min<int64_t>(w, group.count - 1);
      lane[w] = origin(view, sizes, group.head, strip);
    }
    for (int64_t place = 0; place < length; ++place, out += channels) {
      int64_t at = place * view.place, c = 0;
      if (view.channel == 1) {
        for (; c + 4 <= channels; c += 4) {
          V x[4];
          for (int n = 0; n < 4; ++n)
            for (int w = 0; w < W; w += 4) {
              Four four = *reinterpret_cast<const Four *>(lane[w + n] + at + c);
              std::memcpy(reinterpret_cast<T *>(&x[n]) + w, &four, sizeof four);
            }
          transpose(x);
          for (int n = 0; n < 4; ++n) out[c + n] = x[n];
        }
      }
      for (; c < channels; ++c)
        for (int w = 0; w < W; ++w) out[c][w] = lane[w][at + c * view.channel];
      if (!repeat)
        for (c = 0; c < channels; ++c)
          for (int w = group.count; w < W; ++w) out[c][w] = 0;
    }
  }

  // Writes [place][channel] of `count` places from `place` on.
  void unpack(const View &view, const Group &group, int64_t place, int64_t count, int64_t channels,
              const V *in) const {
    T *lane[W];
    for (int w = 0; w < group.count; ++w)
      lane[w] = origin(view, sizes, group.head, group.first + w);
    for (int64_t n = 0; n < count; ++n, in += channels) {
      int64_t at = (place + n) * view.place, c = 0;
      if (view.channel == 1) {
        for (; c + 4 <= channels; c += 4) {
          V x[4] = {in[c], in[c + 1], in[c + 2], in[c + 3]};
          transpose(x);
          for (int w = 0; w < group.count; ++w) {
            Four four;
            std::memcpy(&four, reinterpret_cast<T *>(&x[w % 4]) + w / 4 * 4, sizeof four);
            *reinterpret_cast<Four *>(lane[w] + at + c) = four;
          }
        }
      }
      for (; c < channels; ++c)
        for (int w = 0; w < group.count; ++w) lane[w][at + c * view.channel] = in[c][w];
    }
  }

  int64_t groups() const { return (sizes.batches * sizes.strips + W - 1) / W; }

  Group group(int64_t task) const {
    int64_t per_head = groups(), first = task % per_head * W;
    return {task / per_head, first,
            std::min<int64_t>(W, sizes.batches * sizes.strips - first)};
  }

  // Runs `work(thread, first task, last task)` on all threads, tasks in order of heads.
  template <class Work>
  void divide(Work work) const {
    const int64_t tasks = groups() * sizes.heads;
    const int64_t threads = std::max<int64_t>(1, std::min(sizes.threads, tasks));
#ifdef _OPENMP
#pragma omp parallel num_threads(int(threads))
    {
      const int64_t n = omp_get_thread_num(), all = omp_get_num_threads();
#else
    {
      const int64_t n = 0, all = 1;
#endif
      work(n, tasks * n / all, tasks * (n + 1) / all);
    }
  }
};

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

}  // namespace
