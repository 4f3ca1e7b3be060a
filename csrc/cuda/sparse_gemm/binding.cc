#include "cuda/sparse_gemm/sparse_gemm.h"

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "torch/bind.h"

namespace vk::binding {
namespace {

std::tuple<Tensor, Tensor> SparseCompress(const Tensor& weight) {
  const char* op = "sparse_compress";
  const CudaScope scope(op, weight);
  CheckDims(op, "weight", weight, 2, "[N, K]");
  const int64_t n = weight.size(0), k = weight.size(1);
  const Tensor values = scope.NewEmpty("values", weight, {n, k / 2});
  const Tensor metadata =
      scope.NewEmpty("metadata", weight, {vk_cuda_sparse_metadata_bytes(n, k)}, ScalarType::Byte);
  Check(vk_cuda_sparse_compress(scope.View("values", values), scope.View("metadata", metadata),
                                scope.View("weight", weight), scope.stream()));
  return {values, metadata};
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, sparse_compress, vk::binding::SparseCompress);
VK_BIND(CUDA, sparse_scaled_mm, vk_cuda_sparse_scaled_mm);
