// Projections that hold queries, keys and values side by side.
#include "cuda/qkv/job.h"
#include "cuda/qkv/qkv.h"

namespace vk::cuda::qkv {
namespace {

// Heads of a projection, one kind behind the other.
class Projection {
 public:
  Projection(Job& job, const Arg& qkv, int64_t head_dim)
      : job_(job), qkv_(qkv), head_dim_(head_dim) {
    qkv.Dims(2);
  }

  // The next `heads` heads.
  Stream& Next(int64_t heads) {
    Stream& stream = job_.Add(qkv_, heads, head_dim_, first_);
    first_ += heads * head_dim_;
    return stream;
  }
  void Skip(int64_t heads) { first_ += heads * head_dim_; }
  int64_t columns() const { return first_; }

 private:
  Job& job_;
  const Arg& qkv_;
  int64_t head_dim_, first_ = 0;
};

void CheckHeads(const char* op, int64_t queries, int64_t keys, int64_t head_dim) {
  VK_CHECK(queries >= 0 && keys >= 0 && queries <= INT32_MAX && keys <= INT32_MAX,
           "%s: %lld heads of queries and %lld of keys, want 0 or more", op, Print(queries),
           Print(keys));
  VK_CHECK(head_dim > 0 && head_dim <= kMaxWidth, "%s: heads of %lld elements, want 1 to %d", op,
           Print(head_dim), kMaxWidth);
}

void Weigh(const char* op, Stream& stream, const char* name, const vk_tensor* weight, double bias) {
  const Arg arg(op, name, weight);
  const bool is_float = weight->dtype == VK_F32;
  arg.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(1).Size(0, stream.width).Contiguous();
  VK_CHECK(
      reinterpret_cast<uintptr_t>(weight->data) % (4 * static_cast<size_t>(arg.ItemSize())) == 0,
      "%s: %s does not start at a multiple of 4 elements", op, name);
  stream.norm = true;
  stream.weight = weight->data;
  stream.weight_bias = static_cast<float>(bias);
  stream.float_weight = is_float;
}

void CheckBlockSize(const char* op, const Arg& cache, int32_t dim, int64_t block_size) {
  VK_CHECK(cache.size(dim) == block_size, "%s: %s has shape %s, want blocks of block_size %lld", op,
           cache.name(), ShapeString(cache.tensor()).c_str(), Print(block_size));
}

void CheckRotaryDim(const Job& job, int64_t rotary_dim) {
  VK_CHECK(rotary_dim == 2 * job.half(), "%s: rotary_dim is %lld, want cos_sin_cache's width %d",
           job.op(), Print(rotary_dim), 2 * job.half());
}

// Queries go to `q_fp8_out` instead of back to their place.
void Quantise(const Job& job, Stream& queries, const vk_tensor* q_fp8_out, int64_t heads,
              const Scale& scale) {
  const Arg out(job.op(), "q_fp8_out", q_fp8_out);
  out.Dtype({VK_F8E4M3}).Dims(2).Size(1, heads * queries.width);
  queries.quantised = job.To(out, heads, queries.width);
  queries.scale = scale;
  queries.same = {};
}

// Keys and values side by side in [blocks, heads, block_size, 2 * head_dim].
void CachePairs(const Job& job, Stream& keys, Stream& values, const vk_tensor* kv_cache,
                const Slots& slots, int64_t block_size, Format format, const Scale& k_scale,
                const Scale& v_scale) {
  const Arg cache(job.op(), "kv_cache", kv_cache);
  cache.Dims(4).Size(3, 2 * int64_t{keys.width});
  CheckBlockSize(job.op(), cache, 2, block_size);
  job.Cache(keys, cache, slots, format, k_scale, 2, 1);
  job.Cache(values, cache, slots, format, v_scale, 2, 1, keys.width);
}

void MiniMax(const vk_tensor* qkv, const vk_tensor* q_weight, const vk_tensor* k_weight,
             const vk_tensor* cos_sin_cache, const vk_tensor* positions, int64_t num_heads,
             int64_t num_kv_heads, int64_t rotary_dim, double eps, const vk_tensor* index_q_weight,
             const vk_tensor* index_k_weight, int64_t num_index_heads,
             const vk_tensor* slot_mapping, const vk_tensor* index_slot_mapping,
             const vk_tensor* kv_cache, const vk_tensor* index_cache, int64_t block_size,
             const vk_tensor* q_out, const vk_tensor* index_q_out, const char* kv_cache_dtype,
             bool skip_index, const vk_tensor* q_fp8_out, double q_fp8_scale,
             const vk_tensor* k_scale, const vk_tensor* v_scale, void* stream) {
  const char* op = "fused_minimax_m3_qknorm_rope_kv_insert";
  constexpr int64_t kHead = 128;
  const Arg all(op, "qkv", qkv);
  const Format format = FormatOf(op, kv_cache_dtype);
  all.Dims(2);
  CheckHeads(op, num_heads, num_kv_heads, kHead);
  VK_CHECK(num_index_heads >= 0 && num_index_heads <= INT32_MAX, "%s: num_index_heads is %lld", op,
           Print(num_index_heads));
  const int64_t rows =
      num_heads + 2 * num_kv_heads + (num_index_heads > 0 ? num_index_heads + 1 : 0);
  all.Size(1, rows * kHead);
  Job job(op, all, all.size(0), eps, stream);
  job.Angles(cos_sin_cache, positions, "positions");
  CheckRotaryDim(job, rotary_dim);
  Projection projection(job, all, kHead);
  const auto normed = [&](int64_t heads, const char* name, const vk_tensor* weight) -> Stream& {
    Stream& one = projection.Next(heads);
    Weigh(op, one, name, weight, 1.0);
    job.Rotate(one, 0, true);
    one.same = one.from;
    return one;
  };
  Stream& queries = normed(num_heads, "q_norm_weight", q_weight);
  if (q_fp8_out != nullptr) {
    Quantise(job, queries, q_fp8_out, num_heads, Constant(q_fp8_scale));
  }
  if (q_out != nullptr) {
    const Arg out(op, "q_out", q_out);
    out.SameDtype(all).Dims(2).Size(1, num_heads * kHead);
    queries.same = job.To(out, num_heads, kHead);
  }
  Stream& keys = normed(num_kv_heads, "k_norm_weight", k_weight);
  const Slots slots = CheckSlots(op, "slot_mapping", slot_mapping);
  VK_CHECK(kv_cache == nullptr || slot_mapping != nullptr, "%s: kv_cache without slot_mapping", op);
  if (kv_cache != nullptr) {
    Stream& values = projection.Next(num_kv_heads);
    CachePairs(job, keys, values, kv_cache, slots, block_size, format,
               DividesBy(op, "kv_k_scale", k_scale), DividesBy(op, "kv_v_scale", v_scale));
  } else {
    projection.Skip(num_kv_heads);
  }
  if (num_index_heads > 0 && !skip_index) {
    Stream& index_queries = normed(num_index_heads, "index_q_norm_weight", index_q_weight);
    if (index_q_out != nullptr) {
      const Arg out(op, "index_q_out", index_q_out);
      out.Dims(2).Size(1, num_index_heads * kHead);
      const Place place = job.To(out, num_index_heads, kHead);
      index_queries.same = {};
      (index_q_out->dtype == VK_F8E4M3 ? index_queries.quantised : index_queries.same) = place;
      index_queries.scale = Constant(1.0);
    }
    Stream& index_key = normed(1, "index_k_norm_weight", index_k_weight);
    if (kv_cache != nullptr && index_cache != nullptr) {
      const Arg cache(op, "index_cache", index_cache);
      cache.Dims(3).Size(2, kHead);
      const Slots own = index_slot_mapping == nullptr
                            ? slots
                            : CheckSlots(op, "index_slot_mapping", index_slot_mapping);
      job.Cache(index_key, cache, own,
                index_cache->dtype == VK_F8E4M3 ? Format::kE4M3 : Format::kSame, Constant(1.0));
    }
  }
  job.Run();
}

void MuseSpark(const vk_tensor* qkv, const vk_tensor* positions, int64_t num_heads,
               int64_t num_kv_heads, int64_t head_dim, double eps, const vk_tensor* cos_sin_cache,
               int64_t rotary_dim, const vk_tensor* slot_mapping, const vk_tensor* kv_cache,
               int64_t block_size, const char* kv_cache_dtype, const vk_tensor* k_scale,
               const vk_tensor* v_scale, const vk_tensor* q_fp8_out, const vk_tensor* q_scale,
               void* stream) {
  const char* op = "fused_muse_spark_qknorm_rope_kv_insert";
  const Arg all(op, "qkv", qkv);
  const Format format = FormatOf(op, kv_cache_dtype);
  all.Dims(2);
  CheckHeads(op, num_heads, num_kv_heads, head_dim);
  Job job(op, all, all.size(0), eps, stream);
  if (cos_sin_cache != nullptr) {
    job.Angles(cos_sin_cache, positions, "positions");
    CheckRotaryDim(job, rotary_dim);
  }
  Projection projection(job, all, head_dim);
  const auto normed = [&](int64_t heads) -> Stream& {
    Stream& one = projection.Next(heads);
    one.norm = true;
    job.Rotate(one, 0, false);
    one.same = one.from;
    return one;
  };
  Stream& queries = normed(num_heads);
  if (q_fp8_out != nullptr) {
    Quantise(job, queries, q_fp8_out, num_heads, DividesBy(op, "q_scale", q_scale));
  }
  Stream& keys = normed(num_kv_heads);
  if (kv_cache != nullptr) {
    VK_CHECK(slot_mapping != nullptr, "%s: kv_cache without slot_mapping", op);
    Stream& values = projection.Next(num_kv_heads);
    CachePairs(job, keys, values, kv_cache, CheckSlots(op, "slot_mapping", slot_mapping),
               block_size, format, DividesBy(op, "k_scale", k_scale),
               DividesBy(op, "v_scale", v_scale));
  }
  job.Run();
}

void QkNormRopeCache(const vk_tensor* q_out, const vk_tensor* k_out, const vk_tensor* v_out,
                     const vk_tensor* qkv, const vk_tensor* q_weight, const vk_tensor* k_weight,
                     const vk_tensor* cos, const vk_tensor* sin, const vk_tensor* positions,
                     const vk_tensor* slot_mapping, const vk_tensor* k_cache,
                     const vk_tensor* v_cache, int64_t head_dim, int64_t num_heads,
                     int64_t num_kv_heads, int64_t pairs, double eps, double bias,
                     const char* kv_cache_dtype, const vk_tensor* k_scale, const vk_tensor* v_scale,
                     void* stream) {
  const char* op = "fused_qknorm_rope_cache";
  const Arg all(op, "qkv", qkv);
  const Format format = FormatOf(op, kv_cache_dtype);
  all.Dims(2);
  CheckHeads(op, num_heads, num_kv_heads, head_dim);
  Job job(op, all, all.size(0), eps, stream);
  if (pairs != 0) job.Angles(cos, sin, pairs, positions, "positions");
  const Slots slots = CheckSlots(op, "slot_mapping", slot_mapping);
  Projection projection(job, all, head_dim);
  const auto next = [&](int64_t heads, const char* name, const vk_tensor* to) -> Stream& {
    Stream& one = projection.Next(heads);
    const Arg out(op, name, to);
    out.SameDtype(all).Dims(2).Size(1, heads * head_dim);
    one.same = job.To(out, heads, head_dim);
    return one;
  };
  const auto cache = [&](Stream& one, const char* name, const vk_tensor* to, const Scale& scale) {
    const Arg arg(op, name, to);
    arg.Dims(4).Size(3, head_dim);
    job.Cache(one, arg, slots, format, scale, 1, 2);
  };
  Stream& queries = next(num_heads, "q_out", q_out);
  Weigh(op, queries, "q_weight", q_weight, bias);
  Stream& keys = next(num_kv_heads, "k_out", k_out);
  Weigh(op, keys, "k_weight", k_weight, bias);
  for (Stream* one : {&queries, &keys}) {
    one->round_norm = true;
    job.Rotate(*one, 0, true);
  }
  cache(keys, "k_cache", k_cache, DividesBy(op, "k_scale", k_scale));
  Stream& values = next(num_kv_heads, "v_out", v_out);
  cache(values, "v_cache", v_cache, DividesBy(op, "v_scale", v_scale));
  job.Run();
}

}  // namespace
}  // namespace vk::cuda::qkv

