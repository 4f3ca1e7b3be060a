#include "cpu/causal_conv1d/causal_conv1d.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/sequences.h"

namespace {

using vk::Arg;
using vk::CausalConv1d;

// Channels of a task: whole cache lines of every dtype, and enough of them to be worth a thread.
constexpr int64_t kChannels = 64;

// What the ops of this family take.
struct Arguments {
  const char* op;
  vk_tensor out, x;  // [dim, tokens]
  const vk_tensor *weight, *bias, *states, *slots;
  int64_t pad_slot;
  bool silu;
  const char* slots_name = "conv_state_indices";
  int64_t tokens_each = 1;  // of a sequence where `starts` is null
  const vk_tensor *starts = nullptr, *initial = nullptr, *accepted = nullptr;
};

// A call whose arguments are checked.
struct Call {
  const Arguments& args;
  int64_t dim, tokens, sequences, width;
  const int32_t* starts;
  const int32_t* slots;
  const int32_t* accepted;

  int64_t First(int64_t s) const { return starts ? starts[s] : s * args.tokens_each; }
  int64_t Count(int64_t s) const { return starts ? starts[s + 1] - starts[s] : args.tokens_each; }
  int64_t Slot(int64_t s) const { return slots ? slots[s * args.slots->stride[0]] : s; }
};

void CheckTensors(const Arguments& args) {
  const char* op = args.op;
  const Arg x(op, "x", &args.x), weight(op, "weight", args.weight);
  x.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2);
  weight.SameDtype(x);
  if (weight.tensor().ndim == 3) weight.Size(1, 1);
  VK_CHECK(weight.tensor().ndim == 2 || weight.tensor().ndim == 3,
           "%s: weight has %d dimensions, want [dim, width] or [dim, 1, width]", op,
           weight.tensor().ndim);
  weight.Size(0, x.size(0));
  VK_CHECK(weight.size(-1) >= 1 && weight.size(-1) <= vk::kMaxConvWidth,
           "%s: weight has shape %s, want 1 to %d elements in the last dimension", op,
           vk::ShapeString(weight.tensor()).c_str(), vk::kMaxConvWidth);
  if (args.bias != nullptr) Arg(op, "bias", args.bias).SameDtype(x).Dims(1).Size(0, x.size(0));
  if (args.states == nullptr) return;
  const Arg states(op, "conv_states", args.states);
  states.SameDtype(x).Dims(3).Size(1, x.size(0));
  VK_CHECK(states.size(2) >= weight.size(-1) - 1,
           "%s: conv_states has shape %s, want at least the %lld elements of a history in the last "
           "dimension",
           op, vk::ShapeString(states.tensor()).c_str(),
           static_cast<long long>(weight.size(-1) - 1));
}

// The number of sequences, and that their tokens are those of x.
int64_t CheckSequences(const Arguments& args) {
  const char* op = args.op;
  const int64_t tokens = args.x.shape[1];
  if (args.starts != nullptr) {
    return vk::CheckStarts(Arg(op, "query_start_loc", args.starts), op, tokens);
  }
  return args.tokens_each == 0 ? 0 : tokens / args.tokens_each;
}

Call Checked(const Arguments& args) {
  const char* op = args.op;
  CheckTensors(args);
  Call call{args,
            args.x.shape[0],
            args.x.shape[1],
            CheckSequences(args),
            args.weight->shape[args.weight->ndim - 1],
            nullptr,
            nullptr,
            nullptr};
  if (args.starts != nullptr) call.starts = static_cast<const int32_t*>(args.starts->data);
  if (args.slots != nullptr) {
    vk::CheckSlots(op, args.slots_name, args.slots, call.sequences);
    call.slots = static_cast<const int32_t*>(args.slots->data);
  }
  if (args.initial != nullptr) {
    Arg(op, "has_initial_state", args.initial)
        .Dtype({VK_BOOL})
        .Dims(1)
        .Size(0, call.sequences)
        .Contiguous();
  }
  const int64_t slots = args.states == nullptr ? 0 : args.states->shape[0];
  for (int64_t s = 0; args.states != nullptr && s < call.sequences; ++s) {
    const int64_t slot = call.Slot(s);
    VK_CHECK(slot == args.pad_slot || (slot >= 0 && slot < slots),
             "%s: sequence %lld has slot %lld, want %lld (skipped) or 0 to %lld, the slots of "
             "conv_states",
             op, static_cast<long long>(s), static_cast<long long>(slot),
             static_cast<long long>(args.pad_slot), static_cast<long long>(slots - 1));
  }
  return call;
}

