// What the gemm family's tier files share. For `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_TIER_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_TIER_H_

#include <utility>

#include "cpu/gemm/gemm_table.h"
#include "cpu/round.h"
#include "cpu/vec.h"

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define VK_GEMM_AMX 1
#else
#define VK_GEMM_AMX 0
#endif

// Arm's dot products of four int8 (FEAT_DotProd; SVE has them).
#if defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_SVE)
#define VK_INT8_DOT 1
#else
#define VK_INT8_DOT 0
#endif
// POWER's products of 4 x 4 sums (MMA).
#if defined(__MMA__)
#define VK_GEMM_MMA 1
#else
#define VK_GEMM_MMA 0
#endif
// Arm's products of 2 x 2 sums (FEAT_I8MM, FEAT_BF16).
#if defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define VK_GEMM_MMLA 1
#else
#define VK_GEMM_MMLA 0
#endif

namespace vk::VK_TIER {

// How far ahead data that is read once is prefetched: bandwidth times latency, with memory busy
// serving others.
constexpr size_t kFetchAhead = 12288;

// Calls body(0), body(1), ...: GCC unrolls loops of many instructions too late to keep arrays of
// SVE's vectors in registers.
template <class Body, size_t... kIndex>
HWY_INLINE void CallForEach(const Body& body, std::index_sequence<kIndex...>) {
  (body(kIndex), ...);
}
template <size_t kCount, class Body>
HWY_INLINE void ForEach(const Body& body) {
  CallForEach(body, std::make_index_sequence<kCount>());
}

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

#if VK_GEMM_MMA
// Kernels of 4 x 4 sums (gemm_mma_tier.cc).
extern const GemmKernel gemm_mma_f32, gemm_mma_bf16, gemm_mma_f16, gemm_mma_i8, gemm_mma_u4;
#else
// Vector kernels (gemm_dot_tier.cc).
extern const GemmKernel gemm_dot_f32, gemm_dot_f16;
#if VK_GEMM_MMLA
// Kernels of 2 x 2 sums (gemm_mmla_tier.cc).
extern const GemmKernel gemm_mmla_bf16, gemm_mmla_i8, gemm_mmla_u4;
#else
extern const GemmKernel gemm_dot_bf16, gemm_dot_i8, gemm_dot_u4;
#endif
#endif
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
