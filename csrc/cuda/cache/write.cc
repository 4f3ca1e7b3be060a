#include <algorithm>
#include <cstring>

#include "cuda/cache/cache.h"
#include "cuda/cache/check.h"

namespace vk::cuda::cache {
namespace {

// A write as its arguments are checked.
class Writer {
 public:
  Writer(const char* op, const Arg& values, Format format, void* stream) : op_(op) {
    values.Dtype({VK_F32, VK_BF16, VK_F16});
    launch = {op, values.tensor().dtype, format, true, AsStream(stream), format != Format::kSame};
  }

  // The slots, and how many tokens are written.
  void Slots(const vk_tensor* slot_mapping, int64_t tokens, int64_t blocks, int64_t block_size) {
    const Arg slots(op_, "slot_mapping", slot_mapping);
    slots.Dtype({VK_I64}).Dims(1).Contiguous();
    CheckSlotLimit(op_, blocks * block_size);
    write.slots = static_cast<const int64_t*>(slot_mapping->data);
    write.slot_limit = blocks * block_size;
    write.block_size = FastDiv(static_cast<uint32_t>(std::max<int64_t>(block_size, 1)));
    tokens_ = std::min(tokens, slots.size(0));
  }

  // No slots: token t goes to row t.
  void Rows(int64_t tokens) {
    write.slot_limit = tokens_ = tokens;
    write.block_size = FastDiv(1);
  }

  void Heads(int64_t heads) {
    heads_ = heads;
    write.heads = FastDiv(static_cast<uint32_t>(std::max<int64_t>(heads, 1)));
  }

  // Rows of `width` elements. Strides of `from` by token and head, of `to` by block, slot and head.
  void Add(int index, const vk_tensor& from, const vk_tensor& to, int64_t to_offset, int64_t width,
           std::initializer_list<int64_t> from_strides, std::initializer_list<int64_t> to_strides,
           const float* scale = nullptr, int64_t scale_stride = 0) {
    Stream& stream = write.streams[index];
    const int64_t to_item = DtypeSize(to.dtype), from_item = DtypeSize(from.dtype);
    stream.from = from.data;
    stream.to = static_cast<char*>(to.data) + to_offset * to_item;
    stream.width = width;
    stream.scale = scale;
    stream.scale_stride = scale_stride;
    const int64_t* strides = from_strides.begin();
    stream.from_token_stride = strides[0];
    stream.from_head_stride = strides[1];
    strides = to_strides.begin();
    stream.to_block_stride = strides[0];
    stream.to_slot_stride = strides[1];
    stream.to_head_stride = strides[2];
    const int64_t vector = 16 / from_item;
    const auto aligned = [](const void* data, int64_t bytes, int64_t item, const auto& all) {
      return reinterpret_cast<uintptr_t>(data) % bytes == 0 &&
             std::all_of(all.begin(), all.end(),
                         [&](int64_t stride) { return stride * item % bytes == 0; });
    };
    launch.aligned = launch.aligned && width % vector == 0 &&
                     aligned(stream.from, 16, from_item, from_strides) &&
                     aligned(stream.to, vector * to_item, to_item, to_strides);
    launch.joined = launch.joined && launch.aligned && width % (2 * vector) == 0 &&
                    aligned(stream.to, 2 * vector * to_item, to_item, to_strides);
  }

  // Once all streams are there: how they are cut into pieces. `by_element`: not into vectors.
  void Cut(bool by_element = false) {
    const bool vectors = launch.aligned && !by_element;
    for (Stream& stream : write.streams) {
      const int64_t pieces = vectors ? stream.width * DtypeSize(launch.dtype) / 16 : stream.width;
      stream.pieces = FastDiv(static_cast<uint32_t>(std::max<int64_t>(pieces, 1)));
      stream.count = CheckCount(op_, tokens_ * heads_ * pieces);
    }
  }

  int64_t tokens() const { return tokens_; }

  Write write = {};
  Launch launch = {};

