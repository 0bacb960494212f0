// Axial attention on the CPU: forward, and backward by recomputation. See ops/compiled.py.
//
// The lanes of a vector register are strips: W strips of one head are worked on side by side, each
// in its own lane. So no sum runs across lanes, no relative position shifts a lane, and a table's
// entry is one scalar for all of them; any length, depth and span runs without remainders.
//
// Four queries at a time ("tile") meet the keys of their band. Their logits stay in the first
// cache, are soft-maxed and used up before the next tile. Nothing of size L x L exists.
//
// Channels come in pairs: all places of two channels, then those of the next two. So what a loop
// over keys reads lies in one line of memory, and all that it needs beside its pointers are fixed
// distances. An odd channel has a partner of zeros.
//
// Names: i queries, j keys, r = j - i + L - 1 rows of a table; t a tile's query, p a pair of
// channels. [x][y] in comments are dimensions of arrays of vectors, the last one lies together.

#include <limits>

#include "moments.h"
#include "strips.h"

namespace {

constexpr int TILE = 4;  // queries of a tile
constexpr int PAD = 4;   // places or rows added at either end, so that whole tiles may be computed

template <class T, int W>
struct Attention : Strips<T, W> {
  using Base = Strips<T, W>;
  using V = typename Base::V;
  using Vectors = typename Base::Vectors;
  using Scalars = typename Base::Scalars;
  using Group = typename Base::Group;
  using Base::divide, Base::length, Base::pack, Base::sizes, Base::sum, Base::unpack;

  const int64_t depth, values, depth_pairs, value_pairs, rows, keys;
  const int64_t by_place, by_row, by_tile;  // From a pair of channels to the next.
  // Where channels lie together, the heads of a place share lines of the cache: so all of them come
  // before the next strips. Where a thread has few groups of strips, the tables of all heads weigh
  // more, and it takes the heads one by one.
  const bool by_strips;
  const int64_t held;  // Heads whose tables a thread holds.

  // `few`: groups to a thread that don't pay for the tables of all heads.
  Attention(const Sizes &s, int64_t few)
      : Base(s),
        depth(s.depth),
        values(s.value_depth),
        depth_pairs((depth + 1) / 2),
        value_pairs((values + 1) / 2),
        rows(2 * s.length - 1),
        keys(std::min(s.length, 2 * s.half + TILE) + 1),
        by_place(apart(2 * (s.length + 2 * PAD))),
        by_row(2 * (rows + 2 * PAD)),
        by_tile(2 * TILE),
        by_strips(this->groups() > std::max(s.heads, few * s.threads)),
        held(by_strips ? s.heads : 1) {}

  // At least so many vectors, and an odd number of the cache's lines: at powers of two the pairs
  // would drive each other out.
  static int64_t apart(int64_t count) {
    while (count * sizeof(V) / 64 % 2 == 0 || count * sizeof(V) % 64) ++count;
    return count;
  }

  Group group(int64_t task) const {
    const int64_t many = this->groups(), heads = sizes.heads;
    return by_strips ? Base::group(task % heads, task / heads)
                     : Base::group(task / many, task % many);
  }

  // Which of the held tables are a head's.
  int64_t slot_of(int64_t head) const { return by_strips ? head : 0; }

  // ---- memory -------------------------------------------------------------------------------

  // [pair][place][2], [pair][row][2], [key][query], each with room for PAD more at either end: zeros
  // there, but in sums over rows, which are not read there.
  struct Places : Vectors {
    V *first;
    Places(const Attention &a, int64_t pairs)
        : Vectors(pairs * a.by_place), first(this->at + 2 * PAD) {}
  };
  template <class Entries>
  struct Rows : Entries {
    decltype(Entries::at) first;
    Rows(const Attention &a, int64_t pairs)
        : Entries(pairs * a.by_row), first(this->at + 2 * PAD) {}
  };
  struct Tile : Vectors {
    V *first;
    explicit Tile(const Attention &a)
        : Vectors((a.keys + 2 * PAD) * TILE), first(this->at + PAD * TILE) {}
  };

