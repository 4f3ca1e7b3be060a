// A scaled product by CUTLASS 3.x, of what an architecture's header chooses (Config):
//   Arch, Input, Sum; ALayout, BLayout, with those of scales of blocks, if kBlocks
//   Tile, Cluster: shapes; Mainloop: its schedule; Scheduler
//   kTransposed: computes b^T a^T, where rows of a are few and the kernel's come by 64 at least
#ifndef VLLM_KERNELS_CUDA_GEMM_GEMM_3X_CUH_
#define VLLM_KERNELS_CUDA_GEMM_GEMM_3X_CUH_

#include <cutlass/cutlass.h>
#include <cutlass/device_kernel.h>
#include <cutlass/gemm/kernel/gemm_universal_decl.h>
#include <cutlass/numeric_types.h>
#include <cute/tensor.hpp>
#include <cutlass/gemm/collective/collective_builder_decl.hpp>
#include <cutlass/gemm/collective/collective_mma_decl.hpp>
#include <cutlass/gemm/kernel/tile_scheduler.hpp>

#include "core/status.h"
#include "cuda/common/launch.h"
#include "cuda/gemm/finish.cuh"
#include "cuda/gemm/problem.h"

namespace vk::cuda::gemm {

template <int kM, int kN, int kK>
using Mnk = cute::Shape<cute::Int<kM>, cute::Int<kN>, cute::Int<kK>>;

// Elements of 16 bytes: what the tensor memory accelerator wants of every row.
template <class T>
constexpr int kAligned = 128 / cutlass::sizeof_bits<T>::value;

// `Store` (store_tma_3x.cuh, store_direct_3x.cuh): Epilogue; Arguments() of a problem.
template <class Config, class Store>
struct Gemm3x {
  using Input = typename Config::Input;
  using Epilogue = typename Store::Epilogue;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      typename Config::Arch, cutlass::arch::OpClassTensorOp, Input, typename Config::ALayout,
      kAligned<Input>, Input, typename Config::BLayout, kAligned<Input>, typename Config::Sum,
      typename Config::Tile, typename Config::Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      typename Config::Mainloop>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop,
                                                      Epilogue, typename Config::Scheduler>;

  static typename Mainloop::Arguments MainloopArguments(const Problem& p) {
    const auto rows = [](int64_t stride) {
      return cute::make_stride(stride, cute::_1{}, int64_t{0});
    };
    const auto* a = static_cast<const Input*>(p.a);
    const auto* b = static_cast<const Input*>(p.b);
    if constexpr (Config::kTransposed) {
      return {b, rows(p.ldb), a, rows(p.lda)};
    } else if constexpr (Config::kBlocks) {
      return {a,          rows(p.lda),        b,          rows(p.ldb),
              p.a_scales, Config::AScales(p), p.b_scales, Config::BScales(p)};
    } else {
      return {a, rows(p.lda), b, rows(p.ldb)};
    }
  }

  static typename Epilogue::Arguments EpilogueArguments(const Problem& p) {
    return Store::Arguments(p);
  }
};

// How many neighbours of a row of tiles are worked on together, for what they share is then still
// in the cache: up to four, where filling up to multiples of them adds next to no tiles.
template <class Config, class Problem>
int Swizzle(const Problem& p) {
  using Tile = typename Config::Tile;
  using Cluster = typename Config::Cluster;
  const int64_t rows = CeilDiv(Config::kTransposed ? p.n : p.m, cute::size<0>(Tile{}));
  const int64_t columns = CeilDiv(Config::kTransposed ? p.m : p.n, cute::size<1>(Tile{}));
  const auto tiles = [&](int64_t size) {
    return RoundUp(rows, size * cute::size<0>(Cluster{})) *
           RoundUp(columns, size * cute::size<1>(Cluster{}));
  };
  for (const int size : {4, 2}) {
    if (64 * tiles(size) <= 65 * tiles(1)) return size;
  }
  return 1;
}

// Launches the kernel of `Gemm` (Kernel; MainloopArguments() and EpilogueArguments() of a problem).
// CUTLASS's own adapter would bring the kernels of every architecture into the compile.
template <class Gemm, class Config, class Problem>
void Launch3x(const Problem& p) {
  using Kernel = typename Gemm::Kernel;
  using Cluster = typename Config::Cluster;
  cutlass::KernelHardwareInfo hardware;
  hardware.sm_count = p.multiprocessors;
  typename Kernel::TileScheduler::Arguments scheduler{};
  if constexpr (Config::kTuned) scheduler.max_swizzle_size = Swizzle<Config>(p);
  const typename Kernel::Arguments arguments{
      cutlass::gemm::GemmUniversalMode::kGemm,
      Config::kTransposed ? cute::make_shape(p.n, p.m, p.k, 1) : cute::make_shape(p.m, p.n, p.k, 1),
      Gemm::MainloopArguments(p),
      Gemm::EpilogueArguments(p),
      hardware,
      scheduler};
  if (!Kernel::can_implement(arguments) || Kernel::get_workspace_size(arguments) != 0) {
    Fail(VK_INTERNAL, "%s: the kernel chosen does not multiply %d x %d x %d", p.op, p.m, p.n, p.k);
  }
  const auto params = Kernel::to_underlying_arguments(arguments, nullptr);
  const auto kernel = &cutlass::device_kernel<Kernel>;
  // Where it was measured (kTuned): CUTLASS's kernels start while the one before them ends, and
  // wait for it before they load.
  LaunchKernel(
      p.op, kernel,
      {Kernel::get_grid_shape(params), Kernel::get_block_shape(), Kernel::SharedStorageSize,
       p.stream, Config::kTuned, dim3(cute::size<0>(Cluster{}), cute::size<1>(Cluster{}), 1)},
      params);
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_GEMM_3X_CUH_
