// What the quantising ops share: their tensors, and their rows over all threads.
#ifndef VLLM_KERNELS_CPU_QUANT_ROWS_H_
#define VLLM_KERNELS_CPU_QUANT_ROWS_H_

#include <cstdint>

#include "core/check.h"
#include "cpu/parallel.h"

namespace vk {

// Checks input and result; returns the input.
inline Arg CheckQuantized(const char* op, const vk_tensor* result, const vk_tensor* input,
                          vk_dtype dtype) {
  const Arg in(op, "input", input);
  in.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
  Arg(op, "result", result).Dtype({dtype}).SameShape(in).LastDimContiguous();
  return in;
}

// The rows that each thread has: rows(begin, end, from, to), where from(i) and to(i) are the memory
// of row i of input and result. Q is a byte.
template <class Q, class Body>
void ForRows(const vk_tensor& input, const vk_tensor& result, const Body& rows) {
  const Rows from(input), to(result);
  const int64_t item = DtypeSize(input.dtype);
  const auto input_row = [&](int64_t i) {
    return static_cast<const char*>(input.data) + from.Offset(i) * item;
  };
  const auto result_row = [&](int64_t i) { return static_cast<Q*>(result.data) + to.Offset(i); };
  ParallelFor(from.count(), GrainFor(from.width() * (item + 1)),
              [&](int64_t begin, int64_t end) { rows(begin, end, input_row, result_row); });
}

// One row at a time: row(index, input, result).
template <class Q, class Row>
void ForEachRow(const vk_tensor& input, const vk_tensor& result, const Row& row) {
  ForRows<Q>(input, result, [&](int64_t begin, int64_t end, const auto& from, const auto& to) {
    for (int64_t i = begin; i < end; ++i) row(i, from(i), to(i));
  });
}

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_QUANT_ROWS_H_
