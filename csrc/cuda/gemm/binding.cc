#include "cuda/gemm/gemm.h"

#include <torch/csrc/stable/ops.h>

#include "cuda/common/divide.h"
#include "torch/bind.h"

namespace vk::binding {
namespace {

using torch::stable::transpose;

// Scales of blocks with columns contiguous and, for the copy engine, starting at multiples of
// `multiple` elements. The engine's have that already.
Tensor ByColumns(const CudaScope& scope, const char* name, const Tensor& scales, int64_t multiple) {
  const int64_t rows = scales.size(0), columns = scales.size(1);
  const int64_t distance = scales.stride(1);
  const bool apart = columns == 1 || (distance >= rows && distance % multiple == 0);
  const bool aligned = reinterpret_cast<uintptr_t>(scales.data_ptr()) % (4 * multiple) == 0;
  if ((rows == 1 || scales.stride(0) == 1) && apart && aligned) return scales;
  Tensor copy = scope.NewEmpty(name, scales, {columns, cuda::RoundUp(rows, multiple)});
  copy = transpose(torch::stable::narrow(copy, 1, 0, rows), 0, 1);
  torch::stable::copy_(copy, scales);
  return copy;
}

// Whether the scales are for blocks of 128, where both readings are not the same anyway. Others
// are refused as they are.
bool ForBlocks(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales) {
  if (a.dim() != 2 || b.dim() != 2 || a_scales.dim() != 2 || b_scales.dim() != 2) return false;
  if (a_scales.numel() == 1 || a_scales.numel() == a.size(0)) return false;
  const auto are = [](const Tensor& scales, int64_t rows, int64_t columns) {
    return scales.size(0) == rows && scales.size(1) == columns;
  };
  const int64_t depth = cuda::CeilDiv(b.size(0), 128);
  return are(a_scales, a.size(0), depth) && are(b_scales, depth, cuda::CeilDiv(b.size(1), 128));
}

void CutlassScaledMm(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& a_scales,
                     const Tensor& b_scales, const std::optional<Tensor>& bias) {
  const CudaScope scope("cutlass_scaled_mm", a);
  scope.View("a_scales", a_scales);  // before anything reads them
  scope.View("b_scales", b_scales);
  const bool blocks = ForBlocks(a, b, a_scales, b_scales);
  const Tensor a_used = blocks ? ByColumns(scope, "a_scales", a_scales, 4) : a_scales;
  const Tensor b_used = blocks ? ByColumns(scope, "b_scales", b_scales, 1) : b_scales;
  Check(vk_cuda_scaled_mm(scope.View("out", out), scope.View("a", a), scope.View("b", b),
                          scope.View("a_scales", a_used), scope.View("b_scales", b_used),
                          scope.View("bias", bias), scope.stream()));
}

bool SupportsFp8(int64_t capability) { return vk_cuda_scaled_mm_supports_fp8(capability) != 0; }

bool SupportsBlockFp8(int64_t capability) {
  return vk_cuda_scaled_mm_supports_block_fp8(capability) != 0;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, cutlass_scaled_mm, vk::binding::CutlassScaledMm);
VK_BIND(CUDA, cutlass_scaled_mm_azp, vk_cuda_scaled_mm_azp);

VK_IMPL(CompositeExplicitAutograd, cutlass_scaled_mm_supports_fp8, vk::binding::SupportsFp8);
VK_IMPL(CompositeExplicitAutograd, cutlass_scaled_mm_supports_block_fp8,
        vk::binding::SupportsBlockFp8);
