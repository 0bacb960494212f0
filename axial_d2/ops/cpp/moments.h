// Sums over the logits without the logits: ops/moments.py has the formulas. All in double precision,
// since a variance is a small difference of large sums.
//
// A matrix of products x_d x_e is symmetric and kept packed: d <= e, line by line, P entries.
#pragma once

#include "strips.h"

namespace {

template <class T, int W>
struct Moments : Strips<T, W> {
  using Base = Strips<T, W>;
  using V = typename Base::V;
  using Vectors = typename Base::Vectors;
  using Group = typename Base::Group;
  using Base::divide, Base::group, Base::length, Base::pack, Base::sizes, Base::unpack;

  // Of T, that is: GCC forgets the attribute on a type that no template's argument is part of.
  using Double = decltype(double(T()));
  // A register of doubles. Lanes are added up to so many before they are kept.
  static constexpr int N = BYTES / sizeof(double), PARTS = W / N;
  typedef Double Part __attribute__((vector_size(N * sizeof(double))));
  typedef T Narrow __attribute__((vector_size(N * sizeof(T))));

  // All lanes. Not one vector of twice a register's width: compilers have it go through memory.
  struct Wide {
    Part part[PARTS];

    Wide &operator+=(const Wide &other) { return *this = *this + other; }
    friend Wide operator+(Wide a, const Wide &b) {
      for (int n = 0; n < PARTS; ++n) a.part[n] += b.part[n];
      return a;
    }
    friend Wide operator+(Wide a, double b) {
      for (int n = 0; n < PARTS; ++n) a.part[n] += b;
      return a;
    }
    friend Wide operator*(Wide a, const Wide &b) {
      for (int n = 0; n < PARTS; ++n) a.part[n] *= b.part[n];
      return a;
    }
    friend Wide operator*(Wide a, double b) {
      for (int n = 0; n < PARTS; ++n) a.part[n] *= b;
      return a;
    }
  };

  static Wide widened(const V &x) {
    Narrow parts[PARTS];
    std::memcpy(parts, &x, sizeof x);
    Wide all;
    for (int n = 0; n < PARTS; ++n) all.part[n] = __builtin_convertvector(parts[n], Part);
    return all;
  }

  static V narrowed(const Wide &x) {
    Narrow parts[PARTS];
    for (int n = 0; n < PARTS; ++n) parts[n] = __builtin_convertvector(x.part[n], Narrow);
    V all;
    std::memcpy(&all, parts, sizeof all);
    return all;
  }

  struct Wides : Memory {
    Wide *at;
    explicit Wides(int64_t count) : Memory(count * sizeof(Wide)), at(static_cast<Wide *>(data)) {}
  };
  struct Parts : Memory {
    Part *at;
    explicit Parts(int64_t count) : Memory(count * sizeof(Part)), at(static_cast<Part *>(data)) {}
  };

  const int64_t depth, pairs, slot;

  explicit Moments(const Sizes &s)
      : Base(s),
        depth(s.depth),
        pairs(s.depth * (s.depth + 1) / 2),
        slot(2 + 2 * s.length * (depth + pairs)) {}

  static Part folded(const Wide &x) {
    Part total = x.part[0];
    for (int n = 1; n < PARTS; ++n) total += x.part[n];
    return total;
  }

  static double sum(const Part &x) {
    double total = 0;
    for (int n = 0; n < N; ++n) total += x[n];
    return total;
  }

  // Reads a group into [place][channel]; lanes without a strip are zero and so count nothing.
  void load(const View &view, const Group &g, V *narrow, Wide *out) const {
    pack(view, g, depth, false, narrow, {depth, 2});
    for (int64_t n = 0; n < length * depth; ++n) out[n] = widened(narrow[n]);
  }

  // Adds a place's vector and products to sums, or takes them off.
  void add(const Wide *x, double sign, Wide *sums, Wide *products) const {
    for (int64_t d = 0; d < depth; ++d) {
      const Wide a = x[d] * sign;
      sums[d] += a;
      for (int64_t e = d; e < depth; ++e) *products++ += a * x[e];
    }
  }

  // Calls `work(place)` with the sums over the band around each place of x.
  template <class Work>
  void slide(const Wide *x, Wide *sums, Wide *products, Work work) const {
    const int64_t half = sizes.half;
    for (int64_t d = 0; d < depth; ++d) sums[d] = Wide{};
    for (int64_t p = 0; p < pairs; ++p) products[p] = Wide{};
    for (int64_t j = 0; j < std::min(half, length); ++j) add(x + j * depth, 1, sums, products);
    for (int64_t i = 0; i < length; ++i) {
      if (i + half < length) add(x + (i + half) * depth, 1, sums, products);
      work(i);
      if (i >= half) add(x + (i - half) * depth, -1, sums, products);
    }
  }

  struct Work {  // What a thread holds.
    Vectors narrow;
    Wides q, k, sums, products, out;
    explicit Work(const Moments &m)
        : narrow(m.length * m.depth),
          q(m.length * m.depth),
          k(m.length * m.depth),
          sums(m.depth),
          products(m.pairs),
          out(m.depth) {}
    bool complete() const {
      return narrow.at && q.at && k.at && sums.at && products.at && out.at;
    }
  };

