// Packed weights of experts: each expert's [N, K] as panels of 64 columns of its transpose, as in
// gemm_table.h but without padding, because the engine allocates just the size of the weights:
// [N/64][K/unit][64][unit]. The last panel may be narrower. Where K is no multiple of `unit` (2 for
// bfloat16), the last row of a panel holds single values.
#ifndef VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_WEIGHTS_H_
#define VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_WEIGHTS_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"
#include "cpu/gemm/gemm_table.h"
#include "cpu/round.h"

namespace vk {

// All experts' matrices of one layer.
class MoeWeights {
 public:
  explicit MoeWeights(const vk_tensor& packed);  // contiguous [experts, N, K]

  size_t experts() const { return experts_; }
  size_t columns() const { return columns_; }
  size_t depth() const { return depth_; }
  size_t panels() const { return CeilDiv(columns_, kPanel); }
  size_t Width(size_t panel) const;
  char* Panel(size_t expert, size_t panel) const;

  // Fills one panel from weight [experts, N, K] of any strides.
  void PackPanel(const vk_tensor& weight, size_t expert, size_t panel) const;

  // One panel, values [k, k + depth) of K, times `rows` rows of A that are packed at `a` from there
  // on. k must be a multiple of the kernel's step; sums start at zero where k is 0. `next` is a
  // hint what will be read after this, or null.
  struct Part {
    const char* a;
    size_t a_group_stride, rows, k, depth;
    const char* next;
    void* sums;
  };
  void Multiply(const GemmKernel& kernel, size_t expert, size_t panel, const Part& part) const;

 private:
  // Values [k, k + count) of a panel as kernels want them: 64 columns, zeros from `depth_` on.
  void Expand(const char* panel, size_t width, size_t k, size_t count, char* to) const;

  char* data_;
  size_t experts_, columns_, depth_;
  size_t value_bytes_, unit_;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_WEIGHTS_H_
