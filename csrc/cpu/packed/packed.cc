#include "cpu/packed/packed.h"

#include <algorithm>

#include "core/check.h"
#include "core/overlap.h"
#include "cpu/packed/packed_run.h"
#include "cpu/packed/packed_weights.h"
#include "cpu/scratch.h"

namespace {

using vk::Arg;
using vk::PackedCoding;
using vk::PackedScales;
using vk::PackedWeights;

constexpr const char* kConvert = "convert_weight_packed";
constexpr const char* kConvertScale = "convert_scale_packed";
constexpr int64_t kScaleColumns = 32;
constexpr const char* kLinear = "weight_packed_linear";
constexpr const char* kFp8 = "fp8_scaled_mm_cpu";
constexpr const char* kInt8 = "int8_scaled_mm_with_quant";

// Shapes of a product's operands, but for the coding of the weights.
void CheckOperands(const char* op, const vk_tensor* out, const vk_tensor* mat1,
                   const vk_tensor* mat2, const vk_tensor* bias, bool packed) {
  const Arg result(op, "out", out), in(op, "mat1", mat1), weights(op, "mat2", mat2);
  in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
  weights.Dims(2).Size(1, in.size(1));
  if (packed) weights.Contiguous();
  result.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
  result.Size(0, in.size(0)).Size(1, weights.size(0));
  if (bias == nullptr) return;
  const Arg added(op, "bias", bias);
  added.Dims(1).Size(0, weights.size(0)).Contiguous();
  if (bias->dtype != VK_F32) added.SameDtype(in);
}

// The product, with mat2 packed here where the caller has not.
void Run(const char* op, const vk_tensor* out, const vk_tensor* mat1, const vk_tensor* mat2,
         const vk_tensor* bias, bool packed, PackedCoding coding, const PackedScales& scales) {
  if (vk::NumElements(*out) == 0) return;
  vk_tensor own = *mat2;
  vk::Bytes copy;
  if (!packed) {
    copy = vk::AllocateBytes(vk::CheckPackedBytes(op, "mat2", *mat2));
    own.data = copy.get();
    own.stride[0] = own.shape[1];
    own.stride[1] = 1;
  }
  const PackedWeights weights(own, coding, scales);
  if (!packed) weights.Pack(*mat2);
  vk::RunPacked({*out, *mat1, weights, bias});
}

}  // namespace

extern "C" vk_status vk_cpu_convert_weight_packed(const vk_tensor* weight,
                                                  const vk_tensor* packed) {
  return vk::Guard([&] {
    const Arg from(kConvert, "weight", weight);
    from.Dtype({VK_F32, VK_BF16, VK_F16, VK_I8, VK_F8E4M3, VK_U8});
    from.MinDims(2);
    if (weight->ndim != 2) from.Dims(3);
    vk::CheckPackedBytes(kConvert, "weight", *weight);
    if (packed == nullptr) return;
    Arg(kConvert, "packed", packed).SameDtype(from).SameShape(from).Contiguous();
    VK_CHECK(
        !vk::Overlap(*weight, vk::DtypeSize(weight->dtype), *packed, vk::DtypeSize(packed->dtype)),
        "%s: packed shares memory with weight, want memory of its own", kConvert);
    if (vk::NumElements(*weight) == 0) return;  // however many experts there are
    // The layout goes by the size of a stored value alone.
    PackedWeights(*packed, vk::kPlain).Pack(*weight);
  });
}

extern "C" vk_status vk_cpu_convert_scale_packed(const vk_tensor* scale, const vk_tensor* packed) {
  return vk::Guard([&] {
    const Arg from(kConvertScale, "scale", scale);
    from.Dtype({VK_U8}).MinDims(2);
    if (scale->ndim != 2) from.Dims(3);
    const int64_t columns = from.size(-2), groups = from.size(-1);
    VK_CHECK(columns % kScaleColumns == 0, "%s: scale has shape %s, want a multiple of 32 columns",
             kConvertScale, vk::ShapeString(*scale).c_str());
    vk::CheckPackedBytes(kConvertScale, "scale", *scale);
    if (packed == nullptr) return;
    Arg(kConvertScale, "packed", packed).SameDtype(from).SameShape(from).Contiguous();
    VK_CHECK(!vk::Overlap(*scale, 1, *packed, 1),
             "%s: packed shares memory with scale, want memory of its own", kConvertScale);
    if (vk::NumElements(*scale) == 0) return;
    const int64_t experts = scale->ndim == 3 ? scale->shape[0] : 1;
    const int64_t of_expert = scale->ndim == 3 ? scale->stride[0] : 0;
    const uint8_t* data = static_cast<const uint8_t*>(scale->data);
    uint8_t* to = static_cast<uint8_t*>(packed->data);
    for (int64_t expert = 0; expert < experts; ++expert) {
      for (int64_t first = 0; first < columns; first += kScaleColumns) {
        for (int64_t group = 0; group < groups; ++group) {
          for (int64_t i = 0; i < kScaleColumns; ++i) {
            *to++ =
                data[expert * of_expert + (first + i) * from.stride(-2) + group * from.stride(-1)];
          }
        }
      }
    }
  });
}

