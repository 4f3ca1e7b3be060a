// Checks that all mixtures of experts share. Each throws one sentence that starts with the op.
#ifndef VLLM_KERNELS_CPU_MOE_GEMM_MOE_CHECKS_H_
#define VLLM_KERNELS_CPU_MOE_GEMM_MOE_CHECKS_H_

#include "core/check.h"
#include "cpu/packed/packed_weights.h"

namespace vk {

bool SharesMemory(const vk_tensor& one, const vk_tensor& other);

// topk_weights and topk_ids: [T, k] of float32 and of integers, as many rows as the input, k within
// reason. `ids_name` is how the schema calls the latter.
void CheckMoeSlots(const char* op, const Arg& input, const vk_tensor* topk_weights,
                   const vk_tensor* topk_ids, const char* ids_name = "topk_id");

// Every slot names an expert.
void CheckMoeRouting(const char* op, const vk_tensor& topk_ids, int64_t experts,
                     const char* ids_name = "topk_id");

// A scale for each row of int8 weights [experts, N, K]: float32 [experts, N] or [experts, N, 1].
PackedScales CheckMoeRowScales(const char* op, const char* name, const vk_tensor* scale,
                               const Arg& weight);

// A bias for each of the experts, [experts, N], or null: of the input's dtype, or also of float32.
enum class MoeBias { kInputDtype, kOrFloat32 };
void CheckMoeBias(const char* op, const char* name, const vk_tensor* bias, const Arg& input,
                  int64_t experts, int64_t columns, MoeBias dtypes);

// The output is no part of the input, which is read after the first rows are written.
void CheckMoeOutput(const char* op, const char* out_name, const vk_tensor& out, const char* in_name,
                    const vk_tensor& in);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_MOE_GEMM_MOE_CHECKS_H_