 private:
  const char* op_;
  int64_t tokens_ = 0, heads_ = 1;
};

// What both layouts of reshape_and_cache want of keys and values.
void CheckValues(const Arg& keys, const Arg& values) {
  keys.Dims(3).LastDimContiguous();
  values.SameDtype(keys).Dims(3).LastDimContiguous();
  values.Size(0, keys.size(0)).Size(1, keys.size(1));
}

void WriteFlash(const vk_tensor* key, const vk_tensor* value, const vk_tensor* key_cache,
                const vk_tensor* value_cache, const vk_tensor* slot_mapping,
                const char* kv_cache_dtype, const vk_tensor* k_scale, const vk_tensor* v_scale,
                void* stream) {
  const char* op = "reshape_and_cache_flash";
  const Format format = FormatOf(op, kv_cache_dtype);
  const Arg keys(op, "key", key), values(op, "value", value);
  const Arg cached_keys(op, "key_cache", key_cache), cached_values(op, "value_cache", value_cache);
  Writer writer(op, keys, format, stream);
  CheckValues(keys, values);
  cached_keys.Dims(4).LastDimContiguous();
  cached_keys.Size(2, keys.size(1)).Size(3, keys.size(2));
  cached_values.Dims(4).LastDimContiguous().Size(0, cached_keys.size(0));
  cached_values.Size(1, cached_keys.size(1)).Size(2, keys.size(1)).Size(3, values.size(2));
  CheckFormat(cached_keys, format, keys);
  CheckFormat(cached_values, format, keys);
  writer.Slots(slot_mapping, keys.size(0), cached_keys.size(0), cached_keys.size(1));
  writer.Heads(keys.size(1));
  const auto add = [&](int index, const Arg& from, const Arg& to, const char* scale_name,
                       const vk_tensor* scale) {
    int64_t scale_stride;
    const float* scales = CheckScale(op, scale_name, scale, format, keys.size(1), &scale_stride);
    writer.Add(index, from.tensor(), to.tensor(), 0, from.size(2), {from.stride(0), from.stride(1)},
               {to.stride(0), to.stride(1), to.stride(2)}, scales, scale_stride);
  };
  add(0, keys, cached_keys, "k_scale", k_scale);
  add(1, values, cached_values, "v_scale", v_scale);
  writer.Cut();
  LaunchWrite(writer.write, writer.launch);
}

void WriteOld(const vk_tensor* key, const vk_tensor* value, const vk_tensor* key_cache,
              const vk_tensor* value_cache, const vk_tensor* slot_mapping,
              const char* kv_cache_dtype, const vk_tensor* k_scale, const vk_tensor* v_scale,
              void* stream) {
  const char* op = "reshape_and_cache";
  const Format format = FormatOf(op, kv_cache_dtype);
  const Arg keys(op, "key", key), values(op, "value", value);
  const Arg cached_keys(op, "key_cache", key_cache), cached_values(op, "value_cache", value_cache);
  Writer writer(op, keys, format, stream);
  CheckValues(keys, values);
  values.Size(2, keys.size(2));
  cached_keys.Dims(5).Contiguous().Size(1, keys.size(1));
  const int64_t head_size = keys.size(2), x = cached_keys.size(4), block = cached_keys.size(3);
  VK_CHECK(x > 0 && cached_keys.size(2) * x == head_size,
           "%s: key_cache has shape %s, want [blocks, %lld, %lld / x, block_size, x]", op,
           ShapeString(*key_cache).c_str(), Print(keys.size(1)), Print(head_size));
  cached_values.Dims(4).Contiguous().Size(0, cached_keys.size(0)).Size(1, keys.size(1));
  cached_values.Size(2, head_size).Size(3, block);
  CheckFormat(cached_keys, format, keys);
  CheckFormat(cached_values, format, keys);
  writer.Slots(slot_mapping, keys.size(0), cached_keys.size(0), block);
  writer.Heads(keys.size(1));
  const auto add = [&](int index, const Arg& from, const Arg& to, const char* scale_name,
                       const vk_tensor* scale) {
    int64_t scale_stride;
    const float* scales = CheckScale(op, scale_name, scale, format, keys.size(1), &scale_stride);
    writer.Add(index, from.tensor(), to.tensor(), 0, head_size, {from.stride(0), from.stride(1)},
               {0, 0, 0}, scales, scale_stride);
  };
  add(0, keys, cached_keys, "k_scale", k_scale);
  add(1, values, cached_values, "v_scale", v_scale);
  writer.Cut(true);
  const OldLayout layout = {x, block, cached_keys.stride(0), cached_values.stride(0), head_size};
  LaunchWriteOld(writer.write, layout, writer.launch);
}

// Latents and rotated parts: [tokens, size] each.
void CheckLatents(const Arg& latents, const Arg& ropes) {
  latents.Dims(2).LastDimContiguous();
  ropes.SameDtype(latents).Dims(2).LastDimContiguous().Size(0, latents.size(0));
}

// A write of latents that has been checked.
struct MlaWrite {
  Writer writer;
  bool packed;

