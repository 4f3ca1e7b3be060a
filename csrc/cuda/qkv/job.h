// What the ops of this family share on the host: their arguments become streams of rows.
#ifndef VLLM_KERNELS_CUDA_QKV_JOB_H_
#define VLLM_KERNELS_CUDA_QKV_JOB_H_

#include "core/check.h"
#include "cuda/qkv/launch.h"

namespace vk::cuda::qkv {

// Slots of the tokens, checked; without any where there is no mapping.
struct Slots {
  const int64_t* data = nullptr;
  int64_t count = 0;
};
Slots CheckSlots(const char* op, const char* name, const vk_tensor* slot_mapping);

// kSame, kE4M3 or kE5M2; another name is refused.
Format FormatOf(const char* op, const char* kv_cache_dtype);

// A scale in memory, of one element; without one it is 1.
Scale DividesBy(const char* op, const char* name, const vk_tensor* scale);
Scale MultipliesBy(const char* op, const char* name, const vk_tensor* scale);
inline Scale Constant(double scale) { return {nullptr, static_cast<float>(scale), false}; }

class Job {
 public:
  // `tokens`: rows of every tensor with a row for each token.
  Job(const char* op, const Arg& rows, int64_t tokens, double epsilon, void* stream);

  // cos_sin_cache: [max_position, 2 * pairs]: cosines, then sines.
  void Angles(const vk_tensor* cos_sin_cache, const vk_tensor* positions, const char* name);
  // The two apart, of which the first `pairs` columns count.
  void Angles(const vk_tensor* cos, const vk_tensor* sin, int64_t pairs, const vk_tensor* positions,
              const char* name);
  int32_t half() const { return half_; }

  // Rows of a tensor whose last dimension, of which they take `width` elements from `first` on, is
  // contiguous: [tokens, heads, ...], or [tokens, ...] where the heads follow each other.
  Stream& Add(const Arg& from, int64_t heads, int64_t width, int64_t first = 0);
  // [tokens, ...]: the same row for every head.
  Stream& AddShared(const Arg& from, int64_t heads, int64_t width);
  // As many heads as that; those that are not there are zero.
  void Widen(Stream& stream, int64_t heads) const;
  // Where such rows go, of the rows' dtype or float8_e4m3fn.
  Place To(const Arg& to, int64_t heads, int64_t width, int64_t first = 0) const;

  void Rotate(Stream& stream, int64_t first, bool neox) const;
  // Rows by slot in [blocks, slots, ...], or by slot and head in what `slot_dim` and `head_dim`
  // name; `first` as above.
  void Cache(Stream& stream, const Arg& cache, const Slots& slots, Format format,
             const Scale& scale, int32_t slot_dim = 1, int32_t head_dim = -1,
             int64_t first = 0) const;
  void Run();

  const char* op() const { return op_; }
  int64_t tokens() const { return tokens_; }

 private:
  Place PlaceOf(const Arg& arg, int64_t heads, int64_t width, int64_t first) const;
  void CheckPlace(const Arg& arg, const Place& place, int64_t heads) const;

  const char* op_;
  int64_t tokens_;
  int32_t dtype_, half_ = 0;
  cudaStream_t stream_;
  Problem problem_ = {};
};

}  // namespace vk::cuda::qkv
#endif  // VLLM_KERNELS_CUDA_QKV_JOB_H_
