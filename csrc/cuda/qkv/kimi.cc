// Kimi K3's latent attention: what decode and prefill read, and the latent cache.
#include "cuda/qkv/job.h"
#include "cuda/qkv/qkv.h"

#include <cfloat>

namespace vk::cuda::qkv {
namespace {

// An entry in the format "fp8_ds_mla".
constexpr int64_t kDsRank = 512, kDsRope = 64, kDsTile = 128;
constexpr int64_t kDsRopeAt = kDsRank + kDsRank / kDsTile * int64_t{sizeof(float)};
constexpr int64_t kDsEntry = kDsRopeAt + 2 * kDsRope;

// The new tokens and the cache of their latents.
struct Latents {
  const vk_tensor *kv_c, *k_pe, *k_cache, *slot_mapping;
  int64_t block_size;
  Format format;  // kTiles: "fp8_ds_mla"
  Scale scale;
};

void RotateEnd(const Job& job, Stream& stream) {
  if (job.half() == 0) return;
  job.Rotate(stream, int64_t{stream.width} - 2 * job.half(), false);
}

void Angles(Job& job, const vk_tensor* position_ids, const vk_tensor* cos_sin_cache) {
  VK_CHECK((position_ids == nullptr) == (cos_sin_cache == nullptr),
           "%s: one of position_ids and cos_sin_cache alone", job.op());
  if (cos_sin_cache != nullptr) job.Angles(cos_sin_cache, position_ids, "position_ids");
}

// k_pe's rows, which are rotated.
Stream& AddRotated(Job& job, const Arg& k_pe, int64_t heads) {
  Stream& stream = job.AddShared(k_pe, heads, k_pe.size(1));
  RotateEnd(job, stream);
  return stream;
}

void Insert(Job& job, const Latents& latents) {
  const char* op = job.op();
  const Arg kv_c(op, "kv_c_normed", latents.kv_c), k_pe(op, "k_pe", latents.k_pe);
  const Arg cache(op, "k_cache", latents.k_cache);
  kv_c.Dims(2);
  k_pe.Dims(2);
  const Slots slots = CheckSlots(op, "slot_mapping", latents.slot_mapping);
  const int64_t rank = kv_c.size(1), rope = k_pe.size(1);
  Stream& latent = job.Add(kv_c, 1, rank);
  Stream& rotated = AddRotated(job, k_pe, 1);
  cache.Dims(3).Size(1, latents.block_size);
  if (latents.format != Format::kTiles) {
    cache.Size(2, rank + rope);
    job.Cache(latent, cache, slots, latents.format, latents.scale);
    job.Cache(rotated, cache, slots, latents.format, latents.scale, 1, -1, rank);
    return;
  }
  kv_c.Size(1, kDsRank);
  k_pe.Size(1, kDsRope);
  cache.Dtype({VK_U8}).Size(2, kDsEntry);
  VK_CHECK(reinterpret_cast<uintptr_t>(latents.k_cache->data) % 16 == 0 &&
               (cache.size(0) <= 1 || cache.stride(0) % 16 == 0) &&
               (cache.size(1) <= 1 || cache.stride(1) % 16 == 0),
           "%s: entries of k_cache do not start at multiples of 16 bytes", op);
  // Float8 by one scale has the bounds of both parts; what differs follows.
  job.Cache(latent, cache, slots, Format::kE4M3, Constant(1.0));
  job.Cache(rotated, cache, slots, Format::kE4M3, Constant(1.0), 1, -1, kDsRopeAt);
  rotated.cached.format = Format::kSame;
  Cached& tiled = latent.cached;
  tiled.format = Format::kTiles;
  tiled.powers = tiled.data + kDsRank;
  tiled.power_block_bytes = tiled.block_bytes;
  tiled.power_slot_bytes = tiled.slot_bytes;
  tiled.tile = kDsTile;
  tiled.tiled_width = kDsRank;
  tiled.least = FLT_MIN * 448.0f;  // of which the quotient is normal
  tiled.float_powers = true;
}

// `to` gets columns `first` on of the stream's heads, as `to`'s dtype wants it.
void Write(const Job& job, Stream& stream, const Arg& to, int64_t first, const Scale& scale) {
  const Place place = job.To(to, stream.heads.divisor(), stream.width, first);
  if (to.tensor().dtype == VK_F8E4M3) {
    stream.quantised = place;
    stream.scale = scale;
  } else {
    stream.same = place;
  }
}

struct Output {
  const char* name;
  const vk_tensor* tensor;
  bool float8;
  Scale scale;
};

Arg CheckOutput(const Job& job, const Output& output, const Arg& like, int64_t heads,
                int64_t width) {
  const Arg out(job.op(), output.name, output.tensor);
  if (output.float8) {
    out.Dtype({VK_F8E4M3});
  } else {
    out.SameDtype(like);
  }
  out.Dims(3).Size(0, job.tokens()).Size(1, heads).Size(2, width);
  return out;
}

void Decode(const char* op, const vk_tensor* ql_nope, const vk_tensor* q_pe, const Output& mqa_q,
            const Latents& latents, const vk_tensor* position_ids, const vk_tensor* cos_sin_cache,
            void* stream) {
  const Arg nope(op, "ql_nope", ql_nope), pe(op, "q_pe", q_pe);
  nope.Dims(3);
  pe.SameDtype(nope).Dims(3).Size(1, nope.size(1));
  const int64_t heads = nope.size(1), rank = nope.size(2), rope = pe.size(2);
  Job job(op, nope, nope.size(0), 0.0, stream);
  Angles(job, position_ids, cos_sin_cache);
  const Arg out = CheckOutput(job, mqa_q, nope, heads, rank + rope);
  Stream& left = job.Add(nope, heads, rank);
  Write(job, left, out, 0, mqa_q.scale);
  Stream& right = job.Add(pe, heads, rope);
  RotateEnd(job, right);
  Write(job, right, out, rank, mqa_q.scale);
  Insert(job, latents);
  job.Run();
}

// concat(k_nope, k_pe of each head)
void ConcatKey(Job& job, const Arg& nope, const Arg& pe, const Output& output) {
  nope.Dims(3);
  pe.Dims(2);
  const int64_t heads = nope.size(1);
  const Arg out = CheckOutput(job, output, nope, heads, nope.size(2) + pe.size(1));
  Stream& left = job.Add(nope, heads, nope.size(2));
  Write(job, left, out, 0, output.scale);
  Write(job, AddRotated(job, pe, heads), out, nope.size(2), output.scale);
}

void Prefill(const char* op, const vk_tensor* q, const vk_tensor* k_nope, const Output& key,
             const Latents& latents, const vk_tensor* position_ids, const vk_tensor* cos_sin_cache,
             void* stream) {
  const Arg queries(op, "q", q), nope(op, "k_nope", k_nope), pe(op, "k_pe", latents.k_pe);
  nope.Dims(3);
  Job job(op, nope, nope.size(0), 0.0, stream);
  Angles(job, position_ids, cos_sin_cache);
  queries.SameDtype(nope).Dims(3).Size(0, nope.size(0)).Size(1, nope.size(1));
  ConcatKey(job, nope, pe, key);
  if (job.half() > 0) {
    Stream& rotated = job.Add(queries, queries.size(1), queries.size(2));
    RotateEnd(job, rotated);
    rotated.same = rotated.from;
  }
  Insert(job, latents);
  job.Run();
}

void PrefillFp8(const char* op, const vk_tensor* q, const vk_tensor* k_nope, const vk_tensor* v,
                const Output& query, const Output& key, const Output& value, const Latents& latents,
                const vk_tensor* position_ids, const vk_tensor* cos_sin_cache, void* stream) {
  const Arg queries(op, "q", q), nope(op, "k_nope", k_nope), pe(op, "k_pe", latents.k_pe);
  const Arg values(op, "v", v);
  nope.Dims(3);
  queries.SameDtype(nope).Dims(3).Size(1, nope.size(1));
  values.SameDtype(nope).Dims(3).Size(1, nope.size(1));
  Job job(op, nope, nope.size(0), 0.0, stream);
  Angles(job, position_ids, cos_sin_cache);
  const auto add = [&](const Arg& from, const Output& output, bool rotate) {
    const Arg out = CheckOutput(job, output, nope, from.size(1), from.size(2));
    Stream& one = job.Add(from, from.size(1), from.size(2));
    if (rotate) RotateEnd(job, one);
    Write(job, one, out, 0, output.scale);
  };
  add(queries, query, true);
  ConcatKey(job, nope, pe, key);
  add(values, value, false);
  Insert(job, latents);
  job.Run();
}

void Context(const vk_tensor* k_nope, const vk_tensor* k_pe, const vk_tensor* k_out, void* stream) {
  const char* op = "fused_kimi_k3_mla_kv_concat";
  const Arg nope(op, "k_nope", k_nope), pe(op, "k_pe", k_pe);
  nope.Dims(3);
  Job job(op, nope, nope.size(0), 0.0, stream);
  ConcatKey(job, nope, pe, {"k_out", k_out, false, {}});
  job.Run();
}

// A tensor of bytes as one of half as many elements of `dtype`.
vk_tensor Halved(const char* op, const Arg& arg, int32_t dtype) {
  arg.LastDimContiguous();
  vk_tensor tensor = arg.tensor();
  tensor.dtype = dtype;
  const int32_t last = tensor.ndim - 1;
  bool even = tensor.shape[last] % 2 == 0;
  tensor.shape[last] /= 2;
  for (int32_t dim = 0; dim < last; ++dim) {
    even = even && tensor.stride[dim] % 2 == 0;
    tensor.stride[dim] /= 2;
  }
  VK_CHECK(even, "%s: %s has an odd number of bytes in a row", op, arg.name());
  return tensor;
}

void ContextFp8(const vk_tensor* k_nope, const vk_tensor* k_pe, const vk_tensor* v,
                const vk_tensor* k_fp8, const vk_tensor* v_fp8, void* stream) {
  const char* op = "fused_kimi_k3_mla_kv_concat_quant_fp8";
  const Arg nope(op, "k_nope", k_nope), pe(op, "k_pe", k_pe), values(op, "v", v);
  nope.Dims(3);
  values.SameDtype(nope).Dims(3);
  Job job(op, nope, nope.size(0), 0.0, stream);
  const Output key{"k_fp8", k_fp8, true, Constant(1.0)};
  const int64_t heads = nope.size(1);
  if (k_pe->dtype != VK_F8E4M3) {
    ConcatKey(job, nope, pe, key);
  } else {
    pe.Dims(2);
    const Arg out = CheckOutput(job, key, nope, heads, nope.size(2) + pe.size(1));
    Stream& left = job.Add(nope, heads, nope.size(2));
    Write(job, left, out, 0, key.scale);
    VK_CHECK(nope.size(2) % 2 == 0, "%s: k_nope has shape %s, want an even last dimension", op,
             ShapeString(*k_nope).c_str());
    const vk_tensor from = Halved(op, pe, k_nope->dtype), to = Halved(op, out, k_nope->dtype);
    const Arg pairs(op, "k_pe", &from), room(op, "k_fp8", &to);
    Stream& right = job.AddShared(pairs, heads, pairs.size(1));
    right.same = job.To(room, heads, pairs.size(1), nope.size(2) / 2);
  }
  const Arg out =
      CheckOutput(job, {"v_fp8", v_fp8, true, {}}, nope, values.size(1), values.size(2));
  Stream& last = job.Add(values, values.size(1), values.size(2));
  Write(job, last, out, 0, Constant(1.0));
  job.Run();
}

}  // namespace
}  // namespace vk::cuda::qkv