  // ---- vectors ------------------------------------------------------------------------------

  static V larger(V a, V b) { return a > b ? a : b; }

  // exp of numbers up to 0. NaN stays NaN.
  static V exponential(V x) {
    if constexpr (sizeof(T) == 4) {
      typedef int32_t I __attribute__((vector_size(W * 4)));
      x = larger(V{} - 87.0f, x);
      // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the last bits.
      V shifted = x * 1.44269504f + 12582912.0f;
      V r = x - (shifted - 12582912.0f) * 0.693147182f;
      // (exp(r) - 1 - r) / r^2 up to half of log 2. As x is not exact either, one number for log 2
      // will do: with it, exp is off by up to 5e-8, 3e-7 of itself (4e-6 without FMA, at -87).
      V p = r * 1.381453942e-03f + 8.368745446e-03f;
      p = p * r + 4.166838899e-02f;
      p = p * r + 1.666652113e-01f;
      p = p * r + 4.999999404e-01f;
      p = p * (r * r) + r + 1.0f;
      I bits = (I)p + ((I)shifted << 23);  // Casts of vectors keep the bits.
      return (V)bits;
    } else {
      V y;
      for (int w = 0; w < W; ++w) y[w] = std::exp(x[w]);
      return y;
    }
  }

  // Has it in a register, where a compiler would read it from memory at each use.
  static void keep(V &x) {
#ifdef __x86_64__
    if constexpr (sizeof(V) <= BYTES) asm("" : "+x"(x));
#endif
  }

  static V spread(V x) { return x; }
  static V spread(T x) { return x - V{}; }

  // A head's table times a scale.
  void load_table(const T *table, int64_t head, int64_t channels, T scale, T *out) const {
    table += (sizes.tables == 1 ? 0 : head) * rows * channels;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < channels; ++c) out[c / 2 * by_row + 2 * r + c % 2] = *table++ * scale;
  }

  // ---- one tile ---------------------------------------------------------------------------------

  struct Band {  // Keys [low, high) that the four queries from `query` on see.
    int64_t query, low, high;
    int64_t count() const { return high - low; }
  };

  Band band(int64_t query) const {
    return {query, std::max<int64_t>(0, query - sizes.half),
            std::min(length, query + TILE + sizes.half)};
  }

  // Row of a table for the tile's first query and a key.
  int64_t row(const Band &b, int64_t key) const { return key - b.query + length - 1; }

  // Sums over channels into [key][query], two keys at a time.
  template <class Term>
  void pairs(const Band &b, V *out, Term term) const {
    for (int64_t j = b.low; j < b.high; j += 2, out += 2 * TILE) {
      V sums[2][TILE] = {};
      term(2 * j, 2 * row(b, j), sums);
      for (int m = 0; m < 2; ++m)
        for (int t = 0; t < TILE; ++t) out[m * TILE + t] = sums[m][t];
    }
  }

  // s0 q.k + s1 q.rq + s2 k.rk; `scaled` are the keys times s0, the tables have their scales.
  template <bool SCALED>
  void logits(const Band &b, const V *q, const V *k, const V *scaled, const T *rq, const T *rk,
              V *out) const {
    q += 2 * b.query;
    pairs(b, out, [=](int64_t key, int64_t r, V(&sums)[2][TILE]) {
      const V *of_q = q, *of_k = k + key, *s = scaled + key;
      const T *x = rq + r, *y = rk + r;
      for (int64_t p = 0; p < depth_pairs; ++p) {
#pragma GCC unroll 2
        for (int c = 0; c < 2; ++c) {
          V k0 = of_k[c], k1 = of_k[2 + c];
          keep(k0), keep(k1);
#pragma GCC unroll 5
          for (int n = 1; n > -TILE; --n) {  // A row of the tables, for all that it meets.
            V x0 = spread(x[2 * n + c]), y0 = spread(y[2 * n + c]);
            keep(x0), keep(y0);
#pragma GCC unroll 2
            for (int m = 0; m < 2; ++m) {
              const int t = m - n;
              if (t < 0 || t >= TILE) continue;
              const V own = m ? k1 : k0;
              sums[m][t] += of_q[2 * t + c] * ((SCALED ? s[2 * m + c] : own) + x0);
              sums[m][t] += own * y0;
            }
          }
        }
        of_q += by_place, of_k += by_place, s += by_place, x += by_row, y += by_row;
      }
    });
  }

