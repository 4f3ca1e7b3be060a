#include "cpu/gated_delta_rule/gated_delta_rule.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"
#include "cpu/sequences.h"

namespace {

using vk::Arg;
using vk::DeltaRule;
using vk::DeltaSequence;
using vk::Print;

// A state of this many columns or rows is no model's, and keeps products of sizes in range.
constexpr int64_t kLargestHead = 1024;

const vk::GatedDeltaRuleTable& Table() { return *vk::Kernels().gated_delta_rule; }

// Memory of a call, which outlives what the threads of the pool keep for themselves.
class Floats {
 public:
  explicit Floats(int64_t count) {
    int64_t bytes;
    VK_CHECK(vk::Multiply<int64_t>(std::max<int64_t>(count, 1), sizeof(float), &bytes),
             "gated delta rule: %lld values pass int64", Print(count));
    memory_ = vk::AllocateBytes(bytes);
  }
  float* get() const { return reinterpret_cast<float*>(memory_.get()); }

 private:
  vk::Bytes memory_;
};

// [heads] as float32, of float32 or of the dtype of `like`.
std::vector<float> PerHead(const char* op, const char* name, const vk_tensor* tensor,
                           const Arg& like, int64_t heads) {
  const Arg arg(op, name, tensor);
  if (tensor->dtype != VK_F32) arg.SameDtype(like);
  arg.Dims(1).Size(0, heads).Contiguous();
  std::vector<float> values(heads);
  Table().widen[tensor->dtype](values.data(), tensor->data, heads);
  return values;
}

// What gating takes.
struct Gates {
  const vk_tensor *a_log, *dt_bias;  // [heads]
  const vk_tensor *a, *b;            // [tokens, heads]
  double softplus_beta = 1.0, threshold = 20.0;
};

void CheckGates(const char* op, const Gates& gates) {
  const Arg a(op, "a", gates.a), b(op, "b", gates.b);
  a.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
  b.SameDtype(a).SameShape(a).LastDimContiguous();
  VK_CHECK(std::isfinite(gates.softplus_beta) && static_cast<float>(gates.softplus_beta) != 0.0f,
           "%s: softplus_beta is %g, want a finite number other than 0", op, gates.softplus_beta);
}

// g and beta, [tokens, heads].
void Gate(const char* op, const Gates& gates, float* g, float* beta) {
  const vk_tensor &a = *gates.a, &b = *gates.b;
  const int64_t tokens = a.shape[0], heads = a.shape[1];
  const Arg like(op, "a", gates.a);
  const std::vector<float> logs = PerHead(op, "A_log", gates.a_log, like, heads);
  const std::vector<float> bias = PerHead(op, "dt_bias", gates.dt_bias, like, heads);
  const auto kernel = Table().gating[a.dtype];
  if (heads == 0) return;
  vk::ParallelFor(tokens, vk::GrainFor(heads * 64), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      kernel(g + t * heads, beta + t * heads, logs.data(), bias.data(), vk::RowAt(a, t),
             vk::RowAt(b, t), heads, static_cast<float>(gates.softplus_beta),
             static_cast<float>(gates.threshold));
    }
  });
}

// [tokens, heads, width], from behind a leading dimension of 1 where there is one.
vk::DeltaRows RowsOf(const vk_tensor* tensor) {
  const int32_t at = tensor->ndim - 3;
  return {static_cast<char*>(tensor->data), tensor->stride[at], tensor->stride[at + 1],
          tensor->stride[at + 2]};
}

struct Tensors {
  const char* op;
  const vk_tensor *out, *q, *k, *v, *states;
  const char* states_name;
};

