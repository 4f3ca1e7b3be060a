#include "cpu/packed/packed_weights.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace vk {
namespace {

// What is expanded at once: it stays in the L1 cache.
constexpr size_t kExpandBytes = 32768;
// Values of K that are decoded at once, into float32 at the most.
constexpr size_t kDecodeDepth = kExpandBytes / kPanel / sizeof(float);
constexpr size_t kWordBytes = 4;  // of coded values of one column
// That are scaled at once: whole strips of gemm's kernels in vectors, which take six rows.
constexpr size_t kScaledRows = 24;
static_assert(kDecodeDepth % kPackedGroupMultiple == 0);

template <class Value>
void PackValues(const char* from, int64_t n_stride, int64_t k_stride, size_t width, size_t depth,
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

size_t UnitOf(int32_t dtype) {
  return DtypeSize(dtype) == 1 ? kWordBytes : dtype == VK_BF16 ? 2 : 1;
}

// A panel times a group of K. The sums of few rows at a time: they are scaled while they are in the
// L1 cache.
void MultiplyScaled(const GemmKernel& kernel, const GemmBlock& group, const float* scales,
                    float* sums, bool first) {
  const size_t most = RoundUp(kScaledRows, kernel.group);
  for (size_t row = 0; row < group.rows; row += most) {
    GemmBlock few = group;
    few.a += row / kernel.group * group.a_group_stride;
    few.rows = std::min(most, group.rows - row);
    kernel.multiply(few);
    Kernels().packed->scale(sums + row * kPanel, static_cast<const float*>(few.sums), scales,
                            few.rows, first);
  }
}

bool IsHalfByte(PackedCoding coding) { return coding == kCodedE2m1; }

// E8M0: 2^(bits - 127), and NaN.
float PowerOfTwo(uint8_t bits) {
  const uint32_t word = bits == 255 ? 0x7FC00000u : bits == 0 ? 0x00400000u : uint32_t{bits} << 23;
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

}  // namespace

size_t CheckPackedBytes(const char* op, const char* name, const vk_tensor& weight) {
  const int64_t bytes = SaturatingMultiply(NumElements(weight), DtypeSize(weight.dtype));
  VK_CHECK(static_cast<size_t>(bytes) <= MemorySize(),
           "%s: %s of shape %s needs more memory than this machine has, want fewer elements", op,
           name, ShapeString(weight).c_str());
  return bytes;
}

PackedWeights::PackedWeights(const vk_tensor& packed, PackedCoding coding,
                             const PackedScales& scales)
    : data_(static_cast<char*>(packed.data)),
      experts_(packed.ndim == 3 ? packed.shape[0] : 1),
      columns_(packed.shape[packed.ndim - 2]),
      depth_(packed.shape[packed.ndim - 1] * (IsHalfByte(coding) ? 2 : 1)),
      coding_(coding),
      scales_(scales),
      values_(IsHalfByte(coding) ? 2 : 1),
      stored_depth_(packed.shape[packed.ndim - 1]),
      value_bytes_(DtypeSize(packed.dtype)),
      unit_(UnitOf(packed.dtype)) {}

// A stored value is a word.
PackedWeights::PackedWeights(const PackedInt4& int4)
    : data_(reinterpret_cast<char*>(int4.words)),
      experts_(int4.experts),
      columns_(int4.columns),
      depth_(int4.depth),
      coding_(kCodedI4),
      int4_(int4),
      values_(kWordValues),
      stored_depth_(int4.depth / kWordValues),
      value_bytes_(kWordBytes),
      unit_(1) {}

size_t PackedWeights::Width(size_t panel) const {
  return std::min(kPanel, columns_ - panel * kPanel);
}

char* PackedWeights::Panel(size_t expert, size_t panel) const {
  return data_ + (expert * columns_ + panel * kPanel) * stored_depth_ * value_bytes_;
}

void PackedWeights::PackPanel(const vk_tensor& weight, size_t expert, size_t panel) const {
  const int64_t* stride = weight.stride + weight.ndim - 2;
  const int64_t of_expert = weight.ndim == 3 ? weight.stride[0] : 0;
  const int64_t first =
      static_cast<int64_t>(expert) * of_expert + static_cast<int64_t>(panel * kPanel) * stride[0];
  const char* from =
      static_cast<const char*>(weight.data) + first * static_cast<int64_t>(value_bytes_);
  const auto pack = value_bytes_ == 4   ? PackValues<uint32_t>
                    : value_bytes_ == 2 ? PackValues<uint16_t>
                                        : PackValues<uint8_t>;
  pack(from, stride[0], stride[1], Width(panel), stored_depth_, unit_, Panel(expert, panel));
}

void PackedWeights::Pack(const vk_tensor& weight) const {
  const int64_t panels = this->panels();
  ParallelFor(experts_ * panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) PackPanel(weight, i / panels, i % panels);
  });
}

void PackedWeights::Expand(const char* panel, size_t width, size_t k, size_t count,
                           char* to) const {
  const size_t end = std::min(k + count, stored_depth_);
  const size_t whole = std::min(end, stored_depth_ / unit_ * unit_);
  const size_t unit_bytes = unit_ * value_bytes_;
  std::memset(to, 0, RoundUp(count, unit_) * kPanel * value_bytes_);
  for (; k < whole; k += unit_, to += kPanel * unit_bytes) {
    std::memcpy(to, panel + k * width * value_bytes_, width * unit_bytes);
  }
  // The last, incomplete unit: single values.
  for (size_t i = 0; k + i < end; ++i) {
    const char* from = panel + (k + i) * width * value_bytes_;
    for (size_t column = 0; column < width; ++column) {
      std::memcpy(to + column * unit_bytes + i * value_bytes_, from + column * value_bytes_,
                  value_bytes_);
    }
  }
}