  // content_grad.v + position_grad.rv.
  void weight_gradients(const Band &b, const V *content, const V *position, const V *v, const T *rv,
                        V *out) const {
    content += 2 * b.query, position += 2 * b.query;
    pairs(b, out, [=](int64_t key, int64_t r, V(&sums)[2][TILE]) {
      const V *of_content = content, *of_position = position, *of_v = v + key;
      const T *x = rv + r;
      for (int64_t p = 0; p < value_pairs; ++p) {
#pragma GCC unroll 2
        for (int c = 0; c < 2; ++c) {
          V v0 = of_v[c], v1 = of_v[2 + c];
          keep(v0), keep(v1);
#pragma GCC unroll 5
          for (int n = 1; n > -TILE; --n) {
            V x0 = spread(x[2 * n + c]);
            keep(x0);
#pragma GCC unroll 2
            for (int m = 0; m < 2; ++m) {
              const int t = m - n;
              if (t < 0 || t >= TILE) continue;
              sums[m][t] += of_content[2 * t + c] * (m ? v1 : v0);
              sums[m][t] += of_position[2 * t + c] * x0;
            }
          }
        }
        of_content += by_place, of_position += by_place, of_v += by_place, x += by_row;
      }
    });
  }

  // Sets what lies in the tile's band but not in that of its query t.
  void set_outside(const Band &b, int t, V *x, T value) const {
    const int64_t i = b.query + t;
    const int64_t low = i < length ? std::max<int64_t>(0, i - sizes.half) : b.high;
    const int64_t high = std::max(b.low, std::min(b.high, i + sizes.half + 1));
    for (int64_t j = b.low; j < low; ++j) x[(j - b.low) * TILE + t] = V{} + value;
    for (int64_t j = high; j < b.high; ++j) x[(j - b.low) * TILE + t] = V{} + value;
  }

  void clear_pads(const Band &b, V *x) const {
    for (int n = 0; n < PAD * TILE; ++n) x[n - PAD * TILE] = x[b.count() * TILE + n] = V{};
  }

  // Turns logits into weights that are zero outside the band; `inverse` one over their sums. Of
  // queries past the end both are zero.
  void soften(const Band &b, V *x, V (&inverse)[TILE]) const {
    V most[TILE], total[TILE] = {};
    for (int t = 0; t < TILE; ++t) {
      set_outside(b, t, x, -std::numeric_limits<T>::infinity());
      most[t] = x[t];
    }
    for (int64_t j = 1; j < b.count(); ++j)
#pragma GCC unroll 4
      for (int t = 0; t < TILE; ++t) most[t] = larger(x[j * TILE + t], most[t]);
    for (int64_t j = 0; j < b.count(); ++j)
#pragma GCC unroll 4
      for (int t = 0; t < TILE; ++t) {
        V w = exponential(x[j * TILE + t] - most[t]);
        x[j * TILE + t] = w;
        total[t] += w;
      }
    for (int t = 0; t < TILE; ++t) {
      set_outside(b, t, x, 0);
      inverse[t] = b.query + t < length ? T(1) / total[t] : V{};
    }
    clear_pads(b, x);
  }

