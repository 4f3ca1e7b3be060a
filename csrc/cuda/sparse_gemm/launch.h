// What the kernels of sparse weights are launched with.
#ifndef VLLM_KERNELS_CUDA_SPARSE_GEMM_LAUNCH_H_
#define VLLM_KERNELS_CUDA_SPARSE_GEMM_LAUNCH_H_

#include "cuda/gemm/problem.h"

namespace vk::cuda::sparse_gemm {

// Metadata comes in blocks of 64 rows and 128 columns of the weights (64 of 16-bit ones), which are
// a tile's, one byte for eight elements. Columns are filled up to 128 of either.
constexpr int64_t kBlockRows = 64, kFilledColumns = 128;
constexpr int64_t BlockColumns(int64_t bytes) { return 128 / bytes; }

struct Problem : gemm::Problem {
  const void* metadata;  // b is the kept values, [n, k / 2]
};

struct Compression {
  const char* op;
  const void* weight;
  void* values;
  uint8_t* metadata;
  int64_t n, k, ldw;  // rows of the weight are ldw elements apart
  int32_t dtype;
  cudaStream_t stream;
};
void Compress(const Compression& problem);

enum class Type { kFp8, kInt8, kBf16 };
enum class Rows { kFew, kMany };

// Launches one instance; throws vk::Error.
template <Type kType, Rows kRows>
void LaunchGemm(const Problem& problem);

}  // namespace vk::cuda::sparse_gemm
#endif  // VLLM_KERNELS_CUDA_SPARSE_GEMM_LAUNCH_H_
