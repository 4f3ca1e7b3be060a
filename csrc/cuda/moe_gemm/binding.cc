#include "cuda/moe_gemm/moe_gemm.h"

#include "torch/bind.h"

namespace vk::binding {
namespace {

bool GroupGemmSupported(int64_t capability) { return vk_cuda_group_gemm_supported(capability); }

}  // namespace
}  // namespace vk::binding

VK_BIND(CUDA, cutlass_moe_mm, vk_cuda_cutlass_moe_mm);

VK_IMPL(CompositeExplicitAutograd, cutlass_group_gemm_supported, vk::binding::GroupGemmSupported);