  // sums[query][channel] += sums over keys, or rows of a table, of weights times vectors. STEP: from
  // a query's weight to the next one's, TILE + 1 with rows: row r meets key r + t of query t. Two at
  // a time, so that sums wait less for each other.
  template <int STEP, class X>
  static void weigh(const V *w, const X *x, int64_t count, V (&sums)[TILE][2]) {
    for (; count > 1; count -= 2, w += 2 * TILE, x += 4) {
      V x0 = spread(x[0]), x1 = spread(x[1]), y0 = spread(x[2]), y1 = spread(x[3]);
      keep(x0), keep(x1), keep(y0), keep(y1);
#pragma GCC unroll 4
      for (int t = 0; t < TILE; ++t) {
        V a = w[t * STEP], b = w[t * STEP + TILE];
        keep(a), keep(b);
        sums[t][0] += a * x0 + b * y0, sums[t][1] += a * x1 + b * y1;
      }
    }
    if (count == 0) return;
    const V x0 = spread(x[0]), x1 = spread(x[1]);
    for (int t = 0; t < TILE; ++t) sums[t][0] += w[t * STEP] * x0, sums[t][1] += w[t * STEP] * x1;
  }

  // Weighted sums of keys' vectors and of a table's rows, [pair][query][2]; without `position`
  // their sum.
  void weigh_all(const Band &b, const V *w, const V *x, const T *table, int64_t pairs, V *content,
                 V *position) const {
    x += 2 * b.low;
    // From the distance of the last query to the first key.
    table += 2 * (row(b, b.low) - (TILE - 1));
    const V *first = w - (TILE - 1) * TILE;
    for (int64_t p = 0; p < pairs; ++p) {
      V sums[TILE][2] = {};
      weigh<1>(w, x, b.count(), sums);
      if (position) {
        std::memcpy(content, sums, sizeof sums), content += by_tile;
        std::memset(sums, 0, sizeof sums);
      }
      weigh<TILE + 1>(first, table, b.count() + TILE - 1, sums);
      V *&to = position ? position : content;
      std::memcpy(to, sums, sizeof sums), to += by_tile;
      x += by_place, table += by_row;
    }
  }

  // ---- forward ----------------------------------------------------------------------------------

  struct Inputs {
    const View *q, *k, *v;
    const T *rq, *rk, *rv, *scale;  // (T, 2 L - 1, D) each; (3, G)
  };

  struct Shared {  // What both passes hold of a group and of heads.
    Places q, k, scaled, v;
    Tile weights;
    Rows<Scalars> rq, rk, rv;
    std::vector<int64_t> loaded;  // The head whose rows stand there.
    const T *of_q, *of_k, *of_v;  // The rows of the group's head, with their scales.
    bool is_scaled;               // Else the keys' scale is 1 and `scaled` is not in use.
    explicit Shared(const Attention &a)
        : q(a, a.depth_pairs),
          k(a, a.depth_pairs),
          scaled(a, a.depth_pairs),
          v(a, a.value_pairs),
          weights(a),
          rq(a, a.held * a.depth_pairs),
          rk(a, a.held * a.depth_pairs),
          rv(a, a.held * a.value_pairs),
          loaded(a.held, -1) {}
    bool complete() const {
      return q.at && k.at && scaled.at && v.at && weights.at && rq.at && rk.at && rv.at;
    }
  };

  void load(const Inputs &in, const Group &g, Shared &s) const {
    const int64_t slot = slot_of(g.head);
    T *of_q = s.rq.first + slot * depth_pairs * by_row;
    T *of_k = s.rk.first + slot * depth_pairs * by_row;
    T *of_v = s.rv.first + slot * value_pairs * by_row;
    if (s.loaded[slot] != g.head) {
      s.loaded[slot] = g.head;
      load_table(in.rq, g.head, depth, in.scale[sizes.heads + g.head], of_q);
      load_table(in.rk, g.head, depth, in.scale[2 * sizes.heads + g.head], of_k);
      load_table(in.rv, g.head, values, T(1), of_v);
    }
    s.of_q = of_q, s.of_k = of_k, s.of_v = of_v;
    pack(*in.q, g, depth, true, s.q.first, {2, by_place});
    pack(*in.k, g, depth, true, s.k.first, {2, by_place});
    pack(*in.v, g, values, true, s.v.first, {2, by_place});
    const T content = in.scale[g.head];
    s.is_scaled = content != 1;
    if (s.is_scaled)
      for (int64_t n = 0; n < depth_pairs * by_place; ++n) s.scaled.at[n] = s.k.at[n] * content;
  }

