#include "cuda/gemm/gemm.h"

#include <cstdint>

#include "core/check.h"
#include "cuda/common/launch.h"
#include "cuda/gemm/dispatch.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::cuda::CeilDiv;
using vk::cuda::CurrentDevice;
using vk::cuda::RoundUp;
using vk::cuda::gemm::kBlock;
using vk::cuda::gemm::Kind;
using vk::cuda::gemm::Problem;

constexpr int64_t kAlignedBytes = 16;  // what TMA and vectors of every generation want
constexpr int64_t kMultiple = 16;      // of N and K

// Rows (columns, for b) of `dim` elements, `stride` elements apart; one alone has no stride.
int64_t Leading(const char* op, const Arg& arg, int64_t count, int64_t dim, int64_t stride) {
  const int64_t item = vk::DtypeSize(arg.tensor().dtype);
  if (count <= 1) stride = dim;
  VK_CHECK(
      stride >= dim && stride * item % kAlignedBytes == 0 &&
          reinterpret_cast<uintptr_t>(arg.tensor().data) % kAlignedBytes == 0,
      "%s: %s has a stride of %lld elements, want it and the start of the data to be multiples "
      "of %lld bytes, and no overlap",
      op, arg.name(), Print(stride), Print(kAlignedBytes));
  return stride;
}

Problem CheckMatrices(const char* op, const vk_tensor* out, const vk_tensor* a, const vk_tensor* b,
                      std::initializer_list<vk_dtype> dtypes, void* stream) {
  const Arg a_arg(op, "a", a), b_arg(op, "b", b), out_arg(op, "out", out);
  a_arg.Dtype(dtypes).Dims(2);
  b_arg.SameDtype(a_arg).Dims(2).Size(0, a_arg.size(1));
  out_arg.Dtype({VK_BF16, VK_F16}).Dims(2).Size(0, a_arg.size(0)).Size(1, b_arg.size(1));
  const int64_t m = a_arg.size(0), n = b_arg.size(1), k = a_arg.size(1);
  VK_CHECK(n % kMultiple == 0 && k % kMultiple == 0 && k > 0,
           "%s: a is %s and b is %s, want K and N to be multiples of %lld: pad the weights", op,
           vk::ShapeString(*a).c_str(), vk::ShapeString(*b).c_str(), Print(kMultiple));
  VK_CHECK(m <= INT32_MAX && n <= INT32_MAX && k <= INT32_MAX,
           "%s: a is %s and b is %s, want sizes below 2^31", op, vk::ShapeString(*a).c_str(),
           vk::ShapeString(*b).c_str());
  a_arg.LastDimContiguous();
  out_arg.LastDimContiguous();
  VK_CHECK(b_arg.stride(0) == 1,
           "%s: b has strides (%lld, %lld), want contiguous columns (the transpose of [N, K])", op,
           Print(b_arg.stride(0)), Print(b_arg.stride(1)));
  Problem problem = {};
  problem.op = op;
  problem.m = static_cast<int32_t>(m);
  problem.n = static_cast<int32_t>(n);
  problem.k = static_cast<int32_t>(k);
  problem.a = a->data;
  problem.b = b->data;
  problem.out = out->data;
  problem.lda = Leading(op, a_arg, m, k, a_arg.stride(0));
  problem.ldb = Leading(op, b_arg, n, k, b_arg.stride(1));
  problem.ldo = Leading(op, out_arg, m, n, out_arg.stride(0));
  problem.dtype = a->dtype;
  problem.out_dtype = out->dtype;
  problem.stream = vk::cuda::AsStream(stream);
  return problem;
}

// Scales of 1 x 128 and 128 x 128 elements.
void CheckBlocks(Problem& problem, const Arg& a, const Arg& b, const vk_tensor* bias) {
  const char* op = problem.op;
  VK_CHECK(problem.dtype == VK_F8E4M3 && bias == nullptr,
           "%s: scales for blocks with %s, want float8_e4m3fn without a bias", op,
           bias != nullptr ? "a bias" : "int8");
  const int64_t blocks_k = CeilDiv(problem.k, kBlock), blocks_n = CeilDiv(problem.n, kBlock);
  a.Dims(2).Size(0, problem.m).Size(1, blocks_k);
  b.Dims(2).Size(0, blocks_k).Size(1, blocks_n);
  problem.a_scales_ld = blocks_k > 1 ? a.stride(1) : RoundUp(problem.m, 4);
  problem.b_scales_ld = blocks_n > 1 ? b.stride(1) : blocks_k;
  VK_CHECK(
      (problem.m == 1 || a.stride(0) == 1) && problem.a_scales_ld >= problem.m &&
          problem.a_scales_ld % 4 == 0 &&
          reinterpret_cast<uintptr_t>(a.tensor().data) % kAlignedBytes == 0,
      "%s: a_scales has strides (%lld, %lld), want contiguous columns, a multiple of 4 elements "
      "apart",
      op, Print(a.stride(0)), Print(a.stride(1)));
  VK_CHECK((blocks_k == 1 || b.stride(0) == 1) && problem.b_scales_ld >= blocks_k &&
               problem.b_scales_ld <= INT32_MAX && problem.a_scales_ld <= INT32_MAX,
           "%s: b_scales has strides (%lld, %lld), want contiguous columns", op, Print(b.stride(0)),
           Print(b.stride(1)));
  problem.blocks = true;
}

