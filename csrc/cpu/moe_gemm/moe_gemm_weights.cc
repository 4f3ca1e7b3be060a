#include "cpu/moe_gemm/moe_gemm_weights.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace vk {
namespace {

// What Expand() writes at once: it stays in the L1 cache.
constexpr size_t kExpandBytes = 32768;

template <class Value>
void Pack(const char* from, int64_t n_stride, int64_t k_stride, size_t width, size_t depth,
          size_t unit, char* to) {
  const size_t whole = depth / unit * unit;
  Value* out = reinterpret_cast<Value*>(to);
  const auto read = [&](size_t column, size_t k) {
    return reinterpret_cast<const Value*>(
        from)[static_cast<int64_t>(column) * n_stride + static_cast<int64_t>(k) * k_stride];
  };
  for (size_t k = 0; k < whole; k += unit) {
    for (size_t column = 0; column < width; ++column) {
      for (size_t i = 0; i < unit; ++i) *out++ = read(column, k + i);
    }
  }
  for (size_t k = whole; k < depth; ++k) {
    for (size_t column = 0; column < width; ++column) *out++ = read(column, k);
  }
}

}  // namespace

MoeWeights::MoeWeights(const vk_tensor& packed)
    : data_(static_cast<char*>(packed.data)),
      experts_(packed.shape[0]),
      columns_(packed.shape[1]),
      depth_(packed.shape[2]),
      value_bytes_(DtypeSize(packed.dtype)),
      unit_(packed.dtype == VK_BF16 ? 2 : 1) {}

size_t MoeWeights::Width(size_t panel) const { return std::min(kPanel, columns_ - panel * kPanel); }

char* MoeWeights::Panel(size_t expert, size_t panel) const {
  return data_ + (expert * columns_ + panel * kPanel) * depth_ * value_bytes_;
}

void MoeWeights::PackPanel(const vk_tensor& weight, size_t expert, size_t panel) const {
  const int64_t first = static_cast<int64_t>(expert) * weight.stride[0] +
                        static_cast<int64_t>(panel * kPanel) * weight.stride[1];
  const char* from =
      static_cast<const char*>(weight.data) + first * static_cast<int64_t>(value_bytes_);
  const auto pack = value_bytes_ == 4 ? Pack<uint32_t> : Pack<uint16_t>;
  pack(from, weight.stride[1], weight.stride[2], Width(panel), depth_, unit_, Panel(expert, panel));
}

void MoeWeights::Expand(const char* panel, size_t width, size_t k, size_t count, char* to) const {
  const size_t end = std::min(k + count, depth_), whole = std::min(end, depth_ / unit_ * unit_);
  const size_t unit_bytes = unit_ * value_bytes_;
  std::memset(to, 0, count * kPanel * value_bytes_);
  for (; k < whole; k += unit_, to += kPanel * unit_bytes) {
    std::memcpy(to, panel + k * width * value_bytes_, width * unit_bytes);
  }
  if (k >= end) return;
  // The last, incomplete unit: single values.
  const char* from = panel + k * width * value_bytes_;
  for (size_t column = 0; column < width; ++column) {
    std::memcpy(to + column * unit_bytes, from + column * value_bytes_, value_bytes_);
  }
}

void MoeWeights::Multiply(const GemmKernel& kernel, size_t expert, size_t panel,
                          const Part& part) const {
  const char* data = Panel(expert, panel);
  const size_t width = Width(panel);
  const size_t steps = CeilDiv(part.depth, kernel.step);
  bool first = part.k == 0;
  const auto multiply = [&](size_t begin, size_t count, const char* b, const char* next) {
    kernel.multiply({part.a + begin * kernel.group_step_bytes, part.a_group_stride, b, next,
                     part.sums, part.rows, count, first});
    first = false;
  };
  size_t done = width == kPanel ? part.depth / kernel.step : 0;
  if (done > 0) {
    multiply(0, done, data + part.k * kPanel * value_bytes_, done == steps ? part.next : nullptr);
  }
  // A part narrower than a kernel's columns, or shorter than its step.
  const size_t step_bytes = kernel.step * kPanel * value_bytes_;
  const size_t piece = std::min(kernel.block_steps, kExpandBytes / step_bytes);
  alignas(64) char expanded[kExpandBytes];
  for (; done < steps; done += piece) {
    const size_t count = std::min(piece, steps - done);
    Expand(data, width, part.k + done * kernel.step, count * kernel.step, expanded);
    multiply(done, count, expanded, nullptr);
  }
}

}  // namespace vk
