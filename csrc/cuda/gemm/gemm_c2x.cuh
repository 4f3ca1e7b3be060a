// Turing to Ada: CUTLASS 2.x kernels with cp.async pipelines and mma. Included by the generated
// instances only.
#ifndef VLLM_KERNELS_CUDA_GEMM_GEMM_C2X_CUH_
#define VLLM_KERNELS_CUDA_GEMM_GEMM_C2X_CUH_

#include <cutlass/cutlass.h>
#include <cutlass/gemm/kernel/default_gemm_universal_with_visitor.h>
#include <cutlass/gemm/threadblock/threadblock_swizzle.h>

#include <type_traits>

// Needs those above.
#include <cutlass/epilogue/threadblock/fusion/visitors.hpp>

#include "cuda/common/launch.h"
#include "cuda/gemm/finish.cuh"
#include "cuda/gemm/tiles.h"

namespace vk::cuda::gemm {

// Scales the sums, eight neighbours of a row at once, and stores them. Pointers tell what there is.
template <class ThreadMap>
struct StoreScaled {
  static constexpr int kCount = ThreadMap::kElementsPerAccess;

  struct Arguments {
    Stored* out;
    int64_t ldo;
    const float* a_scales;
    const float* b_scales;
    const uint16_t* bias;
    const int32_t* azp;
    const int32_t* azp_adj;
    bool a_per_row, b_per_column, bf16;
  };
  using Params = Arguments;
  struct SharedStorage {};

  template <class Shape>
  static constexpr Params to_underlying_arguments(const Shape&, const Arguments& arguments, void*) {
    return arguments;
  }
  template <class Shape>
  static size_t get_workspace_size(const Shape&, const Arguments&) {
    return 0;
  }

  CUTLASS_HOST_DEVICE StoreScaled() {}
  CUTLASS_HOST_DEVICE StoreScaled(const Params& params, const SharedStorage&) : params(&params) {}

  template <class Coordinates>
  struct Callbacks : cutlass::epilogue::threadblock::detail::EmptyCallbacks {
    CUTLASS_DEVICE Callbacks(const Params& params, Coordinates coordinates, int m, int n)
        : p(params), coordinates(coordinates), m(m), n(n) {}

    const Params& p;
    Coordinates coordinates;  // (element, column, row, step) of this thread's part
    int m, n;

    template <class Sum>
    CUTLASS_DEVICE auto visit(int step, int row_index, int column_index, int,
                              const cutlass::Array<Sum, kCount>& sums) {
      const auto at = coordinates(0, column_index, row_index, step);
      const int row = cute::get<0>(at), column = cute::get<1>(at);
      if (row >= m || column >= n) return sums;
      cutlass::Array<float, kCount> a_scales, b_scales;
      cutlass::Array<uint16_t, kCount> bias;
      a_scales.fill(p.a_scales[p.a_per_row ? row : 0]);
      Load(b_scales, p.b_per_column ? p.b_scales + column : nullptr,
           p.b_per_column ? 0.0f : *p.b_scales);
      Load(bias, p.bias == nullptr ? nullptr : p.bias + column, uint16_t{0});
      auto* out = reinterpret_cast<Bits<kCount>*>(p.out + row * p.ldo + column);
      if constexpr (std::is_same_v<Sum, int32_t>) {
        if (p.azp_adj != nullptr) {
          cutlass::Array<int32_t, kCount> zero_points, adjustments;
          zero_points.fill(p.azp == nullptr ? 1 : p.azp[row]);
          Load(adjustments, p.azp_adj + column, 0);
          *out = Finish(p.bf16, sums, a_scales, b_scales, bias, zero_points, adjustments);
          return sums;
        }
      }
      *out = Finish(p.bf16, sums, a_scales, b_scales, bias);
      return sums;
    }

    // A multiple of eight columns is there, so that all or none of them are.
    template <class T>
    static CUTLASS_DEVICE void Load(cutlass::Array<T, kCount>& values, const T* from, T otherwise) {
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < kCount; ++i) values[i] = from == nullptr ? otherwise : from[i];
    }
  };

  template <class Shape>
  CUTLASS_DEVICE auto get_callbacks(cutlass::gemm::GemmCoord tile, int thread, Shape shape) {
    const auto coordinates = cute::group_modes<3, 6>(
        ThreadMap::partition(cute::make_identity_tensor(shape), thread, tile));
    return Callbacks<std::remove_const_t<decltype(coordinates)>>(
        *params, coordinates, cute::get<0>(shape), cute::get<1>(shape));
  }

  const Params* params;
};

