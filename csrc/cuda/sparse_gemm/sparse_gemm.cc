#include "cuda/sparse_gemm/sparse_gemm.h"

#include <cstdint>

#include "core/check.h"
#include "cuda/common/launch.h"
#include "cuda/sparse_gemm/launch.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::cuda::CurrentDevice;
using vk::cuda::RoundUp;
using vk::cuda::sparse_gemm::Compression;
using vk::cuda::sparse_gemm::kBlockRows;
using vk::cuda::sparse_gemm::kFilledColumns;
using vk::cuda::sparse_gemm::LaunchGemm;
using vk::cuda::sparse_gemm::Problem;
using vk::cuda::sparse_gemm::Rows;
using vk::cuda::sparse_gemm::Type;

constexpr int64_t kAlignedBytes = 16;

void CheckSizes(const char* op, int64_t n, int64_t k) {
  VK_CHECK(n % 16 == 0 && k % 32 == 0 && n > 0 && k > 0 && n <= INT32_MAX && k <= INT32_MAX,
           "%s: a weight of %lld x %lld, want N to be a multiple of 16 and K of 32", op, Print(n),
           Print(k));
}

int64_t MetadataBytes(int64_t n, int64_t k) {
  return RoundUp(n, kBlockRows) * RoundUp(k, kFilledColumns) / 8;
}

void CheckAligned(const char* op, const Arg& arg) {
  const int64_t item = vk::DtypeSize(arg.tensor().dtype);
  VK_CHECK(
      (arg.size(0) <= 1 ||
       (arg.stride(0) * item % kAlignedBytes == 0 && arg.stride(0) >= arg.size(1))) &&
          reinterpret_cast<uintptr_t>(arg.tensor().data) % kAlignedBytes == 0,
      "%s: %s has a stride of %lld elements, want it and the start of the data to be multiples "
      "of %lld bytes",
      op, arg.name(), Print(arg.stride(0)), Print(kAlignedBytes));
}

// [N, K / 2] and its metadata.
void CheckWeight(const char* op, const Arg& values, const vk_tensor* metadata) {
  values.Dims(2).Contiguous();
  CheckAligned(op, values);
  const int64_t n = values.size(0), k = 2 * values.size(1);
  CheckSizes(op, n, k);
  const Arg bytes(op, "metadata", metadata);
  bytes.Dtype({VK_U8}).Dims(1).Size(0, MetadataBytes(n, k)).Contiguous();
  VK_CHECK(reinterpret_cast<uintptr_t>(metadata->data) % kAlignedBytes == 0,
           "%s: metadata does not start at a multiple of %lld bytes", op, Print(kAlignedBytes));
}

const float* CheckScales(const char* op, const char* name, const vk_tensor* scales, int64_t count,
                         bool* vector) {
  Arg(op, name, scales).Dtype({VK_F32}).Contiguous();
  const int64_t found = vk::NumElements(*scales);
  VK_CHECK(found == 1 || found == count, "%s: %s has %lld elements, want 1 or %lld", op, name,
           Print(found), Print(count));
  *vector = found > 1;
  return static_cast<const float*>(scales->data);
}

template <Type kType>
void RunAs(const Problem& p) {
  if (p.m <= 64) return LaunchGemm<kType, Rows::kFew>(p);
  return LaunchGemm<kType, Rows::kMany>(p);
}

void Run(const Problem& p) {
  switch (p.dtype) {
    case VK_F8E4M3:
      return RunAs<Type::kFp8>(p);
    case VK_I8:
      return RunAs<Type::kInt8>(p);
    default:
      return RunAs<Type::kBf16>(p);
  }
}

void CheckHopper(const char* op) {
  const int32_t capability = CurrentDevice(op).capability;
  if (capability != 90) {
    vk::Fail(VK_UNSUPPORTED, "%s: the kernels are for GPUs of 9.0 alone, this one is %d.%d", op,
             capability / 10, capability % 10);
  }
}

}  // namespace

extern "C" int64_t vk_cuda_sparse_metadata_bytes(int64_t n, int64_t k) {
  return MetadataBytes(n, k);
}

extern "C" vk_status vk_cuda_sparse_compress(const vk_tensor* values, const vk_tensor* metadata,
                                             const vk_tensor* weight, void* stream) {
  return vk::Guard([&] {
    const char* op = "sparse_compress";
    const Arg from(op, "weight", weight);
    from.Dtype({VK_F8E4M3, VK_I8, VK_BF16}).Dims(2).LastDimContiguous();
    CheckSizes(op, from.size(0), from.size(1));
    const Arg to(op, "values", values);
    to.SameDtype(from).Dims(2).Size(0, from.size(0)).Size(1, from.size(1) / 2);
    CheckWeight(op, to, metadata);
    CheckHopper(op);
    Compress(Compression{op, weight->data, values->data, static_cast<uint8_t*>(metadata->data),
                         from.size(0), from.size(1), from.stride(0), weight->dtype,
                         vk::cuda::AsStream(stream)});
  });
}

extern "C" vk_status vk_cuda_sparse_scaled_mm(const vk_tensor* out, const vk_tensor* a,
                                              const vk_tensor* values, const vk_tensor* metadata,
                                              const vk_tensor* a_scales, const vk_tensor* b_scales,
                                              const vk_tensor* bias, void* stream) {
  return vk::Guard([&] {
    const char* op = "sparse_scaled_mm";
    const Arg a_arg(op, "a", a), weight(op, "values", values), out_arg(op, "out", out);
    a_arg.Dtype({VK_F8E4M3, VK_I8, VK_BF16}).Dims(2).LastDimContiguous();
    weight.SameDtype(a_arg);
    CheckWeight(op, weight, metadata);
    const int64_t m = a_arg.size(0), n = weight.size(0), k = 2 * weight.size(1);
    a_arg.Size(1, k);
    VK_CHECK(m <= INT32_MAX, "%s: a has %lld rows, want less than 2^31", op, Print(m));
    out_arg.Dtype({VK_BF16, VK_F16}).Dims(2).Size(0, m).Size(1, n).LastDimContiguous();
    if (vk::DtypeSize(a->dtype) == 2) out_arg.SameDtype(a_arg);
    Problem p = {};
    p.op = op;
    p.m = static_cast<int32_t>(m);
    p.n = static_cast<int32_t>(n);
    p.k = static_cast<int32_t>(k);
    p.a = a->data;
    p.b = values->data;
    p.out = out->data;
    p.metadata = metadata->data;
    p.lda = m > 1 ? a_arg.stride(0) : k;
    p.ldb = k / 2;
    p.ldo = m > 1 ? out_arg.stride(0) : n;
    CheckAligned(op, a_arg);
    CheckAligned(op, out_arg);
    p.dtype = a->dtype;
    p.out_dtype = out->dtype;
    p.a_scales = CheckScales(op, "a_scales", a_scales, m, &p.a_per_row);
    p.b_scales = CheckScales(op, "b_scales", b_scales, n, &p.b_per_column);
    if (bias != nullptr) {
      Arg(op, "bias", bias).SameDtype(out_arg).Dims(1).Size(0, n).Contiguous();
      p.bias = bias->data;
    }
    p.stream = vk::cuda::AsStream(stream);
    if (m == 0) return;
    CheckHopper(op);
    p.multiprocessors = CurrentDevice(op).multiprocessors;
    Run(p);
  });
}
