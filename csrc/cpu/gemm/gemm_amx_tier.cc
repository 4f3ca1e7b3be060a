// Kernels on AMX tiles: 32 rows x 32 columns in four tiles, or 16 x 64 where at most 16 rows are
// left. Packed A: groups of 16 rows, per step one tile of 16 x 64 bytes.
#include "cpu/gemm/gemm_tier.h"

#if VK_GEMM_AMX
#include <cstring>

#include "cpu/amx.h"
#include "cpu/gemm/gemm_expand.h"

namespace vk::VK_TIER {
namespace {

constexpr size_t kBRowBytes = kPanel * 4;  // 64 columns of 4 bytes of K
constexpr size_t kBStepBytes = kTileRows * kBRowBytes;
constexpr size_t kSumsRowBytes = kPanel * 4;

// Configurations by rows of A - 1, at most 16: the sums (0..3) and A (4) have no more.
struct FewRowsConfigs {
  TileConfig config[kTileRows];
  constexpr FewRowsConfigs() : config{} {
    for (size_t rows = 1; rows <= kTileRows; ++rows) {
      config[rows - 1] = kFullTileConfig;
      for (size_t tile = 0; tile <= 4; ++tile) {
        config[rows - 1].rows[tile] = static_cast<uint8_t>(rows);
      }
    }
  }
};
constexpr FewRowsConfigs kFewRowsConfigs;

// The same for 17 to 32 rows: the lower sums (2, 3) and the lower A (5) have the rows beyond 16.
struct PairConfigs {
  TileConfig config[kTileRows];
  constexpr PairConfigs() : config{} {
    for (size_t rows = 1; rows <= kTileRows; ++rows) {
      config[rows - 1] = kFullTileConfig;
      for (size_t tile : {2, 3, 5}) config[rows - 1].rows[tile] = static_cast<uint8_t>(rows);
    }
  }
};
constexpr PairConfigs kPairConfigs;

struct Bf16Tiles {
  static constexpr size_t kDepth = 32, kValueBytes = 2;
};
struct I8Tiles {
  static constexpr size_t kDepth = 64, kValueBytes = 1;
};

// Tile numbers are immediate operands, so <immintrin.h> has macros for them, and so is this.
#define VK_TILE_DOT(sum, a, b)                                        \
  do {                                                                \
    if constexpr (Tiles::kValueBytes == 2) _tile_dpbf16ps(sum, a, b); \
    if constexpr (Tiles::kValueBytes == 1) _tile_dpbssd(sum, a, b);   \
  } while (0)

// 32 rows x 32 columns. Tiles: 0..3 sums, 4 and 5 A, 6 and 7 B.
template <class Tiles, class Fetch>
HWY_INLINE void Multiply32x32(const char* a, size_t a_stride, const char* b, char* sums,
                              size_t steps, bool first, Fetch& fetcher) {
  char* lower = sums + kTileRows * kSumsRowBytes;
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kSumsRowBytes);
    _tile_loadd(1, sums + 64, kSumsRowBytes);
    _tile_loadd(2, lower, kSumsRowBytes);
    _tile_loadd(3, lower + 64, kSumsRowBytes);
  }
  for (size_t s = 0; s < steps; ++s, a += kTileBytes, b += kBStepBytes) {
    _tile_loadd(6, b, kBRowBytes);
    _tile_loadd(4, a, 64);
    VK_TILE_DOT(0, 4, 6);
    fetcher.Fetch();
    _tile_loadd(7, b + 64, kBRowBytes);
    VK_TILE_DOT(1, 4, 7);
    _tile_loadd(5, a + a_stride, 64);
    VK_TILE_DOT(2, 5, 6);
    VK_TILE_DOT(3, 5, 7);
  }
  _tile_stored(0, sums, kSumsRowBytes);
  _tile_stored(1, sums + 64, kSumsRowBytes);
  _tile_stored(2, lower, kSumsRowBytes);
  _tile_stored(3, lower + 64, kSumsRowBytes);
}

// Up to 16 rows x 64 columns. Tiles: 0..3 sums, 4 A, 5..7 B.
HWY_INLINE void LoadSums(const char* sums, bool first) {
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kSumsRowBytes);
    _tile_loadd(1, sums + 64, kSumsRowBytes);
    _tile_loadd(2, sums + 128, kSumsRowBytes);
    _tile_loadd(3, sums + 192, kSumsRowBytes);
  }
}

HWY_INLINE void StoreSums(char* sums) {
  _tile_stored(0, sums, kSumsRowBytes);
  _tile_stored(1, sums + 64, kSumsRowBytes);
  _tile_stored(2, sums + 128, kSumsRowBytes);
  _tile_stored(3, sums + 192, kSumsRowBytes);
}

