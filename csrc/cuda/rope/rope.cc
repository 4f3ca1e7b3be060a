#include "cuda/rope/rope.h"

#include "core/check.h"
#include "core/checked.h"
#include "cuda/common/rows.h"
#include "cuda/rope/launch.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::cuda::RowMap;
using vk::cuda::RowsAligned;
using vk::cuda::rope::Angles;
using vk::cuda::rope::Heads;
using vk::cuda::rope::Launch;
using vk::cuda::rope::NormRotation;
using vk::cuda::rope::Rotation;

bool StartsWith(const vk_tensor& tensor, const vk_tensor& prefix) {
  if (tensor.ndim < prefix.ndim) return false;
  for (int32_t dim = 0; dim < prefix.ndim; ++dim) {
    if (tensor.shape[dim] != prefix.shape[dim]) return false;
  }
  return true;
}

// How many leading dimensions of `heads` count tokens: those of positions, or one that holds all
// of them. What follows is [heads * head_size] or [heads, head_size].
int32_t TokenDims(const char* op, const char* name, const vk_tensor& heads,
                  const vk_tensor& positions) {
  const auto fits = [&](int32_t dims) { return heads.ndim == dims + 1 || heads.ndim == dims + 2; };
  if (fits(positions.ndim) && StartsWith(heads, positions)) return positions.ndim;
  const int64_t tokens = vk::NumElements(positions);
  VK_CHECK(fits(1) && heads.shape[0] == tokens,
           "%s: %s has shape %s, want [..., heads * head_size] or [..., heads, head_size] with the "
           "%lld tokens of positions %s in front",
           op, name, vk::ShapeString(heads).c_str(), Print(tokens),
           vk::ShapeString(positions).c_str());
  return 1;
}

// query or key of rotary_embedding: where the heads of each token lie.
Heads CheckHeads(const char* op, const Arg& arg, const vk_tensor& positions, int64_t head_size) {
  const vk_tensor& tensor = arg.tensor();
  const int32_t token_dims = TokenDims(op, arg.name(), tensor, positions);
  arg.Dtype({VK_F32, VK_BF16, VK_F16}).LastDimContiguous();
  Heads heads = {};
  heads.data = tensor.data;
  if (tensor.ndim == token_dims + 2) {
    arg.Size(-1, head_size);
    heads.count = static_cast<uint32_t>(arg.size(-2));
    heads.head_stride = arg.stride(-2);
  } else {
    VK_CHECK(arg.size(-1) % head_size == 0,
             "%s: %s has shape %s, want a multiple of head_size %lld in the last dimension", op,
             arg.name(), vk::ShapeString(tensor).c_str(), Print(head_size));
    heads.count = static_cast<uint32_t>(arg.size(-1) / head_size);
    heads.head_stride = head_size;
  }
  vk_tensor tokens = tensor;  // one dimension behind the tokens stands for the heads
  tokens.ndim = token_dims + 1;
  heads.tokens = RowMap(tokens);
  return heads;
}

// Whether rows of `tensor` behind its token dimensions allow vectors.
bool HeadsAligned(const vk_tensor& tensor, const Heads& heads) {
  return RowsAligned(tensor, 16) &&
         (heads.count <= 1 || heads.head_stride * vk::DtypeSize(tensor.dtype) % 16 == 0);
}

Angles CheckCache(const char* op, const Arg& cache, const Arg& heads, bool inverse,
                  Launch& launch) {
  cache.Dims(2).LastDimContiguous();
  launch.dtype = heads.tensor().dtype;
  launch.float_cache = cache.tensor().dtype == VK_F32;
  if (!launch.float_cache) cache.SameDtype(heads);
  const int64_t rot_dim = cache.size(1);
  VK_CHECK(rot_dim > 0 && rot_dim % 2 == 0 && rot_dim <= INT32_MAX,
           "%s: cos_sin_cache has shape %s, want an even width of less than 2^31", op,
           vk::ShapeString(cache.tensor()).c_str());
  Angles angles = {};
  angles.cache = cache.tensor().data;
  angles.row_stride = cache.stride(0);
  angles.max_position = cache.size(0);
  angles.half = static_cast<int32_t>(rot_dim / 2);
  angles.inverse = inverse;
  // A vector of pairs must not cross the middle of the rotated part, nor its end.
  const int64_t vector = 16 / vk::DtypeSize(launch.dtype);
  launch.aligned = angles.half % vector == 0 && RowsAligned(cache.tensor(), 16);
  return angles;
}

const int64_t* CheckPositions(const char* op, const char* name, const vk_tensor* positions) {
  Arg(op, name, positions).Dtype({VK_I64}).Contiguous();
  return static_cast<const int64_t*>(positions->data);
}

