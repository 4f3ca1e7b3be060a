#include "cpu/gemm/gemm.h"

#include <algorithm>

#include "core/check.h"
#include "cpu/gemm/gemm_run.h"
#include "cpu/gemm/gemm_table.h"
#include "cpu/gemm/gemm_weights.h"

namespace {

using vk::Arg;
using vk::GemmWeights;

constexpr const char* kCreate = "create_onednn_mm_handler";
constexpr const char* kCreateScaled = "create_onednn_scaled_mm_handler";
constexpr const char* kMultiply = "onednn_mm";
constexpr const char* kMultiplyScaled = "onednn_scaled_mm";

// Shapes of c, a and bias against the weights, and their strides.
void CheckOperands(const char* op, const GemmWeights& weights, const Arg& c, const Arg& a,
                   const vk_tensor* bias) {
  a.Dims(2).Size(1, weights.depth).LastDimContiguous();
  c.Dims(2).Size(0, a.size(0)).Size(1, weights.columns).LastDimContiguous();
  if (bias != nullptr) {
    Arg(op, "bias", bias).SameDtype(c).Dims(1).Size(0, weights.columns).Contiguous();
  }
}

// `c` [..., N] as [M, N]: engines flatten `a` alone.
vk_tensor AsRows(const Arg& c) {
  c.MinDims(2);
  vk_tensor rows = c.tensor();
  if (rows.ndim == 2) return rows;
  c.Contiguous();
  rows.shape[1] = rows.stride[0] = c.size(-1);
  rows.stride[1] = 1;
  for (int32_t dim = 1; dim < c.tensor().ndim - 1; ++dim) rows.shape[0] *= c.size(dim);
  rows.ndim = 2;
  return rows;
}

const void* DataOrNull(const vk_tensor* tensor) {
  return tensor == nullptr ? nullptr : tensor->data;
}

// `tensor` must hold one value, or `many` where that is allowed; returns the stride between rows.
size_t CheckCount(const char* op, const char* name, const vk_tensor* tensor, vk_dtype dtype,
                  int64_t many, bool many_allowed, const char* many_of) {
  Arg(op, name, tensor).Dtype({dtype}).Contiguous();
  const int64_t count = vk::NumElements(*tensor);
  VK_CHECK(count == 1 || (many_allowed && count == many), "%s: %s has %lld values, want 1%s%s", op,
           name, static_cast<long long>(count), many_allowed ? " or one per " : "",
           many_allowed ? many_of : "; the handle was created for static quantization");
  return count == 1 ? 0 : 1;
}

// The scales of columns, and what zero points multiply, padded to whole panels.
void SetScales(GemmWeights& weights, const vk_tensor& b_scales, size_t stride) {
  const float* scales = static_cast<const float*>(b_scales.data);
  weights.scales.resize(weights.sums.size());
  weights.azp_adj.resize(weights.sums.size());
  for (size_t n = 0; n < weights.columns; ++n) {
    weights.scales[n] = scales[n * stride];
    weights.azp_adj[n] = weights.scales[n] * static_cast<float>(weights.sums[n]);
  }
}

// azp_adj as the kernels want it: float32 with the scale of the column, padded to whole panels.
// `copy` holds it where the handle's own does not serve.
const float* AzpAdj(const GemmWeights& weights, const vk_tensor* azp_adj,
                    std::vector<float>& copy) {
  if (azp_adj == nullptr || !weights.dynamic) return weights.azp_adj.data();
  const Arg adj(kMultiplyScaled, "azp_adj", azp_adj);
  adj.Dtype({VK_F32, VK_I32}).Contiguous();
  const int64_t count = vk::NumElements(*azp_adj);
  VK_CHECK(count == static_cast<int64_t>(weights.columns),
           "%s: azp_adj has %lld values, want one per column (%zu)", kMultiplyScaled,
           static_cast<long long>(count), weights.columns);
  copy.resize(weights.scales.size());
  if (azp_adj->dtype == VK_F32) {
    std::copy_n(static_cast<const float*>(azp_adj->data), weights.columns, copy.data());
  } else {
    const int32_t* sums = static_cast<const int32_t*>(azp_adj->data);
    for (size_t n = 0; n < weights.columns; ++n) {
      copy[n] = weights.scales[n] * static_cast<float>(sums[n]);
    }
  }
  return copy.data();
}

void CheckHandleOut(const char* op, const int64_t* handle) {
  VK_CHECK(handle != nullptr, "%s: handle is null, want where to put the handle", op);
}

}  // namespace

