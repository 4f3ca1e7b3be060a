// Sequences that lie one behind the other in a batch of tokens.
#ifndef VLLM_KERNELS_CPU_SEQUENCES_H_
#define VLLM_KERNELS_CPU_SEQUENCES_H_

#include <cstdint>

#include "core/check.h"

namespace vk {

// The number of sequences of int32 [sequences + 1], which begins at 0 or more, does not decrease
// and ends within `tokens`, which messages call `limit`. Refuses any other.
inline int64_t CheckStarts(const Arg& starts, const char* op, int64_t tokens,
                           const char* limit = "tokens") {
  starts.Dtype({VK_I32}).Dims(1).Contiguous();
  const int64_t sequences = starts.size(0) - 1;
  VK_CHECK(sequences >= 0, "%s: %s is empty, want [sequences + 1]", op, starts.name());
  const int32_t* start = static_cast<const int32_t*>(starts.tensor().data);
  for (int64_t s = 0; s < sequences; ++s) {
    VK_CHECK(start[s] >= 0 && start[s] <= start[s + 1],
             "%s: %s goes from %d to %d at index %lld, want it to start at 0 or more and not to "
             "decrease",
             op, starts.name(), start[s], start[s + 1], static_cast<long long>(s));
  }
  VK_CHECK(start[sequences] >= 0 && start[sequences] <= tokens,
           "%s: %s ends at %d, want at most the %lld %s, and 0 or more", op, starts.name(),
           start[sequences], static_cast<long long>(tokens), limit);
  return sequences;
}

// Refuses all but int32 [sequences] or [sequences, columns] of at least a column.
inline void CheckSlots(const char* op, const char* name, const vk_tensor* slots,
                       int64_t sequences) {
  const Arg arg(op, name, slots);
  arg.Dtype({VK_I32}).MinDims(1).Size(0, sequences);
  if (slots->ndim == 1) return;
  arg.Dims(2);
  VK_CHECK(slots->shape[1] > 0 || sequences == 0,
           "%s: %s has shape %s, want a slot for each sequence", op, name,
           ShapeString(*slots).c_str());
}

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_SEQUENCES_H_
