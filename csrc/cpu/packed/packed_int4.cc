#include "cpu/packed/packed_int4.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/dispatch.h"
#include "cpu/packed/packed.h"
#include "cpu/packed/packed_run.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"

namespace vk {
namespace {

constexpr const char* kConvert = "convert_weight_packed_scale_zp";
constexpr const char* kProduct = "int4_scaled_mm_cpu";
constexpr int64_t kValues = kWordValues;

enum Method { kAwq = 0, kGptq = 1 };

// Where in a word value j lies, in fours of bits.
constexpr int kPlaces[2][kWordValues] = {{0, 4, 1, 5, 2, 6, 3, 7}, {0, 1, 2, 3, 4, 5, 6, 7}};

// What a conversion reads, checked.
struct Source {
  const vk_tensor &weight, &zeros, &scales;
  Method method;
  int64_t experts, columns, depth, groups;
};

void CheckGroups(const char* op, const char* name, int64_t depth, int64_t groups) {
  VK_CHECK(depth <= kInt4MostDepth, "%s: K is %lld, want at most %lld", op, Print(depth),
           Print(kInt4MostDepth));
  VK_CHECK(groups > 0 ? depth % groups == 0 && depth / groups % kValues == 0 : depth == 0,
           "%s: %s has %lld groups for %lld values of K, want groups of a multiple of 8", op, name,
           Print(groups), Print(depth));
}

Source CheckSource(const vk_tensor* weight, const vk_tensor* zeros, const vk_tensor* scales,
                   int64_t method) {
  const Arg from(kConvert, "weight", weight), zero(kConvert, "qzeros", zeros);
  const Arg scale(kConvert, "scales", scales);
  VK_CHECK(method == kAwq || method == kGptq,
           "%s: quant_method_4bit is %lld, want 0 (AWQ) or 1 (GPTQ)", kConvert, Print(method));
  from.Dtype({VK_I32}).MinDims(2);
  if (weight->ndim != 2) from.Dims(3);
  const int32_t dims = weight->ndim;
  const int64_t experts = dims == 3 ? from.size(0) : 1;
  const bool along_n = method == kAwq;
  int64_t columns = from.size(-1), depth = from.size(-2);
  VK_CHECK(Multiply(along_n ? columns : depth, kValues, along_n ? &columns : &depth),
           "%s: weight has shape %s, want fewer elements", kConvert, ShapeString(*weight).c_str());
  VK_CHECK(columns % kInt4Columns == 0, "%s: weight has shape %s, want N a multiple of 32",
           kConvert, ShapeString(*weight).c_str());
  scale.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(dims).Size(-1, columns);
  zero.Dtype({VK_I32}).Dims(dims).Size(-2, scale.size(-2)).Size(-1, columns / kValues);
  if (dims == 3) {
    scale.Size(0, experts);
    zero.Size(0, experts);
  }
  const int64_t groups = scale.size(-2);
  CheckGroups(kConvert, "scales", depth, groups);
  const int64_t scales_bytes =
      SaturatingMultiply(SaturatingMultiply(experts, columns),
                         SaturatingMultiply<int64_t>(groups, sizeof(float) + sizeof(int8_t)));
  VK_CHECK(static_cast<size_t>(scales_bytes) <= MemorySize(),
           "%s: scales of shape %s needs more memory than this machine has, want fewer elements",
           kConvert, ShapeString(*scales).c_str());
  return {*weight, *zeros, *scales, static_cast<Method>(method), experts, columns, depth, groups};
}

// One panel of one expert.
class PanelConverter {
 public:
  PanelConverter(const Source& source, const PackedInt4& to, int64_t expert, int64_t panel)
      : source_(source),
        to_(to),
        expert_(expert),
        first_(panel * static_cast<int64_t>(kPanel)),
        width_(std::min<int64_t>(kPanel, source.columns - first_)) {}

  void Run() const {
    const int64_t before = expert_ * source_.columns + first_;
    uint32_t* words = reinterpret_cast<uint32_t*>(to_.words) + before * (source_.depth / kValues);
    for (int64_t k = 0; k < source_.depth; k += kValues) {
      for (int64_t i = 0; i < width_; ++i) *words++ = Word(k, first_ + i);
    }
    float* scales = to_.scales + before * source_.groups;
    int8_t* zeros = to_.zeros + before * source_.groups;
    for (int64_t group = 0; group < source_.groups; ++group, scales += width_) {
      CopyScales(group, scales);
      for (int64_t i = 0; i < width_; ++i) *zeros++ = Zero(group, first_ + i);
    }
  }

