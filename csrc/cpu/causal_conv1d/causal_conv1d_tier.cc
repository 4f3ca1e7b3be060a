#include "cpu/causal_conv1d/causal_conv1d.h"

#include "cpu/math.h"
#include "cpu/strided.h"

namespace vk::VK_TIER {
namespace {

// One vector of channels over all tokens, the taps' weights and the last inputs in registers.
// kWidth 0 is any width, in arrays.
template <class T, int32_t kWidth>
HWY_INLINE void Channels(const CausalConv1d& seq, int64_t first, size_t count) {
  const DF d;
  const int32_t width = kWidth > 0 ? kWidth : seq.width;
  constexpr int32_t kMost = kWidth > 0 ? kWidth : kMaxConvWidth;
  VF tap[kMost], last[kMost];
  const T* weight = static_cast<const T*>(seq.weight) + first * seq.weight_channel;
  const T* history = static_cast<const T*>(seq.history);
  const ptrdiff_t from_channel = first * seq.state_channel;
#pragma GCC unroll 4
  for (int32_t i = 0; i < width; ++i) {
    tap[i] = LoadStrided(weight + i * seq.weight_tap, seq.weight_channel, count);
    last[i] = hn::Zero(d);
    if (history != nullptr && i + 1 < width) {
      last[i] = LoadStrided(history + from_channel + i * seq.state_place, seq.state_channel, count);
    }
  }
  VF bias = hn::Zero(d);
  if (seq.bias != nullptr) {
    const T* from = static_cast<const T*>(seq.bias) + first * seq.bias_channel;
    bias = LoadStrided(from, seq.bias_channel, count);
  }
  const T* x = static_cast<const T*>(seq.x) + first * seq.x_channel;
  T* out = static_cast<T*>(seq.out) + first * seq.out_channel;
  T* kept = static_cast<T*>(seq.kept);
  // Of width - 1 + tokens inputs, history first, the last `keep` ones stay.
  const int64_t dropped = width - 1 + seq.tokens - seq.keep;
  if (kept != nullptr) {
    for (int64_t i = dropped; i < width - 1; ++i) {
      StoreStrided(last[i], kept + from_channel + (i - dropped) * seq.state_place,
                   seq.state_channel, count);
    }
  }
  for (int64_t t = 0; t < seq.tokens; ++t) {
    last[width - 1] = LoadStrided(x + t * seq.x_token, seq.x_channel, count);
    VF sum = bias;
#pragma GCC unroll 4
    for (int32_t i = 0; i < width; ++i) sum = hn::MulAdd(tap[i], last[i], sum);
    if (seq.silu) sum = Silu()(sum);
    StoreStrided(sum, out + t * seq.out_token, seq.out_channel, count);
    const int64_t place = width - 1 + t - dropped;
    if (kept != nullptr && place >= 0) {
      StoreStrided(last[width - 1], kept + from_channel + place * seq.state_place,
                   seq.state_channel, count);
    }
#pragma GCC unroll 4
    for (int32_t i = 0; i + 1 < width; ++i) last[i] = last[i + 1];
  }
}

template <class T, int32_t kWidth>
void AllChannels(const CausalConv1d& seq) {
  ForVectors(seq.channels, [&seq](size_t first, size_t count) VK_INLINE_LAMBDA {
    Channels<T, kWidth>(seq, static_cast<int64_t>(first), count);
  });
}

template <class T>
void Run(const CausalConv1d& seq) {
  seq.width == 4 ? AllChannels<T, 4>(seq) : AllChannels<T, 0>(seq);
}

}  // namespace

extern const CausalConv1dTable causal_conv1d_table;
const CausalConv1dTable causal_conv1d_table = {
    {Run<float>, Run<hwy::bfloat16_t>, Run<hwy::float16_t>}};

}  // namespace vk::VK_TIER
