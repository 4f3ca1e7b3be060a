#include "cpu/packed/packed.h"

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "torch/bind.h"

namespace vk::binding {
namespace {

// A contiguous tensor of the same shape, filled by `convert`, which also says whether it can.
template <class Convert>
Tensor Converted(const char* op, const char* name, const Tensor& from, Convert convert) {
  const View view(op, name, from);
  Check(convert(view, nullptr));
  const Tensor packed = NewEmpty(op, "packed", from, from.sizes());
  Check(convert(view, View(op, "packed", packed)));
  return packed;
}

Tensor ConvertWeightPacked(const Tensor& weight) {
  return Converted("convert_weight_packed", "weight", weight, vk_cpu_convert_weight_packed);
}

Tensor ConvertScalePacked(const Tensor& scale) {
  return Converted("convert_scale_packed", "scale", scale, vk_cpu_convert_scale_packed);
}

// [M, N] for mat1 [M, K] and mat2 [N, K].
Tensor NewProduct(const char* op, const Tensor& mat1, const Tensor& mat2, ScalarType dtype) {
  CheckDims(op, "mat1", mat1, 2, "[M, K]");
  CheckDims(op, "mat2", mat2, 2, "[N, K]");
  return NewEmpty(op, "out", mat1, {mat1.size(0), mat2.size(0)}, dtype);
}

void CheckOutDtype(const char* op, ScalarType dtype) {
  const int32_t known = ToDtype(dtype);
  if (known == VK_F32 || known == VK_BF16 || known == VK_F16) return;
  Refuse(op, "out_dtype", " is another dtype than float32, bfloat16 and float16");
}

Tensor Fp8ScaledMm(const Tensor& mat1, const Tensor& mat2, const Tensor& scales2,
                   std::vector<int64_t> block_size, const std::optional<Tensor>& bias,
                   ScalarType out_dtype, bool is_vnni) {
  constexpr const char* kOp = "fp8_scaled_mm_cpu";
  if (block_size.size() != 2) {
    Refuse(kOp, "block_size", " has " + std::to_string(block_size.size()) + " elements, want 2");
  }
  CheckOutDtype(kOp, out_dtype);
  const Tensor out = NewProduct(kOp, mat1, mat2, out_dtype);
  Check(vk_cpu_fp8_scaled_mm(View(kOp, "out", out), View(kOp, "mat1", mat1),
                             View(kOp, "mat2", mat2), View(kOp, "scales2", scales2), block_size[0],
                             block_size[1], View(kOp, "bias", bias), is_vnni));
  return out;
}

Tensor Int8ScaledMm(const Tensor& mat1, const Tensor& mat2, const Tensor& scales2,
                    const std::optional<Tensor>& bias, ScalarType out_dtype, bool is_vnni) {
  constexpr const char* kOp = "int8_scaled_mm_with_quant";
  CheckOutDtype(kOp, out_dtype);
  const Tensor out = NewProduct(kOp, mat1, mat2, out_dtype);
  Check(vk_cpu_int8_scaled_mm(View(kOp, "out", out), View(kOp, "mat1", mat1),
                              View(kOp, "mat2", mat2), View(kOp, "scales2", scales2),
                              View(kOp, "bias", bias), is_vnni));
  return out;
}

int64_t SizeOf(const Tensor& tensor, int64_t from_last) {
  const int64_t dim = tensor.dim() - from_last;
  return dim >= 0 ? tensor.size(dim) : 0;
}

std::tuple<Tensor, Tensor, Tensor> ConvertInt4(const Tensor& weight, const Tensor& qzeros,
                                               const Tensor& scales, int64_t method) {
  constexpr const char* kOp = "convert_weight_packed_scale_zp";
  const View words(kOp, "weight", weight), zeros(kOp, "qzeros", qzeros);
  const View of_groups(kOp, "scales", scales);
  Check(vk_cpu_convert_int4(words, zeros, of_groups, method, nullptr, nullptr, nullptr));
  const int64_t blocks = SizeOf(scales, 1) / 32, groups = SizeOf(scales, 2);
  const int64_t rows = method == 1 ? SizeOf(weight, 2) : SizeOf(weight, 2) / 8;
  std::vector<int64_t> words_size{blocks, rows, 128}, groups_size{blocks, groups, 32};
  if (weight.dim() == 3) {
    words_size.insert(words_size.begin(), weight.size(0));
    groups_size.insert(groups_size.begin(), weight.size(0));
  }
  const Tensor packed = NewEmpty(kOp, "packed", weight, words_size, ScalarType::Byte);
  const Tensor packed_zeros = NewEmpty(kOp, "packed_zeros", qzeros, groups_size, ScalarType::Char);
  const Tensor packed_scales =
      NewEmpty(kOp, "packed_scales", scales, groups_size, ScalarType::Float);
  Check(vk_cpu_convert_int4(words, zeros, of_groups, method, View(kOp, "packed", packed),
                            View(kOp, "packed_zeros", packed_zeros),
                            View(kOp, "packed_scales", packed_scales)));
  return {packed, packed_zeros, packed_scales};
}

Tensor Int4ScaledMm(const Tensor& x, const Tensor& w, const Tensor& w_zeros, const Tensor& w_scales,
                    const std::optional<Tensor>& bias) {
  constexpr const char* kOp = "int4_scaled_mm_cpu";
  const Tensor out = NewEmpty(kOp, "out", x, {SizeOf(x, 2), SizeOf(w, 3) * 32});
  Check(vk_cpu_int4_scaled_mm(View(kOp, "out", out), View(kOp, "x", x), View(kOp, "w", w),
                              View(kOp, "w_zeros", w_zeros), View(kOp, "w_scales", w_scales),
                              View(kOp, "bias", bias)));
  return out;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, convert_weight_packed, vk::binding::ConvertWeightPacked);
VK_IMPL(CPU, convert_scale_packed, vk::binding::ConvertScalePacked);
VK_BIND(CPU, weight_packed_linear, vk_cpu_weight_packed_linear);
VK_BIND(CPU, bmm_cpu, vk_cpu_bmm);
VK_IMPL(CPU, fp8_scaled_mm_cpu, vk::binding::Fp8ScaledMm);
VK_IMPL(CPU, int8_scaled_mm_with_quant, vk::binding::Int8ScaledMm);
VK_IMPL(CPU, convert_weight_packed_scale_zp, vk::binding::ConvertInt4);
VK_IMPL(CPU, int4_scaled_mm_cpu, vk::binding::Int4ScaledMm);
