#include "cuda/activation/activation.h"

#include "core/check.h"
#include "cuda/activation/launch.h"
#include "cuda/common/group_scales.h"
#include "cuda/common/rows.h"

namespace {

using vk::Arg;
using vk::cuda::FastDiv;
using vk::cuda::RowMap;
using vk::cuda::RowsAligned;
using vk::cuda::activation::Gate;
using vk::cuda::activation::Launch;
using vk::cuda::activation::Problem;
using vk::cuda::activation::Unary;

enum class Output { kSame, kFloat8, kFloat8OrInt8 };

// The arguments of one op as they are checked; what they come to is `problem` and `launch`.
class Activation {
 public:
  // gated: input is twice as wide as out
  Activation(const char* op, const char* out_name, const vk_tensor* out, const vk_tensor* input,
             void* stream, bool gated, Output output = Output::kSame)
      : op_(op) {
    const Arg in(op, "input", input);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
    const Arg to(op, out_name, out);
    if (output == Output::kSame) to.SameDtype(in);
    if (output == Output::kFloat8) to.Dtype({VK_F8E4M3});
    if (output == Output::kFloat8OrInt8) to.Dtype({VK_F8E4M3, VK_I8});
    if (gated) {
      to.MinDims(1);
      CheckGatedShapes(out_name, *out, *input);
    } else {
      to.SameShape(in);
    }
    to.LastDimContiguous();
    problem.input = input->data;
    problem.out = out->data;
    problem.input_rows = RowMap(*input);
    problem.out_rows = RowMap(*out);
    problem.rows = vk::Rows(*out).count();
    problem.width = out->shape[out->ndim - 1];
    problem.up = gated ? problem.width : 0;
    const int64_t vector = 16 / vk::DtypeSize(input->dtype);
    const int64_t vectors = vk::cuda::CeilDiv(problem.width, vector);
    VK_CHECK(problem.rows * vectors < (int64_t{1} << 31),
             "%s: input has shape %s, want less than 2^31 vectors of 16 bytes", op,
             vk::ShapeString(*input).c_str());
    problem.count = static_cast<uint32_t>(problem.rows * vectors);
    // Of no rows, vectors may be more than 32 bits hold.
    problem.vectors = FastDiv(problem.count > 0 ? static_cast<uint32_t>(vectors) : 1);
    const bool aligned = problem.width % vector == 0 && RowsAligned(*input, 16) &&
                         RowsAligned(*out, vector * vk::DtypeSize(out->dtype));
    launch = {op, input->dtype, out->dtype, aligned, vk::cuda::AsStream(stream)};
  }

  void Scale(const vk_tensor* scale) { problem.scale = One("scale", scale); }

  void UpperBound(const vk_tensor* scale_ub) {
    if (scale_ub == nullptr) return;
    problem.scale_ub = One("scale_ub", scale_ub);
    VK_CHECK(launch.out_dtype == VK_F8E4M3,
             "%s: scale_ub is given with an int8 result, want none: it bounds the scales of "
             "float8 only",
             op_);
  }

  void GroupScales(const vk_tensor* scales, int64_t group_size, bool transposed) {
    VK_CHECK(group_size == 64 || group_size == 128, "%s: group_size is %lld, want 64 or 128", op_,
             static_cast<long long>(group_size));
    VK_CHECK(problem.width % group_size == 0,
             "%s: out has %lld columns, want a multiple of group_size %lld", op_,
             static_cast<long long>(problem.width), static_cast<long long>(group_size));
    Arg(op_, "scales", scales).Dtype({VK_F32});
    const auto strides = vk::cuda::GroupScaleStrides(op_, "scales", *scales, problem.rows,
                                                     problem.width / group_size, transposed);
    problem.scale_row_stride = strides.row;
    problem.scale_group_stride = strides.group;
    problem.group_size = static_cast<int32_t>(group_size);
    problem.scales = static_cast<float*>(scales->data);
  }

  Problem problem = {};
  Launch launch = {};

 private:
  void CheckGatedShapes(const char* out_name, const vk_tensor& out, const vk_tensor& input) const {
    vk_tensor want = input;
    want.shape[input.ndim - 1] /= 2;
    bool same = out.ndim == want.ndim && input.shape[input.ndim - 1] % 2 == 0;
    for (int32_t dim = 0; same && dim < out.ndim; ++dim) same = out.shape[dim] == want.shape[dim];
    VK_CHECK(same,
             "%s: %s has shape %s and input %s, want input twice as wide in the last dimension",
             op_, out_name, vk::ShapeString(out).c_str(), vk::ShapeString(input).c_str());
  }

  const float* One(const char* name, const vk_tensor* scale) const {
    Arg(op_, name, scale).Dtype({VK_F32});
    VK_CHECK(vk::NumElements(*scale) == 1, "%s: %s has shape %s, want 1 element", op_, name,
             vk::ShapeString(*scale).c_str());
    return static_cast<const float*>(scale->data);
  }

