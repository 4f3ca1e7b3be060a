#include "cpu/cache/cache.h"

#include <cstring>

#include "core/check.h"
#include "cpu/cache_coding.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace {

using vk::Arg;

constexpr const char* kOp = "cpu_attn_reshape_and_cache";

void CheckIsa(const char* isa) {
  for (const char* known : {"amx", "vec", "vec16", "neon", "vsx"}) {
    if (std::strcmp(isa, known) == 0) return;
  }
  vk::Fail(VK_INVALID_ARGUMENT, "%s: isa is \"%s\", want amx, vec, vec16, neon or vsx", kOp, isa);
}

// The keys or the values of all tokens, and their cache. Strides in bytes.
class Stream {
 public:
  Stream(const Arg& tokens, const Arg& cache, vk::CacheCoding coding, float scale)
      : from_(static_cast<const char*>(tokens.tensor().data)),
        to_(static_cast<char*>(cache.tensor().data)),
        dtype_(tokens.tensor().dtype),
        coding_(coding),
        scale_(scale) {
    tokens.Dims(3).LastDimContiguous();
    vk::CheckCoded(cache, tokens, coding);
    cache.Dims(4).LastDimContiguous();
    cache.Size(1, tokens.size(1)).Size(3, tokens.size(2));
    const int64_t bytes = vk::DtypeSize(dtype_);
    const int64_t cache_bytes = vk::DtypeSize(cache.tensor().dtype);
    heads_ = tokens.size(1);
    row_bytes_ = tokens.size(2) * bytes;
    row_size_ = tokens.size(2);
    token_stride_ = tokens.stride(0) * bytes;
    head_stride_ = tokens.stride(1) * bytes;
    block_stride_ = cache.stride(0) * cache_bytes;
    cache_head_stride_ = cache.stride(1) * cache_bytes;
    slot_stride_ = cache.stride(2) * cache_bytes;
    if (row_bytes_ == 0) heads_ = 0;  // however many there are
  }

  void Copy(const vk::CacheTable& table, int64_t token, int64_t block, int64_t slot) const {
    char* to = to_ + block * block_stride_ + slot * slot_stride_;
    const char* from = from_ + token * token_stride_;
    if (coding_ == vk::kCachePlain) {
      table.copy_rows(to, cache_head_stride_, from, head_stride_, heads_, row_bytes_);
    } else {
      table.encode_rows[coding_ - vk::kCacheE4m3][dtype_](to, cache_head_stride_, from,
                                                          head_stride_, heads_, row_size_, scale_);
    }
  }

  int64_t token_bytes() const { return heads_ * row_bytes_; }

 private:
  const char* from_;
  char* to_;
  int32_t dtype_;
  vk::CacheCoding coding_;
  float scale_;
  int64_t heads_, row_bytes_, row_size_, token_stride_, head_stride_;
  int64_t block_stride_, cache_head_stride_, slot_stride_;
};

void ReshapeAndCache(const vk_tensor* key, const vk_tensor* value, const vk_tensor* key_cache,
                     const vk_tensor* value_cache, const vk_tensor* slot_mapping, double k_scale,
                     double v_scale, vk::CacheCoding coding) {
  const Arg keys(kOp, "key", key), values(kOp, "value", value);
  const Arg cached_keys(kOp, "key_cache", key_cache), slots(kOp, "slot_mapping", slot_mapping);
  const Arg cached_values(kOp, "value_cache", value_cache);
  keys.Dtype({VK_F32, VK_BF16, VK_F16});
  const Stream key_stream(keys, cached_keys, coding,
                          vk::CheckedScale(kOp, "k_scale", k_scale, coding));
  const Stream value_stream(values.SameDtype(keys), cached_values, coding,
                            vk::CheckedScale(kOp, "v_scale", v_scale, coding));
  values.Size(0, keys.size(0)).Size(1, keys.size(1));
  cached_values.Size(0, cached_keys.size(0)).Size(2, cached_keys.size(2));
  slots.Dtype({VK_I64}).Dims(1).Contiguous();

  const int64_t block_size = cached_keys.size(2);
  const int64_t limit = cached_keys.size(0) * block_size;
  const int64_t tokens = std::min(keys.size(0), slots.size(0));
  const int64_t* slot = static_cast<const int64_t*>(slot_mapping->data);
  for (int64_t token = 0; token < tokens; ++token) {
    VK_CHECK(slot[token] >= -1 && slot[token] < limit,
             "%s: slot_mapping has %lld at index %lld, want -1 (skipped) or 0 to %lld (%lld blocks "
             "of %lld)",
             kOp, static_cast<long long>(slot[token]), static_cast<long long>(token),
             static_cast<long long>(limit - 1), static_cast<long long>(cached_keys.size(0)),
             static_cast<long long>(block_size));
  }
  const vk::CacheTable& table = *vk::Kernels().cache;
  const int64_t bytes = 2 * (key_stream.token_bytes() + value_stream.token_bytes());
  vk::ParallelFor(tokens, vk::GrainFor(bytes), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      if (slot[token] < 0) continue;
      const int64_t block = slot[token] / block_size;
      key_stream.Copy(table, token, block, slot[token] - block * block_size);
      value_stream.Copy(table, token, block, slot[token] - block * block_size);
    }
  });
}

}  // namespace

extern "C" vk_status vk_cpu_reshape_and_cache(const vk_tensor* key, const vk_tensor* value,
                                              const vk_tensor* key_cache,
                                              const vk_tensor* value_cache,
                                              const vk_tensor* slot_mapping, const char* isa,
                                              double k_scale, double v_scale,
                                              const char* kv_cache_dtype) {
  return vk::Guard([&] {
    CheckIsa(isa);
    ReshapeAndCache(key, value, key_cache, value_cache, slot_mapping, k_scale, v_scale,
                    vk::CodingOf(kOp, kv_cache_dtype));
  });
}