  // A tile's weights, but for the factors `inverse`.
  void weights_of(const Band &b, const Shared &s, V (&inverse)[TILE]) const {
    V *out = s.weights.first;
    if (s.is_scaled)
      logits<true>(b, s.q.first, s.k.first, s.scaled.first, s.of_q, s.of_k, out);
    else
      logits<false>(b, s.q.first, s.k.first, s.k.first, s.of_q, s.of_k, out);
    soften(b, out, inverse);
  }

  int forward(const Inputs &in, const View &content, const View &position) const {
    std::atomic<int> failed{0};
    divide([&](int64_t, int64_t first, int64_t last) {
      Shared s(*this);
      Vectors out(2 * value_pairs * by_tile);
      if (!s.complete() || !out.at) {
        failed = 1;
        return;
      }
      const int64_t size = value_pairs * by_tile;
      V *one = out.at, *other = position.data ? out.at + size : nullptr, *w = s.weights.first;
      for (int64_t task = first; task < last; ++task) {
        const Group g = group(task);
        load(in, g, s);
        for (int64_t i = 0; i < length; i += TILE) {
          const Band b = band(i);
          V inverse[TILE];
          weights_of(b, s, inverse);
          weigh_all(b, w, s.v.first, s.of_v, value_pairs, one, other);
          for (int64_t n = 0; n < (other ? 2 : 1) * size; ++n) out.at[n] *= inverse[n / 2 % TILE];
          const int64_t count = std::min<int64_t>(TILE, length - i);
          unpack(content, g, i, count, values, one, {2, by_tile});
          if (other) unpack(position, g, i, count, values, other, {2, by_tile});
        }
      }
    });
    return failed;
  }

  // ---- backward ---------------------------------------------------------------------------------

  struct Outputs {
    const View *q, *k, *v;
    T *rq, *rk, *rv, *scale;  // (G, 2 L - 1, D) each; (3, G)
  };

  struct Gradients {  // What the backward pass holds besides.
    Places content, position, k, v;
    Tile logits;
    Vectors q, scaled;
    Rows<Vectors> rq, rk, rv;   // Of each head that is held.
    std::vector<double> scale;  // Sums of everything, where single precision would lose digits.
    explicit Gradients(const Attention &a)
        : content(a, a.value_pairs),
          position(a, a.value_pairs),
          k(a, a.depth_pairs),
          v(a, a.value_pairs),
          logits(a),
          q(2 * a.depth_pairs * a.by_tile),
          scaled(a.depth_pairs * a.by_tile),
          rq(a, a.held * a.depth_pairs),
          rk(a, a.held * a.depth_pairs),
          rv(a, a.held * a.value_pairs),
          scale(a.held) {}
    bool complete() const {
      return content.at && position.at && k.at && v.at && logits.at && q.at && scaled.at && rq.at &&
             rk.at && rv.at;
    }
  };

  // out[pair][key or row][2] += sums over the tile's queries of weights times their vectors, which
  // lie `step` apart from pair to pair. STEP as in `weigh`; with MOVE, x are keys: they move along.
  template <int STEP, bool MOVE>
  static void scatter(const V *w, const V *x, int64_t step, int64_t count, int64_t pairs, V *out,
                      int64_t out_step) {
    for (int64_t p = 0; p < pairs; ++p, x += step, out += out_step) {
      V a[TILE][2];
      if (!MOVE)
        for (int t = 0; t < TILE; ++t) {
          a[t][0] = x[2 * t], a[t][1] = x[2 * t + 1];
          keep(a[t][0]), keep(a[t][1]);
        }
      for (int64_t n = 0; n < count; ++n) {
        const V *from = MOVE ? x + 2 * n : a[0];
        V sums[2] = {out[2 * n], out[2 * n + 1]};
#pragma GCC unroll 4
        for (int t = 0; t < TILE; ++t) {
          V weight = w[n * TILE + t * STEP];
          keep(weight);
          sums[0] += weight * from[2 * t], sums[1] += weight * from[2 * t + 1];
        }
        out[2 * n] = sums[0], out[2 * n + 1] = sums[1];
      }
    }
  }

