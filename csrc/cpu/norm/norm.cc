#include "cpu/norm/norm.h"

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace {

using vk::Arg;

const void* CheckWeight(const char* op, const vk_tensor* weight, const Arg& input) {
  if (weight == nullptr) return nullptr;
  Arg(op, "weight", weight).SameDtype(input).Dims(1).Size(0, input.size(-1)).Contiguous();
  return weight->data;
}

char* RowPointer(const vk_tensor& tensor, const vk::Rows& rows, int64_t row) {
  return static_cast<char*>(tensor.data) + rows.Offset(row) * vk::DtypeSize(tensor.dtype);
}

// Calls `row(first_row_pointer, second_row_pointer)` for every row of two tensors of one shape.
template <class Row>
void ForEachRow(const vk_tensor& first, const vk_tensor& second, const Row& row) {
  const vk::Rows first_rows(first), second_rows(second);
  if (first_rows.width() == 0) return;  // however many rows there are
  const int64_t row_bytes = 2 * first_rows.width() * vk::DtypeSize(first.dtype);
  vk::ParallelFor(first_rows.count(), vk::GrainFor(row_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      row(RowPointer(first, first_rows, i), RowPointer(second, second_rows, i));
    }
  });
}

}  // namespace

extern "C" vk_status vk_cpu_rms_norm(const vk_tensor* result, const vk_tensor* input,
                                     const vk_tensor* weight, double epsilon) {
  return vk::Guard([&] {
    const char* op = "rms_norm";
    const Arg in(op, "input", input);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
    Arg(op, "result", result).SameDtype(in).SameShape(in).LastDimContiguous();
    const void* scale = CheckWeight(op, weight, in);
    const auto kernel = vk::Kernels().norm->rms_norm[input->dtype];
    const size_t width = in.size(-1);
    ForEachRow(*result, *input, [&](void* to, const void* from) {
      kernel(to, from, scale, static_cast<float>(epsilon), width);
    });
  });
}

extern "C" vk_status vk_cpu_fused_add_rms_norm(const vk_tensor* input, const vk_tensor* residual,
                                               const vk_tensor* weight, double epsilon) {
  return vk::Guard([&] {
    const char* op = "fused_add_rms_norm";
    const Arg in(op, "input", input);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
    Arg(op, "residual", residual).SameDtype(in).SameShape(in).LastDimContiguous();
    const void* scale = CheckWeight(op, weight, in);
    const auto kernel = vk::Kernels().norm->fused_add_rms_norm[input->dtype];
    const size_t width = in.size(-1);
    ForEachRow(*input, *residual, [&](void* in_row, void* residual_row) {
      kernel(in_row, residual_row, scale, static_cast<float>(epsilon), width);
    });
  });
}
