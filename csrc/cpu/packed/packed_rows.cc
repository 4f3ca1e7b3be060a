#include "cpu/packed/packed_rows.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/quant/quant.h"

namespace vk {
namespace {

// Up to here a kernel for many rows would read the weights no faster.
constexpr size_t kFewRows = 4;
// Values of a row that are rounded at once, and words of a narrow panel that are spread over the
// columns of a whole one.
constexpr size_t kRoundedValues = 2048, kSpreadWords = 64;

const GemmKernel& FindKernel(const PackedWeights& weights, int32_t dtype, size_t rows) {
  const GemmTable& table = *Kernels().gemm;
  if (weights.coding() != kCodedI4) return *table.kernel[dtype];
  const GemmKernel& many = *table.nibbles[1];
  const bool whole = weights.int4().group_size() % many.step == 0;
  return whole && rows > kFewRows ? many : *table.nibbles[0];
}

}  // namespace

PackedRows::PackedRows(const PackedWeights& weights, int32_t dtype, size_t rows)
    : weights_(weights),
      dtype_(dtype),
      rows_(FindKernel(weights, dtype, rows), weights.depth(), rows) {}

size_t PackedRows::bytes() const {
  if (!rounded()) return rows_.bytes();
  return row_sums_at() + rows() * weights_.int4().groups * sizeof(int32_t);
}

void PackedRows::Pack(char* area, size_t row, const char* from) const {
  rounded() ? PackRounded(area, row, from) : rows_.Pack(area, row, from, DtypeSize(dtype_));
}

void PackedRows::PackRounded(char* area, size_t row, const char* from) const {
  const QuantTable& quant = *Kernels().quant;
  const GemmKernel& kernel = rows_.kernel();
  const size_t depth = weights_.depth(), group_size = weights_.int4().group_size();
  const size_t value_bytes = DtypeSize(dtype_), part = rows_.part_depth();
  float* scale = reinterpret_cast<float*>(area + scales_at()) + row;
  int32_t* row_sums = reinterpret_cast<int32_t*>(area + row_sums_at());
  *scale = Int8Scale(quant.abs_max[dtype_](from, depth));
  const float inverse = InverseScale(*scale);
  alignas(64) int8_t values[kRoundedValues];
  for (size_t k = 0; k < depth;) {
    const size_t group = k / group_size, part_begin = k / part * part;
    const size_t end = std::min({depth, (group + 1) * group_size, part_begin + part});
    const size_t count = std::min(kRoundedValues, end - k);
    quant.quantize[dtype_](values, from + k * value_bytes, count, inverse, 0.0f);
    char* to = area + k / part * rows_.part_stride() +
               (k - part_begin) / kernel.step * kernel.group_step_bytes;
    kernel.pack_row(to, rows_.group_stride(), row, values, count);
    int32_t& sum = row_sums[group * rows() + row];
    sum = (k == group * group_size ? 0 : sum) + Kernels().packed->sum(values, count);
    k += count;
  }
}

void PackedRows::Multiply(const char* area, size_t expert, size_t panel, const char* next,
                          float* sums, float* more_sums) const {
  const size_t depth = rows_.depth();
  if (depth == 0) std::fill_n(sums, rows() * kPanel, 0.0f);
  if (rounded()) {
    return MultiplyRounded(area, expert, panel, next, sums, reinterpret_cast<int32_t*>(more_sums));
  }
  const size_t part = rows_.part_depth();
  for (size_t k = 0; k < depth; k += part, area += rows_.part_stride()) {
    const bool last = k + part >= depth;
    weights_.Multiply(rows_.kernel(), dtype_, expert, panel,
                      {area, rows_.group_stride(), rows(), k, std::min(part, depth - k),
                       last ? next : nullptr, sums, more_sums});
  }
}

void PackedRows::MultiplyRounded(const char* area, size_t expert, size_t panel, const char* next,
                                 float* sums, int32_t* products) const {
  const PackedInt4& int4 = weights_.int4();
  const GemmKernel& kernel = rows_.kernel();
  const size_t depth = int4.depth, part = rows_.part_depth(), width = weights_.Width(panel);
  const bool narrow = width < kPanel;
  const char* data = weights_.Panel(expert, panel);
  const size_t first_group = (expert * int4.columns + panel * kPanel) * int4.groups;
  const float* scales = int4.scales + first_group;
  const int8_t* zeros = int4.zeros + first_group;
  const float* row_scales = reinterpret_cast<const float*>(area + scales_at());
  const int32_t* row_sums = reinterpret_cast<const int32_t*>(area + row_sums_at());
  alignas(64) char words[kSpreadWords * kPanel * sizeof(uint32_t)];
  alignas(64) float spread_scales[kPanel] = {};
  alignas(64) int8_t spread_zeros[kPanel] = {};
  for (size_t k = 0; k < depth;) {
    const size_t group = k / int4.group_size(), group_begin = group * int4.group_size();
    const size_t group_end = group_begin + int4.group_size(), part_begin = k / part * part;
    size_t end = std::min(group_end, part_begin + part);
    const char* b = data + k / kWordValues * width * sizeof(uint32_t);
    PackedGroup done{products,
                     scales + group * width,
                     zeros + group * width,
                     k == group_begin ? row_sums + group * rows() : nullptr,
                     nullptr,
                     rows(),
                     k == 0};
    if (narrow) {
      end = std::min(end, k + kSpreadWords * kWordValues);
      weights_.Expand(data, width, k / kWordValues, (end - k) / kWordValues, words);
      std::memcpy(spread_scales, done.scales, width * sizeof(float));
      std::memcpy(spread_zeros, done.zeros, width);
      b = words;
      done.scales = spread_scales;
      done.zeros = spread_zeros;
    }
    if (end == depth) done.row_scales = row_scales;
    GemmBlock block{area + k / part * rows_.part_stride() +
                        (k - part_begin) / kernel.step * kernel.group_step_bytes,
                    rows_.group_stride(),
                    b,
                    end == depth ? next : nullptr,
                    products,
                    rows(),
                    (end - k) / kernel.step,
                    true};
    block.near = narrow;
    kernel.multiply(block);
    Kernels().packed->add_group(sums, done);
    k = end;
  }
}

}  // namespace vk
