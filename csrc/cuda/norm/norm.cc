#include "cuda/norm/norm.h"

#include "core/check.h"
#include "cuda/common/group_scales.h"
#include "cuda/common/rows.h"
#include "cuda/norm/launch.h"

namespace {

using vk::Arg;
using vk::cuda::RowMap;
using vk::cuda::RowsAligned;
using vk::cuda::norm::Launch;
using vk::cuda::norm::Problem;

constexpr int64_t kMaxWidth = int64_t{1} << 30;  // columns are counted in 32 bits

// The arguments of one op as they are checked; what they come to is `problem` and `launch`.
class Norm {
 public:
  Norm(const char* op, const vk_tensor* input, double epsilon, void* stream)
      : op_(op), input_(op, "input", input) {
    input_.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
    problem.input = input->data;
    problem.input_rows = RowMap(*input);
    problem.rows = vk::Rows(*input).count();
    problem.width = input_.size(-1);
    VK_CHECK(problem.width <= kMaxWidth, "%s: input has shape %s, want at most %lld columns", op,
             vk::ShapeString(*input).c_str(), static_cast<long long>(kMaxWidth));
    problem.rows_per_weight = problem.rows > 0 ? problem.rows : 1;
    problem.epsilon = static_cast<float>(epsilon);
    problem.inverse_width = 1.0f / static_cast<float>(problem.width);
    const int64_t vector = 16 / vk::DtypeSize(input->dtype);
    launch = {op, input->dtype, input->dtype, problem.width % vector == 0,
              vk::cuda::AsStream(stream)};
    Align(*input, 16);
  }

  void Result(const char* name, const vk_tensor* result, bool quantised, bool or_int8 = false) {
    const Arg out(op_, name, result);
    if (!quantised) out.SameDtype(input_);
    if (quantised && !or_int8) out.Dtype({VK_F8E4M3});
    if (quantised && or_int8) out.Dtype({VK_F8E4M3, VK_I8});
    out.SameShape(input_).LastDimContiguous();
    problem.result = result->data;
    problem.result_rows = RowMap(*result);
    launch.result_dtype = result->dtype;
    Align(*result, 16 / vk::DtypeSize(input_.tensor().dtype) * vk::DtypeSize(result->dtype));
  }

  void Residual(const vk_tensor* residual) {
    if (residual == nullptr) return;
    Arg(op_, "residual", residual).SameDtype(input_).SameShape(input_).LastDimContiguous();
    problem.residual = residual->data;
    problem.residual_rows = RowMap(*residual);
    Align(*residual, 16);
  }

  // per_row: whether [n, hidden] is taken too
  void Weight(const vk_tensor* weight, bool per_row = false) {
    if (weight == nullptr) return;
    const Arg arg(op_, "weight", weight);
    arg.SameDtype(input_).Contiguous();
    if (per_row && weight->ndim == 2 && input_.tensor().ndim >= 2) {
      arg.Size(0, input_.size(0)).Size(1, problem.width);
      if (weight->shape[0] > 0) problem.rows_per_weight = problem.rows / weight->shape[0];
      if (problem.rows_per_weight == 0) problem.rows_per_weight = 1;
      problem.weight_stride = problem.width;
    } else {
      arg.Dims(1).Size(0, problem.width);
    }
    problem.weight = weight->data;
    Align(*weight, 16);
  }

  void Scale(const vk_tensor* scale) {
    Arg(op_, "scale", scale).Dtype({VK_F32});
    CheckCount("scale", *scale, 1, "for the tensor");
    problem.scale = static_cast<const float*>(scale->data);
  }

  void UpperBound(const vk_tensor* scale_ub) {
    if (scale_ub == nullptr) return;
    Arg(op_, "scale_ub", scale_ub).Dtype({VK_F32});
    CheckCount("scale_ub", *scale_ub, 1, "for the tensor");
    VK_CHECK(launch.result_dtype == VK_F8E4M3,
             "%s: scale_ub is given with an int8 result, want "
             "none: it bounds the scales of float8 only",
             op_);
    problem.scale_ub = static_cast<const float*>(scale_ub->data);
  }

  void RowScales(const vk_tensor* scale) {
    Arg(op_, "scale", scale).Dtype({VK_F32}).Contiguous();
    CheckCount("scale", *scale, problem.rows, "for each row of input");
    problem.scales = static_cast<float*>(scale->data);
  }

