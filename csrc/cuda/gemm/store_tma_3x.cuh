// Sums of CUTLASS 3.x kernels to results through shared memory and TMA, by what epilogue_3x.cuh
// says.
#ifndef VLLM_KERNELS_CUDA_GEMM_STORE_TMA_3X_CUH_
#define VLLM_KERNELS_CUDA_GEMM_STORE_TMA_3X_CUH_

#include <cutlass/arch/mma.h>
#include <cutlass/layout/matrix.h>
#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/collective_builder.hpp>

#include <type_traits>

#include "cuda/gemm/epilogue_3x.cuh"
#include "cuda/gemm/gemm_3x.cuh"
#include "cuda/gemm/problem.h"

namespace vk::cuda::gemm {

// Config::Epilogue is its schedule, Config::CtaTile the tile of one block.
template <class Config>
struct TmaStore {
  using Scaled =
      std::conditional_t<std::is_same_v<typename Config::Sum, int32_t>,
                         ZeroPointEpilogue<typename Config::CtaTile, Config::kTransposed>,
                         ScaledEpilogue<typename Config::CtaTile, Config::kTransposed>>;
  using Fusion = std::conditional_t<Config::kBlocks, PlainEpilogue, Scaled>;
  using Layout = std::conditional_t<Config::kTransposed, cutlass::layout::ColumnMajor,
                                    cutlass::layout::RowMajor>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      typename Config::Arch, cutlass::arch::OpClassTensorOp, typename Config::Tile,
      typename Config::Cluster, cutlass::epilogue::collective::EpilogueTileAuto,
      typename Config::Sum, float, void, Layout, kAligned<Stored>, Stored, Layout, kAligned<Stored>,
      typename Config::Epilogue, typename Fusion::Tree>::CollectiveOp;

  static typename Epilogue::Arguments Arguments(const Problem& p) {
    const auto stride = [&] {
      if constexpr (Config::kTransposed) {
        return cute::make_stride(_1{}, p.ldo, int64_t{0});
      } else {
        return cute::make_stride(p.ldo, _1{}, int64_t{0});
      }
    }();
    return {Fusion::Make(p), nullptr, stride, static_cast<Stored*>(p.out), stride};
  }
};

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_STORE_TMA_3X_CUH_
