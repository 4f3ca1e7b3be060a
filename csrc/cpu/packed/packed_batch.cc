// Products of several matrices with packed weights.
#include <algorithm>
#include <atomic>
#include <new>

#include "core/check.h"
#include "cpu/packed/packed.h"
#include "cpu/packed/packed_run.h"
#include "cpu/packed/packed_weights.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"

namespace {

using vk::Arg;

constexpr const char* kOp = "bmm_cpu";

// Matrix `index` of three dimensions.
vk_tensor Matrix(const vk_tensor& tensor, int64_t index) {
  vk_tensor matrix = tensor;
  matrix.data = const_cast<char*>(vk::RowAt(tensor, index));
  matrix.ndim = 2;
  for (int dim = 0; dim < 2; ++dim) {
    matrix.shape[dim] = tensor.shape[dim + 1];
    matrix.stride[dim] = tensor.stride[dim + 1];
  }
  return matrix;
}

}  // namespace

extern "C" vk_status vk_cpu_bmm(const vk_tensor* out, const vk_tensor* mat1, const vk_tensor* mat2,
                                int32_t is_vnni, const vk_tensor* scale) {
  return vk::Guard([&] {
    const Arg result(kOp, "out", out), in(kOp, "mat1", mat1), weights(kOp, "mat2", mat2);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3).LastDimContiguous();
    weights.Dims(3).Size(0, in.size(0)).Size(2, in.size(2));
    const bool coded = mat2->dtype == VK_F8E4M3;
    if (!coded) weights.SameDtype(in);
    if (is_vnni != 0) weights.Contiguous();
    result.SameDtype(in).Dims(3).LastDimContiguous();
    result.Size(0, in.size(0)).Size(1, in.size(1)).Size(2, weights.size(1));
    VK_CHECK(coded == (scale != nullptr), "%s: scale is %s, want %s", kOp,
             coded ? "missing" : "given", coded ? "one with mat2 of float8" : "none");
    vk::PackedScales scales;
    if (coded) {
      Arg(kOp, "scale", scale).Dtype({VK_F32});
      VK_CHECK(vk::NumElements(*scale) == 1, "%s: scale has %lld values, want 1", kOp,
               vk::Print(vk::NumElements(*scale)));
      scales.data = scale->data;
      scales.group_size = std::max<int64_t>(1, in.size(2));
      scales.block_columns = std::max<int64_t>(1, weights.size(1));
    }
    if (vk::NumElements(*out) == 0) return;
    vk_tensor packed = *mat2;
    vk::Bytes copy;
    if (is_vnni == 0) {
      copy = vk::AllocateBytes(vk::CheckPackedBytes(kOp, "mat2", *mat2));
      packed.data = copy.get();
      packed.stride[0] = packed.shape[1] * packed.shape[2];
      packed.stride[1] = packed.shape[2];
      packed.stride[2] = 1;
      if (vk::NumElements(*mat2) != 0) vk::PackedWeights(packed, vk::kPlain).Pack(*mat2);
    }
    const auto multiply = [&](int64_t index) {
      const vk_tensor to = Matrix(*out, index), from = Matrix(*mat1, index);
      const vk_tensor b = Matrix(packed, index);
      const vk::PackedWeights of_batch(b, coded ? vk::kCodedE4m3 : vk::kPlain, scales);
      vk::RunPacked({to, from, of_batch, nullptr});
    };
    // A matrix for each thread, where there are enough: then none waits for others.
    const int64_t batches = in.size(0);
    if (batches < omp_get_max_threads() || omp_in_parallel()) {
      for (int64_t i = 0; i < batches; ++i) multiply(i);
      return;
    }
    std::atomic<bool> no_memory{false};
    vk::ParallelFor(batches, 1, [&](int64_t begin, int64_t end) {
      try {
        for (int64_t i = begin; i < end; ++i) multiply(i);
      } catch (const std::bad_alloc&) {
        no_memory.store(true);
      }
    });
    if (no_memory.load()) throw std::bad_alloc();
  });
}