// One step; `fetch` is called between the tiles.
template <class Tiles, class Fetch>
HWY_INLINE void Step16x64(const char* a, const char* b, const Fetch& fetch) {
  _tile_loadd(4, a, 64);
  _tile_loadd(5, b, kBRowBytes);
  VK_TILE_DOT(0, 4, 5);
  fetch();
  _tile_loadd(6, b + 64, kBRowBytes);
  VK_TILE_DOT(1, 4, 6);
  fetch();
  _tile_loadd(7, b + 128, kBRowBytes);
  VK_TILE_DOT(2, 4, 7);
  fetch();
  _tile_loadd(5, b + 192, kBRowBytes);
  VK_TILE_DOT(3, 4, 5);
  fetch();
}

template <class Tiles, class Fetch>
HWY_INLINE void Multiply16x64(const char* a, const char* b, char* sums, size_t steps, bool first,
                              Fetch& fetcher) {
  LoadSums(sums, first);
  for (size_t s = 0; s < steps; ++s, a += kTileBytes, b += kBStepBytes) {
    Step16x64<Tiles>(a, b, [&] { fetcher.Fetch(); });
  }
  StoreSums(sums);
}

// For at most 16 rows, which read the weights once: they are prefetched shortly before their use,
// and beyond the end of this panel into the next.
template <class Tiles>
void MultiplyFew(const GemmBlock& block) {
  _tile_loadconfig(&kFewRowsConfigs.config[block.rows - 1]);
  const char* from = block.near ? nullptr : block.b + kFetchAhead;
  Fetcher fetcher(from, block.steps * kBStepBytes, 4 * block.steps);
  Multiply16x64<Tiles>(block.a, block.b, static_cast<char*>(block.sums), block.steps, block.first,
                       fetcher);
  _tile_release();
}

// Compact weights, up to 16 rows and the whole of K: a step is expanded while the tiles multiply
// with the one before.
void MultiplyCompact16x64(const GemmBlock& block, const GemmCompact& weights) {
  alignas(64) char expanded[2][kBStepBytes];
  Expander expander(weights);
  const char* a = block.a;
  _tile_loadconfig(&kFewRowsConfigs.config[block.rows - 1]);
  LoadSums(nullptr, true);
  if (block.steps > 0) expander.Next<kTileRows>(expanded[0]);
  for (size_t s = 0; s < block.steps; ++s, a += kTileBytes) {
    if (s + 1 < block.steps) expander.Next<kTileRows>(expanded[(s + 1) % 2]);
    TileBarrier(expanded);
    Step16x64<Bf16Tiles>(a, expanded[s % 2], [] {});
  }
  StoreSums(static_cast<char*>(block.sums));
}