using vk::cuda::qkv::Format;
using vk::cuda::qkv::MultipliesBy;

extern "C" {

vk_status vk_cuda_fused_kimi_k3_mla_decode_q_concat_kv_cache_insert(
    const vk_tensor* ql_nope, const vk_tensor* q_pe, const vk_tensor* kv_c_normed,
    const vk_tensor* k_pe, const vk_tensor* mqa_q, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, int64_t cache_block_size, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::Decode(
        "fused_kimi_k3_mla_decode_q_concat_kv_cache_insert", ql_nope, q_pe,
        {"mqa_q", mqa_q, false, {}},
        {kv_c_normed, k_pe, k_cache, slot_mapping, cache_block_size, Format::kSame, {}},
        position_ids, cos_sin_cache, stream);
  });
}

vk_status vk_cuda_fused_kimi_k3_mla_decode_q_concat_ds_mla_insert(
    const vk_tensor* ql_nope, const vk_tensor* q_pe, const vk_tensor* kv_c_normed,
    const vk_tensor* k_pe, const vk_tensor* mqa_q, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, int64_t cache_block_size, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::Decode(
        "fused_kimi_k3_mla_decode_q_concat_ds_mla_insert", ql_nope, q_pe,
        {"mqa_q", mqa_q, false, {}},
        {kv_c_normed, k_pe, k_cache, slot_mapping, cache_block_size, Format::kTiles, {}},
        position_ids, cos_sin_cache, stream);
  });
}

