// Hopper's sparse wgmma by CUTLASS 3.x. The weights are the kernel's left side, which alone may be
// sparse, so that it computes the transpose. Included by the generated instances only.
#ifndef VLLM_KERNELS_CUDA_SPARSE_GEMM_GEMM_CUH_
#define VLLM_KERNELS_CUDA_SPARSE_GEMM_GEMM_CUH_

// Has the kernels wait for the one before them, which Launch3x() lets overlap (Config::kTuned).
#define CUTLASS_ENABLE_GDC_FOR_SM90 1

// The headers of this architecture alone, in the order that they need: those of all take more
// memory to compile.
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/builders/sm90_gmma_builder.inl>

#include <cutlass/gemm/kernel/gemm_universal_decl.h>
#include <cutlass/gemm/collective/builders/sm90_sparse_gmma_builder.inl>
#include <cutlass/gemm/collective/sm90_sparse_mma_tma_gmma_ss_warpspecialized.hpp>
#include <cutlass/gemm/collective/sm90_sparse_mma_tma_gmma_ss_warpspecialized_fp8.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_tma_warpspecialized_cooperative.hpp>

#include <type_traits>

#include "cuda/gemm/gemm_3x.cuh"
#include "cuda/sparse_gemm/launch.h"
#include "cuda/sparse_gemm/store.cuh"

namespace vk::cuda::sparse_gemm {

using gemm::kAligned;
using gemm::Mnk;

template <Type kType>
using Element =
    std::conditional_t<kType == Type::kFp8, cutlass::float_e4m3_t,
                       std::conditional_t<kType == Type::kInt8, int8_t, cutlass::bfloat16_t>>;

template <Type kType, Rows kRows>
struct Config {
  using Input = Element<kType>;
  using Sum = std::conditional_t<kType == Type::kInt8, int32_t, float>;
  static constexpr int kColumns = BlockColumns(sizeof(Input));
  using Tile =
      std::conditional_t<kRows == Rows::kFew, Mnk<128, 32, kColumns>, Mnk<128, 128, kColumns>>;
  using Cluster = Mnk<1, 1, 1>;
  using Schedule =
      std::conditional_t<kType == Type::kFp8,
                         cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum,
                         cutlass::gemm::KernelTmaWarpSpecializedCooperative>;
  static constexpr bool kTransposed = true;
  static constexpr bool kTuned = true;
};

template <class Config>
struct Gemm {
  using Input = typename Config::Input;
  using Epilogue = cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<
      TransposingEpilogue<typename Config::Sum, cute::size<0>(typename Config::Tile{}),
                          cute::size<1>(typename Config::Tile{})>>;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassSparseTensorOp, Input, cutlass::layout::RowMajor,
      2 * kAligned<Input>, Input, cutlass::layout::ColumnMajor, kAligned<Input>,
      typename Config::Sum, typename Config::Tile, typename Config::Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      typename Config::Schedule>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop,
                                                      Epilogue, cutlass::gemm::PersistentScheduler>;

  static typename Mainloop::Arguments MainloopArguments(const Problem& p) {
    using Sparse = typename Mainloop::SparseConfig;
    const auto shape = cute::make_shape(p.n, p.m, p.k, 1);
    return {static_cast<const Input*>(p.b),
            Sparse::fill_layoutA(shape),
            static_cast<const Input*>(p.a),
            cute::make_stride(p.lda, cute::_1{}, int64_t{0}),
            static_cast<const typename Mainloop::ElementE*>(p.metadata),
            Sparse::fill_layoutE(shape)};
  }

  static typename Epilogue::Arguments EpilogueArguments(const Problem& p) {
    return Epilogue::Make(p);
  }
};

template <Type kType, Rows kRows>
void LaunchGemm(const Problem& problem) {
  gemm::Launch3x<Gemm<Config<kType, kRows>>, Config<kType, kRows>>(problem);
}

}  // namespace vk::cuda::sparse_gemm
#endif  // VLLM_KERNELS_CUDA_SPARSE_GEMM_GEMM_CUH_
