// Numbers of n-grams, by which a model embeds a token with those before it.
#include "core/check.h"
#include "cuda/common/fast_div.h"
#include "cuda/common/launch.h"
#include "cuda/common/pdl.cuh"
#include "cuda/sampling/sampling.h"

namespace vk::cuda::sampling {
namespace {

constexpr int kThreads = 256;
constexpr char kOp[] = "ngram_compute_n_gram_ids";

struct NGrams {
  const int32_t *weights, *moduli, *first_ids;  // [n - 1, k, n], [n - 1, k], [n - 1, k]
  const int32_t* first_tokens;                  // [requests + 1]
  const int32_t* table;                         // [rows, width]
  const int64_t* rows;                          // [requests]
  const int32_t* columns;                       // [requests]
  int32_t* ids;                                 // [tokens, n - 1, k]
  int64_t table_rows, table_width, row_stride;
  int32_t n, k, requests;
  uint32_t count;
  FastDiv embedders;
};

// The request of a token: the last that starts at or before it.
__device__ __forceinline__ int RequestOf(const NGrams& g, int token) {
  int first = 0;
  for (int rest = g.requests; rest > 1;) {
    const int half = rest / 2;
    if (g.first_tokens[first + half] <= token) {
      first += half;
      rest -= half;
    } else {
      rest = half;
    }
  }
  return first;
}

// A thread for each number. Tokens that no request has keep theirs.
__global__ void __launch_bounds__(kThreads) NGramKernel(const __grid_constant__ NGrams g) {
  PdlPrologue();
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= g.count) return;
  const FastDiv::Result at = g.embedders(index);
  const int token = static_cast<int>(at.quotient), embedder = static_cast<int>(at.remainder);
  const int request = RequestOf(g, token);
  if (token < g.first_tokens[request] || token >= g.first_tokens[request + 1]) return;
  const int64_t row = g.rows[request];
  const int64_t column = int64_t{g.columns[request]} + (token - g.first_tokens[request]);
  if (row < 0 || row >= g.table_rows || column < 0 || column >= g.table_width) return;
  const int32_t* tokens = g.table + row * g.row_stride + column;
  const int32_t* weights = g.weights + int64_t{embedder} * g.n;
  const int64_t modulus = g.moduli[embedder];
  const int length = embedder / g.k + 2;
  int64_t id = 0;
  for (int back = 0; back < length && back <= column; ++back) {
    const int64_t one = tokens[-back];
    if (one < 0) break;
    id += one * weights[back] % modulus;
  }
  g.ids[index] = static_cast<int32_t>(id % modulus) + g.first_ids[embedder];
}

const int32_t* Int32(const vk_tensor* tensor) { return static_cast<const int32_t*>(tensor->data); }

}  // namespace
}  // namespace vk::cuda::sampling

extern "C" vk_status vk_cuda_ngram_compute_n_gram_ids(
    int64_t ne_n, int64_t ne_k, const vk_tensor* ne_weights, const vk_tensor* ne_mods,
    const vk_tensor* exclusive_ne_embedder_size_sums, const vk_tensor* exclusive_req_len_sums,
    const vk_tensor* ne_token_table, const vk_tensor* row_indices, const vk_tensor* column_starts,
    const vk_tensor* n_gram_ids, void* stream) {
  using namespace vk::cuda::sampling;
  using vk::Arg;
  using vk::Print;
  return vk::Guard([&] {
    VK_CHECK(ne_n >= 2 && ne_n <= 1024 && ne_k >= 1 && ne_k <= 1024,
             "%s: ne_n is %lld and ne_k %lld, want 2 to 1024 and 1 to 1024", kOp, Print(ne_n),
             Print(ne_k));
    const int64_t embedders = (ne_n - 1) * ne_k;
    const auto numbers = [&](const char* name, const vk_tensor* tensor, int64_t count) {
      Arg(kOp, name, tensor).Dtype({VK_I32}).Contiguous();
      VK_CHECK(vk::NumElements(*tensor) >= count, "%s: %s has shape %s, want %lld elements", kOp,
               name, vk::ShapeString(*tensor).c_str(), Print(count));
      return Int32(tensor);
    };
    NGrams g = {};
    g.weights = numbers("ne_weights", ne_weights, embedders * ne_n);
    g.moduli = numbers("ne_mods", ne_mods, embedders);
    g.first_ids =
        numbers("exclusive_ne_embedder_size_sums", exclusive_ne_embedder_size_sums, embedders);
    const Arg rows(kOp, "row_indices", row_indices);
    rows.Dtype({VK_I64}).Dims(1).Contiguous();
    const int64_t requests = rows.size(0);
    VK_CHECK(requests < INT32_MAX, "%s: row_indices has %lld elements, want less than 2^31 - 1",
             kOp, Print(requests));
    g.first_tokens = numbers("exclusive_req_len_sums", exclusive_req_len_sums, requests + 1);
    g.columns = numbers("column_starts", column_starts, requests);
    const Arg table(kOp, "ne_token_table", ne_token_table);
    table.Dtype({VK_I32}).Dims(2).LastDimContiguous();
    const Arg ids(kOp, "n_gram_ids", n_gram_ids);
    ids.Dtype({VK_I32}).Dims(2).Size(1, embedders).Contiguous();
    const int64_t count = vk::NumElements(*n_gram_ids);
    VK_CHECK(count < (int64_t{1} << 31),
             "%s: n_gram_ids has shape %s, want less than 2^31 elements", kOp,
             vk::ShapeString(*n_gram_ids).c_str());
    if (count == 0 || requests == 0) return;
    g.table = Int32(ne_token_table);
    g.rows = static_cast<const int64_t*>(row_indices->data);
    g.ids = static_cast<int32_t*>(n_gram_ids->data);
    g.table_rows = table.size(0);
    g.table_width = table.size(1);
    g.row_stride = table.stride(0);
    g.n = static_cast<int32_t>(ne_n);
    g.k = static_cast<int32_t>(ne_k);
    g.requests = static_cast<int32_t>(requests);
    g.count = static_cast<uint32_t>(count);
    g.embedders = vk::cuda::FastDiv(static_cast<uint32_t>(embedders));
    vk::cuda::LaunchPdl(kOp, NGramKernel, vk::cuda::GridX(kOp, vk::cuda::CeilDiv(count, kThreads)),
                        kThreads, 0, vk::cuda::AsStream(stream), g);
  });
}
