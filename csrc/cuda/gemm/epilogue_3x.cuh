// What CUTLASS 3.x kernels do with their sums before they store them, as trees of its visitors. One
// kernel serves scalars and vectors, with and without bias and zero points, and both types of
// result: the pointers and a flag tell.
#ifndef VLLM_KERNELS_CUDA_GEMM_EPILOGUE_3X_CUH_
#define VLLM_KERNELS_CUDA_GEMM_EPILOGUE_3X_CUH_

#include <cute/tensor.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>

#include "cuda/gemm/finish.cuh"
#include "cuda/gemm/problem.h"

namespace vk::cuda::gemm {

namespace fusion = cutlass::epilogue::fusion;
using cute::_0;
using cute::_1;

// A value for each row or column of the kernel's result, or one for all. The kernel's rows are
// columns of ours where it computes the transpose.
template <class CtaTile, class T, bool kDownRows>
struct Broadcast;

template <class CtaTile, class T>
struct Broadcast<CtaTile, T, true> {
  using Stride = cute::Stride<bool, _0, _0>;
  using Node = fusion::Sm90ColBroadcast<0, CtaTile, T, T, Stride>;
  static typename Node::Arguments Make(const void* values, bool vector, T otherwise) {
    return {static_cast<const T*>(values), otherwise, Stride{vector, _0{}, _0{}}};
  }
};

template <class CtaTile, class T>
struct Broadcast<CtaTile, T, false> {
  using Stride = cute::Stride<_0, bool, _0>;
  using Node = fusion::Sm90RowBroadcast<0, CtaTile, T, T, Stride>;
  static typename Node::Arguments Make(const void* values, bool vector, T otherwise) {
    return {static_cast<const T*>(values), otherwise, Stride{_0{}, vector, _0{}}};
  }
};

// The root of every tree: Finish() over the values of its children.
struct FinishNode {
  struct SharedStorage {};
  struct Arguments {
    bool bf16 = false;
  };
  using Params = Arguments;

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

  CUTLASS_HOST_DEVICE FinishNode() {}
  CUTLASS_HOST_DEVICE FinishNode(const Params& params, const SharedStorage&) : params(params) {}
  CUTLASS_DEVICE bool is_producer_load_needed() const { return false; }
  CUTLASS_DEVICE bool is_C_load_needed() const { return false; }

  template <class... Args>
  CUTLASS_DEVICE auto get_producer_load_callbacks(const fusion::ProducerLoadArgs<Args...>&) {
    return fusion::EmptyProducerLoadCallbacks{};
  }

  struct Callbacks : fusion::EmptyConsumerStoreCallbacks {
    CUTLASS_DEVICE explicit Callbacks(bool bf16) : bf16(bf16) {}
    bool bf16;

    template <class Sum, int kCount, class... Values>
    CUTLASS_DEVICE Bits<kCount> visit(const cutlass::Array<Sum, kCount>& sums, int, int, int,
                                      const cutlass::Array<Values, kCount>&... values) {
      return Finish(bf16, sums, values...);
    }
  };

  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(const fusion::ConsumerStoreArgs<Args...>&) {
    return Callbacks(params.bf16);
  }

  Params params;
};

template <class CtaTile, bool kTransposed>
struct ScaledEpilogue {
  using AScale = Broadcast<CtaTile, float, !kTransposed>;
  using BScale = Broadcast<CtaTile, float, kTransposed>;
  using Bias = Broadcast<CtaTile, uint16_t, kTransposed>;
  using Tree = fusion::Sm90EVT<FinishNode, typename AScale::Node, typename BScale::Node,
                               typename Bias::Node>;

  static typename Tree::Arguments Make(const Problem& p) {
    return {AScale::Make(p.a_scales, p.a_per_row, 1.0f),
            BScale::Make(p.b_scales, p.b_per_column, 1.0f),
            Bias::Make(p.bias, true, 0),
            {p.out_dtype == VK_BF16}};
  }
};

// As ScaledEpilogue with azp * azp_adj taken from the sums.
template <class CtaTile, bool kTransposed>
struct ZeroPointEpilogue {
  using Scaled = ScaledEpilogue<CtaTile, kTransposed>;
  using ZeroPoint = Broadcast<CtaTile, int32_t, !kTransposed>;
  using Adjustment = Broadcast<CtaTile, int32_t, kTransposed>;
  using Tree = fusion::Sm90EVT<FinishNode, typename Scaled::AScale::Node,
                               typename Scaled::BScale::Node, typename Scaled::Bias::Node,
                               typename ZeroPoint::Node, typename Adjustment::Node>;

  static typename Tree::Arguments Make(const Problem& p) {
    return {Scaled::AScale::Make(p.a_scales, p.a_per_row, 1.0f),
            Scaled::BScale::Make(p.b_scales, p.b_per_column, 1.0f),
            Scaled::Bias::Make(p.bias, true, 0),
            ZeroPoint::Make(p.azp, true, 1),
            Adjustment::Make(p.azp_adj, true, 0),
            {p.out_dtype == VK_BF16}};
  }
};

// For sums that have been scaled block by block.
struct PlainEpilogue {
  using Tree = fusion::Sm90EVT<FinishNode, fusion::Sm90AccFetch>;

  static typename Tree::Arguments Make(const Problem& p) { return {{}, {p.out_dtype == VK_BF16}}; }
};

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_EPILOGUE_3X_CUH_