extern "C" vk_status vk_cpu_create_onednn_mm_handler(const vk_tensor* b, int64_t* handle) {
  return vk::Guard([&] {
    CheckHandleOut(kCreate, handle);
    Arg(kCreate, "b", b).Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2);
    *handle = vk::AddGemmHandle(vk::PackGemmWeights(*b));
  });
}

extern "C" vk_status vk_cpu_onednn_mm(const vk_tensor* c, const vk_tensor* a, const vk_tensor* bias,
                                      int64_t handle) {
  return vk::Guard([&] {
    const auto weights = vk::FindGemmHandle(kMultiply, handle);
    VK_CHECK(!weights->scaled,
             "%s: handle %lld holds int8 weights with scales, want one of create_onednn_mm_handler",
             kMultiply, static_cast<long long>(handle));
    const vk_tensor rows = AsRows(Arg(kMultiply, "c", c));
    const Arg out(kMultiply, "c", &rows), in(kMultiply, "a", a);
    in.Dtype({static_cast<vk_dtype>(weights->dtype)});
    out.SameDtype(in);
    CheckOperands(kMultiply, *weights, out, in, bias);
    vk::RunGemm({*weights, rows, *a, DataOrNull(bias)});
  });
}

extern "C" vk_status vk_cpu_create_onednn_scaled_mm_handler(const vk_tensor* b,
                                                            const vk_tensor* b_scales,
                                                            int32_t output_type,
                                                            int32_t dynamic_act_quant,
                                                            int32_t use_azp, int64_t* handle) {
  return vk::Guard([&] {
    CheckHandleOut(kCreateScaled, handle);
    const Arg in(kCreateScaled, "b", b);
    in.Dtype({VK_I8}).Dims(2);
    const size_t stride =
        CheckCount(kCreateScaled, "b_scales", b_scales, VK_F32, in.size(1), true, "column of b");
    VK_CHECK(output_type == VK_F32 || output_type == VK_BF16 || output_type == VK_F16,
             "%s: output_type is %s, want float32, bfloat16 or float16", kCreateScaled,
             vk::DtypeName(output_type));
    auto weights = vk::PackGemmWeights(*b);
    SetScales(*weights, *b_scales, stride);
    weights->scaled = true;
    weights->dynamic = dynamic_act_quant != 0;
    weights->use_azp = use_azp != 0;
    *handle = vk::AddGemmHandle(std::move(weights));
  });
}

extern "C" vk_status vk_cpu_onednn_scaled_mm(const vk_tensor* c, const vk_tensor* a,
                                             const vk_tensor* a_scales, const vk_tensor* azp,
                                             const vk_tensor* azp_adj, const vk_tensor* bias,
                                             int64_t handle) {
  return vk::Guard([&] {
    const char* op = kMultiplyScaled;
    const auto weights = vk::FindGemmHandle(op, handle);
    VK_CHECK(weights->scaled,
             "%s: handle %lld holds weights without scales, want one of "
             "create_onednn_scaled_mm_handler",
             op, static_cast<long long>(handle));
    const Arg out(op, "c", c), in(op, "a", a);
    out.Dtype({VK_F32, VK_BF16, VK_F16});
    in.Dtype({VK_I8});
    CheckOperands(op, *weights, out, in, bias);
    VK_CHECK((azp != nullptr) == weights->use_azp,
             "%s: azp is %s, but the handle was created with use_azp=%s", op,
             azp == nullptr ? "absent" : "given", weights->use_azp ? "True" : "False");

    vk::GemmCall call{*weights, *c, *a, DataOrNull(bias)};
    call.a_scale_stride =
        CheckCount(op, "a_scales", a_scales, VK_F32, in.size(0), weights->dynamic, "row of a");
    call.a_scales = static_cast<const float*>(a_scales->data);
    std::vector<float> adj;
    if (azp != nullptr) {
      call.azp_stride =
          CheckCount(op, "azp", azp, VK_I32, in.size(0), weights->dynamic, "row of a");
      call.azp = static_cast<const int32_t*>(azp->data);
      call.azp_adj = AzpAdj(*weights, azp_adj, adj);
    }
    vk::RunGemm(call);
  });
}

extern "C" vk_status vk_cpu_release_dnnl_matmul_handler(int64_t handle) {
  return vk::Guard([&] { vk::RemoveGemmHandle("release_dnnl_matmul_handler", handle); });
}