vk_status vk_cuda_fused_kimi_k3_mla_decode_q_concat_kv_cache_fp8_insert(
    const vk_tensor* ql_nope, const vk_tensor* q_pe, const vk_tensor* kv_c_normed,
    const vk_tensor* k_pe, const vk_tensor* mqa_q, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, const vk_tensor* q_scale_inv, const vk_tensor* cache_scale_inv,
    int64_t cache_block_size, const vk_tensor* position_ids, const vk_tensor* cos_sin_cache,
    void* stream) {
  return vk::Guard([&] {
    const char* op = "fused_kimi_k3_mla_decode_q_concat_kv_cache_fp8_insert";
    vk::cuda::qkv::Decode(op, ql_nope, q_pe,
                          {"mqa_q", mqa_q, true, MultipliesBy(op, "q_scale_inv", q_scale_inv)},
                          {kv_c_normed, k_pe, k_cache, slot_mapping, cache_block_size,
                           Format::kE4M3, MultipliesBy(op, "cache_scale_inv", cache_scale_inv)},
                          position_ids, cos_sin_cache, stream);
  });
}

vk_status vk_cuda_fused_kimi_k3_mla_key_concat_kv_cache_insert(
    const vk_tensor* q, const vk_tensor* k_nope, const vk_tensor* k_pe,
    const vk_tensor* kv_c_normed, const vk_tensor* k_out, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, int64_t cache_block_size, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::Prefill(
        "fused_kimi_k3_mla_key_concat_kv_cache_insert", q, k_nope, {"k_out", k_out, false, {}},
        {kv_c_normed, k_pe, k_cache, slot_mapping, cache_block_size, Format::kSame, {}},
        position_ids, cos_sin_cache, stream);
  });
}