// The call's shapes; q, k and v are [tokens, heads, width] behind a leading 1 or without.
DeltaRule Checked(const Tensors& call) {
  const char* op = call.op;
  const Arg q(op, "query", call.q), k(op, "key", call.k), v(op, "value", call.v);
  q.Dtype({VK_F32, VK_BF16, VK_F16});
  VK_CHECK(call.q->ndim == 3 || (call.q->ndim == 4 && call.q->shape[0] == 1),
           "%s: query has shape %s, want [1, tokens, heads, size]", op,
           vk::ShapeString(*call.q).c_str());
  k.SameDtype(q).SameShape(q);
  v.SameDtype(q).Dims(call.q->ndim).Size(0, q.size(0)).Size(-3, q.size(-3));
  Arg(op, "out", call.out).SameDtype(q).SameShape(v);
  const int64_t key_heads = q.size(-2), value_heads = v.size(-2);
  VK_CHECK(key_heads > 0 && value_heads % key_heads == 0,
           "%s: value has %lld heads and key %lld, want a multiple of the key's", op,
           Print(value_heads), Print(key_heads));
  VK_CHECK(q.size(-1) >= 1 && q.size(-1) <= kLargestHead && v.size(-1) >= 1 &&
               v.size(-1) <= kLargestHead,
           "%s: heads have size %lld and values %lld, want 1 to %lld", op, Print(q.size(-1)),
           Print(v.size(-1)), Print(kLargestHead));
  const Arg states(op, call.states_name, call.states);
  if (call.states->dtype != VK_F32) states.SameDtype(q);
  states.Dims(4).Size(1, value_heads).Size(2, q.size(-1)).Size(3, v.size(-1));
  const int64_t of_head = q.size(-1) * v.size(-1);
  VK_CHECK(states.stride(3) == 1 && states.stride(2) == v.size(-1) &&
               (value_heads == 1 || states.stride(1) == of_head),
           "%s: %s has gaps within a slot, want none", op, call.states_name);
  DeltaRule rule{};
  rule.q = RowsOf(call.q), rule.k = RowsOf(call.k), rule.v = RowsOf(call.v);
  rule.out = RowsOf(call.out);
  rule.states = static_cast<char*>(call.states->data);
  rule.slot_stride = call.states->stride[0];
  rule.value_heads = value_heads, rule.group = value_heads / key_heads;
  rule.key_size = q.size(-1), rule.value_size = v.size(-1);
  rule.scale = 1.0f / std::sqrt(static_cast<float>(rule.key_size));
  return rule;
}

// A head of all sequences is one task: of two with one slot the second sees what the first has
// left.
void Run(const DeltaRule& rule, const std::vector<DeltaSequence>& sequences, int32_t states_dtype,
         int32_t dtype) {
  const auto attend = Table().attend[states_dtype][dtype];
  const size_t bytes = Table().scratch_floats(rule.key_size, rule.value_size) * sizeof(float);
  int64_t tokens = 0;
  for (const DeltaSequence& one : sequences) tokens += one.tokens;
  if (tokens == 0) return;
  const int64_t moved = rule.key_size * rule.value_size * (tokens + 1) * 4;
  vk::ParallelFor(rule.value_heads, vk::GrainFor(moved), [&](int64_t begin, int64_t end) {
    float* scratch = reinterpret_cast<float*>(vk::ThreadScratch(bytes));
    for (int64_t head = begin; head < end; ++head) {
      for (const DeltaSequence& one : sequences) attend(rule, one, head, scratch);
    }
  });
}

const int32_t* Slots(const Arg& slots, int32_t dims, int64_t sequences) {
  slots.Dtype({VK_I32}).Dims(dims).Size(0, sequences);
  if (dims == 2) slots.LastDimContiguous();
  return static_cast<const int32_t*>(slots.tensor().data);
}

void CheckSlot(const char* op, const char* name, int64_t slot, int64_t at, int64_t slots) {
  VK_CHECK(slot < slots, "%s: %s has %lld at index %lld, want at most %lld, the last slot", op,
           name, Print(slot), Print(at), Print(slots - 1));
}

// The sequences that have a slot.
std::vector<DeltaSequence> WithSlots(const Arg& starts, const Arg& slots, const char* op,
                                     int64_t tokens, const vk_tensor& states) {
  const int64_t count = vk::CheckStarts(starts, op, tokens);
  const auto* start = static_cast<const int32_t*>(starts.tensor().data);
  const int32_t* slot = Slots(slots, 1, count);
  std::vector<DeltaSequence> found;
  for (int64_t s = 0; s < count; ++s) {
    const int64_t own = slot[s * slots.stride(0)];
    CheckSlot(op, slots.name(), own, s, states.shape[0]);
    if (own < 0 || start[s] == start[s + 1]) continue;
    found.push_back({start[s], start[s + 1] - start[s], own, nullptr});
  }
  return found;
}

