// Packed weights (layout: gemm_table.h) and the handles that name them.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_WEIGHTS_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/abi.h"
#include "cpu/gemm/gemm_table.h"
#include "cpu/scratch.h"

namespace vk {

// One packed matrix; immutable once it has a handle.
struct GemmWeights {
  int32_t dtype = VK_F32;
  size_t depth = 0, columns = 0;  // K, N
  size_t padded_depth = 0, panels = 0;
  Bytes data;

  // Compact weights only (gemm_table.h).
  std::unique_ptr<GemmCodes> codes;
  std::vector<std::vector<GemmRare>> rare;  // by panel

  // int8 only. The arrays are padded to whole panels.
  bool scaled = false, dynamic = false, use_azp = false;
  std::vector<int32_t> sums;   // sum_k b[k, n]
  std::vector<float> scales;   // b_scales, one per column
  std::vector<float> azp_adj;  // scales[n] * sums[n]

  size_t panel_bytes() const;
  GemmCompact compact_panel(size_t panel, size_t row) const;
  const char* panel(size_t index) const { return data.get() + index * panel_bytes(); }
};

// Packs b [K, N] (float32, bfloat16, float16 or int8; any strides), on all threads.
std::unique_ptr<GemmWeights> PackGemmWeights(const vk_tensor& b);

// Makes bfloat16 weights compact where that pays and where few exponents serve nearly all of them.
void CompactGemmWeights(GemmWeights& weights);

// The weights become immutable and get a number above 0 that is never given out again.
int64_t AddGemmHandle(std::unique_ptr<GemmWeights> weights);

// Keeps the weights alive while the caller uses them. Both throw Error(VK_INVALID_ARGUMENT), with
// a sentence that starts with `op`, for a number that names no weights or released ones.
std::shared_ptr<const GemmWeights> FindGemmHandle(const char* op, int64_t handle);
void RemoveGemmHandle(const char* op, int64_t handle);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_WEIGHTS_H_
