// Tile kernels (Intel Architecture Instruction Set Extensions Programming Reference, chapter 3,
// "Intel AMX"): 32 rows x 32 columns in four tiles, or 16 x 64 where at most 16 rows are left.
// Packed A: groups of 16 rows, per step one tile of 16 x 64 bytes.
#include "cpu/gemm/gemm_tier.h"

#if VK_GEMM_AMX
#include <immintrin.h>

#include <cstring>

namespace vk::VK_TIER {
namespace {

constexpr size_t kTileRows = 16, kTileBytes = 1024;
constexpr size_t kBRowBytes = kPanel * 4;  // 64 columns of 4 bytes of K
constexpr size_t kBStepBytes = kTileRows * kBRowBytes;
constexpr size_t kSumsRowBytes = kPanel * 4;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// Constant data: the intrinsic tells the compiler of the first bytes only, which would let it drop
// the initialisation of a local variable.
constexpr TileConfig kTileConfig;

struct Bf16Tiles {
  static constexpr size_t kDepth = 32, kValueBytes = 2;
};
struct I8Tiles {
  static constexpr size_t kDepth = 64, kValueBytes = 1;
};

// Tile numbers are immediates of the instructions, hence macros of <immintrin.h> and this one.
#define VK_TILE_DOT(sum, a, b)                                        \
  do {                                                                \
    if constexpr (Tiles::kValueBytes == 2) _tile_dpbf16ps(sum, a, b); \
    if constexpr (Tiles::kValueBytes == 1) _tile_dpbssd(sum, a, b);   \
  } while (0)

// 32 rows x 32 columns. Tiles: 0..3 sums, 4 and 5 A, 6 and 7 B.
template <class Tiles>
void Multiply32x32(const char* a, size_t a_stride, const char* b, char* sums, size_t steps,
                   bool first, Fetcher& fetcher) {
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

// 16 rows x 64 columns. Tiles: 0..3 sums, 4 A, 5..7 B.
template <class Tiles>
void Multiply16x64(const char* a, const char* b, char* sums, size_t steps, bool first,
                   Fetcher& fetcher) {
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
  for (size_t s = 0; s < steps; ++s, a += kTileBytes, b += kBStepBytes) {
    _tile_loadd(4, a, 64);
    _tile_loadd(5, b, kBRowBytes);
    VK_TILE_DOT(0, 4, 5);
    fetcher.Fetch();
    _tile_loadd(6, b + 64, kBRowBytes);
    VK_TILE_DOT(1, 4, 6);
    _tile_loadd(7, b + 128, kBRowBytes);
    VK_TILE_DOT(2, 4, 7);
    _tile_loadd(5, b + 192, kBRowBytes);
    VK_TILE_DOT(3, 4, 5);
  }
  _tile_stored(0, sums, kSumsRowBytes);
  _tile_stored(1, sums + 64, kSumsRowBytes);
  _tile_stored(2, sums + 128, kSumsRowBytes);
  _tile_stored(3, sums + 192, kSumsRowBytes);
}

template <class Tiles>
void Multiply(const GemmBlock& block) {
  _tile_loadconfig(&kTileConfig);
  char* sums = static_cast<char*>(block.sums);
  const size_t pairs = block.rows / 32 + (block.rows % 32 > kTileRows);
  const size_t calls = (pairs * 2 + (block.rows > pairs * 32)) * block.steps;
  Fetcher fetcher(block.b_next, block.steps * kBStepBytes, calls);
  // One half of the panel for all rows, then the other: it stays in the L1 cache.
  for (size_t half = 0; half < 2; ++half) {
    for (size_t pair = 0; pair < pairs; ++pair) {
      Multiply32x32<Tiles>(block.a + 2 * pair * block.a_group_stride, block.a_group_stride,
                           block.b + half * 128, sums + pair * 32 * kSumsRowBytes + half * 128,
                           block.steps, block.first, fetcher);
    }
  }
  if (block.rows > pairs * 32) {
    Multiply16x64<Tiles>(block.a + 2 * pairs * block.a_group_stride, block.b,
                         sums + pairs * 32 * kSumsRowBytes, block.steps, block.first, fetcher);
  }
  _tile_release();
}
#undef VK_TILE_DOT

// Rows of the last group that are missing keep what the memory held: they only reach sums that
// nobody reads.
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

// K is split so that the sums are written seldom and 256 rows of A take half of the L2 cache.
constexpr size_t kBlockSteps = 32, kFewRows = 32;

template <class Tiles>
constexpr GemmKernel MakeKernel() {
  return {Tiles::kDepth, kTileRows, kTileBytes,     kBlockSteps,
          kFewRows,      0,         PackRow<Tiles>, Multiply<Tiles>};
}

}  // namespace

const GemmKernel gemm_amx_bf16 = MakeKernel<Bf16Tiles>();
const GemmKernel gemm_amx_i8 = MakeKernel<I8Tiles>();

}  // namespace vk::VK_TIER
#endif  // VK_GEMM_AMX
