#include "cpu/rope/rope.h"

#include <optional>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace {

using vk::Arg;

constexpr const char* kOp = "rotary_embedding";

bool StartsWith(const vk_tensor& tensor, const vk_tensor& prefix) {
  for (int32_t dim = 0; dim < prefix.ndim; ++dim) {
    if (tensor.shape[dim] != prefix.shape[dim]) return false;
  }
  return true;
}

// How many leading dimensions of `heads` count tokens: those of positions, or one that holds all
// of them. What follows is [heads * head_size] or [heads, head_size].
int32_t TokenDims(const char* name, const vk_tensor& heads, const vk_tensor& positions) {
  const auto fits = [&](int32_t dims) { return heads.ndim == dims + 1 || heads.ndim == dims + 2; };
  if (fits(positions.ndim) && StartsWith(heads, positions)) return positions.ndim;
  const int64_t tokens = vk::NumElements(positions);
  VK_CHECK(fits(1) && heads.shape[0] == tokens,
           "%s: %s has shape %s, want [..., heads * head_size] or [..., heads, head_size] with the "
           "%lld tokens of positions %s in front",
           kOp, name, vk::ShapeString(heads).c_str(), static_cast<long long>(tokens),
           vk::ShapeString(positions).c_str());
  return 1;
}

// query or key: where the heads of each token lie.
class Heads {
 public:
  Heads(const Arg& arg, const vk_tensor& positions, int64_t head_size)
      : tensor_(arg.tensor()),
        token_dims_(TokenDims(arg.name(), tensor_, positions)),
        rows_(TokenRows(tensor_, token_dims_)) {
    arg.Dtype({VK_F32, VK_BF16, VK_F16}).LastDimContiguous();
    if (tensor_.ndim == token_dims_ + 2) {
      arg.Size(-1, head_size);
      count_ = arg.size(-2);
      stride_ = arg.stride(-2);
      return;
    }
    VK_CHECK(arg.size(-1) % head_size == 0,
             "%s: %s has shape %s, want a multiple of head_size %lld in the last dimension", kOp,
             arg.name(), vk::ShapeString(tensor_).c_str(), static_cast<long long>(head_size));
    count_ = arg.size(-1) / head_size;
    stride_ = head_size;
  }

  void Rotate(vk::RopeTable::Rotate* kernel, int64_t token, int64_t dim_offset, const void* cos_sin,
              int64_t half_dim, bool inverse) const {
    const int64_t element = rows_.Offset(token) + dim_offset;
    char* first = static_cast<char*>(tensor_.data) + element * vk::DtypeSize(tensor_.dtype);
    kernel(first, count_, stride_, cos_sin, half_dim, inverse);
  }

  int64_t count() const { return count_; }

 private:
  // The token dimensions as rows: one dimension behind them stands for the heads.
  static vk::Rows TokenRows(vk_tensor tensor, int32_t token_dims) {
    tensor.ndim = token_dims + 1;
    return vk::Rows(tensor);
  }

  const vk_tensor& tensor_;
  int32_t token_dims_;
  vk::Rows rows_;
  int64_t count_ = 0, stride_ = 0;
};

// Checks the cache against query and head_size; returns rot_dim.
int64_t CheckCache(const Arg& cache, const Arg& query, int64_t head_size, int64_t dim_offset) {
  cache.Dims(2).LastDimContiguous();
  if (cache.tensor().dtype != VK_F32) cache.SameDtype(query);
  const int64_t rot_dim = cache.size(1);
  VK_CHECK(rot_dim > 0 && rot_dim % 2 == 0, "%s: cos_sin_cache has shape %s, want an even width",
           kOp, vk::ShapeString(cache.tensor()).c_str());
  VK_CHECK(vk::Within(dim_offset, rot_dim, head_size),
           "%s: rope_dim_offset is %lld, want it and the %lld rotated components within head_size "
           "%lld",
           kOp, static_cast<long long>(dim_offset), static_cast<long long>(rot_dim),
           static_cast<long long>(head_size));
  return rot_dim;
}

// Checked before anything is rotated, so that a failing op leaves its arguments unchanged.
void CheckPositions(const vk_tensor& positions, int64_t limit) {
  const int64_t* position = static_cast<const int64_t*>(positions.data);
  const int64_t count = vk::NumElements(positions);
  for (int64_t i = 0; i < count; ++i) {
    VK_CHECK(position[i] >= 0 && position[i] < limit,
             "%s: positions has %lld at index %lld, want 0 to %lld (cos_sin_cache has %lld rows)",
             kOp, static_cast<long long>(position[i]), static_cast<long long>(i),
             static_cast<long long>(limit - 1), static_cast<long long>(limit));
  }
}

void RotaryEmbedding(const vk_tensor* positions, const vk_tensor* query, const vk_tensor* key,
                     int64_t head_size, const vk_tensor* cos_sin_cache, bool is_neox,
                     int64_t dim_offset, bool inverse) {
  Arg(kOp, "positions", positions).Dtype({VK_I64}).Contiguous();
  VK_CHECK(head_size > 0, "%s: head_size is %lld, want more than 0", kOp,
           static_cast<long long>(head_size));
  const Arg query_arg(kOp, "query", query);
  const Heads query_heads(query_arg, *positions, head_size);
  std::optional<Heads> key_heads;
  if (key != nullptr) {
    const Arg key_arg(kOp, "key", key);
    key_heads.emplace(key_arg.SameDtype(query_arg), *positions, head_size);
  }
  const Arg cache(kOp, "cos_sin_cache", cos_sin_cache);
  const int64_t rot_dim = CheckCache(cache, query_arg, head_size, dim_offset);
  CheckPositions(*positions, cache.size(0));

  const vk::RopeTable& table = *vk::Kernels().rope;
  const auto kernel =
      (is_neox ? table.neox : table.gptj)[query->dtype][cos_sin_cache->dtype == VK_F32];
  const int64_t* position = static_cast<const int64_t*>(positions->data);
  const int64_t row_bytes = cache.stride(0) * vk::DtypeSize(cos_sin_cache->dtype);
  const int64_t heads = query_heads.count() + (key_heads ? key_heads->count() : 0);
  if (heads == 0) return;  // however far apart they would be
  const int64_t token_bytes = 2 * heads * rot_dim * vk::DtypeSize(query->dtype);
  const int64_t tokens = vk::NumElements(*positions);
  vk::ParallelFor(tokens, vk::GrainFor(token_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const char* row = static_cast<const char*>(cos_sin_cache->data) + position[token] * row_bytes;
      query_heads.Rotate(kernel, token, dim_offset, row, rot_dim / 2, inverse);
      if (key_heads) key_heads->Rotate(kernel, token, dim_offset, row, rot_dim / 2, inverse);
    }
  });
}

}  // namespace

extern "C" vk_status vk_cpu_rotary_embedding(const vk_tensor* positions, const vk_tensor* query,
                                             const vk_tensor* key, int64_t head_size,
                                             const vk_tensor* cos_sin_cache, bool is_neox,
                                             int64_t rope_dim_offset, bool inverse) {
  return vk::Guard([&] {
    RotaryEmbedding(positions, query, key, head_size, cos_sin_cache, is_neox, rope_dim_offset,
                    inverse);
  });
}