 private:
  const char* At(const vk_tensor& tensor, int64_t row, int64_t column) const {
    const int64_t* stride = tensor.stride + tensor.ndim - 2;
    const int64_t of_expert = tensor.ndim == 3 ? tensor.stride[0] : 0;
    return ElementAt(tensor, expert_ * of_expert + row * stride[0] + column * stride[1]);
  }
  // Four bits of a word, the lowest ones of the result.
  uint32_t Value(const vk_tensor& tensor, int64_t row, int64_t column, int place) const {
    uint32_t word;
    std::memcpy(&word, At(tensor, row, column), sizeof(word));
    return word >> 4 * place;
  }
  // Eight values of K of one column, the first four in the lower halves of the bytes.
  uint32_t Word(int64_t k, int64_t column) const {
    uint32_t word = 0;
    for (int j = 0; j < static_cast<int>(kValues); ++j) {
      const uint32_t value =
          source_.method == kGptq
              ? Value(source_.weight, k / kValues, column, j)
              : Value(source_.weight, k + j, column / kValues, kPlaces[kAwq][column % kValues]);
      word |= (value & 15) << (8 * (j % 4) + 4 * (j / 4));
    }
    return word;
  }
  int8_t Zero(int64_t group, int64_t column) const {
    const int place = kPlaces[source_.method][column % kValues];
    const uint32_t value = Value(source_.zeros, group, column / kValues, place) & 15;
    return static_cast<int8_t>(value + (source_.method == kGptq));
  }
  void CopyScales(int64_t group, float* to) const {
    const vk_tensor& scales = source_.scales;
    const size_t value_bytes = DtypeSize(scales.dtype);
    alignas(64) char values[kPanel * sizeof(float)];
    for (int64_t i = 0; i < width_; ++i) {
      std::memcpy(values + i * value_bytes, At(scales, group, first_ + i), value_bytes);
    }
    Kernels().packed->widen[scales.dtype](to, values, width_);
  }

  const Source& source_;
  const PackedInt4& to_;
  const int64_t expert_, first_, width_;
};

}  // namespace

PackedInt4 FindInt4(const char* op, const Int4Names& names, const vk_tensor* weight,
                    const vk_tensor* zeros, const vk_tensor* scales, bool experts) {
  const Arg words(op, names.weight, weight), zero(op, names.zeros, zeros);
  const Arg scale(op, names.scales, scales);
  const int32_t dims = experts ? 4 : 3;
  words.Dtype({VK_U8}).Dims(dims).Size(-1, kInt4WordBytes).Contiguous();
  scale.Dtype({VK_F32}).Dims(dims).Size(-3, words.size(-3)).Size(-1, kInt4Columns).Contiguous();
  zero.Dtype({VK_I8}).SameShape(scale).Contiguous();
  if (experts) scale.Size(0, words.size(0));
  const int64_t depth = words.size(-2) * kValues, groups = scale.size(-2);
  CheckGroups(op, names.scales, depth, groups);
  PackedInt4 found{};
  found.words = static_cast<uint8_t*>(weight->data);
  found.scales = static_cast<float*>(scales->data);
  found.zeros = static_cast<int8_t*>(zeros->data);
  found.experts = experts ? words.size(0) : 1;
  found.columns = words.size(-3) * kInt4Columns;
  found.depth = depth;
  found.groups = groups;
  return found;
}

}  // namespace vk

extern "C" vk_status vk_cpu_convert_int4(const vk_tensor* weight, const vk_tensor* zeros,
                                         const vk_tensor* scales, int64_t method,
                                         const vk_tensor* packed, const vk_tensor* packed_zeros,
                                         const vk_tensor* packed_scales) {
  return vk::Guard([&] {
    const vk::Source source = vk::CheckSource(weight, zeros, scales, method);
    if (packed == nullptr && packed_zeros == nullptr && packed_scales == nullptr) return;
    const bool experts = weight->ndim == 3;
    const vk::PackedInt4 to =
        vk::FindInt4(vk::kConvert, {"packed", "packed_zeros", "packed_scales"}, packed,
                     packed_zeros, packed_scales, experts);
    const auto is = [](size_t size, int64_t wanted) {
      return static_cast<int64_t>(size) == wanted;
    };
    VK_CHECK(is(to.experts, source.experts) && is(to.columns, source.columns) &&
                 is(to.depth, source.depth) && is(to.groups, source.groups),
             "%s: packed has shape %s, want that of %lld matrices of %lld x %lld in %lld groups",
             vk::kConvert, vk::ShapeString(*packed).c_str(), vk::Print(source.experts),
             vk::Print(source.depth), vk::Print(source.columns), vk::Print(source.groups));
    const int64_t panels = vk::CeilDiv<int64_t>(source.columns, vk::kPanel);
    vk::ParallelFor(source.experts * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        vk::PanelConverter(source, to, i / panels, i % panels).Run();
      }
    });
  });
}

extern "C" vk_status vk_cpu_int4_scaled_mm(const vk_tensor* out, const vk_tensor* x,
                                           const vk_tensor* weight, const vk_tensor* zeros,
                                           const vk_tensor* scales, const vk_tensor* bias) {
  return vk::Guard([&] {
    const vk::Arg in(vk::kProduct, "x", x), result(vk::kProduct, "out", out);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    const vk::PackedInt4 int4 =
        vk::FindInt4(vk::kProduct, {"w", "w_zeros", "w_scales"}, weight, zeros, scales, false);
    const int64_t columns = static_cast<int64_t>(int4.columns);
    in.Size(1, static_cast<int64_t>(int4.depth));
    result.SameDtype(in).Dims(2).Size(0, in.size(0)).Size(1, columns).LastDimContiguous();
    if (bias != nullptr) {
      const vk::Arg added(vk::kProduct, "bias", bias);
      added.Dims(1).Size(0, columns).Contiguous();
      if (bias->dtype != VK_F32) added.SameDtype(in);
    }
    if (vk::NumElements(*out) == 0) return;
    vk::RunPacked({*out, *x, vk::PackedWeights(int4), bias});
  });
}