void CheckScales(Problem& problem, const vk_tensor* a_scales, const vk_tensor* b_scales,
                 const vk_tensor* bias) {
  const char* op = problem.op;
  const Arg a(op, "a_scales", a_scales), b(op, "b_scales", b_scales);
  a.Dtype({VK_F32});
  b.Dtype({VK_F32});
  problem.a_scales = static_cast<const float*>(a_scales->data);
  problem.b_scales = static_cast<const float*>(b_scales->data);
  const int64_t a_count = vk::NumElements(*a_scales), b_count = vk::NumElements(*b_scales);
  if ((a_count == 1 || a_count == problem.m) && (b_count == 1 || b_count == problem.n)) {
    a.Contiguous();
    b.Contiguous();
    problem.a_per_row = a_count > 1;
    problem.b_per_column = b_count > 1;
  } else {
    VK_CHECK(a_scales->ndim == 2 && b_scales->ndim == 2,
             "%s: a_scales has shape %s and b_scales %s, want 1 or %d and 1 or %d elements, or "
             "scales for blocks in two dimensions",
             op, vk::ShapeString(*a_scales).c_str(), vk::ShapeString(*b_scales).c_str(), problem.m,
             problem.n);
    CheckBlocks(problem, a, b, bias);
  }
  if (bias != nullptr) {
    const Arg arg(op, "bias", bias);
    arg.Dtype({static_cast<vk_dtype>(problem.out_dtype)}).Dims(1).Size(0, problem.n).Contiguous();
    problem.bias = bias->data;
  }
}

const int32_t* CheckZeroPoints(const char* op, const char* name, const vk_tensor* tensor,
                               int64_t count) {
  if (tensor == nullptr) return nullptr;
  const Arg arg(op, name, tensor);
  arg.Dtype({VK_I32}).Contiguous();
  VK_CHECK(vk::NumElements(*tensor) == count, "%s: %s has shape %s, want %lld elements", op, name,
           vk::ShapeString(*tensor).c_str(), Print(count));
  return static_cast<const int32_t*>(tensor->data);
}

void Run(Problem& problem) {
  if (problem.m == 0 || problem.n == 0) return;
  const auto& device = CurrentDevice(problem.op);
  problem.capability = device.capability;
  problem.multiprocessors = device.multiprocessors;
  vk::cuda::gemm::Run(problem);
}

}  // namespace

extern "C" vk_status vk_cuda_scaled_mm(const vk_tensor* out, const vk_tensor* a, const vk_tensor* b,
                                       const vk_tensor* a_scales, const vk_tensor* b_scales,
                                       const vk_tensor* bias, void* stream) {
  return vk::Guard([&] {
    Problem problem = CheckMatrices("cutlass_scaled_mm", out, a, b, {VK_F8E4M3, VK_I8}, stream);
    CheckScales(problem, a_scales, b_scales, bias);
    Run(problem);
  });
}

extern "C" vk_status vk_cuda_scaled_mm_azp(const vk_tensor* out, const vk_tensor* a,
                                           const vk_tensor* b, const vk_tensor* a_scales,
                                           const vk_tensor* b_scales, const vk_tensor* azp_adj,
                                           const vk_tensor* azp, const vk_tensor* bias,
                                           void* stream) {
  return vk::Guard([&] {
    const char* op = "cutlass_scaled_mm_azp";
    Problem problem = CheckMatrices(op, out, a, b, {VK_I8}, stream);
    CheckScales(problem, a_scales, b_scales, bias);
    Arg(op, "azp_adj", azp_adj);  // not optional
    problem.azp_adj = CheckZeroPoints(op, "azp_adj", azp_adj, problem.n);
    problem.azp = CheckZeroPoints(op, "azp", azp, problem.m);
    Run(problem);
  });
}

extern "C" int32_t vk_cuda_scaled_mm_supports_fp8(int64_t capability) {
  return vk::cuda::gemm::Serves(Kind::kFp8, capability);
}

extern "C" int32_t vk_cuda_scaled_mm_supports_block_fp8(int64_t capability) {
  return vk::cuda::gemm::Serves(Kind::kFp8Blocks, capability);
}
