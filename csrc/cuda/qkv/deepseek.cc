// DeepSeek-V4's queries and latent keys.
#include "cuda/qkv/job.h"
#include "cuda/qkv/qkv.h"

namespace vk::cuda::qkv {
namespace {

constexpr int64_t kHead = 512;
constexpr float kLeastTile = 1e-4f;

// Bytes of a slot: float8 values, those that are not quantised, and the exponents.
constexpr int64_t kTiled = 448, kPackedSlot = kTiled + 2 * (kHead - kTiled), kPackedPowers = 8;
constexpr int64_t kMxTile = 32, kMxSlot = kHead + kHead / kMxTile;

void CheckKv(const Arg& kv) { kv.Dims(2).Size(1, kHead); }

void RotateEnd(const Job& job, Stream& stream) {
  job.Rotate(stream, kHead - 2 * job.half(), false);
}

// A cache of whole rows.
void CachePlain(const Job& job, Stream& stream, const Arg& cache, const Slots& slots,
                int64_t block_size, Format format, const Scale& scale) {
  cache.Dims(3).Size(1, block_size).Size(2, kHead);
  job.Cache(stream, cache, slots, format, scale);
}

void CachePacked(const Job& job, Stream& stream, const Arg& cache, const Slots& slots,
                 int64_t block_size, bool mxfp8) {
  const char* op = job.op();
  cache.Dtype({VK_U8}).LastDimContiguous();
  const vk_tensor& tensor = cache.tensor();
  const int64_t slot = mxfp8 ? kMxSlot : kPackedSlot + kPackedPowers;
  VK_CHECK(block_size > 0 && block_size <= INT32_MAX / slot, "%s: cache_block_size is %lld", op,
           Print(block_size));
  const bool flat = tensor.ndim == 2 && cache.size(1) >= block_size * slot;
  const bool by_slot = tensor.ndim == 3 && cache.size(1) == block_size && cache.size(2) == slot &&
                       (block_size == 1 || cache.stride(1) == slot);
  VK_CHECK(flat || by_slot,
           "%s: k_cache has shape %s, want [blocks, %lld * %lld] bytes, those of a block together",
           op, ShapeString(tensor).c_str(), Print(block_size), Print(slot));
  VK_CHECK(reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 &&
               (cache.size(0) <= 1 || cache.stride(0) % 16 == 0),
           "%s: blocks of k_cache do not start at multiples of 16 bytes", op);
  VK_CHECK(cache.size(0) <= INT32_MAX / block_size,
           "%s: k_cache has shape %s, want less than 2^31 slots", op, ShapeString(tensor).c_str());
  Cached& to = stream.cached;
  to.data = static_cast<uint8_t*>(tensor.data);
  to.block_bytes = to.power_block_bytes = cache.stride(0);
  to.slots = slots.data;
  to.tokens = slots.count;
  to.slot_limit = cache.size(0) * block_size;
  to.block_size = FastDiv(static_cast<uint32_t>(block_size));
  to.format = Format::kTiles;
  to.least = kLeastTile;
  if (mxfp8) {
    to.slot_bytes = to.power_slot_bytes = kMxSlot;
    to.powers = to.data + kHead;
    to.tile = kMxTile;
    to.tiled_width = kHead;
  } else {
    to.slot_bytes = kPackedSlot;
    to.power_slot_bytes = kPackedPowers;
    to.powers = to.data + block_size * kPackedSlot;
    to.tile = 64;
    to.tiled_width = kTiled;
    to.pad_powers = true;
  }
}

// q's heads, which are normed and rotated.
Stream& AddQueries(Job& job, const Arg& queries, bool norm) {
  queries.Dims(3).Size(2, kHead);
  Stream& stream = job.Add(queries, queries.size(1), kHead);
  stream.norm = norm;
  RotateEnd(job, stream);
  return stream;
}

void FullBf16(const vk_tensor* q, const vk_tensor* kv, const vk_tensor* k_cache,
              const vk_tensor* slot_mapping, const vk_tensor* position_ids,
              const vk_tensor* cos_sin_cache, double eps, int64_t block_size, bool norm,
              void* stream) {
  const char* op = "fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert";
  const Arg queries(op, "q", q), latents(op, "kv", kv), cache(op, "k_cache", k_cache);
  CheckKv(latents);
  Job job(op, queries, latents.size(0), eps, stream);
  job.Angles(cos_sin_cache, position_ids, "position_ids");
  Stream& heads = AddQueries(job, queries, norm);
  heads.same = heads.from;
  Stream& keys = job.Add(latents, 1, kHead);
  RotateEnd(job, keys);
  CachePlain(job, keys, cache, CheckSlots(op, "slot_mapping", slot_mapping), block_size,
             Format::kSame, Constant(1.0));
  job.Run();
}

void FullFp8(const vk_tensor* q, const vk_tensor* kv, const vk_tensor* q_fp8,
             const vk_tensor* k_cache, const vk_tensor* slot_mapping, const vk_tensor* position_ids,
             const vk_tensor* cos_sin_cache, const vk_tensor* fp8_scale,
             const vk_tensor* q_fp8_scale_inv, double eps, int64_t block_size, bool norm,
             void* stream) {
  const char* op = "fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_fp8_insert";
  const Arg queries(op, "q", q), latents(op, "kv", kv), cache(op, "k_cache", k_cache);
  const Arg out(op, "q_fp8", q_fp8);
  CheckKv(latents);
  Job job(op, queries, latents.size(0), eps, stream);
  job.Angles(cos_sin_cache, position_ids, "position_ids");
  Stream& heads = AddQueries(job, queries, norm);
  out.Dtype({VK_F8E4M3}).SameShape(queries);
  heads.quantised = job.To(out, queries.size(1), kHead);
  heads.scale = MultipliesBy(op, "q_fp8_scale_inv", q_fp8_scale_inv);
  heads.exact = true;
  Stream& keys = job.Add(latents, 1, kHead);
  RotateEnd(job, keys);
  CachePlain(job, keys, cache, CheckSlots(op, "slot_mapping", slot_mapping), block_size,
             Format::kE4M3, DividesBy(op, "fp8_scale", fp8_scale));
  job.Run();
}

// The heads of a token in chunks of kChunk elements, those of all heads next to each other.
void Interleave(Place& place, int64_t heads) {
  place.head_stride = kChunk;
  place.chunk_stride = heads * kChunk;
}

void Packed(const char* op, const vk_tensor* q_in, const vk_tensor* kv, const vk_tensor* q_out,
            const vk_tensor* k_cache, const vk_tensor* slot_mapping, const vk_tensor* position_ids,
            const vk_tensor* cos_sin_cache, int64_t padded, double eps, int64_t block_size,
            bool norm, bool mxfp8, bool rope, bool interleaved, void* stream) {
  const Arg queries(op, "q_in", q_in), latents(op, "kv", kv), cache(op, "k_cache", k_cache);
  CheckKv(latents);
  Job job(op, queries, latents.size(0), eps, stream);
  job.Angles(cos_sin_cache, position_ids, "position_ids");
  queries.Dims(3).Size(2, kHead);
  const int64_t heads = queries.size(1);
  VK_CHECK(padded == 0 || padded >= heads,
           "%s: q_head_padded is %lld, want 0 or at least q_in's %lld heads", op, Print(padded),
           Print(heads));
  if (padded > 0) {
    const Arg out(op, "q_out", q_out);
    out.SameDtype(queries).Dims(3).Size(1, padded).Size(2, kHead);
    Stream& rows = job.Add(queries, heads, kHead);
    rows.norm = norm;
    if (rope) RotateEnd(job, rows);
    rows.same = job.To(out, padded, kHead);
    // Rows past the heads are zeros.
    job.Widen(rows, padded);
    if (interleaved) {
      VK_CHECK(
          (heads <= 1 || queries.stride(1) == kHead) && (padded <= 1 || out.stride(1) == kHead),
          "%s: the heads of q_in or q_out do not follow each other", op);
      Interleave(rows.from, heads);
      Interleave(rows.same, padded);
    }
  }
  Stream& keys = job.Add(latents, 1, kHead);
  RotateEnd(job, keys);
  CachePacked(job, keys, cache, CheckSlots(op, "slot_mapping", slot_mapping), block_size, mxfp8);
  job.Run();
}

void KeysOnly(const vk_tensor* kv, const vk_tensor* k_cache, const vk_tensor* slot_mapping,
              const vk_tensor* position_ids, const vk_tensor* cos_sin_cache, int64_t block_size,
              const vk_tensor* fp8_scale, bool mxfp8, void* stream) {
  const char* op = "fused_deepseek_v4_kv_rope_insert";
  const Arg latents(op, "kv", kv), cache(op, "k_cache", k_cache);
  CheckKv(latents);
  Job job(op, latents, latents.size(0), 0.0, stream);
  job.Angles(cos_sin_cache, position_ids, "position_ids");
  Stream& keys = job.Add(latents, 1, kHead);
  RotateEnd(job, keys);
  const Slots slots = CheckSlots(op, "slot_mapping", slot_mapping);
  if (k_cache->dtype == VK_U8) {
    CachePacked(job, keys, cache, slots, block_size, mxfp8);
  } else if (k_cache->dtype == VK_F8E4M3) {
    CachePlain(job, keys, cache, slots, block_size, Format::kE4M3,
               DividesBy(op, "fp8_scale", fp8_scale));
  } else {
    CachePlain(job, keys, cache, slots, block_size, Format::kSame, Constant(1.0));
  }
  job.Run();
}

}  // namespace
}  // namespace vk::cuda::qkv

