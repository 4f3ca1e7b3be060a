// What becomes of the sums of CUTLASS 3.x kernels that store from registers: scaled, rounded and
// written as the matrix instruction leaves them.
#ifndef VLLM_KERNELS_CUDA_SCALED_MM_STORE_DIRECT_3X_CUH_
#define VLLM_KERNELS_CUDA_SCALED_MM_STORE_DIRECT_3X_CUH_

#include <cutlass/cutlass.h>
#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/detail.hpp>

#include "cuda/scaled_mm/finish.cuh"
#include "cuda/scaled_mm/problem.h"

namespace vk::cuda::scaled_mm {

// Scales by row and column and adds the bias, or, for sums that have been scaled by blocks,
// neither. kTransposed: the kernel's rows are columns of the result.
template <class Sum, bool kTransposed, bool kScaled>
class DirectEpilogue {
 public:
  using ElementAccumulator = Sum;
  using ElementCompute = float;
  using ElementC = void;
  using ElementD = Stored;
  using StrideC = cute::Stride<int64_t, cute::_1, int64_t>;
  using StrideD = StrideC;
  struct SharedStorage {};

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

  CUTLASS_HOST_DEVICE DirectEpilogue(const Params& params, const SharedStorage& = {})
      : p_(params) {}

  template <class Shape, class Tile, class Coordinates, class Engine, class Layout, class TiledMma,
            class Residue>
  CUTLASS_DEVICE void operator()(const Shape& shape, const Tile& tile, const Coordinates& at,
                                 const cute::Tensor<Engine, Layout>& sums, TiledMma mma,
                                 const Residue&, int thread, char*) const {
    static_assert(typename TiledMma::AtomLayoutC_TV{}(0, 1) ==
                      cute::size<0>(typename TiledMma::AtomShape_MNK{}),
                  "neighbours in a fragment are neighbours in a row");
    const int row0 = cute::get<0>(at) * cute::size<0>(tile);
    const int column0 = cute::get<1>(at) * cute::size<1>(tile);
    const auto places = mma.get_thread_slice(thread).partition_C(
        cute::make_identity_tensor(cute::take<0, 2>(tile)));
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < cute::size(sums); i += 2) {
      const auto place = places(i);
      const int row = row0 + cute::get<0>(place), column = column0 + cute::get<1>(place);
      const auto pair = Pair<Sum>(sums(i), sums(i + 1));
      if constexpr (kTransposed) {
        PutTransposed(pair, column, row, cute::get<1>(shape), cute::get<0>(shape), thread);
      } else if (row < cute::get<0>(shape) && column < cute::get<1>(shape)) {
        Put(row, column, Results(pair, {row, row}, {column, column + 1}));
      }
    }
  }

 private:
  struct Two {
    int first, second;
  };

  template <class T>
  static CUTLASS_DEVICE cutlass::Array<T, 2> Pair(T first, T second) {
    cutlass::Array<T, 2> pair;
    pair[0] = first;
    pair[1] = second;
    return pair;
  }

  // Two results side by side.
  CUTLASS_DEVICE uint32_t Results(const cutlass::Array<Sum, 2>& sums, Two rows, Two columns) const {
    Bits<2> results;
    if constexpr (kScaled) {
      const auto a = [&](int row) { return __ldg(p_.a_scales + (p_.a_per_row ? row : 0)); };
      const auto b = [&](int column) {
        return __ldg(p_.b_scales + (p_.b_per_column ? column : 0));
      };
      const auto bias = [&](int column) {
        return p_.bias != nullptr ? __ldg(p_.bias + column) : uint16_t{0};
      };
      results = Finish(p_.bf16, sums, Pair(a(rows.first), a(rows.second)),
                       Pair(b(columns.first), b(columns.second)),
                       Pair(bias(columns.first), bias(columns.second)));
    } else {
      results = Round(p_.bf16, sums);
    }
    return reinterpret_cast<const uint32_t&>(results);
  }

  // Two rows' results of one column. The lane of the next column, which is even in number, holds
  // theirs: one lane writes the first row, one the second.
  CUTLASS_DEVICE void PutTransposed(const cutlass::Array<Sum, 2>& sums, int row, int column,
                                    int rows, int columns, int thread) const {
    const int there = min(column, columns - 1);
    const uint32_t mine =
        Results(sums, {min(row, rows - 1), min(row + 1, rows - 1)}, {there, there});
    const uint32_t theirs = __shfl_xor_sync(0xffffffffu, mine, 4);
    const bool odd = thread / 4 % 2 != 0;
    if (odd) {
      ++row;
      --column;
    }
    if (row >= rows || column >= columns) return;
    Put(row, column, odd ? __byte_perm(theirs, mine, 0x7632) : __byte_perm(mine, theirs, 0x5410));
  }

  CUTLASS_DEVICE void Put(int row, int column, uint32_t results) const {
    *reinterpret_cast<uint32_t*>(p_.out + row * p_.ldo + column) = results;
  }

  Params p_;
};

// Stores for Gemm3x.
template <class Config>
struct DirectStore {
  using Epilogue = cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<
      DirectEpilogue<typename Config::Sum, Config::kTransposed, !Config::kBlocks>>;
  static typename Epilogue::Arguments Arguments(const Problem& p) { return Epilogue::Make(p); }
};

}  // namespace vk::cuda::scaled_mm
#endif  // VLLM_KERNELS_CUDA_SCALED_MM_STORE_DIRECT_3X_CUH_