// Tiles of one generation: Block and Warp shapes, and stages as shared memory has room for.
template <class Arch, Tile kTile>
struct C2xTile {
  using Block = cutlass::gemm::GemmShape<128, 128, 64>;
  using Warp = cutlass::gemm::GemmShape<64, 64, 64>;
  static constexpr int kStages = 5;
};
template <class Arch>
struct C2xTile<Arch, Tile::kFew> {
  using Block = cutlass::gemm::GemmShape<32, 64, 128>;
  using Warp = cutlass::gemm::GemmShape<16, 32, 128>;
  static constexpr int kStages = 5;
};
template <>
struct C2xTile<cutlass::arch::Sm75, Tile::kMany> {
  using Block = cutlass::gemm::GemmShape<128, 128, 64>;
  using Warp = cutlass::gemm::GemmShape<64, 64, 64>;
  static constexpr int kStages = 2;
};
template <>
struct C2xTile<cutlass::arch::Sm75, Tile::kFew> {
  using Block = cutlass::gemm::GemmShape<32, 64, 128>;
  using Warp = cutlass::gemm::GemmShape<16, 32, 128>;
  static constexpr int kStages = 2;
};

// Which of the architectures in one build (10 * capability) have a generation's code.
template <class Arch>
constexpr bool RunsOn(int arch) {
  constexpr int kFrom = 10 * Arch::kMinComputeCapability;
  return arch >= kFrom && arch < (kFrom == 750 ? 800 : 900);
}

template <class Gemm, class Arch>
__global__ void __launch_bounds__(Gemm::kThreadCount, 1)
    KernelC2x([[maybe_unused]] const __grid_constant__ typename Gemm::Params params) {
#ifdef __CUDA_ARCH__
  if constexpr (RunsOn<Arch>(__CUDA_ARCH__)) {
    extern __shared__ __align__(16) char shared[];
    Gemm::invoke(params, *reinterpret_cast<typename Gemm::SharedStorage*>(shared));
  }
#endif
}

template <class Arch, Kind kKind, Tile kTile>
void LaunchC2xOn(const Problem& p) {
  constexpr bool kInt8 = kKind == Kind::kInt8;
  using Input = std::conditional_t<kInt8, int8_t, cutlass::float_e4m3_t>;
  using Sum = std::conditional_t<kInt8, int32_t, float>;
  using Shapes = C2xTile<Arch, kTile>;
  using Instruction =
      std::conditional_t<std::is_same_v<Arch, cutlass::arch::Sm75>,
                         cutlass::gemm::GemmShape<8, 8, 16>, cutlass::gemm::GemmShape<16, 8, 32>>;
  constexpr int kAligned = 16;
  constexpr int kStored = 8;  // elements that a thread stores at once
  using ThreadMap = cutlass::epilogue::threadblock::OutputTileThreadLayout<
      typename Shapes::Block, typename Shapes::Warp, Stored, kStored, 1>;
  using Store = StoreScaled<ThreadMap>;
  using Gemm = typename cutlass::gemm::kernel::DefaultGemmWithVisitor<
      Input, cutlass::layout::RowMajor, cutlass::ComplexTransform::kNone, kAligned, Input,
      cutlass::layout::ColumnMajor, cutlass::ComplexTransform::kNone, kAligned, Stored,
      cutlass::layout::RowMajor, kStored, Sum, float, cutlass::arch::OpClassTensorOp, Arch,
      typename Shapes::Block, typename Shapes::Warp, Instruction, Store,
      cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>, Shapes::kStages,
      std::conditional_t<kInt8, cutlass::arch::OpMultiplyAddSaturate, cutlass::arch::OpMultiplyAdd>,
      1>::GemmKernel;

  const typename Store::Arguments store = {static_cast<Stored*>(p.out),
                                           p.ldo,
                                           p.a_scales,
                                           p.b_scales,
                                           static_cast<const uint16_t*>(p.bias),
                                           p.azp,
                                           p.azp_adj,
                                           p.a_per_row,
                                           p.b_per_column,
                                           p.out_dtype == VK_BF16};
  const typename Gemm::Arguments arguments(cutlass::gemm::GemmUniversalMode::kGemm, {p.m, p.n, p.k},
                                           1, store, p.a, p.b, nullptr, p.out, 0, 0, 0, 0, p.lda,
                                           p.ldb, p.ldo, p.ldo);
  const typename Gemm::Params params(arguments, p.multiprocessors, 1);
  const auto kernel = &KernelC2x<Gemm, Arch>;
  constexpr int kShared = sizeof(typename Gemm::SharedStorage);
  LaunchKernel(p.op, kernel, {params.get_grid_dims(), dim3(Gemm::kThreadCount), kShared, p.stream},
               params);
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_GEMM_C2X_CUH_
