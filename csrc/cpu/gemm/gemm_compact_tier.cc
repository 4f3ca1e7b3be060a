// Compact weights to packed ones, for kernels that read those.
#include "cpu/gemm/gemm_expand.h"

namespace vk::VK_TIER {

void GemmExpand(const GemmCompact& from, size_t rows, char* to) {
  Expander expander(from);
  for (size_t row = 0; row < rows; row += kCompactRowMultiple) {
    expander.Next<kCompactRowMultiple, false>(to + row * kCompactRowValues * 2);
  }
}

}  // namespace vk::VK_TIER
