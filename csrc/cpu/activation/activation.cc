#include "cpu/activation/activation.h"

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/round.h"
#include "cpu/rows.h"

namespace {

using vk::ActivationTable;
using vk::Arg;

// The least number of elements for a thread: fewer are done before a second thread has woken up.
constexpr int64_t kChunk = 8192;

// Calls body(row, first, count) on pieces of rows, so that one long row keeps all threads busy too.
template <class Body>
void ForEachPiece(int64_t rows, int64_t width, const Body& body) {
  if (width == 0) return;  // however many rows there are
  const int64_t pieces = std::max<int64_t>(1, width / kChunk);
  const int64_t size = vk::RoundUp(width / pieces, 64);  // whole cache lines
  const int64_t grain = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, width / pieces));
  vk::ParallelFor(rows * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / pieces, first = i % pieces * size;
      const int64_t last = i % pieces == pieces - 1 ? width : std::min(width, first + size);
      if (first < last) body(row, first, static_cast<size_t>(last - first));
    }
  });
}

void CheckGatedShapes(const char* op, const char* out_name, const vk_tensor& out,
                      const vk_tensor& input) {
  vk_tensor want = input;
  want.shape[input.ndim - 1] /= 2;
  bool same = out.ndim == want.ndim && input.shape[input.ndim - 1] % 2 == 0;
  for (int32_t dim = 0; same && dim < out.ndim; ++dim) same = out.shape[dim] == want.shape[dim];
  VK_CHECK(same, "%s: %s has shape %s and input %s, want input twice as wide in the last dimension",
           op, out_name, vk::ShapeString(out).c_str(), vk::ShapeString(input).c_str());
}

template <class Kernel>
using OfTable = Kernel* (ActivationTable::*)[3];

vk_status Gated(const char* op, const char* out_name, const vk_tensor* out, const vk_tensor* input,
                OfTable<ActivationTable::Gated> kernels) {
  return vk::Guard([&] {
    const Arg in(op, "input", input);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
    Arg(op, out_name, out).SameDtype(in).MinDims(1).LastDimContiguous();
    CheckGatedShapes(op, out_name, *out, *input);
    const auto kernel = (vk::Kernels().activation->*kernels)[input->dtype];
    const vk::Rows to(*out), from(*input);
    const int64_t width = to.width();
    ForEachPiece(to.count(), width, [&](int64_t row, int64_t first, size_t count) {
      const int64_t gate = from.Offset(row) + first;
      kernel(vk::ElementAt(*out, to.Offset(row) + first), vk::ElementAt(*input, gate),
             vk::ElementAt(*input, gate + width), count);
    });
  });
}

vk_status Plain(const char* op, const vk_tensor* out, const vk_tensor* input,
                OfTable<ActivationTable::Plain> kernels) {
  return vk::Guard([&] {
    const Arg in(op, "input", input);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
    Arg(op, "out", out).SameDtype(in).SameShape(in).LastDimContiguous();
    const auto kernel = (vk::Kernels().activation->*kernels)[input->dtype];
    const vk::Rows to(*out), from(*input);
    ForEachPiece(to.count(), to.width(), [&](int64_t row, int64_t first, size_t count) {
      kernel(vk::ElementAt(*out, to.Offset(row) + first),
             vk::ElementAt(*input, from.Offset(row) + first), count);
    });
  });
}

}  // namespace

extern "C" {

vk_status vk_cpu_silu_and_mul(const vk_tensor* out, const vk_tensor* input) {
  return Gated("silu_and_mul", "result", out, input, &ActivationTable::silu_and_mul);
}
vk_status vk_cpu_gelu_and_mul(const vk_tensor* out, const vk_tensor* input) {
  return Gated("gelu_and_mul", "out", out, input, &ActivationTable::gelu_and_mul);
}
vk_status vk_cpu_gelu_tanh_and_mul(const vk_tensor* out, const vk_tensor* input) {
  return Gated("gelu_tanh_and_mul", "out", out, input, &ActivationTable::gelu_tanh_and_mul);
}
vk_status vk_cpu_gelu_new(const vk_tensor* out, const vk_tensor* input) {
  return Plain("gelu_new", out, input, &ActivationTable::gelu_tanh);
}
vk_status vk_cpu_gelu_fast(const vk_tensor* out, const vk_tensor* input) {
  return Plain("gelu_fast", out, input, &ActivationTable::gelu_tanh);
}
vk_status vk_cpu_gelu_tanh(const vk_tensor* out, const vk_tensor* input) {
  return Plain("gelu_tanh", out, input, &ActivationTable::gelu_tanh);
}
vk_status vk_cpu_gelu_quick(const vk_tensor* out, const vk_tensor* input) {
  return Plain("gelu_quick", out, input, &ActivationTable::gelu_quick);
}

}  // extern "C"
