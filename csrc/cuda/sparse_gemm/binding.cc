#include "cuda/sparse_gemm/sparse_gemm.h"

#include <torch/csrc/stable/ops.h>

#include <array>
#include <tuple>

#include "torch/bind.h"

namespace vk::binding {
namespace {

std::tuple<Tensor, Tensor> SparseCompress(const Tensor& weight) {
  const CudaScope scope("sparse_compress", weight);
  if (weight.dim() != 2) throw std::runtime_error("sparse_compress: weight is no matrix [N, K]");
  const std::array<int64_t, 2> kept = {weight.size(0), weight.size(1) / 2};
  const std::array<int64_t, 1> bytes = {
      vk_cuda_sparse_metadata_bytes(weight.size(0), weight.size(1))};
  const Tensor values = torch::stable::new_empty(weight, {kept.data(), kept.size()});
  const Tensor metadata =
      torch::stable::new_empty(weight, {bytes.data(), bytes.size()}, ScalarType::Byte);
  Check(vk_cuda_sparse_compress(scope.View("values", values), scope.View("metadata", metadata),
                                scope.View("weight", weight), scope.stream()));
  return {values, metadata};
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, sparse_compress, vk::binding::SparseCompress);
VK_BIND(CUDA, sparse_scaled_mm, vk_cuda_sparse_scaled_mm);
