// Prefill on AMX tiles, for `*_tier.cc` files. Logits are computed transposed, keys x rows: keys
// are then the first operand of tdpbf16ps and are read straight from the cache, unpacked.
#ifndef VLLM_KERNELS_CPU_ATTENTION_AMX_H_
#define VLLM_KERNELS_CPU_ATTENTION_AMX_H_

#ifdef __AMX_BF16__

#include "cpu/amx.h"
#include "cpu/attention/keys.h"
#include "cpu/attention/pair.h"
#include "cpu/attention/transpose.h"

namespace vk::VK_TIER {

constexpr int32_t kTile = kTileRows;  // and 32-bit elements of a row

// Where tile (i, k) of an operand lies and the bytes between its rows.
struct TileRows {
  const void* data;
  size_t stride;
};

// c tiles [kM][kN] (16 x 16 floats each, rows `ldc` apart) = or += sum over k of a(m, k) b(k, n).
template <int kM, int kN, class TileOfA, class TileOfB>
HWY_INLINE void TileBlock(int32_t steps, const TileOfA& a, const TileOfB& b, float* c, size_t ldc,
                          bool add) {
  const size_t stride = ldc * sizeof(float);
  const auto at = [c, ldc](int m, int n) { return c + m * kTile * ldc + n * kTile; };
  TileBarrier(c);
  if (add) {
    _tile_loadd(0, at(0, 0), stride);
    if constexpr (kN > 1) _tile_loadd(1, at(0, 1), stride);
    if constexpr (kM > 1) _tile_loadd(2, at(1, 0), stride);
    if constexpr (kM > 1 && kN > 1) _tile_loadd(3, at(1, 1), stride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int32_t k = 0; k < steps; ++k) {
    const TileRows b0 = b(k, 0), a0 = a(0, k);
    _tile_loadd(6, b0.data, b0.stride);
    _tile_loadd(4, a0.data, a0.stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kN > 1) {
      const TileRows b1 = b(k, 1);
      _tile_loadd(7, b1.data, b1.stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kM > 1) {
      const TileRows a1 = a(1, k);
      _tile_loadd(5, a1.data, a1.stride);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kN > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, at(0, 0), stride);
  if constexpr (kN > 1) _tile_stored(1, at(0, 1), stride);
  if constexpr (kM > 1) _tile_stored(2, at(1, 0), stride);
  if constexpr (kM > 1 && kN > 1) _tile_stored(3, at(1, 1), stride);
}

// c [16 rows][16 columns] in blocks of 2 x 2 tiles; a(m, k) and b(k, n) give TileRows.
template <class TileOfA, class TileOfB>
void TileProduct(int32_t rows, int32_t columns, int32_t steps, const TileOfA& a, const TileOfB& b,
                 float* c, size_t ldc, bool add) {
  for (int32_t m = 0; m < rows; m += 2) {
    for (int32_t n = 0; n < columns; n += 2) {
      const auto a_at = [&a, m](int i, int32_t k) { return a(m + i, k); };
      const auto b_at = [&b, n](int32_t k, int i) { return b(k, n + i); };
      float* to = c + m * kTile * ldc + n * kTile;
      if (m + 1 < rows && n + 1 < columns) {
        TileBlock<2, 2>(steps, a_at, b_at, to, ldc, add);
      } else if (m + 1 < rows) {
        TileBlock<2, 1>(steps, a_at, b_at, to, ldc, add);
      } else if (n + 1 < columns) {
        TileBlock<1, 2>(steps, a_at, b_at, to, ldc, add);
      } else {
        TileBlock<1, 1>(steps, a_at, b_at, to, ldc, add);
      }
    }
  }
}

class PrefillAmx {
  using T = hwy::bfloat16_t;

 public:
  using Scope = TileScope;
  static constexpr int32_t kKeys = 256;  // each step loads and stores the output once

  PrefillAmx(Arena& arena, const Tile& tile)
      : tile_(tile),
        rows_(arena, kKeys),
        decoded_(arena, kKeys, tile.padded_head),
        query_(arena.Take<uint32_t>(size_t(tile.padded_head) / 2 * tile.padded_rows)),
        keys_(arena.Take<uint32_t>(size_t(kKeys) * tile.padded_head / 2)),
        values_(arena.Take<uint32_t>(size_t(kKeys) / 2 * tile.padded_head)),
        logits_(arena.Take<float>(size_t(kKeys) * tile.padded_rows)),
        pairs_(arena.Take<uint32_t>(size_t(kKeys) / 2 * tile.padded_rows)),
        probabilities_(arena.Take<uint32_t>(size_t(kKeys) / 2 * tile.padded_rows)) {}

  void Start(const AttentionProblem& problem, const AttentionTask& task) {
    for (int32_t row = 0; row < tile_.padded_rows; row += kTile) PackQuery(problem, task, row);
    hwy::ZeroBytes(tile_.out, sizeof(float) * tile_.padded_rows * tile_.padded_head);
    added_ = false;
  }

  void Step(const AttentionProblem& problem, const AttentionTask& task, const LogitRule& rule,
            int32_t first, int32_t count) {
    rows_.Find(problem, task, first, RoundUp(count, kTile), CachedBytes<T>(problem));
    decoded_.Replace(problem, RoundUp(count, kTile), rows_);
    Logits(problem, count);
    const size_t ld = tile_.padded_rows;
    SoftmaxColumns(rule, tile_, logits_, ld, first, count, PairProbabilities{pairs_, ld});
    Accumulate(count);
  }

  void Finish() { PairPacking::RestoreColumns(tile_); }

 private:
  // Transposes sixteen rows; `keys_` is free until the first step.
  void PackQuery(const AttentionProblem& problem, const AttentionTask& task, int32_t first) {
    const size_t pairs = tile_.padded_head / 2;
    for (int32_t i = 0; i < kTile; ++i) {
      uint32_t* to = keys_ + i * pairs;
      if (first + i >= tile_.rows) {
        hwy::ZeroBytes(to, pairs * sizeof(*to));
        continue;
      }
      PairPacking::PackKey(
          QueryRow(static_cast<const T*>(problem.query), problem.query_token_stride,
                   problem.query_head_stride, problem, task, first + i),
          tile_.head_size, to);
    }
    const size_t ld = tile_.padded_rows;
    for (size_t pair = 0; pair < pairs; pair += kTile) {
      Transpose16(keys_ + pair, pairs, query_ + pair * ld + first, ld);
    }
  }

  int32_t row_tiles() const { return tile_.padded_rows / kTile; }

  void Logits(const AttentionProblem& problem, int32_t count) {
    const int32_t key_tiles = RoundUp(count, kTile) / kTile;
    const size_t ld = tile_.padded_rows;
    const auto query = [&](int32_t k, int n) {
      return TileRows{query_ + k * kTile * ld + n * kTile, ld * sizeof(uint32_t)};
    };
    const auto product = [&](const auto& keys) {
      TileProduct(key_tiles, row_tiles(), tile_.padded_head / 32, keys, query, logits_, ld, false);
    };
    if (tile_.head_size == tile_.padded_head) {
      // Sixteen keys lie in one block, evenly spaced.
      const bool plain = problem.coding == kCachePlain;
      const size_t stride = (plain ? problem.key_slot_stride : decoded_.stride()) * sizeof(T);
      product([&](int m, int32_t k) {
        return TileRows{static_cast<const T*>(rows_.keys[m * kTile]) + k * 32, stride};
      });
      return;
    }
    const size_t row = tile_.padded_head / 2;
    for (int32_t i = 0; i < key_tiles * kTile; ++i) {
      PairPacking::PackKey(static_cast<const T*>(rows_.keys[i]), tile_.head_size, keys_ + i * row);
    }
    product([&](int m, int32_t k) {
      return TileRows{keys_ + m * kTile * row + k * kTile, row * sizeof(uint32_t)};
    });
  }

  void Accumulate(int32_t count) {
    const int32_t chunks = RoundUp(count, 2 * kTile) / (2 * kTile);
    const size_t ld = tile_.padded_rows, head = tile_.padded_head;
    // Past the last key both operands must be zero: 0 x NaN is NaN.
    for (int32_t pair = 0; pair < chunks * kTile; ++pair) {
      if (2 * pair < count) {
        PairPacking::PackValues(rows_.values + 2 * pair, count - 2 * pair, tile_.head_size,
                                values_ + pair * head);
      } else {
        hwy::ZeroBytes(values_ + pair * head, head * sizeof(uint32_t));
        hwy::ZeroBytes(pairs_ + pair * ld, ld * sizeof(uint32_t));
      }
    }
    for (int32_t m = 0; m < row_tiles(); ++m) {
      for (int32_t k = 0; k < chunks; ++k) {
        Transpose16(pairs_ + k * kTile * ld + m * kTile, ld, Probabilities(m, k), kTile);
      }
    }
    if (added_) Rescale();
    TileProduct(
        row_tiles(), tile_.padded_head / kTile, chunks,
        [&](int m, int32_t k) { return TileRows{Probabilities(m, k), kTileRowBytes}; },
        [&](int32_t k, int n) {
          return TileRows{values_ + k * kTile * head + n * kTile, head * sizeof(uint32_t)};
        },
        tile_.out, head, added_);
    added_ = true;
  }

  // One tile: rows m * 16 .. against keys k * 32 ..
  uint32_t* Probabilities(int m, int32_t k) const {
    return probabilities_ + (size_t(m) * (kKeys / 32) + k) * kTile * kTile;
  }

  // After the first steps the maxima hardly change, so most rows need no correction.
  void Rescale() {
    for (int32_t row = 0; row < tile_.rows; ++row) {
      if (tile_.correction[row] == 1.0f) continue;
      const VF factor = hn::Set(DF(), tile_.correction[row]);
      float* out = tile_.out + static_cast<size_t>(row) * tile_.padded_head;
      for (int32_t i = 0; i < tile_.padded_head; i += kLanes) {
        hn::StoreU(hn::Mul(hn::LoadU(DF(), out + i), factor), DF(), out + i);
      }
    }
  }

  const Tile& tile_;
  KeyRows rows_;
  Decoded<T> decoded_;
  uint32_t* query_;          // pairs [padded_head / 2][padded_rows]
  uint32_t* keys_;           // pairs [kKeys][padded_head / 2], where the head has to be padded
  uint32_t* values_;         // pairs [kKeys / 2][padded_head]
  float* logits_;            // [kKeys][padded_rows]
  uint32_t* pairs_;          // probabilities [kKeys / 2][padded_rows]
  uint32_t* probabilities_;  // the same as tiles
  bool added_ = false;
};

}  // namespace vk::VK_TIER

#endif  // __AMX_BF16__
#endif  // VLLM_KERNELS_CPU_ATTENTION_AMX_H_