void RotaryEmbedding(const vk_tensor* positions, const vk_tensor* query, const vk_tensor* key,
                     int64_t head_size, const vk_tensor* cos_sin_cache, bool is_neox,
                     int64_t dim_offset, bool inverse, void* stream) {
  const char* op = "rotary_embedding";
  const int64_t* position = CheckPositions(op, "positions", positions);
  VK_CHECK(head_size > 0, "%s: head_size is %lld, want more than 0", op, Print(head_size));
  Rotation rotation = {};
  Launch launch = {};
  launch.op = op;
  launch.is_neox = is_neox;
  launch.stream = vk::cuda::AsStream(stream);
  const Arg query_arg(op, "query", query);
  rotation.query = CheckHeads(op, query_arg, *positions, head_size);
  if (key != nullptr) {
    const Arg key_arg(op, "key", key);
    rotation.key = CheckHeads(op, key_arg.SameDtype(query_arg), *positions, head_size);
  }
  rotation.angles =
      CheckCache(op, Arg(op, "cos_sin_cache", cos_sin_cache), query_arg, inverse, launch);
  const int64_t rot_dim = 2 * int64_t{rotation.angles.half};
  VK_CHECK(vk::Within(dim_offset, rot_dim, head_size),
           "%s: rope_dim_offset is %lld, want it and the %lld rotated components within head_size "
           "%lld",
           op, Print(dim_offset), Print(rot_dim), Print(head_size));
  rotation.angles.positions = position;
  rotation.dim_offset = dim_offset;
  rotation.tokens = vk::NumElements(*positions);
  launch.aligned = launch.aligned && dim_offset * vk::DtypeSize(query->dtype) % 16 == 0 &&
                   HeadsAligned(*query, rotation.query) &&
                   (key == nullptr || HeadsAligned(*key, rotation.key));
  LaunchRotation(rotation, launch);
}

void NormRope(const vk_tensor* qkv, int64_t num_heads_q, int64_t num_heads_k, int64_t num_heads_v,
              int64_t head_dim, double eps, const vk_tensor* q_weight, const vk_tensor* k_weight,
              const vk_tensor* cos_sin_cache, bool is_neox, const vk_tensor* position_ids,
              void* stream) {
  const char* op = "fused_qk_norm_rope";
  VK_CHECK(
      num_heads_q >= 0 && num_heads_k >= 0 && num_heads_v >= 0 && num_heads_q + num_heads_k > 0,
      "%s: num_heads_q, num_heads_k and num_heads_v are %lld, %lld and %lld, want none "
      "negative and a query or key",
      op, Print(num_heads_q), Print(num_heads_k), Print(num_heads_v));
  VK_CHECK(head_dim > 0 && head_dim <= 1024, "%s: head_dim is %lld, want 1 to 1024", op,
           Print(head_dim));
  const Arg all(op, "qkv", qkv);
  all.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
  all.Size(1, (num_heads_q + num_heads_k + num_heads_v) * head_dim);
  const Arg query_weight(op, "q_weight", q_weight), key_weight(op, "k_weight", k_weight);
  query_weight.SameDtype(all).Dims(1).Size(0, head_dim).Contiguous();
  key_weight.SameDtype(all).Dims(1).Size(0, head_dim).Contiguous();
  NormRotation rotation = {};
  Launch launch = {};
  launch.op = op;
  launch.is_neox = is_neox;
  launch.stream = vk::cuda::AsStream(stream);
  rotation.angles = CheckCache(op, Arg(op, "cos_sin_cache", cos_sin_cache), all, false, launch);
  VK_CHECK(2 * int64_t{rotation.angles.half} <= head_dim,
           "%s: cos_sin_cache has shape %s, want at most head_dim %lld columns", op,
           vk::ShapeString(*cos_sin_cache).c_str(), Print(head_dim));
  rotation.angles.positions = CheckPositions(op, "position_ids", position_ids);
  Arg(op, "position_ids", position_ids).Dims(1).Size(0, all.size(0));
  rotation.qkv = qkv->data;
  rotation.q_weight = q_weight->data;
  rotation.k_weight = k_weight->data;
  rotation.token_stride = all.stride(0);
  rotation.tokens = all.size(0);
  rotation.heads = static_cast<uint32_t>(num_heads_q + num_heads_k);
  rotation.query_heads = static_cast<uint32_t>(num_heads_q);
  rotation.head_dim = static_cast<int32_t>(head_dim);
  rotation.epsilon = static_cast<float>(eps);
  launch.aligned = launch.aligned && head_dim * vk::DtypeSize(qkv->dtype) % 16 == 0 &&
                   RowsAligned(*qkv, 16) && RowsAligned(*q_weight, 16) &&
                   RowsAligned(*k_weight, 16);
  LaunchNormRotation(rotation, launch);
}

}  // namespace

extern "C" vk_status vk_cuda_rotary_embedding(const vk_tensor* positions, const vk_tensor* query,
                                              const vk_tensor* key, int64_t head_size,
                                              const vk_tensor* cos_sin_cache, bool is_neox,
                                              int64_t rope_dim_offset, bool inverse, void* stream) {
  return vk::Guard([&] {
    RotaryEmbedding(positions, query, key, head_size, cos_sin_cache, is_neox, rope_dim_offset,
                    inverse, stream);
  });
}

extern "C" vk_status vk_cuda_fused_qk_norm_rope(
    const vk_tensor* qkv, int64_t num_heads_q, int64_t num_heads_k, int64_t num_heads_v,
    int64_t head_dim, double eps, const vk_tensor* q_weight, const vk_tensor* k_weight,
    const vk_tensor* cos_sin_cache, bool is_neox, const vk_tensor* position_ids, void* stream) {
  return vk::Guard([&] {
    NormRope(qkv, num_heads_q, num_heads_k, num_heads_v, head_dim, eps, q_weight, k_weight,
             cos_sin_cache, is_neox, position_ids, stream);
  });
}
