// Between the checks of W4A8 (w4a8.cc) and its kernels (w4a8.cu): what goes before and behind the
// products of 16-bit activations by which it is computed.
#ifndef VLLM_KERNELS_CUDA_WNA16_W4A8_LAUNCH_H_
#define VLLM_KERNELS_CUDA_WNA16_W4A8_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace vk::cuda::wna16 {

// Signed weights of 4 bits as packed tiles of those with a bias of 8, and how many words each of
// the matrices has.
struct Int4Repack {
  const uint32_t* in;
  uint32_t* out;                                      // contiguous
  int64_t* strides;                                   // [matrices] or null
  int64_t matrix_stride, word_stride, column_stride;  // of in, in words; a word is 8 of K
  int64_t matrices;
  int n, k;
};
void LaunchInt4Repack(const char* op, const Int4Repack& repack, cudaStream_t stream);

// float8 as bfloat16, in the order of the kernels; `groups` of a matrix: of one, scales are per
// channel.
void LaunchPackScales(const char* op, void* out, const void* scales, int64_t rows, int64_t groups,
                      int n, cudaStream_t stream);

// out[i] = a[i] as bfloat16; and zeros in `locks`.
void LaunchWiden(const char* op, void* out, const void* a, int64_t lda, int64_t m, int64_t k,
                 int32_t* locks, int64_t lock_count, cudaStream_t stream);

// c[m, n] *= rows[m] * columns[n], rounded once
void LaunchRescale(const char* op, void* c, const float* rows, const float* columns, int64_t m,
                   int64_t n, cudaStream_t stream);

inline constexpr int kW4A8MaxExperts = 1024;

// Tiles of the rows of each expert.
struct ExpertRows {
  const int64_t* offsets;  // [experts]: first row
  const int32_t* sizes;    // [experts, 3]: the second is the number of rows
  int32_t* sorted;         // [tiles * block]: rows, or `rows` for none
  int32_t* owners;         // [tiles]: experts, or -1
  int32_t* padded;         // one: places in use
  int experts, block, tiles;
  int64_t rows;  // of all
};
void LaunchExpertTiles(const char* op, const ExpertRows& experts, cudaStream_t stream);

// c[row] *= columns[expert of row], for rows in tiles
void LaunchRescaleExperts(const char* op, void* c, const ExpertRows& experts, const float* columns,
                          int64_t n, cudaStream_t stream);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_W4A8_LAUNCH_H_