extern "C" {

vk_status vk_cuda_fused_minimax_m3_qknorm_rope_kv_insert(
    const vk_tensor* qkv, const vk_tensor* q_norm_weight, const vk_tensor* k_norm_weight,
    const vk_tensor* cos_sin_cache, const vk_tensor* positions, int64_t num_heads,
    int64_t num_kv_heads, int64_t rotary_dim, double eps, const vk_tensor* index_q_norm_weight,
    const vk_tensor* index_k_norm_weight, int64_t num_index_heads, const vk_tensor* slot_mapping,
    const vk_tensor* index_slot_mapping, const vk_tensor* kv_cache, const vk_tensor* index_cache,
    int64_t block_size, const vk_tensor* q_out, const vk_tensor* index_q_out,
    const char* kv_cache_dtype, bool skip_index_branch, const vk_tensor* q_fp8_out,
    double q_fp8_scale, const vk_tensor* kv_k_scale, const vk_tensor* kv_v_scale, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::MiniMax(qkv, q_norm_weight, k_norm_weight, cos_sin_cache, positions, num_heads,
                           num_kv_heads, rotary_dim, eps, index_q_norm_weight, index_k_norm_weight,
                           num_index_heads, slot_mapping, index_slot_mapping, kv_cache, index_cache,
                           block_size, q_out, index_q_out, kv_cache_dtype, skip_index_branch,
                           q_fp8_out, q_fp8_scale, kv_k_scale, kv_v_scale, stream);
  });
}