extern "C" vk_status vk_cpu_weight_packed_linear(const vk_tensor* out, const vk_tensor* mat1,
                                                 const vk_tensor* mat2, const vk_tensor* bias,
                                                 int32_t is_vnni) {
  return vk::Guard([&] {
    CheckOperands(kLinear, out, mat1, mat2, bias, is_vnni != 0);
    Arg(kLinear, "mat2", mat2).SameDtype(Arg(kLinear, "mat1", mat1));
    Arg(kLinear, "out", out).SameDtype(Arg(kLinear, "mat1", mat1));
    Run(kLinear, out, mat1, mat2, bias, is_vnni != 0, vk::kPlain, {});
  });
}

extern "C" vk_status vk_cpu_fp8_scaled_mm(const vk_tensor* out, const vk_tensor* mat1,
                                          const vk_tensor* mat2, const vk_tensor* scales2,
                                          int64_t block_n, int64_t block_k, const vk_tensor* bias,
                                          int32_t is_vnni) {
  return vk::Guard([&] {
    CheckOperands(kFp8, out, mat1, mat2, bias, is_vnni != 0);
    const Arg weights(kFp8, "mat2", mat2), scale(kFp8, "scales2", scales2);
    weights.Dtype({VK_F8E4M3});
    const int64_t columns = weights.size(0), depth = weights.size(1);
    VK_CHECK(block_n > 0 && block_k > 0, "%s: block_size is [%lld, %lld], want sizes above 0", kFp8,
             vk::Print(block_n), vk::Print(block_k));
    VK_CHECK(block_k % vk::kPackedGroupMultiple == 0 || block_k >= depth,
             "%s: block_size is [%lld, %lld], want a multiple of %zu in K, or all of it", kFp8,
             vk::Print(block_n), vk::Print(block_k), vk::kPackedGroupMultiple);
    scale.Dtype({VK_F32}).Dims(2);
    scale.Size(0, columns / block_n + (columns % block_n != 0));
    scale.Size(1, depth / block_k + (depth % block_k != 0));
    PackedScales scales{scales2->data};
    scales.group_size = block_k;
    scales.block_columns = block_n;
    scales.block_stride = scales2->stride[0];
    scales.group_stride = scales2->stride[1];
    Run(kFp8, out, mat1, mat2, bias, is_vnni != 0, vk::kCodedE4m3, scales);
  });
}

extern "C" vk_status vk_cpu_int8_scaled_mm(const vk_tensor* out, const vk_tensor* mat1,
                                           const vk_tensor* mat2, const vk_tensor* scales2,
                                           const vk_tensor* bias, int32_t is_vnni) {
  return vk::Guard([&] {
    CheckOperands(kInt8, out, mat1, mat2, bias, is_vnni != 0);
    const Arg weights(kInt8, "mat2", mat2), scale(kInt8, "scales2", scales2);
    weights.Dtype({VK_I8});
    scale.Dtype({VK_F32}).Contiguous();
    VK_CHECK(vk::NumElements(*scales2) == weights.size(0),
             "%s: scales2 has %lld values, want one per row of mat2 (%lld)", kInt8,
             vk::Print(vk::NumElements(*scales2)), vk::Print(weights.size(0)));
    PackedScales scales{scales2->data};
    scales.group_size = std::max<int64_t>(1, weights.size(1));
    scales.block_stride = 1;
    Run(kInt8, out, mat1, mat2, bias, is_vnni != 0, vk::kCodedI8, scales);
  });
}