  void Run() const {
    if (packed) return LaunchWriteDsMla(writer.write, writer.launch);
    LaunchWrite(writer.write, writer.launch);
  }
};

MlaWrite CheckMlaWrite(const char* op, const vk_tensor* kv_c, const vk_tensor* k_pe,
                       const vk_tensor* kv_cache, const vk_tensor* slot_mapping,
                       const char* kv_cache_dtype, const vk_tensor* scale, void* stream) {
  const bool packed = std::strcmp(kv_cache_dtype, "fp8_ds_mla") == 0;
  const Format format = packed ? Format::kE4M3 : FormatOf(op, kv_cache_dtype);
  const Arg latents(op, "kv_c", kv_c), ropes(op, "k_pe", k_pe), cache(op, "kv_cache", kv_cache);
  Writer writer(op, latents, format, stream);
  CheckLatents(latents, ropes);
  cache.Dims(3).LastDimContiguous();
  CheckFormat(cache, format, latents);
  writer.Slots(slot_mapping, latents.size(0), cache.size(0), cache.size(1));
  const int64_t rank = latents.size(1), rope = ropes.size(1);
  const auto add = [&](int index, const Arg& from, int64_t offset, const float* scales) {
    writer.Add(index, from.tensor(), *kv_cache, offset, from.size(1), {from.stride(0), 0},
               {cache.stride(0), cache.stride(1), 0}, scales);
  };
  if (packed) {
    latents.Dtype({VK_BF16, VK_F16}).Size(1, 512);
    ropes.Size(1, 64);
    cache.Size(2, 656);
    VK_CHECK(reinterpret_cast<uintptr_t>(kv_cache->data) % 8 == 0 && cache.stride(0) % 8 == 0 &&
                 cache.stride(1) % 8 == 0,
             "%s: kv_cache's entries do not start at multiples of 8 bytes", op);
    add(0, latents, 0, nullptr);
    add(1, ropes, 0, nullptr);
    writer.write.streams[0].count = CheckCount(op, writer.tokens());
    return {writer, packed};
  }
  cache.Size(2, rank + rope);
  int64_t scale_stride;
  const float* scales = CheckScale(op, "scale", scale, format, 1, &scale_stride);
  add(0, latents, 0, scales);
  add(1, ropes, rank, scales);
  writer.Cut();
  return {writer, packed};
}

// Checks of the arguments that CheckMlaWrite() checks as well only what the rotation relies on.
void Rotate(const char* op, const vk_tensor* positions, const vk_tensor* q_pe,
            const vk_tensor* k_pe, const vk_tensor* kv_c, const vk_tensor* cos_sin_cache,
            bool is_neox, const vk_tensor* slot_mapping, const vk_tensor* kv_cache, void* stream) {
  const Arg latents(op, "kv_c", kv_c), key(op, "k_pe", k_pe), query(op, "q_pe", q_pe);
  const Arg angles(op, "cos_sin_cache", cos_sin_cache), cache(op, "kv_cache", kv_cache);
  latents.Dtype({VK_F32, VK_BF16, VK_F16});
  CheckLatents(latents, key);
  const int64_t tokens = key.size(0), rope = key.size(1);
  VK_CHECK(rope % 2 == 0, "%s: k_pe has shape %s, want an even last dimension", op,
           ShapeString(*k_pe).c_str());
  query.SameDtype(key).Dims(3).Size(0, tokens).Size(2, rope).LastDimContiguous();
  angles.Dims(2).Size(1, rope).LastDimContiguous();
  const bool float_angles = cos_sin_cache->dtype == VK_F32;
  if (!float_angles) angles.SameDtype(key);
  Arg(op, "positions", positions).Dtype({VK_I64}).Dims(1).Size(0, tokens).Contiguous();
  Arg(op, "slot_mapping", slot_mapping).Dtype({VK_I64}).Dims(1).Size(0, tokens).Contiguous();
  cache.Dims(3);
  Rotation rotation = {};
  rotation.query = q_pe->data;
  rotation.key = k_pe->data;
  rotation.angles = cos_sin_cache->data;
  rotation.positions = static_cast<const int64_t*>(positions->data);
  rotation.slots = static_cast<const int64_t*>(slot_mapping->data);
  rotation.query_token_stride = query.stride(0);
  rotation.query_head_stride = query.stride(1);
  rotation.key_stride = key.stride(0);
  rotation.angle_stride = angles.stride(0);
  rotation.query_heads = query.size(1);
  rotation.pairs = rope / 2;
  rotation.max_position = angles.size(0);
  rotation.slot_limit = cache.size(0) * cache.size(1);
  rotation.neox = is_neox;
  rotation.count = CheckCount(op, tokens * (query.size(1) + 1) * (rope / 2));
  if (rotation.count == 0) return;
  rotation.half = FastDiv(static_cast<uint32_t>(rope / 2));
  rotation.heads = FastDiv(static_cast<uint32_t>(query.size(1) + 1));
  LaunchRotation(rotation, float_angles, {op, k_pe->dtype, Format::kSame, false, AsStream(stream)});
}

void ConcatQuery(const vk_tensor* ql_nope, const vk_tensor* q_pe, const vk_tensor* q_out,
                 void* stream) {
  const char* op = "concat_mla_q";
  const Arg latents(op, "ql_nope", ql_nope), ropes(op, "q_pe", q_pe), out(op, "q_out", q_out);
  Writer writer(op, latents, Format::kSame, stream);
  latents.Dims(3).LastDimContiguous();
  ropes.SameDtype(latents).Dims(3).LastDimContiguous();
  ropes.Size(0, latents.size(0)).Size(1, latents.size(1));
  out.SameDtype(latents).Dims(3).LastDimContiguous();
  out.Size(0, latents.size(0)).Size(2, latents.size(2) + ropes.size(2));
  VK_CHECK(out.size(1) >= latents.size(1), "%s: q_out has shape %s, want at least %lld heads", op,
           ShapeString(*q_out).c_str(), Print(latents.size(1)));
  CheckSlotLimit(op, latents.size(0));
  writer.Rows(latents.size(0));
  writer.Heads(latents.size(1));
  const auto add = [&](int index, const Arg& from, int64_t offset) {
    writer.Add(index, from.tensor(), *q_out, offset, from.size(2), {from.stride(0), from.stride(1)},
               {out.stride(0), 0, out.stride(1)});
  };
  add(0, latents, 0);
  add(1, ropes, latents.size(2));
  writer.Cut();
  LaunchWrite(writer.write, writer.launch);
}

}  // namespace
}  // namespace vk::cuda::cache

