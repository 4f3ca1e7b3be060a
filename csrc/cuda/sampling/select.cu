// The k largest of a row: their smallest key is found digit by digit, from counts of digits, then
// all that are not below it are written in their order.
#include "cuda/common/scan.cuh"
#include "cuda/common/vec.cuh"
#include "cuda/sampling/launch.h"

namespace vk::cuda::sampling {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;  // 11 bits; the last digit has 10
constexpr int kColumns = 4;  // neighbouring columns of a thread

// Unsigned numbers in the order of the floats; NaN is the smallest, zeros are one.
__device__ __forceinline__ uint32_t ToKey(float x) {
  if (isnan(x)) return 0;
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// kColumns keys from a column on; `count` of them are in the range.
template <bool kContiguous>
__device__ __forceinline__ int LoadKeys(const float* row, int64_t stride, int64_t column,
                                        int64_t length, uint32_t (&keys)[kColumns]) {
  const int64_t left = length - column;
  const int count = left >= kColumns ? kColumns : left > 0 ? static_cast<int>(left) : 0;
  if (kContiguous && count == kColumns) {
    float x[kColumns];
    ToFloats(LoadVec<kColumns>(row + column), x);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) keys[i] = ToKey(x[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      keys[i] = i < count ? ToKey(row[(column + i) * stride]) : 0;
    }
  }
  return count;
}

struct Found {
  uint32_t key;   // the smallest that is chosen
  int remaining;  // how many of that key are
};

template <bool kContiguous>
__device__ Found FindKey(const float* row, int64_t stride, int64_t length, int k, int* bins,
                         int* scratch) {
  __shared__ int digit_found, remaining_found;
  uint32_t prefix = 0;
  int remaining = k;
#pragma unroll
  for (int pass = 0; pass < 3; ++pass) {
    const int shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;
    const uint32_t mask = pass == 2 ? 1023u : 2047u;
    const int above = pass == 0 ? 31 : pass == 1 ? 21 : 10;  // bits below the prefix
    for (int i = threadIdx.x; i < kBins; i += kThreads) bins[i] = 0;
    __syncthreads();
    for (int64_t column = static_cast<int64_t>(threadIdx.x) * kColumns; column < length;
         column += kThreads * kColumns) {
      uint32_t keys[kColumns];
      const int count = LoadKeys<kContiguous>(row, stride, column, length, keys);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        if (i < count && (pass == 0 || (keys[i] ^ prefix) >> above == 0)) {
          atomicAdd(&bins[keys[i] >> shift & mask], 1);
        }
      }
    }
    __syncthreads();
    // Thread t takes the bins 2047 - 2t and 2046 - 2t: the sum goes from the largest digit down.
    const int high = kBins - 1 - 2 * static_cast<int>(threadIdx.x);
    const int first = bins[high], second = bins[high - 1];
    int total;
    const int before = ExclusiveSum<kWarps>(first + second, scratch, &total);
    if (before < remaining && before + first >= remaining) {
      digit_found = high;
      remaining_found = remaining - before;
    } else if (before + first < remaining && before + first + second >= remaining) {
      digit_found = high - 1;
      remaining_found = remaining - before - first;
    }
    __syncthreads();
    prefix |= static_cast<uint32_t>(digit_found) << shift;
    remaining = remaining_found;
  }
  return {prefix, remaining};
}

template <bool kContiguous>
__global__ void __launch_bounds__(kThreads) SelectKernel(const __grid_constant__ Select select) {
  __shared__ int bins[kBins];
  __shared__ int scratch[kWarps];
  const int64_t index = blockIdx.x;
  int64_t start = 0, end;
  if (select.next_n > 0) {
    end = static_cast<int64_t>(select.ends[index / select.next_n]) - select.next_n +
          index % select.next_n + 1;
  } else {
    end = select.ends[index];
  }
  if (select.starts != nullptr) start = select.starts[index];
  if (start < 0) start = 0;
  if (end > select.columns) end = select.columns;
  const int64_t length = end > start ? end - start : 0;
  const float* row = select.logits + index * select.row_stride + start * select.column_stride;
  int32_t* out = select.indices + index * select.k;
  if (length <= select.k) {
    for (int i = threadIdx.x; i < select.k; i += kThreads) out[i] = i < length ? i : -1;
    return;
  }
  // A range may start anywhere: vectors only where it starts at one.
  const bool whole = kContiguous && reinterpret_cast<uintptr_t>(row) % 16 == 0;
  const int64_t stride = select.column_stride;
  const Found found = whole ? FindKey<kContiguous>(row, stride, length, select.k, bins, scratch)
                            : FindKey<false>(row, stride, length, select.k, bins, scratch);
  int larger_before = 0, equal_before = 0;
  for (int64_t base = 0; base < length; base += kThreads * kColumns) {
    const int64_t column = base + static_cast<int64_t>(threadIdx.x) * kColumns;
    uint32_t keys[kColumns];
    const int count = whole ? LoadKeys<kContiguous>(row, stride, column, length, keys)
                            : LoadKeys<false>(row, stride, column, length, keys);
    int larger = 0, equal = 0;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      larger += i < count && keys[i] > found.key;
      equal += i < count && keys[i] == found.key;
    }
    // Both counts in one sum: at most 4096 each.
    int total;
    const int sum = ExclusiveSum<kWarps>(larger << 16 | equal, scratch, &total);
    int above = larger_before + (sum >> 16), same = equal_before + (sum & 0xFFFF);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (i >= count) continue;
      const bool is_equal = keys[i] == found.key;
      if (keys[i] > found.key || (is_equal && same < found.remaining)) {
        out[above + (same < found.remaining ? same : found.remaining)] =
            static_cast<int32_t>(column + i);
      }
      above += keys[i] > found.key;
      same += is_equal;
    }
    larger_before += total >> 16;
    equal_before += total & 0xFFFF;
  }
}

}  // namespace

void LaunchSelect(const char* op, const Select& select, cudaStream_t stream) {
  if (select.rows == 0 || select.k == 0) return;
  const unsigned grid = GridX(op, select.rows);
  if (select.column_stride == 1) {
    SelectKernel<true><<<grid, kThreads, 0, stream>>>(select);
  } else {
    SelectKernel<false><<<grid, kThreads, 0, stream>>>(select);
  }
  CheckLaunch(op);
}

}  // namespace vk::cuda::sampling
