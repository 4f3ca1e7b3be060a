// Which memory tensors touch: whether it can exist at all, and whether two elements share it.
#ifndef VLLM_KERNELS_CORE_OVERLAP_H_
#define VLLM_KERNELS_CORE_OVERLAP_H_

#include <cstdint>

#include "core/abi.h"

namespace vk {

// The bytes from the first to the last element; empty where there is no element.
struct Span {
  uintptr_t begin = 0, end = 0;
  bool Meets(const Span& other) const { return begin < other.end && other.begin < end; }
};

// The span of elements of `item` bytes. False where the elements, their bytes or the distance of
// two of them cannot be counted in 63 bits; dimensions of 0 count as 1 there, so that no product of
// a few sizes overflows in a kernel.
bool FindSpan(const vk_tensor& tensor, int64_t item, Span* span);

// Whether two elements of one tensor, or one of each, share a byte. Exact for strides that nest, as
// those of views do; where telling would take long the answer is yes.
bool OverlapsItself(const vk_tensor& tensor);
bool Overlap(const vk_tensor& one, int64_t one_item, const vk_tensor& other, int64_t other_item);

// Whether they are the same elements in the same order.
bool SameElements(const vk_tensor& one, const vk_tensor& other);

}  // namespace vk
#endif  // VLLM_KERNELS_CORE_OVERLAP_H_
