// Copies of a float8 cache in the type of the queries, so that the Hopper kernel serves it too.
// Both types hold every float8 value; the copy costs a fraction of the product from some hundred
// rows of queries on.
#include <algorithm>

#include "cuda/attention/hopper.h"
#include "cuda/attention/operand.cuh"
#include "cuda/attention/request.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/vec.cuh"

namespace vk::cuda::attention {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 16;  // values of one load
// More than this is not taken from the engine's memory: the kernel for all GPUs serves then.
constexpr int64_t kMostBytes = int64_t{512} << 20;
// Rows of queries from which on the copy pays.
constexpr int64_t kLeastRows = 512;

constexpr int64_t Align(int64_t bytes) { return (bytes + 255) / 256 * 256; }

struct Dequantized {
  void* key;           // [requests * slots, kv_heads, head_size]
  void* value;         // and of value_head_size
  int32_t* key_start;  // [requests + 1]
  int32_t* seq_lens;   // [requests]
  int32_t slots;       // of each request
  int64_t bytes;
};

Dequantized Layout(const Problem& p, int64_t max_seq_len, char* memory) {
  Dequantized dequantized{};
  const int64_t keys = int64_t{p.requests} * max_seq_len * p.kv_heads;
  const int64_t key_bytes = Align(keys * p.head_size * 2);
  const int64_t value_bytes = Align(keys * p.value_head_size * 2);
  const int64_t start_bytes = Align(int64_t{p.requests + 1} * 4);
  dequantized.key = memory;
  dequantized.value = memory + key_bytes;
  dequantized.key_start = reinterpret_cast<int32_t*>(memory + key_bytes + value_bytes);
  dequantized.seq_lens = dequantized.key_start + start_bytes / 4;
  dequantized.slots = static_cast<int32_t>(max_seq_len);
  dequantized.bytes = key_bytes + value_bytes + 2 * start_bytes;
  return dequantized;
}

// A vector a thread; blockIdx.y: the request, blockIdx.z: keys or values.
template <class T>
__global__ void __launch_bounds__(kThreads)
    DequantizeKernel(const __grid_constant__ Problem p,
                     const __grid_constant__ Dequantized dequantized) {
  const int32_t index = static_cast<int32_t>(blockIdx.y);
  const Request request = LoadRequest(p, index);
  if (blockIdx.x == 0 && blockIdx.z == 0 && threadIdx.x == 0) {
    dequantized.key_start[index] = index * dequantized.slots;
    dequantized.seq_lens[index] = min(request.seq_len, dequantized.slots);
  }
  if (request.query_len <= p.decode_query_len) return;
  const KeyRange range = VisibleKeys(p, request, 0, request.query_len - 1);
  const bool values = blockIdx.z == 1;
  const int32_t width = (values ? p.value_head_size : p.head_size) / kVector;
  const uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t row = item / width, column = item - row * width;
  const int32_t key = static_cast<int32_t>(row / p.kv_heads);
  const int32_t head = static_cast<int32_t>(row) - key * p.kv_heads;
  if (key < range.begin || key >= min(range.end, dequantized.slots)) return;
  const CacheStrides& strides = values ? p.value_strides : p.key_strides;
  int64_t block = 0, slot = key;
  if (p.block_table != nullptr) {
    const int32_t page = PageOf(p, key);
    block = BlockOf(p, p.block_table + index * p.table_stride, page);
    slot = key - page * p.block_size;
  } else {
    slot += p.key_start[index];
  }
  const char* from = static_cast<const char*>(values ? p.value : p.key) + block * strides.block +
                     slot * strides.slot + head * strides.head + column * kVector;
  const uint4 bytes = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
  uint32_t wide[8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    wide[2 * i] = FromFp8<T>(words[i] & 0xffff);
    wide[2 * i + 1] = FromFp8<T>(words[i] >> 16);
  }
  uint4* const to = reinterpret_cast<uint4*>(values ? dequantized.value : dequantized.key) +
                    ((int64_t{index} * dequantized.slots + key) * p.kv_heads + head) * width * 2 +
                    column * 2;
  to[0] = make_uint4(wide[0], wide[1], wide[2], wide[3]);
  to[1] = make_uint4(wide[4], wide[5], wide[6], wide[7]);
}

}  // namespace

int64_t DequantizedBytes(const Problem& p, int64_t max_query_len, int64_t max_seq_len) {
  if (!p.kv_vector || max_query_len * p.group < kLeastRows || max_seq_len == 0) return 0;
  const int64_t row = int64_t{p.kv_heads} * (p.head_size + p.value_head_size) * 2;
  if (max_seq_len > kMostBytes / row / std::max(p.requests, 1)) return 0;
  return Layout(p, max_seq_len, nullptr).bytes;
}

Problem DequantizeCache(const char* op, const Problem& p, int32_t dtype, int64_t max_seq_len,
                        void* memory, cudaStream_t stream) {
  const Dequantized dequantized = Layout(p, max_seq_len, static_cast<char*>(memory));
  const int64_t width = std::max(p.head_size, p.value_head_size) / kVector;
  const dim3 grid(GridX(op, CeilDiv(max_seq_len * p.kv_heads * width, kThreads)),
                  static_cast<unsigned>(p.requests), 2);
  if (dtype == VK_BF16) {
    DequantizeKernel<BFloat16><<<grid, kThreads, 0, stream>>>(p, dequantized);
  } else {
    DequantizeKernel<Half><<<grid, kThreads, 0, stream>>>(p, dequantized);
  }
  CheckLaunch(op);
  Problem wide = p;
  wide.key = dequantized.key;
  wide.value = dequantized.value;
  wide.key_start = dequantized.key_start;
  wide.seq_lens = dequantized.seq_lens;
  wide.block_table = nullptr;
  wide.blocks = 1;
  wide.block_size = wide.pages = 0;
  wide.page_factor = 0;
  wide.page_shift = 0;
  wide.key_strides = {0, int64_t{p.kv_heads} * p.head_size * 2, int64_t{p.head_size} * 2};
  wide.value_strides = {0, int64_t{p.kv_heads} * p.value_head_size * 2,
                        int64_t{p.value_head_size} * 2};
  return wide;
}

}  // namespace vk::cuda::attention
