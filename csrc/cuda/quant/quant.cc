#include "cuda/quant/quant.h"

#include <algorithm>

#include "core/check.h"
#include "core/scale_groups.h"
#include "cuda/common/rows.h"
#include "cuda/quant/launch.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::cuda::CeilDiv;
using vk::cuda::FastDiv;
using vk::cuda::RoundUp;
using vk::cuda::RowMap;
using vk::cuda::RowsAligned;
using vk::cuda::quant::GroupScale;
using vk::cuda::quant::Launch;
using vk::cuda::quant::Problem;

// The arguments of one op as they are checked; what they come to is `problem` and `launch`.
class Quant {
 public:
  Quant(const char* op, const vk_tensor* input, void* stream)
      : op_(op), input_(op, "input", input) {
    input_.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
    problem.input = input->data;
    problem.input_rows = RowMap(*input);
    problem.rows = vk::Rows(*input).count();
    problem.width = input_.size(-1);
    const int64_t vector = 16 / vk::DtypeSize(input->dtype);
    const int64_t vectors = CeilDiv(problem.width, vector);
    VK_CHECK(problem.rows * vectors < (int64_t{1} << 31),
             "%s: input has shape %s, want less than 2^31 vectors of 16 bytes", op,
             vk::ShapeString(*input).c_str());
    problem.count = static_cast<uint32_t>(problem.rows * vectors);
    // Of no rows, vectors may be more than 32 bits hold.
    problem.vectors = FastDiv(problem.count > 0 ? static_cast<uint32_t>(vectors) : 1);
    problem.group_rows = problem.group_columns = 1;
    launch = {op, input->dtype, input->dtype,
              problem.width % vector == 0 && RowsAligned(*input, 16), vk::cuda::AsStream(stream)};
  }

  void Result(const char* name, const vk_tensor* result, std::initializer_list<vk_dtype> dtypes) {
    Arg(op_, name, result).Dtype(dtypes).SameShape(input_).LastDimContiguous();
    UseResult(*result);
  }

  // A result with rows to spare, which are set to 0 up to `padded_rows`.
  void PaddedResult(const char* name, const vk_tensor* result, int64_t padded_rows) {
    const Arg out(op_, name, result);
    out.Dtype({VK_F8E4M3, VK_I8}).LastDimContiguous();
    if (result->ndim == 2 && out.size(1) == problem.width && out.size(0) > problem.rows) {
      problem.result_padding = std::min(out.size(0), padded_rows) - problem.rows;
    } else if (result->ndim != 2 || out.size(0) != problem.rows || out.size(1) != problem.width) {
      out.SameShape(input_);
    }
    UseResult(*result);
  }

  // One element, or one for each row.
  void Scales(const vk_tensor* scale, bool by_row) {
    CheckCount("scale", scale, VK_F32, by_row);
    problem.scales = static_cast<float*>(scale->data);
  }

  void ZeroPoints(const vk_tensor* azp, bool by_row) {
    if (azp == nullptr) return;
    CheckCount("azp", azp, VK_I32, by_row);
    problem.zero_points = static_cast<int32_t*>(azp->data);
  }

  void UpperBound(const vk_tensor* scale_ub) {
    if (scale_ub == nullptr) return;
    CheckCount("scale_ub", scale_ub, VK_F32, false);
    problem.scale_ub = static_cast<const float*>(scale_ub->data);
  }

  void StaticScales(const vk_tensor* scale, const int64_t* group_shape) {
    const vk::ScaleGroups groups =
        vk::FindScaleGroups(op_, scale, group_shape, problem.rows, problem.width);
    problem.scales = static_cast<float*>(scale->data);
    problem.group_rows = groups.rows;
    problem.group_columns = groups.columns;
    problem.scale_row_stride = groups.row_stride;
    problem.scale_column_stride = groups.column_stride;
  }

  void Groups(int64_t group_size, double eps, double least, double largest) {
    VK_CHECK(group_size > 0 && group_size <= INT32_MAX && problem.width % group_size == 0,
             "%s: input has shape %s, want a multiple of group_size %lld in the last dimension",
             op_, vk::ShapeString(input_.tensor()).c_str(), Print(group_size));
    VK_CHECK(largest > 0 && least <= 0,
             "%s: the range is %g to %g, want 0 in it and a positive "
             "end",
             op_, least, largest);
    problem.group_size = static_cast<int32_t>(group_size);
    problem.groups = static_cast<int32_t>(problem.width / group_size);
    problem.eps = static_cast<float>(eps);
    problem.least = static_cast<float>(least);
    problem.largest = static_cast<float>(largest);
  }

  void GroupScales(const vk_tensor* scales) {
    const Arg arg(op_, "output_s", scales);
    arg.Dtype({VK_F32}).MinDims(1).Size(-1, problem.groups);
    VK_CHECK(vk::Rows(*scales).count() == problem.rows,
             "%s: output_s has shape %s, want %lld rows as input", op_,
             vk::ShapeString(*scales).c_str(), Print(problem.rows));
    problem.scales = static_cast<float*>(scales->data);
    problem.scale_rows = RowMap(*scales);
    problem.scale_group_stride = arg.stride(-1);
  }

