// AMX tiles (Intel Architecture Instruction Set Extensions Programming Reference, chapter 3,
// "Intel AMX"), for `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_AMX_H_
#define VLLM_KERNELS_CPU_AMX_H_

#if defined(__AMX_TILE__)
#include <cstddef>
#include <cstdint>

#include "cpu/tier.h"  // <immintrin.h> too, without the warnings that GCC 12 gives about it

namespace vk::VK_TIER {

constexpr size_t kTileCount = 8;
constexpr size_t kTileRows = 16;
constexpr size_t kTileRowBytes = 64;
constexpr size_t kTileBytes = kTileRows * kTileRowBytes;

// The memory operand of LDTILECFG and STTILECFG.
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

constexpr TileConfig FullTileConfig() {
  TileConfig config{};
  config.palette = 1;
  for (size_t tile = 0; tile < kTileCount; ++tile) {
    config.row_bytes[tile] = kTileRowBytes;
    config.rows[tile] = kTileRows;
  }
  return config;
}
// A constant: the intrinsic tells the compiler of the first bytes only, which would let it drop the
// initialisation of a local variable.
constexpr TileConfig kFullTileConfig = FullTileConfig();

// The compilers' tile intrinsics do not tell that they read memory: stores before them would be
// moved behind or dropped. `read` is memory that the intrinsic behind the barrier reads.
HWY_INLINE void TileBarrier(const void* read) { __asm__ volatile("" ::"r"(read) : "memory"); }

// Configures all tiles at full size while it lives, then restores the caller's configuration.
class TileScope {
 public:
  TileScope() {
    _tile_storeconfig(&saved_);
    TileBarrier(&saved_);
    _tile_loadconfig(&kFullTileConfig);
  }
  ~TileScope() {
    // Tiles in use make every context switch save 8 KiB more.
    if (saved_.palette == 0) {
      _tile_release();
    } else {
      TileBarrier(&saved_);
      _tile_loadconfig(&saved_);
    }
  }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  TileConfig saved_;
};

}  // namespace vk::VK_TIER

#endif  // __AMX_TILE__
#endif  // VLLM_KERNELS_CPU_AMX_H_
