// What the gemm family's tier files share. For `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_TIER_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_TIER_H_

#include "cpu/gemm/gemm_table.h"
#include "cpu/round.h"
#include "cpu/vec.h"

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define VK_GEMM_AMX 1
#else
#define VK_GEMM_AMX 0
#endif

// Arm's dot products: of four int8, of two bfloat16 (FEAT_DotProd, FEAT_BF16; SVE has the former).
#if defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_SVE)
#define VK_INT8_DOT 1
#else
#define VK_INT8_DOT 0
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define VK_BF16_DOT 1
#else
#define VK_BF16_DOT 0
#endif

namespace vk::VK_TIER {

// How far ahead data that is read once is prefetched: bandwidth times latency, with memory busy
// serving others.
constexpr size_t kFetchAhead = 12288;

// Prefetches lines into the L2 cache, a few at a time, so that loads of B overlap with arithmetic.
class Fetcher {
 public:
  // `calls` calls of Fetch() cover `bytes` from `from` evenly: a burst would fill the queues that
  // loads need too. Null: nothing is prefetched.
  Fetcher(const char* from, size_t bytes, size_t calls)
      : next_(from), end_(from == nullptr ? nullptr : from + bytes) {
    const size_t lines = bytes / kLine;
    if (calls == 0 || lines == 0) return;
    lines_ = CeilDiv(lines, calls);
    period_ = HWY_MAX(size_t{1}, calls / lines);
  }
  HWY_INLINE void Fetch() {
    if (++tick_ < period_) return;
    tick_ = 0;
    for (size_t line = 0; line < lines_ && next_ < end_; ++line, next_ += kLine) {
      __builtin_prefetch(next_, 0, 2);
    }
  }

 private:
  static constexpr size_t kLine = 64;
  const char* next_;
  const char* end_;
  size_t lines_ = 0, period_ = 1, tick_ = 0;
};

// Vector kernels (gemm_dot_tier.cc).
extern const GemmKernel gemm_dot_f32, gemm_dot_bf16, gemm_dot_f16, gemm_dot_i8, gemm_dot_u4;
#if VK_GEMM_AMX
// Tile kernels (gemm_amx_tier.cc).
extern const GemmKernel gemm_amx_bf16, gemm_amx_i8, gemm_amx_u4;
#endif

// Compact weights to packed ones (gemm_compact_tier.cc).
void GemmExpand(const GemmCompact& from, size_t rows, char* to);

// Sums to rows of c, by dtype of c (gemm_finish_tier.cc).
template <class T>
void GemmFinishFloat(const GemmFinish& finish);
template <class T>
void GemmFinishScaled(const GemmFinish& finish);

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_TIER_H_
