// What becomes of the sums of CUTLASS 3.x kernels that do without its visitors, which take the
// compiler 1.5 to 2 GB more: scaled, rounded and stored from registers.
#ifndef VLLM_KERNELS_CUDA_GEMM_STORE_DIRECT_3X_CUH_
#define VLLM_KERNELS_CUDA_GEMM_STORE_DIRECT_3X_CUH_

#include <cutlass/cutlass.h>
#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/detail.hpp>

#include "cuda/gemm/finish.cuh"
#include "cuda/gemm/problem.h"

namespace vk::cuda::gemm {

// What CUTLASS's kernels ask of an epilogue, but for the work itself.
template <class Sum>
class EpilogueBase {
 public:
  using ElementAccumulator = Sum;
  using ElementCompute = float;
  using ElementC = void;
  using ElementD = Stored;
  using StrideC = cute::Stride<int64_t, cute::_1, int64_t>;
  using StrideD = StrideC;

  struct Arguments {
    const float* a_scales;
    const float* b_scales;
    const uint16_t* bias;
    Stored* out;
    int64_t ldo;
    bool a_per_row, b_per_column, bf16;
  };
  using Params = Arguments;

  static Arguments Make(const Problem& p) {
    return {p.a_scales,
            p.b_scales,
            static_cast<const uint16_t*>(p.bias),
            static_cast<Stored*>(p.out),
            p.ldo,
            p.a_per_row,
            p.b_per_column,
            p.out_dtype == VK_BF16};
  }

  template <class Shape>
  static constexpr Params to_underlying_arguments(const Shape&, const Arguments& arguments, void*) {
    return arguments;
  }
  template <class Shape>
  static bool can_implement(const Shape&, const Arguments&) {
    return true;
  }
  template <class Shape>
  static size_t get_workspace_size(const Shape&, const Arguments&) {
    return 0;
  }
  template <class Shape>
  static cutlass::Status initialize_workspace(const Shape&, const Arguments&, void*, cudaStream_t,
                                              cutlass::CudaHostAdapter* = nullptr) {
    return cutlass::Status::kSuccess;
  }

  CUTLASS_HOST_DEVICE explicit EpilogueBase(const Params& params) : p_(params) {}

 protected:
  CUTLASS_DEVICE float AScale(int row) const {
    return __ldg(p_.a_scales + (p_.a_per_row ? row : 0));
  }
  CUTLASS_DEVICE float BScale(int column) const {
    return __ldg(p_.b_scales + (p_.b_per_column ? column : 0));
  }
  CUTLASS_DEVICE float Bias(int column) const {
    return p_.bias != nullptr ? Widen(p_.bf16, __ldg(p_.bias + column)) : 0.0f;
  }

  // Two results side by side.
  CUTLASS_DEVICE uint32_t Rounded(float first, float second) const {
    cutlass::Array<float, 2> values;
    values[0] = first;
    values[1] = second;
    const Bits<2> bits = Round(p_.bf16, values);
    return reinterpret_cast<const uint32_t&>(bits);
  }

  Params p_;
};

// Writes results as the matrix instruction leaves them. Scales by row and column and adds the bias,
// or, for sums that have been scaled by blocks, neither.
template <class Sum, bool kScaled>
class DirectEpilogue : public EpilogueBase<Sum> {
 public:
  struct SharedStorage {};
  using typename EpilogueBase<Sum>::Params;

  CUTLASS_HOST_DEVICE explicit DirectEpilogue(const Params& params, const SharedStorage& = {})
      : EpilogueBase<Sum>(params) {}

  template <class Shape, class Tile, class Coordinates, class Engine, class Layout, class TiledMma,
            class Residue>
  CUTLASS_DEVICE void operator()(const Shape& shape, const Tile& tile, const Coordinates& at,
                                 const cute::Tensor<Engine, Layout>& sums, TiledMma mma,
                                 const Residue&, int thread, char*) const {
    static_assert(typename TiledMma::AtomLayoutC_TV{}(0, 1) ==
                      cute::size<0>(typename TiledMma::AtomShape_MNK{}),
                  "neighbours in a fragment are neighbours in a row");
    constexpr int kSums = cute::size(Layout{}), kAtOnce = kSums % 32 == 0 ? 32 : 8;
    static_assert(kSums % kAtOnce == 0, "sums by whole steps");
    const int rows = cute::get<0>(shape), columns = cute::get<1>(shape);
    const int row0 = cute::get<0>(at) * cute::size<0>(tile);
    const int column0 = cute::get<1>(at) * cute::size<1>(tile);
    const auto places = mma.get_thread_slice(thread).partition_C(
        cute::make_identity_tensor(cute::take<0, 2>(tile)));
    const auto row_of = [&](int i) { return row0 + static_cast<int>(cute::get<0>(places(i))); };
    const auto column_of = [&](int i) {
      return column0 + static_cast<int>(cute::get<1>(places(i)));
    };
    // Whatever is loaded is on its way before the first of it is used.
    CUTLASS_PRAGMA_UNROLL
    for (int first = 0; first < kSums; first += kAtOnce) {
      float a[kAtOnce / 2], b[kAtOnce], bias[kAtOnce];
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; kScaled && i < kAtOnce; i += 2) {
        const int column = min(column_of(first + i), columns - 2);
        a[i / 2] = this->AScale(min(row_of(first + i), rows - 1));
        b[i] = this->BScale(column);
        b[i + 1] = this->BScale(column + 1);
        bias[i] = this->Bias(column);
        bias[i + 1] = this->Bias(column + 1);
      }
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < kAtOnce; i += 2) {
        const auto result = [&](int e) {
          const auto sum = static_cast<float>(sums(first + i + e));
          return kScaled ? a[i / 2] * (b[i + e] * sum) + bias[i + e] : sum;
        };
        const int row = row_of(first + i), column = column_of(first + i);
        if (row >= rows || column >= columns) continue;
        *reinterpret_cast<uint32_t*>(this->p_.out + row * this->p_.ldo + column) =
            this->Rounded(result(0), result(1));
      }
    }
  }
};

// Stores for Gemm3x.
template <class Config>
struct DirectStore {
  static_assert(!Config::kTransposed, "rows of the kernel are rows of the result");
  using Epilogue = cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<
      DirectEpilogue<typename Config::Sum, !Config::kBlocks>>;
  static typename Epilogue::Arguments Arguments(const Problem& p) { return Epilogue::Make(p); }
};

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_STORE_DIRECT_3X_CUH_