// Of a call with gates for each of its tokens.
DeltaRule CheckedGated(const Tensors& call, const Gates& gates, int32_t normalise) {
  CheckGates(call.op, gates);
  DeltaRule rule = Checked(call);
  const int64_t tokens = Arg(call.op, "query", call.q).size(-3);
  Arg(call.op, "a", gates.a).Size(0, tokens).Size(1, rule.value_heads);
  rule.normalise = normalise != 0;
  return rule;
}

void RunGated(DeltaRule& rule, const Tensors& call, const Gates& gates,
              const std::vector<DeltaSequence>& sequences) {
  const int64_t values = vk::NumElements(*gates.a);
  const Floats g(values), beta(values);
  Gate(call.op, gates, g.get(), beta.get());
  Table().exp(g.get(), values);
  rule.decay = g.get(), rule.beta = beta.get();
  rule.epsilon = 1e-5f;
  Run(rule, sequences, call.states->dtype, call.q->dtype);
}

}  // namespace

extern "C" {

vk_status vk_cpu_fused_gdn_gating(const vk_tensor* g, const vk_tensor* beta, const vk_tensor* A_log,
                                  const vk_tensor* a, const vk_tensor* b,
                                  const vk_tensor* dt_bias) {
  return vk::Guard([&] {
    const char* op = "fused_gdn_gating_cpu";
    const Gates gates{A_log, dt_bias, a, b};
    CheckGates(op, gates);
    const Arg logs(op, "g", g), shares(op, "beta", beta);
    logs.Dtype({VK_F32}).Dims(3).Size(1, a->shape[0]).Size(2, a->shape[1]).Contiguous();
    shares.SameDtype(Arg(op, "b", b)).SameShape(logs).Contiguous();
    const int64_t values = vk::NumElements(*g);
    const Floats wide(values);
    Gate(op, gates, static_cast<float*>(g->data), wide.get());
    Table().narrow[b->dtype](beta->data, wide.get(), values);
  });
}

vk_status vk_cpu_chunk_gated_delta_rule(const vk_tensor* out, const vk_tensor* final,
                                        const vk_tensor* q, const vk_tensor* k, const vk_tensor* v,
                                        const vk_tensor* g, const vk_tensor* beta,
                                        const vk_tensor* states, const vk_tensor* starts,
                                        int32_t head_first, int32_t normalise,
                                        const vk_tensor* slots, double epsilon) {
  return vk::Guard([&] {
    const Tensors call{"chunk_gated_delta_rule_cpu", out, q, k, v, states, "initial_state"};
    VK_CHECK(!head_first, "%s: head_first is true, want tokens before heads", call.op);
    DeltaRule rule = Checked(call);
    const Arg like(call.op, "query", q);
    const int64_t tokens = like.size(-3);
    const std::vector<DeltaSequence> sequences =
        WithSlots(Arg(call.op, "cu_seqlens", starts), Arg(call.op, "initial_state_indices", slots),
                  call.op, tokens, *states);
    if (final != nullptr) {
      const Arg last(call.op, "final", final);
      last.Dtype({VK_F32}).Dims(4).Size(1, rule.value_heads).Size(2, rule.key_size);
      last.Size(3, rule.value_size).Contiguous();
    }
    const auto gate = [&](const char* name, const vk_tensor* tensor) {
      const Arg arg(call.op, name, tensor);
      if (tensor->dtype != VK_F32) arg.SameDtype(like);
      arg.Dims(q->ndim - 1).Size(0, like.size(0)).Size(-2, tokens).Size(-1, rule.value_heads);
      arg.Contiguous();
      Floats values(tokens * rule.value_heads);
      Table().widen[tensor->dtype](values.get(), tensor->data, tokens * rule.value_heads);
      return values;
    };
    const Floats decay = gate("g", g), share = gate("beta", beta);
    Table().exp(decay.get(), tokens * rule.value_heads);
    rule.decay = decay.get(), rule.beta = share.get();
    rule.epsilon = static_cast<float>(epsilon), rule.normalise = normalise != 0;
    Run(rule, sequences, states->dtype, q->dtype);
    if (final == nullptr) return;
    const int64_t size = rule.value_heads * rule.key_size * rule.value_size;
    const auto* slot = static_cast<const int32_t*>(slots->data);
    for (int64_t s = 0; s < std::min(final->shape[0], slots->shape[0]); ++s) {
      const int64_t own = slot[s * slots->stride[0]];
      if (own < 0) continue;
      Table().widen[states->dtype](static_cast<float*>(final->data) + s * size,
                                   vk::RowAt(*states, own), size);
    }
  });
}

vk_status vk_cpu_gated_delta_rule_update(const vk_tensor* out, const vk_tensor* A_log,
                                         const vk_tensor* dt_bias, const vk_tensor* q,
                                         const vk_tensor* k, const vk_tensor* v, const vk_tensor* a,
                                         const vk_tensor* b, const vk_tensor* states,
                                         const vk_tensor* slots, const vk_tensor* starts,
                                         int32_t normalise, double softplus_beta,
                                         double threshold) {
  return vk::Guard([&] {
    const Tensors call{
        "fused_sigmoid_gating_delta_rule_update_cpu", out, q, k, v, states, "initial_state_source"};
    const Gates gates{A_log, dt_bias, a, b, softplus_beta, threshold};
    DeltaRule rule = CheckedGated(call, gates, normalise);
    const std::vector<DeltaSequence> sequences =
        WithSlots(Arg(call.op, "cu_seqlens", starts), Arg(call.op, "initial_state_indices", slots),
                  call.op, a->shape[0], *states);
    RunGated(rule, call, gates, sequences);
  });
}

vk_status vk_cpu_gated_delta_rule_update_spec(
    const vk_tensor* out, const vk_tensor* A_log, const vk_tensor* dt_bias, const vk_tensor* q,
    const vk_tensor* k, const vk_tensor* v, const vk_tensor* a, const vk_tensor* b,
    const vk_tensor* states, const vk_tensor* slots, const vk_tensor* accepted,
    const vk_tensor* starts, int32_t normalise, double softplus_beta, double threshold) {
  return vk::Guard([&] {
    const Tensors call{"fused_sigmoid_gating_delta_rule_update_spec_cpu",
                       out,
                       q,
                       k,
                       v,
                       states,
                       "initial_state_source"};
    const Gates gates{A_log, dt_bias, a, b, softplus_beta, threshold};
    DeltaRule rule = CheckedGated(call, gates, normalise);
    const Arg first(call.op, "cu_seqlens", starts), places(call.op, "spec_state_indices", slots);
    const int64_t count = vk::CheckStarts(first, call.op, a->shape[0]);
    const int32_t* slot = Slots(places, 2, count);
    const Arg counts(call.op, "num_accepted_tokens", accepted);
    const int32_t* taken = Slots(counts.Contiguous(), 1, count);
    const auto* start = static_cast<const int32_t*>(starts->data);
    std::vector<DeltaSequence> sequences;
    for (int64_t s = 0; s < count; ++s) {
      const int64_t drafted = start[s + 1] - start[s], columns = places.size(1);
      if (drafted == 0) continue;
      VK_CHECK(drafted <= columns && taken[s] >= 1 && taken[s] <= columns,
               "%s: sequence %lld has %lld tokens and num_accepted_tokens %d, want at most %lld of "
               "either and 1 or more accepted, by spec_state_indices",
               call.op, Print(s), Print(drafted), taken[s], Print(columns));
      const int32_t* row = slot + s * places.stride(0);
      for (int64_t i = 0; i < columns; ++i) {
        CheckSlot(call.op, "spec_state_indices", row[i], s * columns + i, states->shape[0]);
      }
      const int64_t from = row[taken[s] - 1];
      if (from < 0) continue;
      sequences.push_back({start[s], drafted, from, row});
    }
    RunGated(rule, call, gates, sequences);
  });
}

}  // extern "C"
