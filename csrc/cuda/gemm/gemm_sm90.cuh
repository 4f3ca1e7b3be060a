// Hopper: warp-specialised kernels with TMA and wgmma. Included by the generated instances only.
#ifndef VLLM_KERNELS_CUDA_GEMM_GEMM_SM90_CUH_
#define VLLM_KERNELS_CUDA_GEMM_GEMM_SM90_CUH_

// Has the kernels wait for the one before them, which Launch3x() lets overlap (Config::kTuned).
#define CUTLASS_ENABLE_GDC_FOR_SM90 1

// The headers of this architecture alone: those of all take three times the memory to compile.
#include <cutlass/gemm/kernel/gemm_universal_decl.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/builders/sm90_gmma_builder.inl>
#include <cutlass/gemm/collective/collective_mma_decl.hpp>
#include <cutlass/gemm/collective/sm90_mma_tma_gmma_ss_warpspecialized.hpp>
#include <cutlass/gemm/collective/sm90_mma_tma_gmma_ss_warpspecialized_fp8.hpp>
#include <cutlass/gemm/collective/sm90_mma_tma_gmma_ss_warpspecialized_fp8_blockwise_scaling.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_tma_warpspecialized_cooperative.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_tma_warpspecialized_pingpong.hpp>

#include "cuda/gemm/fp8_3x.cuh"
#include "cuda/gemm/gemm_3x.cuh"
#include "cuda/gemm/store_tma_3x.cuh"
#include "cuda/gemm/tiles.h"

namespace vk::cuda::gemm {

// Tile, cluster and schedule of one instance. Two groups of warps share a tile (cooperative), or
// take turns with tiles of their own (ping-pong), one multiplying while the other stores.
template <Kind kKind, Tile kTile>
struct Sm90Tile;

template <Kind kKind>
struct Sm90Schedules {
  static constexpr bool kFp8 = kKind == Kind::kFp8;
  using PingPong =
      std::conditional_t<kFp8, cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum,
                         cutlass::gemm::KernelTmaWarpSpecializedPingpong>;
  using Cooperative =
      std::conditional_t<kFp8, cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum,
                         cutlass::gemm::KernelTmaWarpSpecializedCooperative>;
};

template <Kind kKind, bool kCooperative>
struct Sm90Schedule {
  using Mainloop = std::conditional_t<kCooperative, typename Sm90Schedules<kKind>::Cooperative,
                                      typename Sm90Schedules<kKind>::PingPong>;
  using Epilogue =
      std::conditional_t<kCooperative, cutlass::epilogue::TmaWarpSpecializedCooperative,
                         cutlass::epilogue::TmaWarpSpecialized>;
};

template <Kind kKind>
struct Sm90Tile<kKind, Tile::kRows16> : Sm90Schedule<kKind, false> {
  using Tile = Mnk<64, 16, 256>;
  using Cluster = Mnk<1, 1, 1>;
  static constexpr bool kTransposed = true;
};
template <Kind kKind>
struct Sm90Tile<kKind, Tile::kRows32> : Sm90Schedule<kKind, false> {
  using Tile = Mnk<64, 32, 256>;
  using Cluster = Mnk<1, 1, 1>;
  static constexpr bool kTransposed = true;
};
template <Kind kKind>
struct Sm90Tile<kKind, Tile::kRows64> : Sm90Schedule<kKind, false> {
  using Tile = Mnk<64, 64, 128>;
  using Cluster = Mnk<2, 1, 1>;
  static constexpr bool kTransposed = true;
};
template <Kind kKind>
struct Sm90Tile<kKind, Tile::kRows128> : Sm90Schedule<kKind, false> {
  using Tile = Mnk<64, 128, 128>;
  using Cluster = Mnk<2, 1, 1>;
  static constexpr bool kTransposed = false;
};
template <Kind kKind>
struct Sm90Tile<kKind, Tile::kMany> : Sm90Schedule<kKind, false> {
  using Tile = Mnk<128, 128, 128>;
  using Cluster = Mnk<1, 2, 1>;
  static constexpr bool kTransposed = false;
};
template <Kind kKind>
struct Sm90Tile<kKind, Tile::kLarge> : Sm90Schedule<kKind, true> {
  using Tile = Mnk<128, 256, 128>;
  using Cluster = Mnk<2, 1, 1>;
  static constexpr bool kTransposed = false;
};

// Sums of 128 products are scaled and added up in float32. A scale belongs to a block of 128 rows
// of the weights, and so does a tile.
template <>
struct Sm90Tile<Kind::kFp8Blocks, Tile::kFew> {
  using Tile = Mnk<64, 128, 128>;
  using Cluster = Mnk<1, 1, 1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8Blockwise;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
  static constexpr bool kTransposed = false;
};
template <>
struct Sm90Tile<Kind::kFp8Blocks, Tile::kMany> {
  using Tile = Mnk<128, 128, 128>;
  using Cluster = Mnk<2, 1, 1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8Blockwise;
  using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
  static constexpr bool kTransposed = false;
};

template <Kind kKind, Tile kTile>
struct Sm90Shapes : Sm90Tile<kKind, kTile> {
  static constexpr bool kTuned = true;
  using CtaTile = typename Sm90Tile<kKind, kTile>::Tile;
};

template <Kind kKind, Tile kTile>
struct Sm90Config
    : Fp8Config<cutlass::arch::Sm90, Sm90Shapes<kKind, kTile>, kKind == Kind::kFp8Blocks> {};

template <Tile kTile>
struct Sm90Config<Kind::kInt8, kTile> : Sm90Shapes<Kind::kInt8, kTile> {
  using Arch = cutlass::arch::Sm90;
  using Input = int8_t;
  using Sum = int32_t;
  using ALayout = cutlass::layout::RowMajor;
  using BLayout = cutlass::layout::ColumnMajor;
  using Scheduler = cutlass::gemm::PersistentScheduler;
  static constexpr bool kBlocks = false;
};

template <Kind kKind, Tile kTile>
void LaunchSm90(const Problem& problem) {
  using Config = Sm90Config<kKind, kTile>;
  Launch3x<Gemm3x<Config, TmaStore<Config>>, Config>(problem);
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_GEMM_SM90_CUH_