vk_status vk_cuda_fused_kimi_k3_mla_key_concat_ds_mla_insert(
    const vk_tensor* q, const vk_tensor* k_nope, const vk_tensor* k_pe,
    const vk_tensor* kv_c_normed, const vk_tensor* k_out, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, int64_t cache_block_size, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::Prefill(
        "fused_kimi_k3_mla_key_concat_ds_mla_insert", q, k_nope, {"k_out", k_out, false, {}},
        {kv_c_normed, k_pe, k_cache, slot_mapping, cache_block_size, Format::kTiles, {}},
        position_ids, cos_sin_cache, stream);
  });
}

vk_status vk_cuda_fused_kimi_k3_mla_qkv_quant_kv_cache_fp8_insert(
    const vk_tensor* q, const vk_tensor* k_nope, const vk_tensor* k_pe,
    const vk_tensor* kv_c_normed, const vk_tensor* v, const vk_tensor* q_fp8,
    const vk_tensor* k_fp8, const vk_tensor* v_fp8, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, const vk_tensor* q_scale_inv, const vk_tensor* k_scale_inv,
    const vk_tensor* v_scale_inv, const vk_tensor* cache_scale_inv, int64_t cache_block_size,
    const vk_tensor* position_ids, const vk_tensor* cos_sin_cache, void* stream) {
  return vk::Guard([&] {
    const char* op = "fused_kimi_k3_mla_qkv_quant_kv_cache_fp8_insert";
    vk::cuda::qkv::PrefillFp8(op, q, k_nope, v,
                              {"q_fp8", q_fp8, true, MultipliesBy(op, "q_scale_inv", q_scale_inv)},
                              {"k_fp8", k_fp8, true, MultipliesBy(op, "k_scale_inv", k_scale_inv)},
                              {"v_fp8", v_fp8, true, MultipliesBy(op, "v_scale_inv", v_scale_inv)},
                              {kv_c_normed, k_pe, k_cache, slot_mapping, cache_block_size,
                               Format::kE4M3, MultipliesBy(op, "cache_scale_inv", cache_scale_inv)},
                              position_ids, cos_sin_cache, stream);
  });
}

vk_status vk_cuda_fused_kimi_k3_mla_kv_concat(const vk_tensor* k_nope, const vk_tensor* k_pe,
                                              const vk_tensor* k_out, void* stream) {
  return vk::Guard([&] { vk::cuda::qkv::Context(k_nope, k_pe, k_out, stream); });
}

vk_status vk_cuda_fused_kimi_k3_mla_kv_concat_quant_fp8(const vk_tensor* k_nope,
                                                        const vk_tensor* k_pe, const vk_tensor* v,
                                                        const vk_tensor* k_fp8,
                                                        const vk_tensor* v_fp8, void* stream) {
  return vk::Guard([&] { vk::cuda::qkv::ContextFp8(k_nope, k_pe, v, k_fp8, v_fp8, stream); });
}

}  // extern "C"
