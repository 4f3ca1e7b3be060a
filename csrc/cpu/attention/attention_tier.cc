#include "cpu/attention/attention.h"

#include "cpu/attention/amx.h"
#include "cpu/attention/decode.h"
#include "cpu/attention/pair.h"
#include "cpu/attention/prefill.h"

namespace vk::VK_TIER {
namespace {

constexpr int32_t kTaskRows = 64;
// A multiple of the rows that stay in registers; query, output and logits leave the keys room in
// the L2 cache.
constexpr int32_t kLongTaskRows = 192;
// Steps start at multiples of this, so that sixteen keys never straddle two cache blocks.
constexpr int32_t kKeyMultiple = 16;

template <class T, class Engine>
void AttendWith(const AttentionProblem& problem, const AttentionTask& task, void* scratch,
                float* partial) {
  Arena arena(scratch);
  Tile tile(arena, task.tokens * problem.group, problem.head_size);
  Engine engine(arena, tile);
  [[maybe_unused]] const typename Engine::Scope scope{};
  tile.Start(problem, task);
  engine.Start(problem, task);
  const LogitRule rule(problem);
  const int32_t begin = task.key_begin / kKeyMultiple * kKeyMultiple;
  for (int32_t first = begin; first < task.key_end; first += Engine::kKeys) {
    engine.Step(problem, task, rule, first, HWY_MIN(Engine::kKeys, task.key_end - first));
  }
  engine.Finish();
  if (partial != nullptr) {
    WritePartial(tile, partial);
  } else {
    WriteOutput<T>(problem, task, tile);
  }
}

// The kernel for many rows of T.
template <class T>
struct PrefillOf {
  using Engine = Prefill<T, FloatPacking<T>>;
};
#if defined(__AMX_BF16__)
template <>
struct PrefillOf<hwy::bfloat16_t> {
  using Engine = PrefillAmx;
};
#elif defined(__AVX512BF16__)
template <>
struct PrefillOf<hwy::bfloat16_t> {
  using Engine = Prefill<hwy::bfloat16_t, PairPacking>;
};
#endif

template <class T>
void Attend(const AttentionProblem& problem, const AttentionTask& task, void* scratch,
            float* partial) {
  if (task.tokens * problem.group <= Decode<T>::kMaxRows) {
    AttendWith<T, Decode<T>>(problem, task, scratch, partial);
  } else {
    AttendWith<T, typename PrefillOf<T>::Engine>(problem, task, scratch, partial);
  }
}

template <class Engine>
size_t EngineBytes(int32_t head_size, int32_t rows) {
  Arena arena(nullptr);
  Tile tile(arena, rows, head_size);
  Engine engine(arena, tile);
  return arena.used();
}

// Enough for every dtype.
size_t ScratchBytes(int32_t head_size, int32_t rows) {
  size_t bytes = EngineBytes<Decode<float>>(head_size, rows);
  bytes = HWY_MAX(bytes, EngineBytes<PrefillOf<float>::Engine>(head_size, rows));
  return HWY_MAX(bytes, EngineBytes<PrefillOf<hwy::bfloat16_t>::Engine>(head_size, rows));
}

size_t FloatsOfPartial(int32_t head_size, int32_t rows) {
  return PartialFloats(rows, RoundUp(head_size, kHeadMultiple));
}

}  // namespace

extern const AttentionTable attention_table;
const AttentionTable attention_table = {
    kTaskRows,
    kLongTaskRows,
    kKeyMultiple,
    ScratchBytes,
    FloatsOfPartial,
    {Attend<float>, Attend<hwy::bfloat16_t>, Attend<hwy::float16_t>},
    {Merge<float>, Merge<hwy::bfloat16_t>, Merge<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