extern "C" {

vk_status vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert(
    const vk_tensor* q, const vk_tensor* kv, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, const vk_tensor* position_ids, const vk_tensor* cos_sin_cache,
    double eps, int64_t cache_block_size, bool apply_q_norm, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::FullBf16(q, kv, k_cache, slot_mapping, position_ids, cos_sin_cache, eps,
                            cache_block_size, apply_q_norm, stream);
  });
}

vk_status vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_fp8_insert(
    const vk_tensor* q, const vk_tensor* kv, const vk_tensor* q_fp8, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, const vk_tensor* position_ids, const vk_tensor* cos_sin_cache,
    const vk_tensor* fp8_scale, const vk_tensor* q_fp8_scale_inv, double eps,
    int64_t cache_block_size, bool apply_q_norm, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::FullFp8(q, kv, q_fp8, k_cache, slot_mapping, position_ids, cos_sin_cache,
                           fp8_scale, q_fp8_scale_inv, eps, cache_block_size, apply_q_norm, stream);
  });
}

vk_status vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert(
    const char* op, const vk_tensor* q_in, const vk_tensor* kv, const vk_tensor* q_out,
    const vk_tensor* k_cache, const vk_tensor* slot_mapping, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, int64_t q_head_padded, double eps, int64_t cache_block_size,
    bool apply_q_norm, bool kv_mxfp8, bool apply_q_rope, bool is_q_interleaved, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::Packed(op, q_in, kv, q_out, k_cache, slot_mapping, position_ids, cos_sin_cache,
                          q_head_padded, eps, cache_block_size, apply_q_norm, kv_mxfp8,
                          apply_q_rope, is_q_interleaved, stream);
  });
}

vk_status vk_cuda_fused_deepseek_v4_kv_rope_insert(
    const vk_tensor* kv, const vk_tensor* k_cache, const vk_tensor* slot_mapping,
    const vk_tensor* position_ids, const vk_tensor* cos_sin_cache, int64_t cache_block_size,
    const vk_tensor* fp8_scale, bool kv_mxfp8, void* stream) {
  return vk::Guard([&] {
    vk::cuda::qkv::KeysOnly(kv, k_cache, slot_mapping, position_ids, cos_sin_cache,
                            cache_block_size, fp8_scale, kv_mxfp8, stream);
  });
}

}  // extern "C"
