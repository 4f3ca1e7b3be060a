#include "cuda/activation/activation.h"

#include <optional>
#include <string_view>

#include "core/check.h"
#include "core/checked.h"
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
using vk::cuda::activation::ValidRows;

enum class Output { kSame, kFloat32, kFloat8, kFloat8OrInt8 };

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
    if (output == Output::kFloat32) to.Dtype({VK_F32});
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
    GroupScalesNamed("scales", scales, group_size, transposed);
  }

  // One scale a row with group_size 0.
  void RowScales(const char* name, const vk_tensor* scales, int64_t group_size) {
    GroupScalesNamed(name, scales, group_size, false);
  }

  void Situ(double beta, double linear_beta) {
    VK_CHECK(beta > 0, "%s: beta is %g, want more than 0", op_, beta);
    problem.alpha = static_cast<float>(beta);
    problem.beta = static_cast<float>(linear_beta);
    problem.inverse_alpha = static_cast<float>(1 / beta);
    problem.inverse_beta = linear_beta > 0 ? static_cast<float>(1 / linear_beta) : 0.0f;
  }

  // `experts`: which parts of the rows have one count each; more than a grid's second dimension has
  // are refused.
  void Counts(const char* name, const vk_tensor* counts, int64_t experts) {
    Arg(op_, name, counts).Dtype({VK_I32}).Contiguous();
    VK_CHECK(vk::NumElements(*counts) == experts, "%s: %s has shape %s, want %lld elements", op_,
             name, vk::ShapeString(*counts).c_str(), vk::Print(experts));
    VK_CHECK(experts <= 65535, "%s: input has %lld experts, want at most 65535", op_,
             vk::Print(experts));
    problem.counts = static_cast<const int32_t*>(counts->data);
    problem.expert_rows = experts > 0 ? problem.rows / experts : 0;
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

  void GroupScalesNamed(const char* name, const vk_tensor* scales, int64_t group_size,
                        bool transposed) {
    VK_CHECK(group_size == 0 || problem.width % group_size == 0,
             "%s: out has %lld columns, want a multiple of group_size %lld", op_,
             vk::Print(problem.width), vk::Print(group_size));
    Arg(op_, name, scales).Dtype({VK_F32});
    const int64_t groups = group_size == 0 ? 1 : problem.width / group_size;
    const auto strides =
        vk::cuda::GroupScaleStrides(op_, name, *scales, problem.rows, groups, transposed);
    problem.scale_row_stride = strides.row;
    problem.scale_group_stride = strides.group;
    problem.group_size = static_cast<int32_t>(group_size);
    problem.scales = static_cast<float*>(scales->data);
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

// What masked_moe_activation calls an activation; none: no such name.
struct Named {
  std::string_view name;
  std::optional<Gate> gate;
  std::optional<Unary> unary = {};
};
constexpr Named kNamed[] = {
    {"silu", Gate::kSilu},
    {"silu_with_clamp", Gate::kSiluClamp},
    {"gelu", Gate::kGelu},
    {"gelu_tanh", Gate::kGeluTanh},
    {"situ", Gate::kSitu},
    {"swigluoai", Gate::kSwigluOai},
    {"swigluoai_uninterleave", Gate::kSiluClamp},
    {"swiglustep", Gate::kSwigluStep},
    {"silu_no_mul", {}, Unary::kSilu},
    {"gelu_no_mul", {}, Unary::kGelu},
    {"gelu_tanh_no_mul", {}, Unary::kGeluTanh},
    {"relu2_no_mul", {}, Unary::kReluSquared},
};

const Named& FindNamed(const char* op, std::string_view name) {
  for (const Named& one : kNamed) {
    if (one.name == name) return one;
  }
  vk::Fail(VK_UNSUPPORTED, "%s: no kernel for the activation \"%.*s\"", op,
           static_cast<int>(name.size()), name.data());
}

// Counts of rows: one for each part of a tensor of three dimensions, else one for all.
int64_t CountedParts(const vk_tensor* input) { return input->ndim == 3 ? input->shape[0] : 1; }

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

vk_status vk_cuda_situ_and_mul(const vk_tensor* out, const vk_tensor* input, double beta,
                               double linear_beta, const vk_tensor* valid_rows, void* stream) {
  return vk::Guard([&] {
    Activation call("situ_and_mul", "out", out, input, stream, true);
    call.Situ(beta, linear_beta);
    if (valid_rows == nullptr) return LaunchGated(Gate::kSitu, call.problem, call.launch);
    call.Counts("valid_rows", valid_rows, 1);
    LaunchMaskedGate(Gate::kSitu, call.problem, call.launch);
  });
}
vk_status vk_cuda_masked_situ_and_mul(const vk_tensor* out, const vk_tensor* input,
                                      const vk_tensor* expert_num_tokens, double beta,
                                      double linear_beta, void* stream) {
  return vk::Guard([&] {
    const char* op = "masked_situ_and_mul";
    Activation call(op, "out", out, input, stream, true);
    Arg(op, "input", input).Dims(3);
    call.Situ(beta, linear_beta);
    call.Counts("expert_num_tokens", expert_num_tokens, input->shape[0]);
    LaunchMaskedGate(Gate::kSitu, call.problem, call.launch);
  });
}
vk_status vk_cuda_masked_moe_activation(const vk_tensor* out, const vk_tensor* input,
                                        const vk_tensor* valid_token_counts, const char* activation,
                                        double clamp_limit, double alpha, double beta,
                                        double situ_beta, double situ_linear_beta, void* stream) {
  return vk::Guard([&] {
    const char* op = "masked_moe_activation";
    const Named& named = FindNamed(op, activation);
    Activation call(op, "out", out, input, stream, named.gate.has_value());
    VK_CHECK(input->ndim == 2 || input->ndim == 3, "%s: input has shape %s, want 2 or 3 dimensions",
             op, vk::ShapeString(*input).c_str());
    call.Counts("valid_token_counts", valid_token_counts, CountedParts(input));
    if (!named.gate.has_value()) {
      return LaunchMaskedUnary(*named.unary, call.problem, call.launch);
    }
    call.problem.limit = static_cast<float>(clamp_limit);
    if (named.gate == Gate::kSitu) {
      call.Situ(situ_beta, situ_linear_beta);
    } else if (named.name == "silu_with_clamp") {  // as the op silu_and_mul_with_clamp is called
      call.problem.alpha = 1.0f;
    } else {
      call.problem.alpha = static_cast<float>(alpha);
      call.problem.beta = static_cast<float>(beta);
    }
    LaunchMaskedGate(*named.gate, call.problem, call.launch);
  });
}

vk_status vk_cuda_muse_spark_mul_tanh_soft_cap(const vk_tensor* out, const vk_tensor* input,
                                               double multiplier, double soft_cap_temp,
                                               void* stream) {
  return vk::Guard([&] {
    Activation call("muse_spark_mul_tanh_soft_cap", "out", out, input, stream, false,
                    Output::kFloat32);
    call.problem.limit = static_cast<float>(multiplier / soft_cap_temp);
    call.problem.alpha = static_cast<float>(soft_cap_temp);
    LaunchSoftCap(call.problem, call.launch);
  });
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

vk_status vk_cuda_situ_and_mul_quant(const vk_tensor* out, const vk_tensor* scale,
                                     const vk_tensor* input, double beta, double linear_beta,
                                     int64_t group_size, const vk_tensor* num_valid_tokens,
                                     int64_t topk, void* stream) {
  return vk::Guard([&] {
    const char* op = "situ_and_mul_quant";
    Activation call(op, "out", out, input, stream, true, Output::kFloat8);
    call.Situ(beta, linear_beta);
    VK_CHECK(group_size == 0 || group_size == 128, "%s: group_size is %lld, want 0 or 128", op,
             vk::Print(group_size));
    call.RowScales("scale", scale, group_size);
    ValidRows valid = {};
    if (num_valid_tokens != nullptr) {
      Arg(op, "num_valid_tokens", num_valid_tokens).Dtype({VK_I32, VK_I64});
      VK_CHECK(vk::NumElements(*num_valid_tokens) == 1,
               "%s: num_valid_tokens has shape %s, want 1 element", op,
               vk::ShapeString(*num_valid_tokens).c_str());
      VK_CHECK(topk > 0, "%s: topk is %lld, want more than 0", op, vk::Print(topk));
      valid = {num_valid_tokens->data, num_valid_tokens->dtype == VK_I64, topk};
    }
    LaunchSituQuant(call.problem, valid, call.launch);
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
