// Axial attention on the CPU: forward, and backward by recomputation. See ops/compiled.py.
//
// The lanes of a vector register are strips: W strips of one head are worked on side by side, each
// in its own lane. So no sum runs across lanes, no relative position shifts a lane, and a table's
// entry is one scalar for all of them; any length, depth and span runs without remainders.
//
// Four queries at a time ("tile") meet the keys of their band. Their logits, one row per query, stay
// in the first cache; the row is soft-maxed and used up before the next tile. Nothing of size L x L
// exists.
//
// Names: i queries, j keys, d channels of a query, c channels of a value, r = j - i + L - 1 rows of
// a table. [x][y] in comments are dimensions of arrays of vectors, the last one next to each other.

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
  using Base::divide, Base::group, Base::length, Base::pack, Base::sizes, Base::sum, Base::unpack;

  const int64_t depth, values, rows, keys, line;

  explicit Attention(const Sizes &s)
      : Base(s),
        depth(s.depth),
        values(s.value_depth),
        rows(2 * s.length - 1),
        keys(std::min(s.length, 2 * s.half + TILE) + 1),
        line(keys + 2 * PAD) {}

  // ---- vectors ------------------------------------------------------------------------------

  static V larger(V a, V b) { return a > b ? a : b; }

  // exp of numbers up to 0. NaN stays NaN.
  static V exponential(V x) {
    if constexpr (sizeof(T) == 4) {
      typedef int32_t I __attribute__((vector_size(W * 4)));
      x = x < -87.0f ? V{} - 87.0f : x;
      // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the last bits.
      V shifted = x * 1.44269504f + 12582912.0f;
      V whole = shifted - 12582912.0f;
      V rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
      // Cephes' expf.
      V p = rest * 1.9875691500e-4f + 1.3981999507e-3f;
      p = p * rest + 8.3334519073e-3f;
      p = p * rest + 4.1665795894e-2f;
      p = p * rest + 1.6666665459e-1f;
      p = p * rest + 5.0000001201e-1f;
      p = p * rest * rest + rest + 1.0f;
      I bits = (I)p + ((I)shifted << 23);  // Casts of vectors keep the bits.
      return (V)bits;
    } else {
      V y;
      for (int w = 0; w < W; ++w) y[w] = std::exp(x[w]);
      return y;
    }
  }

  // A head's table times a scale, PAD zero rows before and behind.
  void load_table(const T *table, int64_t head, int64_t channels, T scale, T *out) const {
    table += (sizes.tables == 1 ? 0 : head) * rows * channels;
    out += PAD * channels;
    for (int64_t n = 0; n < rows * channels; ++n) out[n] = table[n] * scale;
  }

  // ---- one tile ---------------------------------------------------------------------------------

  struct Band {  // Keys [low, high) that the four queries from `query` on see.
    int64_t query, low, high;
  };

  Band band(int64_t query) const {
    return {query, std::max<int64_t>(0, query - sizes.half),
            std::min(length, query + TILE + sizes.half)};
  }

  // Row of a padded table for the tile's first query and a key.
  int64_t row(const Band &b, int64_t key) const { return key - b.query + length - 1 + PAD; }

  // Sums over channels of a_i (b_j + x_r) + c_j y_r, two keys at a time, into [query][key].
  // Both forms of pair products have this shape: see `logits` and `weight_gradients`.
  template <class Term>
  void pairs(const Band &b, V *out, Term term) const {
    constexpr int J = 2;
    for (int64_t j = b.low; j < b.high; j += J) {
      V sums[TILE][J] = {};
      term(j, row(b, j), sums);
      for (int t = 0; t < TILE; ++t)
        for (int n = 0; n < J; ++n) out[t * line + PAD + j - b.low + n] = sums[t][n];
    }
  }

  // s0 q.k + s1 q.rq + s2 k.rk; `scaled` are the keys times s0, the tables have their scales.
  void logits(const Band &b, const V *q, const V *k, const V *scaled, const T *rq, const T *rk,
              V *out) const {
    const int64_t D = depth;
    const V *query = q + b.query * D;
    pairs(b, out, [=](int64_t j, int64_t r, V(&sums)[TILE][2]) {
      const V *key = k + j * D, *scaled_key = scaled + j * D;
      const T *x = rq + r * D, *y = rk + r * D;
      for (int64_t d = 0; d < D; ++d) {
        V k0 = key[d], k1 = key[D + d], s0 = scaled_key[d], s1 = scaled_key[D + d];
#pragma GCC unroll 4
        for (int t = 0; t < TILE; ++t) {
          V a = query[t * D + d];
          sums[t][0] += a * (s0 + x[d - t * D]);
          sums[t][0] += k0 * y[d - t * D];
          sums[t][1] += a * (s1 + x[d - (t - 1) * D]);
          sums[t][1] += k1 * y[d - (t - 1) * D];
        }
      }
    });
  }

  // content_grad.v + position_grad.rv.
  void weight_gradients(const Band &b, const V *content, const V *position, const V *v, const T *rv,
                        V *out) const {
    const int64_t D = values;
    pairs(b, out, [=](int64_t j, int64_t r, V(&sums)[TILE][2]) {
      const V *value = v + j * D;
      const T *x = rv + r * D;
      for (int64_t c = 0; c < D; ++c) {
        V v0 = value[c], v1 = value[D + c];
#pragma GCC unroll 4
        for (int t = 0; t < TILE; ++t) {
          V a = content[t * D + c], p = position[t * D + c];
          sums[t][0] += a * v0;
          sums[t][0] += p * x[c - t * D];
          sums[t][1] += a * v1;
          sums[t][1] += p * x[c - (t - 1) * D];
        }
      }
    });
  }

  // Turns logits into weights that are zero outside the band; `inverse` one over their sums. With
  // `divide` the weights add up to one.
  void soften(const Band &b, V *weights, V (&inverse)[TILE], bool divide) const {
    for (int t = 0; t < TILE; ++t) {
      V *x = weights + t * line + PAD - b.low;
      int64_t i = b.query + t, low = b.low, high = b.low;
      if (i < length) {
        low = std::max<int64_t>(0, i - sizes.half);
        high = std::min(length, i + sizes.half + 1);
        V most = x[low];
        for (int64_t j = low + 1; j < high; ++j) most = larger(x[j], most);
        V total = {};
        for (int64_t j = low; j < high; ++j) {
          x[j] = exponential(x[j] - most);
          total += x[j];
        }
        inverse[t] = T(1) / total;
        if (divide)
          for (int64_t j = low; j < high; ++j) x[j] *= inverse[t];
      }
      for (int64_t j = b.low - PAD; j < low; ++j) x[j] = V{};
      for (int64_t j = high; j < b.high + PAD; ++j) x[j] = V{};
    }
  }

  // out[t][c] = or += sums over keys of weights times [key][channel].
  template <int C>
  static void by_key(const V *weights, int64_t line, const V *x, int64_t count, int64_t channels,
                     V (&sums)[TILE][C]) {
    for (int64_t j = 0; j < count; ++j) {
#pragma GCC unroll 2
      for (int n = 0; n < C; ++n) {
        V a = x[j * channels + n];
#pragma GCC unroll 4
        for (int t = 0; t < TILE; ++t) sums[t][n] += weights[t * line + j] * a;
      }
    }
  }

  // The same with the rows of a table: row r meets key r + t of query t.
  template <int C>
  static void by_row(const V *weights, int64_t line, const T *x, int64_t count, int64_t channels,
                     V (&sums)[TILE][C]) {
    for (int64_t r = 0; r < count; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < C; ++n) {
        T a = x[r * channels + n];
#pragma GCC unroll 4
        for (int t = 0; t < TILE; ++t) sums[t][n] += weights[t * line + r + t] * a;
      }
    }
  }

  // Weighted sums of keys' vectors and of a table's rows: content and position, [t][channel].
  template <int C>
  void weigh(const Band &b, const V *weights, const V *x, const T *table, int64_t channels,
             int64_t c, V *content, V *position) const {
    V one[TILE][C] = {}, other[TILE][C] = {};
    by_key(weights + PAD, line, x + b.low * channels + c, b.high - b.low, channels, one);
    // From the distance of the last query to the first key.
    const T *first = table + (row(b, b.low) - (TILE - 1)) * channels + c;
    by_row(weights + PAD - (TILE - 1), line, first, b.high - b.low + TILE - 1, channels, other);
    for (int t = 0; t < TILE; ++t)
      for (int n = 0; n < C; ++n) {
        content[t * channels + c + n] = one[t][n];
        position[t * channels + c + n] = other[t][n];
      }
  }

  void weigh_all(const Band &b, const V *weights, const V *x, const T *table, int64_t channels,
                 V *content, V *position) const {
    int64_t c = 0;
    for (; c + 2 <= channels; c += 2)
      weigh<2>(b, weights, x, table, channels, c, content, position);
    if (c < channels) weigh<1>(b, weights, x, table, channels, c, content, position);
  }

  // ---- forward ------------------------------------------------------------------------------------

  struct Inputs {
    const View *q, *k, *v;
    const T *rq, *rk, *rv, *scale;  // (T, 2 L - 1, D) each; (3, G)
  };

  struct Shared {  // What both passes hold of a group and its head.
    Vectors q, k, scaled, v, weights;
    Scalars rq, rk, rv;
    int64_t head = -1;
    explicit Shared(const Attention &a)
        : q((a.length + PAD) * a.depth),
          k((a.length + 2 * PAD) * a.depth),
          scaled((a.length + PAD) * a.depth),
          v((a.length + PAD) * a.values),
          weights(TILE * a.line),
          rq((a.rows + 2 * PAD) * a.depth),
          rk((a.rows + 2 * PAD) * a.depth),
          rv((a.rows + 2 * PAD) * a.values) {}
    bool complete() const {
      return q.at && k.at && scaled.at && v.at && weights.at && rq.at && rk.at && rv.at;
    }
    V *keys(const Attention &a) const { return k.at + PAD * a.depth; }
  };

  void load(const Inputs &in, const Group &g, Shared &s) const {
    const T content = in.scale[g.head];
    if (s.head != g.head) {
      s.head = g.head;
      load_table(in.rq, g.head, depth, in.scale[sizes.heads + g.head], s.rq.at);
      load_table(in.rk, g.head, depth, in.scale[2 * sizes.heads + g.head], s.rk.at);
      load_table(in.rv, g.head, values, T(1), s.rv.at);
    }
    pack(*in.q, g, depth, true, s.q.at);
    pack(*in.k, g, depth, true, s.keys(*this));
    pack(*in.v, g, values, true, s.v.at);
    for (int64_t n = 0; n < length * depth; ++n) s.scaled.at[n] = s.keys(*this)[n] * content;
  }

  int forward(const Inputs &in, const View &content, const View &position) const {
    int failed = 0;
    divide([&](int64_t, int64_t first, int64_t last) {
      Shared s(*this);
      Vectors out(2 * TILE * values);
      if (!s.complete() || !out.at) {
        failed = 1;
        return;
      }
      V *one = out.at, *other = out.at + TILE * values;
      for (int64_t task = first; task < last; ++task) {
        const Group g = group(task);
        load(in, g, s);
        for (int64_t i = 0; i < length; i += TILE) {
          const Band b = band(i);
          V inverse[TILE];
          logits(b, s.q.at, s.keys(*this), s.scaled.at, s.rq.at, s.rk.at, s.weights.at);
          soften(b, s.weights.at, inverse, false);
          weigh_all(b, s.weights.at, s.v.at, s.rv.at, values, one, other);
          const int64_t count = std::min<int64_t>(TILE, length - i);
          for (int64_t t = 0; t < count; ++t)
            for (int64_t c = t * values; c < (t + 1) * values; ++c) {
              if (position.data) {
                one[c] *= inverse[t], other[c] *= inverse[t];
              } else {
                one[c] = (one[c] + other[c]) * inverse[t];
              }
            }
          unpack(content, g, i, count, values, one);
          if (position.data) unpack(position, g, i, count, values, other);
        }
      }
    });
    return failed;
  }

  // ---- backward -------------------------------------------------------------------------------------

  struct Outputs {
    const View *q, *k, *v;
    T *rq, *rk, *rv, *scale;  // (G, 2 L - 1, D) each; (3, G)
  };

  struct Gradients {  // What the backward pass holds besides.
    Vectors content, position, logits, q, k, v, tile, rq, rk, rv;
    double scale = 0;  // Sums of everything, where single precision would lose digits.
    explicit Gradients(const Attention &a)
        : content((a.length + PAD) * a.values),
          position((a.length + PAD) * a.values),
          logits(TILE * a.line),
          q(2 * TILE * a.depth),
          k((a.length + PAD) * a.depth),
          v((a.length + PAD) * a.values),
          tile(TILE * a.depth),
          rq((a.rows + 2 * PAD) * a.depth),
          rk((a.rows + 2 * PAD) * a.depth),
          rv((a.rows + 2 * PAD) * a.values) {}
    bool complete() const {
      return content.at && position.at && logits.at && q.at && k.at && v.at && tile.at && rq.at &&
             rk.at && rv.at;
    }
  };

  // out[key][channel] += sums over the tile's queries of weights times [query][channel].
  void spread_by_key(const Band &b, const V *weights, const V *x, int64_t channels, V *out) const {
    for (int64_t j = b.low; j < b.high; ++j) {
      const V *w = weights + PAD + j - b.low;
      const V w0 = w[0], w1 = w[line], w2 = w[2 * line], w3 = w[3 * line];
      V *to = out + j * channels;
      for (int64_t c = 0; c < channels; ++c)
        to[c] += (w0 * x[c] + w1 * x[channels + c]) +
                 (w2 * x[2 * channels + c] + w3 * x[3 * channels + c]);
    }
  }

  // The same by rows of the table: the sums of what one distance met. `step` is what lies between
  // the vectors of one query and the next: 0 channels where x are keys, which move along.
  void spread_by_row(const Band &b, const V *weights, const V *x, int64_t channels, bool keys_move,
                     V *out) const {
    const int64_t first = row(b, b.low) - (TILE - 1);
    const int64_t move = keys_move ? channels : 0;
    for (int64_t n = 0; n < b.high - b.low + TILE - 1; ++n) {
      const V *w = weights + PAD - (TILE - 1) + n;
      const V w0 = w[0], w1 = w[line + 1], w2 = w[2 * line + 2], w3 = w[3 * line + 3];
      const V *from = x + n * move;
      V *to = out + (first + n) * channels;
      for (int64_t c = 0; c < channels; ++c)
        to[c] += (w0 * from[c] + w1 * from[channels + c]) +
                 (w2 * from[2 * channels + c] + w3 * from[3 * channels + c]);
    }
  }

  // out[key][d] += weights times (scaled query + row of the scaled keys' table).
  void spread_to_keys(const Band &b, const V *weights, const V *x, const T *table, V *out) const {
    const int64_t D = depth;
    for (int64_t j = b.low; j < b.high; ++j) {
      const V *w = weights + PAD + j - b.low;
      const V w0 = w[0], w1 = w[line], w2 = w[2 * line], w3 = w[3 * line];
      const T *y = table + row(b, j) * D;
      V *to = out + j * D;
      for (int64_t d = 0; d < D; ++d)
        to[d] += (w0 * (x[d] + y[d]) + w1 * (x[D + d] + y[d - D])) +
                 (w2 * (x[2 * D + d] + y[d - 2 * D]) + w3 * (x[3 * D + d] + y[d - 3 * D]));
    }
  }

  void backward_tile(const Inputs &in, const Group &g, const Band &b, Shared &s, Gradients &d,
                     const View &q_grad) const {
    const T content_scale = in.scale[g.head];
    const V *content = d.content.at + b.query * values, *position = d.position.at + b.query * values;
    const V *q = s.q.at + b.query * depth;
    V inverse[TILE], *w = s.weights.at, *p = d.logits.at;
    logits(b, s.q.at, s.keys(*this), s.scaled.at, s.rq.at, s.rk.at, w);
    soften(b, w, inverse, true);
    weight_gradients(b, content, position, s.v.at, s.rv.at, p);
    for (int t = 0; t < TILE; ++t) {
      V total = {}, all = {}, *x = p + t * line, *y = w + t * line;
      for (int64_t n = PAD; n < PAD + b.high - b.low; ++n) {
        total += x[n] * y[n];
        all += y[n];
      }
      // By the weights' sum as rounded, so that the gradients of a query's logits add up to 0.
      if (b.query + t < length) total /= all;
      for (int64_t n = 0; n < PAD; ++n) x[n] = V{};
      for (int64_t n = PAD; n < PAD + b.high - b.low; ++n) x[n] = (x[n] - total) * y[n];
      for (int64_t n = PAD + b.high - b.low; n < 2 * PAD + b.high - b.low; ++n) x[n] = V{};
    }
    spread_by_key(b, w, content, values, d.v.at);
    spread_by_row(b, w, position, values, false, d.rv.at);

    V *by_key = d.q.at, *by_row = d.q.at + TILE * depth, *tile = d.tile.at;
    // The query's table is scaled already, the keys are not.
    weigh_all(b, p, s.keys(*this), s.rq.at, depth, by_key, by_row);
    V of_scale = {};
    for (int64_t n = 0; n < TILE * depth; ++n) {
      of_scale += q[n] * by_key[n];
      by_key[n] = by_key[n] * content_scale + by_row[n];
      tile[n] = q[n] * content_scale;
    }
    d.scale += sum(of_scale);
    unpack(q_grad, g, b.query, std::min<int64_t>(TILE, length - b.query), depth, by_key);
    spread_to_keys(b, p, tile, s.rk.at, d.k.at);
    spread_by_row(b, p, q, depth, false, d.rq.at);
    // Row n meets key b.low - (TILE - 1) + n of the first query, the next one of the second.
    spread_by_row(b, p, s.keys(*this) + (b.low - (TILE - 1)) * depth, depth, true, d.rk.at);
  }

  // Adds up the lanes of a table's gradient and clears it.
  void flush(Vectors &table, int64_t channels, T *out) const {
    for (int64_t n = 0; n < rows * channels; ++n) {
      V &x = table.at[PAD * channels + n];
      out[n] += sum(x);
    }
    std::memset(table.data, 0, (rows + 2 * PAD) * channels * sizeof(V));
  }

  int backward(const Inputs &in, const View &content_grad, const View &position_grad,
               const Outputs &out) const {
    const int64_t table = rows * depth, value_table = rows * values;
    const int64_t slot = 2 * table + value_table + 1;
    // Threads take the tasks in order, so thread + head is another number for each pair in use.
    const int64_t slots = sizes.threads + sizes.heads;
    Scalars partial(slots * slot);
    std::vector<int64_t> head_of(slots, -1);
    if (!partial.at) return 1;
    int failed = 0;
    divide([&](int64_t thread, int64_t first, int64_t last) {
      Shared s(*this);
      Gradients d(*this);
      if (!s.complete() || !d.complete()) {
        failed = 1;
        return;
      }
      for (int64_t task = first; task < last; ++task) {
        const Group g = group(task);
        load(in, g, s);
        pack(content_grad, g, values, false, d.content.at);
        pack(position_grad, g, values, false, d.position.at);
        std::memset(d.k.data, 0, length * depth * sizeof(V));
        std::memset(d.v.data, 0, length * values * sizeof(V));
        for (int64_t i = 0; i < length; i += TILE) backward_tile(in, g, band(i), s, d, *out.q);
        unpack(*out.k, g, 0, length, depth, d.k.at);
        unpack(*out.v, g, 0, length, values, d.v.at);
        if (task + 1 == last || group(task + 1).head != g.head) {
          T *to = partial.at + (thread + g.head) * slot;
          head_of[thread + g.head] = g.head;
          flush(d.rq, depth, to);
          flush(d.rk, depth, to + table);
          flush(d.rv, values, to + 2 * table);
          to[slot - 1] = T(d.scale);
          d.scale = 0;
        }
      }
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
  Attention<T, W> attention(sizes);
  return attention.forward({views, views + 1, views + 2, tables[0], tables[1], tables[2], tables[3]},
                           results[0], results[1]);
}

template <class T, int W>
int run_backward(const Sizes &sizes, const View *views, const T *const *tables, const View *grads,
                 T *const *table_grads) {
  Attention<T, W> attention(sizes);
  return attention.backward(
      {views, views + 1, views + 2, tables[0], tables[1], tables[2], tables[3]}, views[3], views[4],
      {grads, grads + 1, grads + 2, table_grads[0], table_grads[1], table_grads[2],
       table_grads[3]});
}

}  // namespace

extern "C" {

// views: q, k, v; tables: rq, rk, rv, scale; results: content, position (or their sum, and null).
// Returns 0, or 1 where there was no memory.
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
