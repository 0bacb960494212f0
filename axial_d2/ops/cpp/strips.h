// What the operators of this folder have in common: strips as the lanes of vectors.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

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
  // OpenMP's `GOMP_parallel(function, its argument, threads, flags)`, or null.
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
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

// Lanes of two vectors, by their numbers. GCC before 12 has them go through memory where the result
// has another size.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define AXIAL_SHUFFLE __builtin_shufflevector
#endif
#endif

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
    exchange<S>(a, b, std::make_integer_sequence<int, W>());
  }

  template <int S, int... w>
  static void exchange(V &a, V &b, std::integer_sequence<int, w...>) {
#ifdef AXIAL_SHUFFLE
    V first = AXIAL_SHUFFLE(a, b, ((w & S) ? W + w - S : w)...);
    V second = AXIAL_SHUFFLE(a, b, ((w & S) ? W + w : w + S)...);
#else
    typedef typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type Index;
    typedef Index I __attribute__((vector_size(W * sizeof(T))));
    V first = __builtin_shuffle(a, b, I{((w & S) ? W + w - S : w)...});
    V second = __builtin_shuffle(a, b, I{((w & S) ? W + w : w + S)...});
#endif
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

  // Where vectors lie: channel c of place n at `n * place + c / 2 * pair + c % 2`.
  struct Layout {
    int64_t place, pair;
  };

  static T *origin(const View &view, const Sizes &sizes, int64_t head, int64_t strip) {
    return static_cast<T *>(view.data) + (strip / sizes.strips) * view.batch +
           (strip % sizes.strips) * view.strip + head * view.head;
  }

  // Four numbers from each fourth lane, as one vector.
  static V gather(const T *const *lane, int64_t at) {
    Four x[W / 4];
    for (int n = 0; n < W / 4; ++n) x[n] = *reinterpret_cast<const Four *>(lane[4 * n] + at);
#ifdef AXIAL_SHUFFLE
    if constexpr (W == 8) return AXIAL_SHUFFLE(x[0], x[1], 0, 1, 2, 3, 4, 5, 6, 7);
    if constexpr (W == 16) {
      auto low = AXIAL_SHUFFLE(x[0], x[1], 0, 1, 2, 3, 4, 5, 6, 7);
      auto high = AXIAL_SHUFFLE(x[2], x[3], 0, 1, 2, 3, 4, 5, 6, 7);
      return AXIAL_SHUFFLE(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    }
#endif
    V all;
    std::memcpy(&all, x, sizeof all);
    return all;
  }

  // The way back, to the first `lanes`.
  static void scatter(const V &x, T *const *lane, int64_t at, int64_t lanes) {
    Four part[W / 4];
#ifdef AXIAL_SHUFFLE
    part[0] = AXIAL_SHUFFLE(x, x, 0, 1, 2, 3);
    if constexpr (W >= 8) part[1] = AXIAL_SHUFFLE(x, x, 4, 5, 6, 7);
    if constexpr (W >= 16) {
      part[2] = AXIAL_SHUFFLE(x, x, 8, 9, 10, 11);
      part[3] = AXIAL_SHUFFLE(x, x, 12, 13, 14, 15);
    }
#else
    std::memcpy(part, &x, sizeof x);
#endif
    for (int n = 0; n < W / 4; ++n)
      if (4 * n < lanes) *reinterpret_cast<Four *>(lane[4 * n] + at) = part[n];
  }

  // Reads a group; lanes without a strip repeat the last, or are zero.
  void pack(const View &view, const Group &group, int64_t channels, bool repeat, V *out,
            Layout layout) const {
    const T *lane[W];
    for (int w = 0; w < W; ++w) {
      int64_t strip = group.first + std::min<int64_t>(w, group.count - 1);
      lane[w] = origin(view, sizes, group.head, strip);
    }
    for (int64_t place = 0; place < length; ++place, out += layout.place) {
      int64_t at = place * view.place, c = 0;
      if (view.channel == 1) {
        for (; c + 4 <= channels; c += 4) {
          V x[4];
          for (int n = 0; n < 4; ++n) x[n] = gather(lane + n, at + c);
          transpose(x);
          V *to = out + c / 2 * layout.pair;
          to[0] = x[0], to[1] = x[1], to += layout.pair, to[0] = x[2], to[1] = x[3];
        }
      }
      for (; c < channels; ++c) {
        V &x = out[c / 2 * layout.pair + c % 2];
        for (int w = 0; w < W; ++w) x[w] = lane[w][at + c * view.channel];
      }
      if (!repeat && group.count < W)
        for (c = 0; c < channels; ++c)
          for (int w = group.count; w < W; ++w) out[c / 2 * layout.pair + c % 2][w] = 0;
    }
  }

  // Writes `count` places from `place` on.
  void unpack(const View &view, const Group &group, int64_t place, int64_t count, int64_t channels,
              const V *in, Layout layout) const {
    T *lane[W];
    for (int w = 0; w < group.count; ++w)
      lane[w] = origin(view, sizes, group.head, group.first + w);
    for (int64_t n = 0; n < count; ++n, in += layout.place) {
      int64_t at = (place + n) * view.place, c = 0;
      if (view.channel == 1) {
        for (; c + 4 <= channels; c += 4) {
          const V *from = in + c / 2 * layout.pair;
          V x[4] = {from[0], from[1], from[layout.pair], from[layout.pair + 1]};
          transpose(x);
          for (int m = 0; m < 4; ++m) scatter(x[m], lane + m, at + c, group.count - m);
        }
      }
      for (; c < channels; ++c) {
        const V &x = in[c / 2 * layout.pair + c % 2];
        for (int w = 0; w < group.count; ++w) lane[w][at + c * view.channel] = x[w];
      }
    }
  }

  int64_t groups() const { return (sizes.batches * sizes.strips + W - 1) / W; }

  // The n-th group of a head's.
  Group group(int64_t head, int64_t n) const {
    return {head, n * W, std::min<int64_t>(W, sizes.batches * sizes.strips - n * W)};
  }

  Group group(int64_t task) const { return group(task / groups(), task % groups()); }

  // Runs `work(n, first task, last task)` for n < threads, on as many threads as there are.
  template <class Work>
  void divide(Work work) const {
    const int64_t tasks = groups() * sizes.heads;
    const int64_t threads = std::max<int64_t>(1, std::min(sizes.threads, tasks));
    std::atomic<int64_t> next{0};
    auto share = [&] {
      for (int64_t n; (n = next++) < threads;) work(n, tasks * n / threads, tasks * (n + 1) / threads);
    };
    if (threads == 1 || !sizes.parallel) return share();
    const auto call = [](void *it) { (*static_cast<decltype(share) *>(it))(); };
    // Always as many, though some may find nothing to do: for fewer, GNU's pool lets the others go.
    sizes.parallel(call, &share, unsigned(sizes.threads), 0);
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