  const char* op_;
};

struct Parameters {
  double limit = 0, alpha = 0, beta = 0;
};

vk_status Gated(const char* op, const char* out_name, Gate gate, const vk_tensor* out,
                const vk_tensor* input, void* stream, Parameters parameters = {}) {
  return vk::Guard([&] {
    Activation call(op, out_name, out, input, stream, true);
    call.problem.limit = static_cast<float>(parameters.limit);
    call.problem.alpha = static_cast<float>(parameters.alpha);
    call.problem.beta = static_cast<float>(parameters.beta);
    LaunchGated(gate, call.problem, call.launch);
  });
}

vk_status Plain(const char* op, Unary unary, const vk_tensor* out, const vk_tensor* input,
                void* stream) {
  return vk::Guard([&] {
    const Activation call(op, "out", out, input, stream, false);
    LaunchUnary(unary, call.problem, call.launch);
  });
}

}  // namespace

extern "C" {

vk_status vk_cuda_silu_and_mul(const vk_tensor* out, const vk_tensor* input, void* stream) {
  return Gated("silu_and_mul", "result", Gate::kSilu, out, input, stream);
}
vk_status vk_cuda_mul_and_silu(const vk_tensor* out, const vk_tensor* input, void* stream) {
  return Gated("mul_and_silu", "out", Gate::kSiluOfUp, out, input, stream);
}
vk_status vk_cuda_gelu_and_mul(const vk_tensor* out, const vk_tensor* input, void* stream) {
  return Gated("gelu_and_mul", "out", Gate::kGelu, out, input, stream);
}
vk_status vk_cuda_gelu_tanh_and_mul(const vk_tensor* out, const vk_tensor* input, void* stream) {
  return Gated("gelu_tanh_and_mul", "out", Gate::kGeluTanh, out, input, stream);
}
vk_status vk_cuda_fatrelu_and_mul(const vk_tensor* out, const vk_tensor* input, double threshold,
                                  void* stream) {
  return Gated("fatrelu_and_mul", "out", Gate::kFatrelu, out, input, stream, {threshold});
}
vk_status vk_cuda_silu_and_mul_with_clamp(const vk_tensor* out, const vk_tensor* input,
                                          double limit, double alpha, double beta, void* stream) {
  return Gated("silu_and_mul_with_clamp", "result", Gate::kSiluClamp, out, input, stream,
               {limit, alpha, beta});
}
vk_status vk_cuda_swigluoai_and_mul(const vk_tensor* out, const vk_tensor* input, double alpha,
                                    double limit, void* stream) {
  return Gated("swigluoai_and_mul", "out", Gate::kSwigluOai, out, input, stream, {limit, alpha});
}

vk_status vk_cuda_gelu_new(const vk_tensor* out, const vk_tensor* input, void* stream) {
  return Plain("gelu_new", Unary::kGeluTanh, out, input, stream);
}
vk_status vk_cuda_gelu_fast(const vk_tensor* out, const vk_tensor* input, void* stream) {
  return Plain("gelu_fast", Unary::kGeluTanh, out, input, stream);
}
vk_status vk_cuda_gelu_tanh(const vk_tensor* out, const vk_tensor* input, void* stream) {
  return Plain("gelu_tanh", Unary::kGeluTanh, out, input, stream);
}
vk_status vk_cuda_gelu_quick(const vk_tensor* out, const vk_tensor* input, void* stream) {
  return Plain("gelu_quick", Unary::kGeluQuick, out, input, stream);
}
vk_status vk_cuda_relu_squared(const vk_tensor* out, const vk_tensor* input, void* stream) {
  return Plain("relu_squared", Unary::kReluSquared, out, input, stream);
}

vk_status vk_cuda_silu_and_mul_quant(const vk_tensor* result, const vk_tensor* input,
                                     const vk_tensor* scale, void* stream) {
  return vk::Guard([&] {
    Activation call("silu_and_mul_quant", "result", result, input, stream, true, Output::kFloat8);
    call.Scale(scale);
    LaunchSiluQuant(call.problem, call.launch);
  });
}

vk_status vk_cuda_silu_and_mul_per_block_quant(const vk_tensor* out, const vk_tensor* input,
                                               const vk_tensor* scales, int64_t group_size,
                                               const vk_tensor* scale_ub, bool is_scale_transposed,
                                               void* stream) {
  return vk::Guard([&] {
    Activation call("silu_and_mul_per_block_quant", "out", out, input, stream, true,
                    Output::kFloat8OrInt8);
    call.GroupScales(scales, group_size, is_scale_transposed);
    call.UpperBound(scale_ub);
    LaunchSiluGroupQuant(call.problem, call.launch);
  });
}

}  // extern "C"
