// Which kernel a GEMM with repacked weights takes.
#ifndef VLLM_KERNELS_CUDA_WNA16_SELECT_H_
#define VLLM_KERNELS_CUDA_WNA16_SELECT_H_

#include <cuda_runtime.h>

#include "cuda/wna16/checks.h"
#include "cuda/wna16/marlin/params.h"

namespace vk::cuda::wna16 {

enum class Algorithm {
  kMarlin,  // marlin/: on every GPU since 8.0
  kSmallM,  // small_m/: on 9.0, for a few tokens
  kLargeM,  // large_m/: on 9.0, for many
};

// By shape, format and the current device; nothing is forced.
Algorithm Select(const char* op, const Problem& problem);

// Whether a 16-bit GEMM with dequantized weights is faster, or the only way.
bool PrefersDequantize(const char* op, const vk_marlin_problem& problem);

// Whether products of experts, about `m_tiles` tiles, are those of large_experts/ on 9.0; else
// Marlin's. `places`: of sorted_token_ids.
bool SelectsLargeExperts(const char* op, const Problem& problem, const MarlinExpertParams& experts,
                         int64_t m_tiles, int64_t places);

// `memory`: CopyBytes(problem), for rows that must be gathered or aligned first. Not
// called in a build without the part sm90.
void RunSmallM(const char* op, const Problem& problem, void* c, void* memory, cudaStream_t stream);
void RunLargeM(const char* op, const Problem& problem, void* c, void* memory, cudaStream_t stream);
// `count`: of experts. `memory`: besides, LargeExpertsTokenBytes() behind those.
void RunLargeExperts(const char* op, const Problem& problem, const MarlinExpertParams& experts,
                     int64_t count, int64_t places, void* c, void* memory, cudaStream_t stream);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_SELECT_H_
