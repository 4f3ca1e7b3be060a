// Blackwell of workstations and GB10: warp-specialised kernels with TMA and mma, no clusters, FP8
// alone. Included by the generated instances only.
#ifndef VLLM_KERNELS_CUDA_GEMM_GEMM_SM120_CUH_
#define VLLM_KERNELS_CUDA_GEMM_GEMM_SM120_CUH_

// The headers of this architecture alone, in the order that they need: those of all take more
// memory to compile.
#include <cutlass/cutlass.h>
#include <cutlass/detail/blockwise_scale_layout.hpp>
#include <cutlass/detail/dependent_false.hpp>

#include <cutlass/gemm/kernel/gemm_universal_decl.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder_decl.hpp>
#include <cutlass/gemm/collective/collective_mma_decl.hpp>
#include <cutlass/gemm/kernel/tile_scheduler.hpp>

#include <cutlass/gemm/collective/builders/sm100_umma_builder.inl>

#include <cutlass/gemm/collective/builders/sm120_blockwise_mma_builder.inl>
#include <cutlass/gemm/collective/builders/sm120_mma_builder.inl>
#include <cutlass/gemm/collective/sm120_mma_tma.hpp>
#include <cutlass/gemm/collective/sm120_mma_tma_blockwise_scaling.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_tma_warpspecialized_cooperative.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_tma_warpspecialized_pingpong.hpp>

#include "cuda/gemm/fp8_3x.cuh"
#include "cuda/gemm/gemm_3x.cuh"
#include "cuda/gemm/store_direct_3x.cuh"
#include "cuda/gemm/tiles.h"

namespace vk::cuda::gemm {

template <Kind kKind, Tile kTile>
struct Sm120Tile;

template <Kind kKind>
struct Sm120Tile<kKind, Tile::kFew> {
  using Tile = Mnk<64, 128, 128>;
  using Mainloop = std::conditional_t<kKind == Kind::kFp8Blocks,
                                      cutlass::gemm::KernelTmaWarpSpecializedBlockwisePingpongSm120,
                                      cutlass::gemm::KernelTmaWarpSpecializedPingpong>;
};
template <Kind kKind>
struct Sm120Tile<kKind, Tile::kMany> {
  using Tile = Mnk<128, 128, 128>;
  using Mainloop =
      std::conditional_t<kKind == Kind::kFp8Blocks,
                         cutlass::gemm::KernelTmaWarpSpecializedBlockwiseCooperativeSm120,
                         cutlass::gemm::KernelTmaWarpSpecializedCooperative>;
};

template <Kind kKind, Tile kTile>
struct Sm120Shapes : Sm120Tile<kKind, kTile> {
  using Cluster = Mnk<1, 1, 1>;
  static constexpr bool kTransposed = false;
  static constexpr bool kTuned = false;
};

template <Kind kKind, Tile kTile>
void LaunchSm120(const Problem& problem) {
  using Config =
      Fp8Config<cutlass::arch::Sm120, Sm120Shapes<kKind, kTile>, kKind == Kind::kFp8Blocks>;
  Launch3x<Gemm3x<Config, DirectStore<Config>>, Config>(problem);
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_GEMM_SM120_CUH_
