#include "cpu/gemm/gemm.h"
#include "cpu/vec.h"

namespace vk::VK_TIER {

extern const GemmTable gemm_table;
const GemmTable gemm_table = {0};

}  // namespace vk::VK_TIER