  // ---- forward ----------------------------------------------------------------------------------

  // By place the sums over strips of x and of its products.
  void add_places(const Wide *x, Part *sums, Part *products) const {
    for (int64_t i = 0; i < length; ++i, x += depth)
      for (int64_t d = 0; d < depth; ++d) {
        const Wide a = x[d];
        *sums++ += folded(a);
        for (int64_t e = d; e < depth; ++e) *products++ += folded(a * x[e]);
      }
  }

  // sums[0], [1]: (G) of q.k and its square; then by place of q (G, L, D) and its products
  // (G, L, P), and both of k.
  int forward(const View &q, const View &k, double *const *sums) const {
    const int64_t slots = sizes.threads + sizes.heads;  // see Attention::backward
    std::vector<int64_t> head_of(slots, -1);
    std::vector<double> partial(slots * slot);
    std::atomic<int> failed{0};
    divide([&](int64_t thread, int64_t first, int64_t last) {
      Work s(*this);
      Parts by_place(slot);
      if (!s.complete() || !by_place.at) {
        failed = 1;
        return;
      }
      Part *of_q = by_place.at + 2, *of_k = of_q + length * (depth + pairs);
      Wide once = {}, squared = {};
      for (int64_t task = first; task < last; ++task) {
        const Group g = group(task);
        load(q, g, s.narrow.at, s.q.at);
        load(k, g, s.narrow.at, s.k.at);
        add_places(s.q.at, of_q, of_q + length * depth);
        add_places(s.k.at, of_k, of_k + length * depth);
        slide(s.k.at, s.sums.at, s.products.at, [&](int64_t i) {
          const Wide *x = s.q.at + i * depth, *product = s.products.at;
          for (int64_t d = 0; d < depth; ++d) {
            once += x[d] * s.sums.at[d];
            Wide line = x[d] * 0.5 * *product++;
            for (int64_t e = d + 1; e < depth; ++e) line += x[e] * *product++;
            squared += x[d] * line * 2.0;
          }
        });
        if (task + 1 == last || group(task + 1).head != g.head) {
          double *to = partial.data() + (thread + g.head) * slot;
          head_of[thread + g.head] = g.head;
          to[0] = sum(folded(once)), to[1] = sum(folded(squared));
          for (int64_t n = 2; n < slot; ++n) to[n] = sum(by_place.at[n]);
          std::memset(by_place.data, 0, slot * sizeof(Part));
          once = squared = Wide{};
        }
      }
    });
    if (failed) return failed;
    const int64_t counts[] = {1, 1, length * depth, length * pairs, length * depth, length * pairs};
    for (int64_t n = 0; n < 6; ++n)
      std::memset(sums[n], 0, sizes.heads * counts[n] * sizeof(double));
    for (int64_t n = 0; n < slots; ++n) {
      const double *from = partial.data() + n * slot;
      if (head_of[n] < 0) continue;
      for (int64_t m = 0; m < 6; from += counts[m++])
        for (int64_t x = 0; x < counts[m]; ++x) sums[m][head_of[n] * counts[m] + x] += from[x];
    }
    return 0;
  }

  // ---- backward ---------------------------------------------------------------------------------

  // The gradient of x, whose band of y has met it; `at` are the gradients of x's sums by place.
  void gradients(const Group &g, const Wide *x, const Wide *y, double once, double squared,
                 const double *at, const double *products_at, Work &s, const View &grad) const {
    slide(y, s.sums.at, s.products.at, [&](int64_t i) {
      const Wide *a = x + i * depth, *product = s.products.at;
      Wide *out = s.out.at;
      const double *one = at + i * depth, *two = products_at + i * pairs;
      for (int64_t d = 0; d < depth; ++d) out[d] = s.sums.at[d] * once + one[d];
      for (int64_t d = 0; d < depth; ++d) {
        Wide line = a[d] * 2.0 * (*product++ * squared + *two++);
        for (int64_t e = d + 1; e < depth; ++e) {
          const Wide m = *product++ * (2.0 * squared) + *two++;
          line += m * a[e];
          out[e] += m * a[d];
        }
        out[d] += line;
      }
      V *narrow = s.narrow.at;
      for (int64_t d = 0; d < depth; ++d) narrow[d] = narrowed(out[d]);
      unpack(grad, g, i, 1, depth, narrow, {depth, 2});
    });
  }

  int backward(const View &q, const View &k, const double *const *sums, const View *grads) const {
    std::atomic<int> failed{0};
    divide([&](int64_t, int64_t first, int64_t last) {
      Work s(*this);
      if (!s.complete()) {
        failed = 1;
        return;
      }
      for (int64_t task = first; task < last; ++task) {
        const Group g = group(task);
        load(q, g, s.narrow.at, s.q.at);
        load(k, g, s.narrow.at, s.k.at);
        const double once = sums[0][g.head], squared = sums[1][g.head];
        const int64_t one = g.head * length * depth, two = g.head * length * pairs;
        gradients(g, s.q.at, s.k.at, once, squared, sums[2] + one, sums[3] + two, s, grads[0]);
        gradients(g, s.k.at, s.q.at, once, squared, sums[4] + one, sums[5] + two, s, grads[1]);
      }
    });
    return failed;
  }
};

}  // namespace
