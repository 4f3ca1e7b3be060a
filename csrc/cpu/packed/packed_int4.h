// Tensors of vk_cpu_convert_int4 as packed weights.
#ifndef VLLM_KERNELS_CPU_PACKED_PACKED_INT4_H_
#define VLLM_KERNELS_CPU_PACKED_PACKED_INT4_H_

#include "cpu/packed/packed_weights.h"

namespace vk {

constexpr int64_t kInt4Columns = 32, kInt4WordBytes = 128;  // of the packed tensors' dimensions
// Sums of a group stay in int32: 2^20 products of 127 and 16.
constexpr int64_t kInt4MostDepth = int64_t{1} << 20;

// How an op's schema calls the three.
struct Int4Names {
  const char *weight, *zeros, *scales;
};

// Checks them: [experts, N / 32, K / 8, 128] and its kin, without the first dimension unless
// `experts`. Throws one sentence that starts with the op.
PackedInt4 FindInt4(const char* op, const Int4Names& names, const vk_tensor* weight,
                    const vk_tensor* zeros, const vk_tensor* scales, bool experts);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_PACKED_PACKED_INT4_H_