void CheckAccepted(Call& call) {
  const char* op = call.args.op;
  if (call.args.accepted == nullptr) return;
  Arg(op, "num_accepted_tokens", call.args.accepted)
      .Dtype({VK_I32})
      .Dims(1)
      .Size(0, call.sequences)
      .Contiguous();
  call.accepted = static_cast<const int32_t*>(call.args.accepted->data);
  const int64_t places = call.args.states->shape[2];
  for (int64_t s = 0; s < call.sequences; ++s) {
    if (call.Slot(s) == call.args.pad_slot) continue;
    const int64_t most = places - (call.width - 1) + 1;
    VK_CHECK(call.accepted[s] >= 1 && call.accepted[s] <= most,
             "%s: num_accepted_tokens has %d at index %lld, want 1 to %lld, what conv_states with "
             "%lld elements of each channel can hold",
             op, call.accepted[s], static_cast<long long>(s), static_cast<long long>(most),
             static_cast<long long>(places));
    VK_CHECK(call.width - 2 + call.Count(s) <= places,
             "%s: sequence %lld has %lld tokens, want at most %lld, what conv_states with %lld "
             "elements of each channel can hold",
             op, static_cast<long long>(s), static_cast<long long>(call.Count(s)),
             static_cast<long long>(places - call.width + 2), static_cast<long long>(places));
  }
}

// What the kernel gets of sequence `s`, from channel `first` on.
CausalConv1d Part(const Call& call, int64_t s, int64_t first, int64_t channels) {
  const Arguments& args = call.args;
  CausalConv1d part{};
  const int64_t token = call.First(s), slot = call.Slot(s);
  part.out_channel = args.out.stride[0], part.out_token = args.out.stride[1];
  part.x_channel = args.x.stride[0], part.x_token = args.x.stride[1];
  part.weight_channel = args.weight->stride[0];
  part.weight_tap = args.weight->stride[args.weight->ndim - 1];
  part.out = vk::ElementAt(args.out, first * part.out_channel + token * part.out_token);
  part.x = vk::ElementAt(args.x, first * part.x_channel + token * part.x_token);
  part.weight = vk::ElementAt(*args.weight, first * part.weight_channel);
  if (args.bias != nullptr) {
    part.bias_channel = args.bias->stride[0];
    part.bias = vk::ElementAt(*args.bias, first * part.bias_channel);
  }
  part.channels = channels, part.tokens = call.Count(s);
  part.width = static_cast<int32_t>(call.width), part.silu = args.silu;
  part.keep = call.width - 1;
  if (args.states == nullptr) return part;
  part.state_channel = args.states->stride[1], part.state_place = args.states->stride[2];
  const int64_t at = slot * args.states->stride[0] + first * part.state_channel;
  char* state = vk::ElementAt(*args.states, at);
  part.kept = state;
  if (args.initial == nullptr || static_cast<const uint8_t*>(args.initial->data)[s] != 0) {
    part.history = state;
  }
  if (call.accepted != nullptr) {
    const int64_t offset = (call.accepted[s] - 1) * part.state_place;
    part.history = state + offset * vk::DtypeSize(args.states->dtype);
    part.keep = std::max<int64_t>(0, call.width - 2 + part.tokens);
  }
  return part;
}

// Sequences in their order, so that of two with one slot the second sees what the first has left.
void Run(const Call& call) {
  const auto kernel = vk::Kernels().causal_conv1d->run[call.args.x.dtype];
  const int64_t size = vk::DtypeSize(call.args.x.dtype);
  const int64_t bytes = 2 * size * std::max<int64_t>(1, call.tokens) * kChannels;
  const int64_t tasks = vk::CeilDiv(call.dim, kChannels);
  vk::ParallelFor(tasks, vk::GrainFor(bytes), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kChannels;
    const int64_t channels = std::min(call.dim, end * kChannels) - first;
    for (int64_t s = 0; s < call.sequences; ++s) {
      if (call.Count(s) == 0) continue;
      if (call.args.states != nullptr && call.Slot(s) == call.args.pad_slot) continue;
      kernel(Part(call, s, first, channels));
    }
  });
}

