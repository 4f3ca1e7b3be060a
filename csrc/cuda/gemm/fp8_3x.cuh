// FP8 by CUTLASS 3.x, with scales for rows and columns or for blocks. Those of blocks are found by
// columns, of a and of b, which is as the engine has them.
#ifndef VLLM_KERNELS_CUDA_GEMM_FP8_3X_CUH_
#define VLLM_KERNELS_CUDA_GEMM_FP8_3X_CUH_

#include <cutlass/layout/matrix.h>
#include <cutlass/numeric_types.h>
#include <cute/tensor.hpp>
#include <cutlass/detail/blockwise_scale_layout.hpp>
#include <cutlass/gemm/kernel/tile_scheduler.hpp>

#include <type_traits>

#include "cuda/gemm/problem.h"

namespace vk::cuda::gemm {

struct BlockScales {
  using Scales =
      cutlass::detail::Sm1xxBlockwiseScaleConfig<1, kBlock, kBlock, cute::UMMA::Major::MN,
                                                 cute::UMMA::Major::K>;
  using AScalesLayout = decltype(Scales::deduce_layoutSFA());
  using BScalesLayout = decltype(Scales::deduce_layoutSFB());

  static int32_t Blocks(int32_t size) { return (size + kBlock - 1) / kBlock; }

  // TMA takes multiples of four scales; those beyond the last row are there, and are not used.
  static AScalesLayout AScales(const Problem& p) {
    return cute::make_layout(
        cute::make_shape(cute::make_shape(cute::_1{}, (p.m + 3) / 4 * 4),
                         cute::make_shape(cute::Int<kBlock>{}, Blocks(p.k)), int32_t{1}),
        cute::make_stride(cute::make_stride(cute::_0{}, cute::_1{}),
                          cute::make_stride(cute::_0{}, static_cast<int32_t>(p.a_scales_ld)),
                          int32_t{0}));
  }

  static BScalesLayout BScales(const Problem& p) {
    return cute::make_layout(
        cute::make_shape(cute::make_shape(cute::Int<kBlock>{}, Blocks(p.n)),
                         cute::make_shape(cute::Int<kBlock>{}, Blocks(p.k)), int32_t{1}),
        cute::make_stride(cute::make_stride(cute::_0{}, static_cast<int32_t>(p.b_scales_ld)),
                          cute::make_stride(cute::_0{}, cute::_1{}), int32_t{0}));
  }
};

// A Config for Gemm3x of FP8, from an architecture's tag, its shapes and schedules.
template <class ArchTag, class Shapes, bool kByBlocks>
struct Fp8Config : Shapes, BlockScales {
  using Arch = ArchTag;
  using Input = cutlass::float_e4m3_t;
  using Sum = float;
  using ALayout =
      std::conditional_t<kByBlocks, cute::tuple<cutlass::layout::RowMajor, AScalesLayout>,
                         cutlass::layout::RowMajor>;
  using BLayout =
      std::conditional_t<kByBlocks, cute::tuple<cutlass::layout::ColumnMajor, BScalesLayout>,
                         cutlass::layout::ColumnMajor>;
  using Scheduler = cutlass::gemm::PersistentScheduler;
  static constexpr bool kBlocks = kByBlocks;
};

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_FP8_3X_CUH_
