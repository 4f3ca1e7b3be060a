#include "torch/arguments.h"

#include <algorithm>
#include <limits>

#include "core/checked.h"
#include "core/dtypes.h"
#include "core/overlap.h"

namespace vk::binding {
namespace {

// Of the dtypes that the C ABI lacks, the only one that an op of ours takes is uint32 (indices of
// routing); the others it refuses, or leaves their memory alone.
int64_t ItemSize(const vk_tensor& tensor) {
  return tensor.dtype < 0 ? sizeof(uint32_t) : kDtypes[tensor.dtype].bytes;
}

std::string Layout(const vk_tensor& tensor) {
  return " of shape " + Sizes(tensor.shape, tensor.ndim) + " and strides " +
         Sizes(tensor.stride, tensor.ndim);
}

void CheckApart(const char* op, const Operand& written, const Operand& other) {
  if (SameElements(*written.view, *other.view)) {
    const bool allowed = (written.use.in_place & other.bit) || (other.use.in_place & written.bit);
    if (allowed) return;
  } else if (!Overlap(*written.view, ItemSize(*written.view), *other.view, ItemSize(*other.view))) {
    return;
  }
  Refuse(op, written.name,
         std::string(" shares memory with ") + other.name + ", want memory of its own");
}

}  // namespace

std::string Sizes(const int64_t* numbers, size_t count) {
  std::string text = "[";
  for (size_t at = 0; at < count; ++at) {
    text += (at > 0 ? ", " : "") + std::to_string(numbers[at]);
  }
  return text + "]";
}

void CheckMemory(const char* op, const Operand* operands, size_t count) {
  Span spans[kMaxArguments];
  for (size_t at = 0; at < count; ++at) {
    const Operand& one = operands[at];
    if (one.view == nullptr) continue;
    if (!FindSpan(*one.view, ItemSize(*one.view), &spans[at])) [[unlikely]] {
      Refuse(op, one.name, Layout(*one.view) + " is larger than any memory");
    }
    const auto address = reinterpret_cast<uintptr_t>(one.view->data);
    if (spans[at].begin != spans[at].end && address % ItemSize(*one.view) != 0 &&
        one.view->dtype >= 0) [[unlikely]] {
      Refuse(op, one.name,
             " does not lie at a multiple of its elements' " + std::to_string(ItemSize(*one.view)) +
                 " bytes (call .clone())");
    }
    if (one.use.written && OverlapsItself(*one.view)) [[unlikely]] {
      Refuse(op, one.name,
             Layout(*one.view) +
                 " has elements that share memory, want one that can be written "
                 "(call .contiguous())");
    }
  }
  for (size_t at = 0; at < count; ++at) {
    if (!operands[at].use.written) continue;
    for (size_t other = 0; other < count; ++other) {
      // Of two that are written the first one names the fault.
      if (other == at || (other < at && operands[other].use.written)) continue;
      if (spans[at].Meets(spans[other])) [[unlikely]]
        CheckApart(op, operands[at], operands[other]);
    }
  }
}

void CheckExpansions(const char* op, const Operand* operands, size_t count) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  for (size_t at = 0; at < count; ++at) {
    if (operands[at].view == nullptr) continue;
    const vk_tensor& tensor = *operands[at].view;
    int64_t elements = 1;
    bool expanded = false;
    for (int32_t dim = 0; dim < tensor.ndim; ++dim) {
      elements = SaturatingMultiply(elements, tensor.shape[dim]);
      expanded |= tensor.shape[dim] > 1 && tensor.stride[dim] == 0;
    }
    if (expanded && elements > kMost) [[unlikely]] {
      Refuse(op, operands[at].name,
             " is expanded to more than " + std::to_string(kMost) +
                 " elements, want elements of their own (call .contiguous())");
    }
  }
}

}  // namespace vk::binding