extern "C" {

vk_status vk_cuda_reshape_and_cache_flash(const vk_tensor* key, const vk_tensor* value,
                                          const vk_tensor* key_cache, const vk_tensor* value_cache,
                                          const vk_tensor* slot_mapping, const char* kv_cache_dtype,
                                          const vk_tensor* k_scale, const vk_tensor* v_scale,
                                          void* stream) {
  return vk::Guard([&] {
    vk::cuda::cache::WriteFlash(key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype,
                                k_scale, v_scale, stream);
  });
}

vk_status vk_cuda_reshape_and_cache(const vk_tensor* key, const vk_tensor* value,
                                    const vk_tensor* key_cache, const vk_tensor* value_cache,
                                    const vk_tensor* slot_mapping, const char* kv_cache_dtype,
                                    const vk_tensor* k_scale, const vk_tensor* v_scale,
                                    void* stream) {
  return vk::Guard([&] {
    vk::cuda::cache::WriteOld(key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype,
                              k_scale, v_scale, stream);
  });
}

vk_status vk_cuda_concat_and_cache_mla(const vk_tensor* kv_c, const vk_tensor* k_pe,
                                       const vk_tensor* kv_cache, const vk_tensor* slot_mapping,
                                       const char* kv_cache_dtype, const vk_tensor* scale,
                                       void* stream) {
  return vk::Guard([&] {
    vk::cuda::cache::CheckMlaWrite("concat_and_cache_mla", kv_c, k_pe, kv_cache, slot_mapping,
                                   kv_cache_dtype, scale, stream)
        .Run();
  });
}

vk_status vk_cuda_concat_and_cache_mla_rope_fused(
    const vk_tensor* positions, const vk_tensor* q_pe, const vk_tensor* k_pe, const vk_tensor* kv_c,
    const vk_tensor* cos_sin_cache, bool is_neox, const vk_tensor* slot_mapping,
    const vk_tensor* kv_cache, const char* kv_cache_dtype, const vk_tensor* scale, void* stream) {
  return vk::Guard([&] {
    const char* op = "concat_and_cache_mla_rope_fused";
    // Checked before the rotation is launched.
    const auto write = vk::cuda::cache::CheckMlaWrite(op, kv_c, k_pe, kv_cache, slot_mapping,
                                                      kv_cache_dtype, scale, stream);
    vk::cuda::cache::Rotate(op, positions, q_pe, k_pe, kv_c, cos_sin_cache, is_neox, slot_mapping,
                            kv_cache, stream);
    write.Run();
  });
}

vk_status vk_cuda_concat_mla_q(const vk_tensor* ql_nope, const vk_tensor* q_pe,
                               const vk_tensor* q_out, void* stream) {
  return vk::Guard([&] { vk::cuda::cache::ConcatQuery(ql_nope, q_pe, q_out, stream); });
}

}  // extern "C"