vk_status vk_cuda_fused_muse_spark_qknorm_rope_kv_insert(
    const vk_tensor* qkv, const vk_tensor* positions, int64_t num_heads, int64_t num_kv_heads,
    int64_t head_dim, double eps, const vk_tensor* cos_sin_cache, int64_t rotary_dim,
    const vk_tensor* slot_mapping, const vk_tensor* kv_cache, int64_t block_size,
    const char* kv_cache_dtype, const vk_tensor* k_scale, const vk_tensor* v_scale,
    const vk_tensor* q_fp8_out, const vk_tensor* q_scale, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::MuseSpark(qkv, positions, num_heads, num_kv_heads, head_dim, eps, cos_sin_cache,
                             rotary_dim, slot_mapping, kv_cache, block_size, kv_cache_dtype,
                             k_scale, v_scale, q_fp8_out, q_scale, stream);
  });
}

vk_status vk_cuda_fused_qknorm_rope_cache(
    const vk_tensor* q_out, const vk_tensor* k_out, const vk_tensor* v_out, const vk_tensor* qkv,
    const vk_tensor* q_weight, const vk_tensor* k_weight, const vk_tensor* cos,
    const vk_tensor* sin, const vk_tensor* positions, const vk_tensor* slot_mapping,
    const vk_tensor* k_cache, const vk_tensor* v_cache, int64_t head_dim, int64_t num_q_heads,
    int64_t num_kv_heads, int64_t rotary_pairs, double epsilon, double norm_weight_bias,
    const char* kv_cache_dtype, const vk_tensor* k_scale, const vk_tensor* v_scale, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::QkNormRopeCache(q_out, k_out, v_out, qkv, q_weight, k_weight, cos, sin,
                                   positions, slot_mapping, k_cache, v_cache, head_dim, num_q_heads,
                                   num_kv_heads, rotary_pairs, epsilon, norm_weight_bias,
                                   kv_cache_dtype, k_scale, v_scale, stream);
  });
}

}  // extern "C"