  // out[pair][key][2] += weights times (scaled query + row of the scaled keys' table).
  void scatter_to_keys(const Band &b, const V *w, const V *x, const T *table, V *out) const {
    out += 2 * b.low, table += 2 * row(b, b.low);
    for (int64_t p = 0; p < depth_pairs; ++p, x += by_tile, table += by_row, out += by_place)
      for (int64_t n = 0; n < b.count(); ++n) {
        const T *y = table + 2 * n;
        V sums[2] = {out[2 * n], out[2 * n + 1]};
#pragma GCC unroll 4
        for (int t = 0; t < TILE; ++t) {
          V weight = w[n * TILE + t];
          keep(weight);
          sums[0] += weight * (x[2 * t] + y[-2 * t]);
          sums[1] += weight * (x[2 * t + 1] + y[1 - 2 * t]);
        }
        out[2 * n] = sums[0], out[2 * n + 1] = sums[1];
      }
  }

  void backward_tile(const Inputs &in, const Group &g, const Band &b, Shared &s, Gradients &d,
                     const View &q_grad) const {
    const T content_scale = in.scale[g.head];
    const int64_t slot = slot_of(g.head);
    V *rq = d.rq.first + slot * depth_pairs * by_row;
    V *rk = d.rk.first + slot * depth_pairs * by_row;
    V *rv = d.rv.first + slot * value_pairs * by_row;
    const V *content = d.content.first, *position = d.position.first, *q = s.q.first;
    V inverse[TILE], *w = s.weights.first, *p = d.logits.first;
    weights_of(b, s, inverse);
    weight_gradients(b, content, position, s.v.first, s.of_v, p);
    // Here and below: what is not finite goes no further than the band.
    for (int t = 0; t < TILE; ++t) set_outside(b, t, p, 0);
    V total[TILE] = {}, all[TILE] = {};
    for (int64_t n = 0; n < b.count() * TILE; n += TILE)
#pragma GCC unroll 4
      for (int t = 0; t < TILE; ++t) {
        const V y = w[n + t] *= inverse[t];
        total[t] += p[n + t] * y;
        all[t] += y;
      }
    for (int t = 0; t < TILE; ++t) {
      set_outside(b, t, w, 0);
      // By the weights' sum as rounded, so that the gradients of a query's logits add up to 0.
      if (b.query + t < length) total[t] /= all[t];
    }
    for (int64_t n = 0; n < b.count() * TILE; n += TILE)
#pragma GCC unroll 4
      for (int t = 0; t < TILE; ++t) p[n + t] = (p[n + t] - total[t]) * w[n + t];
    for (int t = 0; t < TILE; ++t) set_outside(b, t, p, 0);
    clear_pads(b, p);

    // Rows: the first is that of the last query and the first key.
    const int64_t first = 2 * (row(b, b.low) - (TILE - 1)), met = b.count() + TILE - 1;
    const int64_t before = (TILE - 1) * TILE;
    const V *tile = q + 2 * b.query;
    content += 2 * b.query, position += 2 * b.query;
    V *of_v = d.v.first + 2 * b.low;
    scatter<1, false>(w, content, by_place, b.count(), value_pairs, of_v, by_place);
    scatter<TILE + 1, false>(w - before, position, by_place, met, value_pairs, rv + first, by_row);
    V *by_key = d.q.at, *by_table = d.q.at + depth_pairs * by_tile;
    // The query's table is scaled already, the keys are not.
    weigh_all(b, p, s.k.first, s.of_q, depth_pairs, by_key, by_table);
    V of_scale = {};
    for (int64_t n = 0; n < depth_pairs * by_tile; ++n) {
      const V x = tile[n / by_tile * by_place + n % by_tile];
      of_scale += x * by_key[n];
      by_key[n] = by_key[n] * content_scale + by_table[n];
      d.scaled.at[n] = x * content_scale;
    }
    d.scale[slot] += sum(of_scale);
    unpack(q_grad, g, b.query, std::min<int64_t>(TILE, length - b.query), depth, by_key,
           {2, by_tile});
    scatter_to_keys(b, p, d.scaled.at, s.of_k, d.k.first);
    scatter<TILE + 1, false>(p - before, tile, by_place, met, depth_pairs, rq + first, by_row);
    // Row n meets key b.low - (TILE - 1) + n of the first query, the next one of the second.
    scatter<TILE + 1, true>(p - before, s.k.first + 2 * (b.low - (TILE - 1)), by_place, met,
                            depth_pairs, rk + first, by_row);
  }