void PackedWeights::Multiply(const GemmKernel& kernel, int32_t dtype, size_t expert, size_t panel,
                             const Part& part) const {
  if (coding_ == kPlain) return MultiplyPlain(kernel, expert, panel, part);
  MultiplyCoded(kernel, dtype, expert, panel, part);
}

void PackedWeights::MultiplyPlain(const GemmKernel& kernel, size_t expert, size_t panel,
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

void PackedWeights::MultiplyCoded(const GemmKernel& kernel, int32_t dtype, size_t expert,
                                  size_t panel, const Part& part) const {
  const PackedTable& packed = *Kernels().packed;
  const char* data = Panel(expert, panel);
  const size_t width = Width(panel), word_values = kWordBytes * values_;
  // Whole panels only: nothing is decoded into memory.
  const size_t row_bytes = kernel.step * packed.row_value_bytes[dtype];
  const bool one = part.rows == 1 && width == kPanel && kernel.row_step_bytes == row_bytes;
  const auto multiply_row = one ? packed.multiply_row[coding_][dtype] : nullptr;
  alignas(64) char words[kDecodeDepth * kPanel], decoded[kExpandBytes];
  alignas(64) float scales[kPanel];
  const size_t end = part.k + part.depth;
  for (size_t k = part.k; k < end;) {
    const bool first_group = k == 0;
    const size_t group_end = std::min(end, ReadScales(expert, panel, k, scales));
    const auto a_at = [&](size_t at) {
      return part.a + (at - part.k) / kernel.step * kernel.group_step_bytes;
    };
    if (multiply_row && (group_end - k) % word_values == 0) {
      multiply_row(reinterpret_cast<const uint8_t*>(data + k / values_ * kPanel),
                   (group_end - k) / word_values, {a_at(k), row_bytes, kernel.group_step_bytes},
                   scales, part.sums, first_group);
      k = group_end;
      continue;
    }
    for (bool first = true; k < group_end; first = false) {
      const size_t depth = std::min(kDecodeDepth, group_end - k);
      const size_t padded = RoundUp(depth, kPackedGroupMultiple);
      const size_t stored = k / values_, count = padded / values_;
      const char* from = data + stored * kPanel;
      if (width < kPanel || padded > depth) {
        Expand(data, width, stored, count, words);
        from = words;
      }
      packed.decode[coding_][dtype](reinterpret_cast<const uint8_t*>(from), padded / word_values,
                                    decoded);
      GemmBlock block{a_at(k),   part.a_group_stride,         decoded, nullptr, part.more_sums,
                      part.rows, CeilDiv(depth, kernel.step), first};
      block.near = true;
      k += depth;
      if (first && k == group_end) {
        MultiplyScaled(kernel, block, scales, part.sums, first_group);
        break;
      }
      kernel.multiply(block);
      if (k == group_end) {
        packed.scale(part.sums, part.more_sums, scales, part.rows, first_group);
      }
    }
  }
}

int64_t PackedWeights::ScaleAt(size_t expert, size_t column, size_t group) const {
  const auto signed_product = [](size_t index, int64_t stride) {
    return static_cast<int64_t>(index) * stride;
  };
  return signed_product(expert, scales_.expert_stride) +
         signed_product(group, scales_.group_stride) +
         signed_product(column / scales_.block_columns, scales_.block_stride) +
         signed_product(column % scales_.block_columns, scales_.column_stride);
}

size_t PackedWeights::BlockRest(size_t column) const {
  return scales_.block_columns - column % scales_.block_columns;
}

size_t PackedWeights::ReadScales(size_t expert, size_t panel, size_t k, float* scales) const {
  const size_t width = Width(panel), group = k / scales_.group_size;
  std::fill_n(scales, kPanel, 0.0f);
  for (size_t i = 0; i < width;) {
    const size_t column = panel * kPanel + i;
    const size_t count = std::min(width - i, BlockRest(column));
    const int64_t at = ScaleAt(expert, column, group);
    const size_t different = scales_.column_stride == 0 ? 1 : count;
    for (size_t j = 0; j < different; ++j) {
      const int64_t place = at + static_cast<int64_t>(j) * scales_.column_stride;
      scales[i + j] = scales_.dtype == VK_U8
                          ? PowerOfTwo(static_cast<const uint8_t*>(scales_.data)[place])
                          : static_cast<const float*>(scales_.data)[place];
    }
    if (different < count) std::fill_n(scales + i + 1, count - 1, scales[i]);
    i += count;
  }
  // Blocks with the same scales are one, such as those of a matrix that has a single scale.
  const size_t groups = CeilDiv(depth_, scales_.group_size);
  size_t next = group + 1;
  if (scales_.dtype == VK_F32) {
    while (next < groups && SameScales(expert, panel, next)) ++next;
  }
  return std::min(depth_, next * scales_.group_size);
}

// Whether a group's scales are those of the one before it.
bool PackedWeights::SameScales(size_t expert, size_t panel, size_t group) const {
  const size_t width = Width(panel);
  for (size_t i = 0; i < width;) {
    const size_t column = panel * kPanel + i;
    const float* scale = static_cast<const float*>(scales_.data) + ScaleAt(expert, column, group);
    if (!(*scale == scale[-scales_.group_stride])) return false;
    i += scales_.column_stride == 0 ? BlockRest(column) : 1;
  }
  return true;
}

}  // namespace vk
