// Data-centre Blackwell and Thor: tcgen05 kernels with sums in tensor memory, FP8 alone. Included
// by the generated instances only.
#ifndef VLLM_KERNELS_CUDA_GEMM_GEMM_SM100_CUH_
#define VLLM_KERNELS_CUDA_GEMM_GEMM_SM100_CUH_

#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "cuda/gemm/fp8_3x.cuh"
#include "cuda/gemm/gemm_3x.cuh"
#include "cuda/gemm/store_tma_3x.cuh"
#include "cuda/gemm/tiles.h"

namespace vk::cuda::gemm {

// Two multiprocessors share a tile of kLarge: each holds half of a and half of b.
template <Kind kKind, Tile kTile>
struct Sm100Tile;

template <>
struct Sm100Tile<Kind::kFp8, Tile::kFew> {
  using Tile = Mnk<128, 32, 128>;
  using CtaTile = Tile;
  using Cluster = Mnk<1, 1, 1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecialized1SmSm100;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized1Sm;
  static constexpr bool kTransposed = true;
};
template <>
struct Sm100Tile<Kind::kFp8, Tile::kMany> {
  using Tile = Mnk<128, 128, 128>;
  using CtaTile = Tile;
  using Cluster = Mnk<1, 1, 1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecialized1SmSm100;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized1Sm;
  static constexpr bool kTransposed = false;
};
template <>
struct Sm100Tile<Kind::kFp8, Tile::kLarge> {
  using Tile = Mnk<256, 256, 128>;
  using CtaTile = Mnk<128, 256, 128>;
  using Cluster = Mnk<2, 1, 1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecialized2SmSm100;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized2Sm;
  static constexpr bool kTransposed = false;
};
template <>
struct Sm100Tile<Kind::kFp8Blocks, Tile::kMany> {
  using Tile = Mnk<128, 128, 128>;
  using CtaTile = Tile;
  using Cluster = Mnk<1, 1, 1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedBlockwise1SmSm100;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized1Sm;
  static constexpr bool kTransposed = false;
};

template <Kind kKind, Tile kTile>
struct Sm100Shapes : Sm100Tile<kKind, kTile> {
  static constexpr bool kTuned = false;
};

template <Kind kKind, Tile kTile>
void LaunchSm100(const Problem& problem) {
  using Config =
      Fp8Config<cutlass::arch::Sm100, Sm100Shapes<kKind, kTile>, kKind == Kind::kFp8Blocks>;
  Launch3x<Gemm3x<Config, TmaStore<Config>>, Config>(problem);
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_GEMM_SM100_CUH_
