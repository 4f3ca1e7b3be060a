// Products with 4-bit weights that share a scale, and may share a zero point, group by group along
// K (GPTQ, Frantar et al. 2022; AWQ, Lin et al. 2023).
#ifndef VLLM_KERNELS_CPU_WNA16_WNA16_H_
#define VLLM_KERNELS_CPU_WNA16_WNA16_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"

extern "C" {

// output[m, n] = sum_k input[m, k] * scales[g(k), n] * (q[k, n] - zeros[g(k), n]) + bias[n], summed
// in float32, where g(k) = g_idx[k], or k / (K / G) without g_idx. Few rows of 16-bit inputs may be
// rounded to 2^-15 of the largest value of their group (wna16_arithmetic.h). An infinity or a NaN
// in a row makes every result of that row infinite or NaN, of few rows mostly NaN: q and zeros are
// multiplied apart. Done in floats, so is a result whose sum of input * q passes the largest float.
//   output: [M, N], input: [M, K], float32 | bfloat16 | float16, last dimension contiguous
//   q_weight: [N / 16, 2 K] int32, contiguous: 16 columns' values of one k in two words, column
//     16 i + 8 w + j in bits 4 j .. 4 j + 3 of word w. N is a multiple of 16.
//   scales: [G, N], the input's dtype, last dimension contiguous; without g_idx G divides K
//   zeros: [G, N / 8] int32, last dimension contiguous, columns as in q_weight; null: 8
//   g_idx: [K] int32, contiguous, 0 <= g < G, or null;  bias: [N], the input's dtype, or null
//   pack_factor: values in a word, 8;  isa_hint: "amx", "vec" or "neon", the running tier decides
VK_EXPORT vk_status vk_cpu_gemm_wna16(const vk_tensor* input, const vk_tensor* q_weight,
                                      const vk_tensor* output, const vk_tensor* scales,
                                      const vk_tensor* zeros, const vk_tensor* g_idx,
                                      const vk_tensor* bias, int64_t pack_factor,
                                      const char* isa_hint);

}  // extern "C"

namespace vk {

constexpr size_t kWna16Columns = 16;  // that lie together

// Up to four such blocks of columns of one weight matrix: a panel.
struct Wna16Panel {
  const uint32_t* weights;  // of the first block, at k = 0
  size_t block_stride;      // words between blocks
  size_t blocks;
  const void* scales;  // of the first column, at group 0
  size_t scales_stride;
  const uint32_t* zeros;  // or null
  size_t zeros_stride;
  const int32_t* groups;  // of every k, or null:
  size_t group_size;
};

// One way to multiply few rows.
struct Wna16Few {
  size_t group_multiple;  // of K, that all share a group; 0: any groups
  size_t (*row_bytes)(size_t depth, size_t group_size);  // of a packed row
  void (*pack)(void* to, const void* from, size_t depth, size_t group_size);
  // sums[row][64] = packed rows, `row_stride` bytes apart, times the whole depth of a panel.
  void (*multiply)(const Wna16Panel& panel, const void* rows, size_t row_stride, size_t row_count,
                   size_t depth, float* sums);
};

// Arrays of three are by vk_dtype of the activations: float32, bfloat16, float16.
struct Wna16Table {
  size_t few_rows;  // at most, for Wna16Few
  Wna16Few by_group[3], by_value[3];
  // Values [k, k + count) of K as gemm's kernels read them (gemm_table.h), zeros from `depth` on
  // and past the panel's blocks; k and count are even.
  void (*expand[3])(const Wna16Panel& panel, size_t k, size_t count, size_t depth, void* to);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_WNA16_WNA16_H_