// [tokens, dim] or [sequences, tokens, dim], which the kernels see as [dim, tokens].
vk_tensor Transposed(const char* op, const char* name, const vk_tensor* tensor) {
  const Arg arg(op, name, tensor);
  VK_CHECK(tensor->ndim == 2 || tensor->ndim == 3,
           "%s: %s has %d dimensions, want [tokens, dim] or [sequences, tokens, dim]", op, name,
           tensor->ndim);
  vk_tensor view = *tensor;
  view.ndim = 2;
  view.shape[0] = arg.size(-1), view.stride[0] = arg.stride(-1);
  view.shape[1] = arg.size(0), view.stride[1] = arg.stride(0);
  if (tensor->ndim == 2) return view;
  if (arg.size(1) == 1) return view;  // whatever its stride is
  view.shape[1] = arg.size(0) * arg.size(1), view.stride[1] = arg.stride(1);
  VK_CHECK(arg.size(0) <= 1 || arg.size(1) == 0 || arg.stride(0) == arg.size(1) * arg.stride(1),
           "%s: %s has gaps between its sequences, want none", op, name);
  return view;
}

}  // namespace

extern "C" {

vk_status vk_cpu_causal_conv1d_fwd(const vk_tensor* out, const vk_tensor* x,
                                   const vk_tensor* weight, const vk_tensor* bias,
                                   const vk_tensor* states, const vk_tensor* starts,
                                   const vk_tensor* slots, const vk_tensor* initial, int32_t silu,
                                   int64_t pad_slot) {
  return vk::Guard([&] {
    const char* op = "causal_conv1d_fwd_cpu";
    const Arg input(op, "x", x), first(op, "query_start_loc", starts);
    Arg(op, "out", out).SameDtype(input).SameShape(input);
    Arguments args{op, *out, *x, weight, bias, states, slots, pad_slot, silu != 0};
    args.slots_name = "cache_indices";
    args.starts = starts, args.initial = initial;
    Run(Checked(args));
  });
}

vk_status vk_cpu_causal_conv1d_update(const vk_tensor* out, const vk_tensor* x,
                                      const vk_tensor* states, const vk_tensor* weight,
                                      const vk_tensor* bias, int32_t silu,
                                      const vk_tensor* accepted, const vk_tensor* slots,
                                      int64_t pad_slot) {
  return vk::Guard([&] {
    const char* op = "causal_conv1d_update_cpu";
    const Arg input(op, "x", x), kept(op, "conv_states", states);
    Arg(op, "out", out).SameDtype(input).SameShape(input);
    Arguments args{op,
                   Transposed(op, "out", out),
                   Transposed(op, "x", x),
                   weight,
                   bias,
                   states,
                   slots,
                   pad_slot,
                   silu != 0};
    if (x->ndim == 3) args.tokens_each = x->shape[1];
    args.accepted = accepted;
    Call call = Checked(args);
    CheckAccepted(call);
    Run(call);
  });
}

vk_status vk_cpu_causal_conv1d_update_vec(const vk_tensor* out, const vk_tensor* x,
                                          const vk_tensor* states, const vk_tensor* weight,
                                          const vk_tensor* bias, const char* activation,
                                          const vk_tensor* slots, const vk_tensor* starts,
                                          int64_t pad_slot) {
  return vk::Guard([&] {
    const char* op = "causal_conv1d_update_cpu_vec";
    const Arg input(op, "x", x), kept(op, "conv_state", states);
    input.Dims(2);
    Arg(op, "out", out).SameDtype(input).SameShape(input);
    VK_CHECK(activation == nullptr || std::strcmp(activation, "silu") == 0 ||
                 std::strcmp(activation, "swish") == 0,
             "%s: activation is \"%s\", want silu, swish or None", op, activation);
    Arguments args{
        op,       Transposed(op, "out", out), Transposed(op, "x", x), weight, bias, states, slots,
        pad_slot, activation != nullptr};
    args.starts = starts;
    const Call call = Checked(args);
    // Behind the history drafted inputs might lie, of which nothing here says what became.
    kept.Size(2, call.width - 1);
    Run(call);
  });
}

}  // extern "C"