  // Adds up the lanes of a head's gradients of the tables, clears them, and the one of the scale.
  void flush(Gradients &d, int64_t slot, T *out) const {
    for (Rows<Vectors> *table : {&d.rq, &d.rk, &d.rv}) {
      const int64_t channels = table == &d.rv ? values : depth, pairs = (channels + 1) / 2;
      V *from = table->first + slot * pairs * by_row;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < channels; ++c) {
          V &x = from[c / 2 * by_row + 2 * r + c % 2];
          *out++ = sum(x), x = V{};
        }
    }
    *out = T(d.scale[slot]), d.scale[slot] = 0;
  }

  int backward(const Inputs &in, const View &content_grad, const View &position_grad,
               const Outputs &out) const {
    const int64_t table = rows * depth, value_table = rows * values;
    const int64_t slot = 2 * table + value_table + 1;
    // Threads take the tasks in order, so head by head thread + head is another number for each pair
    // in use.
    const int64_t slots = sizes.threads * held + (by_strips ? 0 : sizes.heads);
    Scalars partial(slots * slot);
    std::vector<int64_t> head_of(slots, -1);
    if (!partial.at) return 1;
    std::atomic<int> failed{0};
    divide([&](int64_t thread, int64_t first, int64_t last) {
      Shared s(*this);
      Gradients d(*this);
      if (!s.complete() || !d.complete()) {
        failed = 1;
        return;
      }
      const auto finish = [&](int64_t head) {
        const int64_t n = thread * held + head;
        head_of[n] = head;
        flush(d, slot_of(head), partial.at + n * slot);
      };
      for (int64_t task = first; task < last; ++task) {
        const Group g = group(task);
        load(in, g, s);
        pack(content_grad, g, values, false, d.content.first, {2, by_place});
        pack(position_grad, g, values, false, d.position.first, {2, by_place});
        std::memset(d.k.data, 0, depth_pairs * by_place * sizeof(V));
        std::memset(d.v.data, 0, value_pairs * by_place * sizeof(V));
        for (int64_t i = 0; i < length; i += TILE) backward_tile(in, g, band(i), s, d, *out.q);
        unpack(*out.k, g, 0, length, depth, d.k.first, {2, by_place});
        unpack(*out.v, g, 0, length, values, d.v.first, {2, by_place});
        if (!by_strips && (task + 1 == last || group(task + 1).head != g.head)) finish(g.head);
      }
      if (by_strips)
        for (int64_t head = 0; head < sizes.heads; ++head) finish(head);
    });
    if (failed) return failed;
    collect(in, partial.at, head_of, out);
    return 0;
  }

  void collect(const Inputs &in, const T *partial, const std::vector<int64_t> &head_of,
               const Outputs &out) const {
    const int64_t table = rows * depth, value_table = rows * values, G = sizes.heads;
    std::memset(out.rq, 0, G * table * sizeof(T));
    std::memset(out.rk, 0, G * table * sizeof(T));
    std::memset(out.rv, 0, G * value_table * sizeof(T));
    std::memset(out.scale, 0, 3 * G * sizeof(T));
    for (size_t n = 0; n < head_of.size(); ++n) {
      const int64_t g = head_of[n], shared = sizes.tables == 1 ? 0 : g;
      if (g < 0) continue;
      const T *from = partial + n * (2 * table + value_table + 1);
      const T *rq = in.rq + shared * table, *rk = in.rk + shared * table;
      double of_query = 0, of_key = 0;
      for (int64_t m = 0; m < table; ++m) {
        out.rq[g * table + m] += from[m] * in.scale[G + g];
        out.rk[g * table + m] += from[table + m] * in.scale[2 * G + g];
        of_query += double(from[m]) * rq[m];
        of_key += double(from[table + m]) * rk[m];
      }
      out.scale[G + g] += T(of_query);
      out.scale[2 * G + g] += T(of_key);
      for (int64_t m = 0; m < value_table; ++m) out.rv[g * value_table + m] += from[2 * table + m];
      out.scale[g] += from[2 * table + value_table];
    }
  }
};

