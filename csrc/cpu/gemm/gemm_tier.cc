#include "cpu/gemm/gemm_tier.h"

namespace vk::VK_TIER {

extern const GemmTable gemm_table;
const GemmTable gemm_table = {
#if VK_GEMM_AMX
    {&gemm_dot_f32, &gemm_amx_bf16, &gemm_dot_f16, &gemm_amx_i8},
    {&gemm_dot_u4, &gemm_amx_u4},
#elif VK_GEMM_MMA
    {&gemm_mma_f32, &gemm_mma_bf16, &gemm_mma_f16, &gemm_mma_i8},
    {&gemm_mma_u4, &gemm_mma_u4},
#elif VK_GEMM_MMLA
    {&gemm_dot_f32, &gemm_mmla_bf16, &gemm_dot_f16, &gemm_mmla_i8},
    {&gemm_mmla_u4, &gemm_mmla_u4},
#else
    {&gemm_dot_f32, &gemm_dot_bf16, &gemm_dot_f16, &gemm_dot_i8},
    {&gemm_dot_u4, &gemm_dot_u4},
#endif
    GemmExpand,
    {GemmFinishFloat<float>, GemmFinishFloat<hwy::bfloat16_t>, GemmFinishFloat<hwy::float16_t>},
    {GemmFinishScaled<float>, GemmFinishScaled<hwy::bfloat16_t>, GemmFinishScaled<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