// 17 to 32 rows and half of the panel, likewise.
template <size_t kWhich>
void MultiplyCompact32x32(const GemmBlock& block, const GemmCompact& weights) {
  constexpr size_t kHalfRowBytes = kBRowBytes / 2;
  alignas(64) char expanded[2][kBStepBytes / 2];
  Expander expander(weights);
  const char* upper = block.a;
  const char* lower = upper + block.a_group_stride;
  _tile_loadconfig(&kPairConfigs.config[block.rows - kTileRows - 1]);
  LoadSums(nullptr, true);
  if (block.steps > 0) expander.NextHalf<kTileRows, kWhich>(expanded[0]);
  for (size_t s = 0; s < block.steps; ++s, upper += kTileBytes, lower += kTileBytes) {
    if (s + 1 < block.steps) expander.NextHalf<kTileRows, kWhich>(expanded[(s + 1) % 2]);
    TileBarrier(expanded);
    _tile_loadd(4, upper, 64);
    _tile_loadd(6, expanded[s % 2], kHalfRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, expanded[s % 2] + 64, kHalfRowBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, lower, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  char* sums = static_cast<char*>(block.sums) + kWhich * kHalfRowBytes;
  _tile_stored(0, sums, kSumsRowBytes);
  _tile_stored(1, sums + 64, kSumsRowBytes);
  _tile_stored(2, sums + kTileRows * kSumsRowBytes, kSumsRowBytes);
  _tile_stored(3, sums + kTileRows * kSumsRowBytes + 64, kSumsRowBytes);
}

void MultiplyCompact(const GemmBlock& block, const GemmCompact& weights) {
  if (block.rows <= kTileRows) {
    MultiplyCompact16x64(block, weights);
  } else {
    MultiplyCompact32x32<0>(block, weights);
    MultiplyCompact32x32<1>(block, weights);
  }
  _tile_release();
}

size_t PairsOf(const GemmBlock& block) { return block.rows / 32 + (block.rows % 32 > kTileRows); }

// How often MultiplyMany prefetches.
size_t FetchesOf(const GemmBlock& block) {
  const size_t pairs = PairsOf(block);
  return (pairs * 2 + (block.rows + kTileRows - 1 - pairs * 32) / kTileRows * 4) * block.steps;
}

template <class Tiles, class Fetch>
void MultiplyMany(const GemmBlock& block, Fetch& fetcher) {
  char* sums = static_cast<char*>(block.sums);
  const size_t pairs = PairsOf(block);
  // One half of the panel for all rows, then the other: it stays in the L1 cache.
  for (size_t half = 0; half < 2; ++half) {
    for (size_t pair = 0; pair < pairs; ++pair) {
      Multiply32x32<Tiles>(block.a + 2 * pair * block.a_group_stride, block.a_group_stride,
                           block.b + half * 128, sums + pair * 32 * kSumsRowBytes + half * 128,
                           block.steps, block.first, fetcher);
    }
  }
  for (size_t row = pairs * 32; row < block.rows; row += kTileRows) {
    Multiply16x64<Tiles>(block.a + row / kTileRows * block.a_group_stride, block.b,
                         sums + row * kSumsRowBytes, block.steps, block.first, fetcher);
  }
}

template <size_t kRows>
void MultiplyAndExpand(const GemmBlock& block) {
  Feeder<kRows> feeder(*block.next, block.next_to, block.next_rows);
  MultiplyMany<Bf16Tiles>(block, feeder);
}

template <class Tiles>
void Multiply(const GemmBlock& block) {
  if (block.rows <= kTileRows) return MultiplyFew<Tiles>(block);
  _tile_loadconfig(&kFullTileConfig);
  TileBarrier(block.b);
  const size_t fetches = FetchesOf(block);
  if (block.next == nullptr) {
    Fetcher fetcher(block.near ? nullptr : block.b_next, block.steps * kBStepBytes, fetches);
    MultiplyMany<Tiles>(block, fetcher);
  } else if (block.next_rows <= fetches) {
    MultiplyAndExpand<1>(block);
  } else if (block.next_rows <= 2 * fetches) {
    MultiplyAndExpand<2>(block);
  } else if (block.next_rows <= 4 * fetches) {
    MultiplyAndExpand<4>(block);
  } else {
    MultiplyAndExpand<8>(block);
  }
  _tile_release();
}
#undef VK_TILE_DOT

// Weights of 4 bits: some steps at a time as bytes in the L1 cache.
constexpr size_t kNibbleSteps = 4;

void ExpandNibbles(const char* from, size_t bytes, char* to) {
  const hn::ScalableTag<uint8_t> d8;
  const auto low = hn::Set(d8, 0x0F);
  for (size_t i = 0; i < bytes; i += kBRowBytes) {
    for (size_t v = 0; v < kBRowBytes; v += hn::Lanes(d8)) {
      const auto words = hn::LoadU(d8, reinterpret_cast<const uint8_t*>(from + i + v));
      uint8_t* out = reinterpret_cast<uint8_t*>(to + 2 * i + v);
      hn::StoreU(hn::And(words, low), d8, out);
      hn::StoreU(hn::ShiftRight<4>(words), d8, out + kBRowBytes);
    }
  }
}

void MultiplyNibbles(const GemmBlock& block) {
  constexpr size_t kStepBytes = kBStepBytes / 2;
  alignas(64) char bytes[kNibbleSteps * kBStepBytes];
  GemmBlock part = block;
  part.b = bytes;
  part.near = true;
  for (size_t s = 0; s < block.steps; s += part.steps) {
    part.steps = HWY_MIN(kNibbleSteps, block.steps - s);
    part.first = block.first && s == 0;
    part.a = block.a + s * kTileBytes;
    ExpandNibbles(block.b + s * kStepBytes, part.steps * kStepBytes, bytes);
    TileBarrier(bytes);
    Multiply<I8Tiles>(part);
  }
}

// Missing rows of the last group keep whatever the memory held: they only reach sums that are never
// read.
template <class Tiles>
void PackRow(char* to, size_t group_stride, size_t row, const void* from, size_t depth) {
  to += row / kTileRows * group_stride + row % kTileRows * 64;
  const char* in = static_cast<const char*>(from);
  size_t bytes = depth * Tiles::kValueBytes;
  for (; bytes >= 64; bytes -= 64, in += 64, to += kTileBytes) std::memcpy(to, in, 64);
  if (bytes == 0) return;
  std::memset(to, 0, 64);
  std::memcpy(to, in, bytes);
}

// K is split so that sums are rarely written and 256 rows of A take half of the L2 cache.
constexpr size_t kBlockSteps = 32, kFewRows = 32;

template <class Tiles>
constexpr GemmKernel MakeKernel() {
  GemmKernel kernel{Tiles::kDepth, kTileRows, kTileBytes,     kBlockSteps,
                    kFewRows,      0,         PackRow<Tiles>, Multiply<Tiles>};
  kernel.row_step_bytes = kTileBytes / kTileRows;
  if constexpr (Tiles::kValueBytes == 2) {
    kernel.compact_rows = kFewRows;
    kernel.multiply_compact = MultiplyCompact;
    kernel.expands_next = kernel.prefers_compact = true;
  }
  return kernel;
}

constexpr GemmKernel MakeNibbles() {
  GemmKernel kernel = MakeKernel<I8Tiles>();
  kernel.multiply = MultiplyNibbles;
  return kernel;
}

}  // namespace

const GemmKernel gemm_amx_bf16 = MakeKernel<Bf16Tiles>();
const GemmKernel gemm_amx_i8 = MakeKernel<I8Tiles>();

const GemmKernel gemm_amx_u4 = MakeNibbles();

}  // namespace vk::VK_TIER
#endif  // VK_GEMM_AMX
