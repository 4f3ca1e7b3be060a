#include "cuda/qkv/job.h"

#include <algorithm>
#include <cstring>

namespace vk::cuda::qkv {
namespace {

Scale ScaleOf(const char* op, const char* name, const vk_tensor* scale, bool multiply) {
  if (scale == nullptr) return Constant(1.0);
  const Arg arg(op, name, scale);
  arg.Dtype({VK_F32});
  VK_CHECK(NumElements(*scale) == 1, "%s: %s has shape %s, want one element", op, name,
           ShapeString(*scale).c_str());
  return {static_cast<const float*>(scale->data), 0.0f, multiply};
}

bool Aligned(const void* data, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0;
}

}  // namespace

Slots CheckSlots(const char* op, const char* name, const vk_tensor* slot_mapping) {
  if (slot_mapping == nullptr) return {};
  const Arg arg(op, name, slot_mapping);
  arg.Dtype({VK_I64}).Dims(1).Contiguous();
  return {static_cast<const int64_t*>(slot_mapping->data), arg.size(0)};
}

Format FormatOf(const char* op, const char* kv_cache_dtype) {
  const auto is = [&](const char* name) { return std::strcmp(kv_cache_dtype, name) == 0; };
  if (is("auto") || is("bfloat16") || is("float16")) return Format::kSame;
  if (is("fp8") || is("fp8_e4m3")) return Format::kE4M3;
  if (is("fp8_e5m2")) return Format::kE5M2;
  Fail(VK_UNSUPPORTED,
       "%s: kv_cache_dtype is \"%s\", want auto, bfloat16, float16, fp8, fp8_e4m3 or fp8_e5m2", op,
       kv_cache_dtype);
}

Scale DividesBy(const char* op, const char* name, const vk_tensor* scale) {
  return ScaleOf(op, name, scale, false);
}

Scale MultipliesBy(const char* op, const char* name, const vk_tensor* scale) {
  return ScaleOf(op, name, scale, true);
}

Job::Job(const char* op, const Arg& rows, int64_t tokens, double epsilon, void* stream)
    : op_(op), tokens_(tokens), dtype_(rows.tensor().dtype), stream_(AsStream(stream)) {
  rows.Dtype({VK_BF16, VK_F16});
  problem_.epsilon = static_cast<float>(epsilon);
}

void Job::Angles(const vk_tensor* cos_sin_cache, const vk_tensor* positions, const char* name) {
  const Arg both(op_, "cos_sin_cache", cos_sin_cache);
  both.Dims(2).LastDimContiguous();
  VK_CHECK(both.size(1) % 2 == 0, "%s: cos_sin_cache has shape %s, want an even width", op_,
           ShapeString(*cos_sin_cache).c_str());
  const int64_t pairs = both.size(1) / 2;
  vk_tensor cos = *cos_sin_cache;
  cos.shape[1] = pairs;
  vk_tensor sin = cos;
  sin.data = static_cast<char*>(sin.data) + pairs * both.ItemSize();
  Angles(&cos, &sin, pairs, positions, name);
}

void Job::Angles(const vk_tensor* cos, const vk_tensor* sin, int64_t pairs,
                 const vk_tensor* positions, const char* name) {
  const Arg cosines(op_, "cos", cos), sines(op_, "sin", sin), places(op_, name, positions);
  cosines.Dims(2).LastDimContiguous();
  const int32_t dtype = cos->dtype;
  VK_CHECK(dtype == VK_F32 || dtype == dtype_, "%s: cosines are %s, want float32 or %s", op_,
           DtypeName(dtype), DtypeName(dtype_));
  sines.SameDtype(cosines).Dims(2).Size(0, cosines.size(0)).LastDimContiguous();
  VK_CHECK(pairs > 0 && pairs % 4 == 0 && pairs <= kMaxWidth / 2 && pairs <= cosines.size(1) &&
               pairs <= sines.size(1),
           "%s: angles of %lld pairs in a width of %lld, want a multiple of 4 up to %d", op_,
           Print(pairs), Print(cosines.size(1)), kMaxWidth / 2);
  const int64_t four = 4 * cosines.ItemSize();
  VK_CHECK(Aligned(cos->data, four) && Aligned(sin->data, four) && cosines.stride(0) % 4 == 0 &&
               sines.stride(0) % 4 == 0,
           "%s: rows of cosines or sines do not start at multiples of 4 elements", op_);
  places.Dtype({VK_I64}).Dims(1).Contiguous();
  VK_CHECK(places.size(0) >= tokens_, "%s: %s has shape %s, want at least %lld", op_, name,
           ShapeString(*positions).c_str(), Print(tokens_));
  problem_.angles = {static_cast<const int64_t*>(positions->data),
                     cos->data,
                     sin->data,
                     cosines.stride(0),
                     sines.stride(0),
                     cosines.size(0),
                     dtype == VK_F32};
  half_ = static_cast<int32_t>(pairs);
}

Place Job::PlaceOf(const Arg& arg, int64_t heads, int64_t width, int64_t first) const {
  arg.MinDims(2).LastDimContiguous();
  const vk_tensor& tensor = arg.tensor();
  const bool apart = tensor.ndim == 3;
  VK_CHECK((tensor.ndim == 2 || (apart && arg.size(1) == heads)) && arg.size(0) == tokens_ &&
               arg.size(-1) >= first + (apart ? width : heads * width),
           "%s: %s has shape %s, want %lld tokens and %lld heads of %lld elements", op_, arg.name(),
           ShapeString(tensor).c_str(), Print(tokens_), Print(heads), Print(width));
  Place place = {};
  place.data = static_cast<char*>(tensor.data) + first * arg.ItemSize();
  place.token_stride = arg.stride(0);
  place.head_stride = apart ? arg.stride(1) : width;
  place.chunk_stride = kChunk;
  CheckPlace(arg, place, heads);
  return place;
}

void Job::CheckPlace(const Arg& arg, const Place& place, int64_t heads) const {
  VK_CHECK(Aligned(place.data, kVector * arg.ItemSize()) &&
               (tokens_ <= 1 || place.token_stride % kVector == 0) &&
               (heads <= 1 || place.head_stride % kVector == 0),
           "%s: rows of %s do not start at multiples of %d elements", op_, arg.name(), kVector);
}

Stream& Job::Add(const Arg& from, int64_t heads, int64_t width, int64_t first) {
  VK_CHECK(width > 0 && width <= kMaxWidth && width % kVector == 0,
           "%s: rows of %s have %lld elements, want a multiple of %d up to %d", op_, from.name(),
           Print(width), kVector, kMaxWidth);
  VK_CHECK(from.tensor().dtype == dtype_, "%s: %s is %s, want %s", op_, from.name(),
           DtypeName(from.tensor().dtype), DtypeName(dtype_));
  VK_CHECK(heads >= 0 && heads <= INT32_MAX, "%s: %s has %lld heads, want 0 or more", op_,
           from.name(), Print(heads));
  Stream& stream = problem_.streams[problem_.count++];
  stream.from = PlaceOf(from, heads, width, first);
  stream.width = static_cast<int32_t>(width);
  stream.real_heads = static_cast<uint32_t>(heads);
  Widen(stream, heads);
  return stream;
}

Stream& Job::AddShared(const Arg& from, int64_t heads, int64_t width) {
  Stream& stream = Add(from, 1, width);
  stream.from.head_stride = 0;
  stream.real_heads = static_cast<uint32_t>(heads);
  Widen(stream, heads);
  return stream;
}

void Job::Widen(Stream& stream, int64_t heads) const {
  VK_CHECK(heads <= INT32_MAX && tokens_ <= INT32_MAX / std::max<int64_t>(heads, 1),
           "%s: %lld tokens of %lld heads, want less than 2^31 rows", op_, Print(tokens_),
           Print(heads));
  stream.heads = FastDiv(static_cast<uint32_t>(std::max<int64_t>(heads, 1)));
  stream.count = static_cast<uint32_t>(tokens_ * heads);
}

Place Job::To(const Arg& to, int64_t heads, int64_t width, int64_t first) const {
  VK_CHECK(to.tensor().dtype == dtype_ || to.tensor().dtype == VK_F8E4M3,
           "%s: %s is %s, want %s or float8_e4m3fn", op_, to.name(), DtypeName(to.tensor().dtype),
           DtypeName(dtype_));
  return PlaceOf(to, heads, width, first);
}

void Job::Rotate(Stream& stream, int64_t first, bool neox) const {
  if (half_ == 0) return;
  VK_CHECK(first >= 0 && first % kVector == 0 && first + 2 * half_ <= stream.width &&
               (neox || 2 * half_ % kVector == 0),
           "%s: %d components from %lld on of rows of %d are to be rotated", op_, 2 * half_,
           Print(first), stream.width);
  stream.first = static_cast<int32_t>(first);
  stream.half = half_;
  stream.neox = neox;
}

void Job::Cache(Stream& stream, const Arg& cache, const Slots& slots, Format format,
                const Scale& scale, int32_t slot_dim, int32_t head_dim, int64_t first) const {
  const vk_tensor& tensor = cache.tensor();
  cache.LastDimContiguous();
  if (format == Format::kSame) {
    VK_CHECK(tensor.dtype == dtype_, "%s: %s is %s, want %s", op_, cache.name(),
             DtypeName(tensor.dtype), DtypeName(dtype_));
  } else if (format == Format::kE4M3) {
    cache.Dtype({VK_U8, VK_F8E4M3});
  } else {
    cache.Dtype({VK_U8});
  }
  const int64_t item = cache.ItemSize(), heads = stream.heads.divisor();
  const int64_t blocks = cache.size(0), block_size = cache.size(slot_dim);
  VK_CHECK(
      cache.size(-1) >= first + stream.width && (head_dim < 0 || cache.size(head_dim) == heads),
      "%s: %s has shape %s, want room for %lld heads of %d elements from %lld on", op_,
      cache.name(), ShapeString(tensor).c_str(), Print(heads), stream.width, Print(first));
  VK_CHECK(blocks <= INT32_MAX && block_size <= INT32_MAX && blocks * block_size <= INT32_MAX,
           "%s: %s has shape %s, want less than 2^31 slots", op_, cache.name(),
           ShapeString(tensor).c_str());
  Cached& to = stream.cached;
  to.data = static_cast<uint8_t*>(tensor.data) + first * item;
  to.block_bytes = cache.stride(0) * item;
  to.slot_bytes = cache.stride(slot_dim) * item;
  to.head_bytes = head_dim < 0 ? 0 : cache.stride(head_dim) * item;
  const int64_t vector = kVector * item;
  VK_CHECK(Aligned(to.data, vector) && (blocks <= 1 || to.block_bytes % vector == 0) &&
               (block_size <= 1 || to.slot_bytes % vector == 0) &&
               (heads <= 1 || to.head_bytes % vector == 0),
           "%s: rows of %s do not start at multiples of %d elements", op_, cache.name(), kVector);
  to.slots = slots.data;
  to.tokens = slots.count;
  to.slot_limit = blocks * block_size;
  to.block_size = FastDiv(static_cast<uint32_t>(std::max<int64_t>(block_size, 1)));
  to.format = format;
  to.scale = scale;
}

void Job::Run() { LaunchRows(op_, problem_, dtype_, stream_); }

}  // namespace vk::cuda::qkv
