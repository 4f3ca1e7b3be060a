// How some rows of A are packed for one product: in parts of K, each part's groups of rows behind
// each other, so that what passes by one part of a panel lies together.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_ROWS_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_ROWS_H_

#include <algorithm>
#include <cstddef>

#include "cpu/gemm/gemm_table.h"
#include "cpu/round.h"

namespace vk {

class GemmRows {
 public:
  GemmRows(const GemmKernel& kernel, size_t depth, size_t rows)
      : kernel_(kernel), depth_(depth), rows_(rows) {
    const size_t steps = std::max<size_t>(1, CeilDiv(depth, kernel.step));
    block_steps_ = rows <= kernel.few_rows ? steps : std::min(steps, kernel.block_steps);
  }

  const GemmKernel& kernel() const { return kernel_; }
  size_t depth() const { return depth_; }
  size_t rows() const { return rows_; }
  size_t groups() const { return CeilDiv(rows_, kernel_.group); }
  // Rows at a power-of-two distance would all fall into one set of the L1 cache.
  size_t group_stride() const {
    return block_steps_ * kernel_.group_step_bytes + (kernel_.group == 1 ? 64 : 0);
  }
  size_t part_stride() const { return groups() * group_stride(); }
  size_t part_depth() const { return block_steps_ * kernel_.step; }
  size_t bytes() const {
    return CeilDiv(std::max<size_t>(1, depth_), part_depth()) * part_stride();
  }

  // Row `row`, whose values of `value_bytes` lie at `from`, into the rows' area.
  void Pack(char* area, size_t row, const char* from, size_t value_bytes) const {
    const size_t part = part_depth();
    for (size_t k = 0; k < depth_; k += part, area += part_stride()) {
      kernel_.pack_row(area, group_stride(), row, from + k * value_bytes,
                       std::min(part, depth_ - k));
    }
  }

 private:
  const GemmKernel& kernel_;
  size_t depth_, rows_, block_steps_;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_ROWS_H_
