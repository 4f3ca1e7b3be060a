// Between the checks (*.cc) and the kernel (rows.cu). Strides count elements unless they say bytes.
#ifndef VLLM_KERNELS_CUDA_QKV_LAUNCH_H_
#define VLLM_KERNELS_CUDA_QKV_LAUNCH_H_

#include "cuda/common/fast_div.h"
#include "cuda/common/launch.h"

namespace vk::cuda::qkv {

constexpr int kMaxWidth = 512;  // elements of a row
constexpr int kMaxStreams = 6;  // queries, keys of two parts, values, latents of two
constexpr int kVector = 8;      // elements of a thread's vector: 16 bytes
constexpr int kChunk = 16;  // elements of a row that lie together whatever the layout of queries

// Cosines and sines by position.
struct Angles {
  const int64_t* positions;
  const void *cos, *sin;
  int64_t cos_stride, sin_stride, max_position;
  bool is_float;  // else of the rows' dtype
};

// Where rows lie by token and head; `chunk_stride` from one kChunk elements to the next.
struct Place {
  void* data;
  int64_t token_stride, head_stride, chunk_stride;
};

// Of a quantised row: x / scale, or x * scale where `multiply`.
struct Scale {
  const float* value;  // null: `constant`
  float constant;
  bool multiply;
};

enum class Format : int32_t {
  kNone,   // no cache
  kSame,   // the rows' dtype
  kE4M3,   // float8 by `scale`
  kE5M2,   // the same
  kTiles,  // float8_e4m3fn with a power of two for each tile, then the rest in the rows' dtype
};

// The paged cache that a stream writes to.
struct Cached {
  uint8_t* data;
  int64_t block_bytes, slot_bytes, head_bytes;
  const int64_t* slots;
  int64_t tokens, slot_limit;  // tokens past the first have no slot
  FastDiv block_size;
  Format format;
  Scale scale;
  // kTiles. Powers are float32 or the byte of their exponent.
  uint8_t* powers;
  int64_t power_block_bytes, power_slot_bytes;
  int32_t tile, tiled_width;      // 32, 64 or 128 elements; the elements that are quantised
  float least;                    // bound of a tile's largest magnitude
  bool float_powers, pad_powers;  // pad: a zero byte behind the exponents
};

// Rows that go the same way: read, normed, rotated, written.
struct Stream {
  Place from;
  uint32_t first_block, count;  // rows: tokens * heads.divisor()
  FastDiv heads;
  uint32_t real_heads;  // the others are zero
  int32_t width;
  // Norm
  const void* weight;  // [width]; null: 1
  float weight_bias;   // added to the weight
  bool norm, float_weight, round_norm;
  // Rotation of components first to first + 2 * half
  int32_t first, half;
  bool neox;
  // What is written, where `data` is not null. Quantised values are of the rounded ones, but where
  // `exact`.
  Place same, quantised;
  Scale scale;
  bool exact;
  Cached cached;
};

struct Problem {
  Stream streams[kMaxStreams];
  int32_t count;
  float epsilon;
  Angles angles;
};

// `dtype`: vk_dtype of the rows, bfloat16 or float16.
void LaunchRows(const char* op, Problem& problem, int32_t dtype, cudaStream_t stream);

}  // namespace vk::cuda::qkv
#endif  // VLLM_KERNELS_CUDA_QKV_LAUNCH_H_