template <class T, int W>
int run_forward(const Sizes &sizes, const View *views, const T *const *tables, const View *results) {
  Attention<T, W> attention(sizes, 2);
  return attention.forward({views, views + 1, views + 2, tables[0], tables[1], tables[2], tables[3]},
                           results[0], results[1]);
}

template <class T, int W>
int run_backward(const Sizes &sizes, const View *views, const T *const *tables, const View *grads,
                 T *const *table_grads) {
  // All threads' sums for the tables take less than a quarter of q, k, v and their gradients.
  Attention<T, W> attention(sizes, 8);
  return attention.backward(
      {views, views + 1, views + 2, tables[0], tables[1], tables[2], tables[3]}, views[3], views[4],
      {grads, grads + 1, grads + 2, table_grads[0], table_grads[1], table_grads[2],
       table_grads[3]});
}

}  // namespace

extern "C" {

// views: q, k, v; tables: rq, rk, rv, scale; results: content, position (or their sum, and null).
// Returns 0, or 1 where there was no memory for vectors and tables.
int forward_float(const Sizes *sizes, const View *views, const float *const *tables,
                  const View *results) {
  return run_forward<float, BYTES / 4>(*sizes, views, tables, results);
}

int forward_double(const Sizes *sizes, const View *views, const double *const *tables,
                   const View *results) {
  return run_forward<double, 8>(*sizes, views, tables, results);
}

// views: q, k, v, and the gradients of content and position; grads: of q, k, v; table_grads: of
// rq, rk, rv per head and of scale.
int backward_float(const Sizes *sizes, const View *views, const float *const *tables,
                   const View *grads, float *const *table_grads) {
  return run_backward<float, BYTES / 4>(*sizes, views, tables, grads, table_grads);
}

int backward_double(const Sizes *sizes, const View *views, const double *const *tables,
                    const View *grads, double *const *table_grads) {
  return run_backward<double, 8>(*sizes, views, tables, grads, table_grads);
}

// views: q, k; sums as `Moments::sums` has them.
int moments_float(const Sizes *sizes, const View *views, double *const *sums) {
  return Moments<float, BYTES / 4>(*sizes).forward(views[0], views[1], sums);
}

int moments_double(const Sizes *sizes, const View *views, double *const *sums) {
  return Moments<double, 8>(*sizes).forward(views[0], views[1], sums);
}

// sums: the gradients of what `moments` gives; grads: of q, k.
int moments_backward_float(const Sizes *sizes, const View *views, const double *const *sums,
                           const View *grads) {
  return Moments<float, BYTES / 4>(*sizes).backward(views[0], views[1], sums, grads);
}

int moments_backward_double(const Sizes *sizes, const View *views, const double *const *sums,
                            const View *grads) {
  return Moments<double, 8>(*sizes).backward(views[0], views[1], sums, grads);
}
}