  void PackedScales(const vk_tensor* scales) {
    const Arg arg(op_, "output_s_packed", scales);
    arg.Dtype({VK_I32}).Dims(2).Size(0, problem.rows).Size(1, CeilDiv(problem.groups, 4));
    const bool one_column = arg.size(1) <= 1, one_row = problem.rows <= 1;
    VK_CHECK(
        (one_row || arg.stride(0) == 1) && (one_column || arg.stride(1) == problem.padded_rows),
        "%s: output_s_packed has strides %lld and %lld, want 1 and %lld", op_, Print(arg.stride(0)),
        Print(arg.stride(1)), Print(problem.padded_rows));
    problem.scales = static_cast<float*>(scales->data);
    problem.scale_group_stride = problem.padded_rows;
  }

  Problem problem = {};
  Launch launch = {};

 private:
  void UseResult(const vk_tensor& result) {
    problem.result = result.data;
    problem.result_rows = RowMap(result);
    launch.result_dtype = result.dtype;
    launch.aligned =
        launch.aligned && RowsAligned(result, 16 / vk::DtypeSize(input_.tensor().dtype));
  }

  void CheckCount(const char* name, const vk_tensor* tensor, vk_dtype dtype, bool by_row) const {
    Arg(op_, name, tensor).Dtype({dtype}).Contiguous();
    const int64_t count = by_row ? problem.rows : 1;
    VK_CHECK(vk::NumElements(*tensor) == count, "%s: %s has shape %s, want %lld elements, one %s",
             op_, name, vk::ShapeString(*tensor).c_str(), Print(count),
             by_row ? "for each row of input" : "for the tensor");
  }

  const char* op_;
  Arg input_;
};

}  // namespace

extern "C" {

vk_status vk_cuda_static_scaled_fp8_quant(const vk_tensor* result, const vk_tensor* input,
                                          const vk_tensor* scale, const int64_t* group_shape,
                                          void* stream) {
  return vk::Guard([&] {
    Quant quant("static_scaled_fp8_quant", input, stream);
    quant.Result("result", result, {VK_F8E4M3});
    quant.StaticScales(scale, group_shape);
    LaunchStatic(quant.problem, quant.launch);
  });
}

vk_status vk_cuda_dynamic_scaled_fp8_quant(const vk_tensor* result, const vk_tensor* input,
                                           const vk_tensor* scale, void* stream) {
  return vk::Guard([&] {
    Quant quant("dynamic_scaled_fp8_quant", input, stream);
    quant.Result("result", result, {VK_F8E4M3});
    quant.Scales(scale, false);
    LaunchTensor(quant.problem, quant.launch);
  });
}

vk_status vk_cuda_dynamic_per_token_scaled_fp8_quant(const vk_tensor* result,
                                                     const vk_tensor* input, const vk_tensor* scale,
                                                     const vk_tensor* scale_ub, void* stream) {
  return vk::Guard([&] {
    Quant quant("dynamic_per_token_scaled_fp8_quant", input, stream);
    quant.Result("result", result, {VK_F8E4M3});
    quant.Scales(scale, true);
    quant.UpperBound(scale_ub);
    LaunchRows(quant.problem, quant.launch);
  });
}

vk_status vk_cuda_static_scaled_int8_quant(const vk_tensor* result, const vk_tensor* input,
                                           const vk_tensor* scale, const vk_tensor* azp,
                                           void* stream) {
  return vk::Guard([&] {
    Quant quant("static_scaled_int8_quant", input, stream);
    quant.Result("result", result, {VK_I8});
    quant.Scales(scale, false);
    quant.ZeroPoints(azp, false);
    LaunchStatic(quant.problem, quant.launch);
  });
}

vk_status vk_cuda_dynamic_scaled_int8_quant(const vk_tensor* result, const vk_tensor* input,
                                            const vk_tensor* scale, const vk_tensor* azp,
                                            void* stream) {
  return vk::Guard([&] {
    Quant quant("dynamic_scaled_int8_quant", input, stream);
    quant.Result("result", result, {VK_I8});
    quant.Scales(scale, true);
    quant.ZeroPoints(azp, true);
    LaunchRows(quant.problem, quant.launch);
  });
}

vk_status vk_cuda_per_token_group_quant(const char* op, const vk_tensor* input,
                                        const vk_tensor* output_q, const vk_tensor* output_s,
                                        int64_t group_size, double eps, double least,
                                        double largest, bool scale_ue8m0, void* stream) {
  return vk::Guard([&] {
    Quant quant(op, input, stream);
    quant.Groups(group_size, eps, least, largest);
    quant.Result("output_q", output_q, {VK_F8E4M3, VK_I8});
    quant.GroupScales(output_s);
    LaunchGroups(scale_ue8m0 ? GroupScale::kPowerOfTwo : GroupScale::kFloat, quant.problem,
                 quant.launch);
  });
}

vk_status vk_cuda_per_token_group_quant_packed(const char* op, const vk_tensor* input,
                                               const vk_tensor* output_q,
                                               const vk_tensor* output_s_packed, int64_t group_size,
                                               double eps, double least, double largest,
                                               void* stream) {
  return vk::Guard([&] {
    Quant quant(op, input, stream);
    quant.Groups(group_size, eps, least, largest);
    quant.problem.padded_rows = RoundUp(quant.problem.rows, 4);
    quant.PaddedResult("output_q", output_q, quant.problem.padded_rows);
    quant.PackedScales(output_s_packed);
    LaunchGroups(GroupScale::kPacked, quant.problem, quant.launch);
  });
}

}  // extern "C"