  void GroupScales(const vk_tensor* scale, int64_t group_size, bool transposed) {
    VK_CHECK(group_size == 64 || group_size == 128, "%s: group_size is %lld, want 64 or 128", op_,
             static_cast<long long>(group_size));
    VK_CHECK(problem.width % group_size == 0,
             "%s: input has shape %s, want a multiple of group_size %lld in the last dimension",
             op_, vk::ShapeString(input_.tensor()).c_str(), static_cast<long long>(group_size));
    Arg(op_, "scale", scale).Dtype({VK_F32});
    const auto strides = vk::cuda::GroupScaleStrides(op_, "scale", *scale, problem.rows,
                                                     problem.width / group_size, transposed);
    problem.scale_row_stride = strides.row;
    problem.scale_group_stride = strides.group;
    problem.group_size = static_cast<int32_t>(group_size);
    problem.scales = static_cast<float*>(scale->data);
  }

  Problem problem = {};
  Launch launch = {};

 private:
  void Align(const vk_tensor& tensor, int64_t bytes) {
    launch.aligned = launch.aligned && RowsAligned(tensor, bytes);
  }

  void CheckCount(const char* name, const vk_tensor& tensor, int64_t count, const char* what) {
    VK_CHECK(vk::NumElements(tensor) == count, "%s: %s has shape %s, want %lld elements, one %s",
             op_, name, vk::ShapeString(tensor).c_str(), static_cast<long long>(count), what);
  }

  const char* op_;
  Arg input_;
};

}  // namespace

extern "C" {

vk_status vk_cuda_rms_norm(const vk_tensor* result, const vk_tensor* input, const vk_tensor* weight,
                           double epsilon, void* stream) {
  return vk::Guard([&] {
    Norm norm("rms_norm", input, epsilon, stream);
    norm.Result("result", result, false);
    norm.Weight(weight, true);
    LaunchPlain(norm.problem, norm.launch);
  });
}

vk_status vk_cuda_fused_add_rms_norm(const vk_tensor* input, const vk_tensor* residual,
                                     const vk_tensor* weight, double epsilon, void* stream) {
  return vk::Guard([&] {
    Norm norm("fused_add_rms_norm", input, epsilon, stream);
    norm.Result("input", input, false);
    Arg("fused_add_rms_norm", "residual", residual);
    norm.Residual(residual);
    norm.Weight(weight);
    LaunchPlain(norm.problem, norm.launch);
  });
}

vk_status vk_cuda_rms_norm_static_fp8_quant(const vk_tensor* result, const vk_tensor* input,
                                            const vk_tensor* weight, const vk_tensor* scale,
                                            double epsilon, void* stream) {
  return vk::Guard([&] {
    const char* op = "rms_norm_static_fp8_quant";
    Norm norm(op, input, epsilon, stream);
    norm.Result("result", result, true);
    Arg(op, "weight", weight);
    norm.Weight(weight);
    norm.Scale(scale);
    LaunchStatic(norm.problem, norm.launch);
  });
}

vk_status vk_cuda_fused_add_rms_norm_static_fp8_quant(
    const vk_tensor* result, const vk_tensor* input, const vk_tensor* residual,
    const vk_tensor* weight, const vk_tensor* scale, double epsilon, void* stream) {
  return vk::Guard([&] {
    const char* op = "fused_add_rms_norm_static_fp8_quant";
    Norm norm(op, input, epsilon, stream);
    norm.Result("result", result, true);
    Arg(op, "residual", residual);
    norm.Residual(residual);
    Arg(op, "weight", weight);
    norm.Weight(weight);
    norm.Scale(scale);
    LaunchStatic(norm.problem, norm.launch);
  });
}

vk_status vk_cuda_rms_norm_dynamic_per_token_quant(const vk_tensor* result, const vk_tensor* input,
                                                   const vk_tensor* weight, const vk_tensor* scale,
                                                   double epsilon, const vk_tensor* scale_ub,
                                                   const vk_tensor* residual, void* stream) {
  return vk::Guard([&] {
    const char* op = "rms_norm_dynamic_per_token_quant";
    Norm norm(op, input, epsilon, stream);
    norm.Result("result", result, true, true);
    Arg(op, "weight", weight);
    norm.Weight(weight);
    norm.RowScales(scale);
    norm.UpperBound(scale_ub);
    norm.Residual(residual);
    LaunchPerToken(norm.problem, norm.launch);
  });
}

vk_status vk_cuda_rms_norm_per_block_quant(const vk_tensor* result, const vk_tensor* input,
                                           const vk_tensor* weight, const vk_tensor* scale,
                                           double epsilon, const vk_tensor* scale_ub,
                                           const vk_tensor* residual, int64_t group_size,
                                           bool is_scale_transposed, void* stream) {
  return vk::Guard([&] {
    const char* op = "rms_norm_per_block_quant";
    Norm norm(op, input, epsilon, stream);
    norm.Result("result", result, true, true);
    Arg(op, "weight", weight);
    norm.Weight(weight);
    norm.GroupScales(scale, group_size, is_scale_transposed);
    norm.UpperBound(scale_ub);
    norm.Residual(residual);
    LaunchPerGroup(norm.problem, norm.launch);
  });
}

}  // extern "C"
