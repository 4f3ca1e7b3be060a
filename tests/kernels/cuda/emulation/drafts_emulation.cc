// Drafted tokens through csrc/cuda/gated_delta_rule/drafts.cuh on an emulated GPU, against float64.
// drafts_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "cuda/gated_delta_rule/launch.h"  // before device.h, which gives gridDim another meaning

#include "device.h"
#include "seeded.h"

// Functions of the device alone.
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678f); }

#include "cuda/gated_delta_rule/drafts.cuh"

VK_EMULATED_SHARED("_ZN2vk4cuda16gated_delta_rule9vk_draftsE");

namespace {

using namespace emulation::seeded;
using namespace vk::cuda;
using namespace vk::cuda::gated_delta_rule;

template <class T>
std::vector<T> Normals(size_t count, float factor) {
  std::vector<T> values(count + 8);
  for (T& x : values) x = FromFloat<T>(Normal() * factor);
  return values;
}

template <class T>
T* Aligned(std::vector<T>& values) {
  const auto address = reinterpret_cast<uintptr_t>(values.data());
  return reinterpret_cast<T*>((address + 15) / 16 * 16);
}

template <class State>
bool Check() {
  using T = BFloat16;
  Drafts d = {};
  d.key_heads = Number(1, 2);
  d.heads = d.key_heads * Number(1, 2);
  d.requests = Number(1, 3);
  d.columns = 3;
  d.slots = 1 + d.requests * d.columns;
  d.scale = 0.25f;
  d.epsilon = 1e-5f;
  d.sigmoid = Chance(2);
  std::vector<int32_t> starts(1, 0), accepted, indices;
  for (int r = 0; r < d.requests; ++r) {
    starts.push_back(starts.back() + Number(0, 4));
    accepted.push_back(Number(0, 4));  // 0 and 4: no state
    for (int i = 0; i < d.columns; ++i) {
      indices.push_back(Chance(6) ? 0 : 1 + r * d.columns + i);
    }
  }
  const int tokens = starts.back(), width = (2 * d.key_heads + d.heads) * kHead;
  d.qkv_stride = width + 8;
  auto qkv = Normals<T>(static_cast<size_t>(tokens) * d.qkv_stride + 8, 1);
  auto a = Normals<T>(static_cast<size_t>(tokens) * d.heads, 1), b = a,
       z = Normals<T>(static_cast<size_t>(tokens) * d.heads * kHead, 1);
  for (T& x : b) x = FromFloat<T>(Normal());
  auto a_log = Normals<float>(d.heads, 0.5f), bias = Normals<float>(d.heads, 1);
  auto weight = Normals<float>(kHead, 1);
  auto state = Normals<State>(static_cast<size_t>(d.slots) * d.heads * kHead * kHead + 8, 0.3f);
  std::vector<T> out(static_cast<size_t>(tokens) * d.heads * kHead + 1, FromFloat<T>(77.0f));
  d.qkv = Aligned(qkv);
  d.a = {a.data(), VK_BF16, d.heads};
  d.b = {b.data(), VK_BF16, d.heads};
  d.a_log = {a_log.data(), VK_F32, 0};
  d.dt_bias = {bias.data(), VK_F32, 0};
  d.norm_weight = {weight.data(), VK_F32, 0};
  d.gate = z.data();
  d.gate_token = d.heads * kHead;
  d.gate_head = kHead;
  d.out = out.data();
  State* const states = Aligned(state);
  d.state = states;
  d.state_stride = int64_t{d.heads} * kHead * kHead;
  d.indices = indices.data();
  d.index_stride = d.columns;
  d.starts = starts.data();
  d.accepted = accepted.data();
  std::vector<double> want_state(static_cast<size_t>(d.slots * d.state_stride));
  for (size_t i = 0; i < want_state.size(); ++i) want_state[i] = ToFloat(states[i]);
  std::vector<double> want(out.size(), 0.0);

  for (int r = 0; r < d.requests; ++r) {
    const int count = accepted[r];
    const int source = count > 0 && count <= d.columns ? indices[r * d.columns + count - 1] : 0;
    for (int h = 0; h < d.heads && source > 0; ++h) {
      const auto at = [&](int slot) {
        return want_state.begin() + slot * d.state_stride + int64_t{h} * kHead * kHead;
      };
      std::vector<double> s(at(source), at(source) + kHead * kHead);
      for (int t = starts[r]; t < starts[r + 1]; ++t) {
        const T* const row = static_cast<const T*>(d.qkv) + t * d.qkv_stride;
        const T* const q = row + h / (d.heads / d.key_heads) * kHead;
        const T* const k = q + d.key_heads * kHead;
        const T* const v = row + (2 * d.key_heads + h) * kHead;
        double q2 = 1e-6, k2 = 1e-6;
        for (int i = 0; i < kHead; ++i) {
          q2 += double{ToFloat(q[i])} * ToFloat(q[i]);
          k2 += double{ToFloat(k[i])} * ToFloat(k[i]);
        }
        const double x = ToFloat(a[t * d.heads + h]) + bias[h];
        const double decay = std::exp(-std::exp(double{a_log[h]}) * std::log1p(std::exp(x)));
        const double beta = 1 / (1 + std::exp(-double{ToFloat(b[t * d.heads + h])}));
        double squares = 0;
        std::vector<double> o(kHead);
        for (int i = 0; i < kHead; ++i) {
          double known = 0, result = 0;
          for (int j = 0; j < kHead; ++j) {
            s[i * kHead + j] *= decay;
            known += s[i * kHead + j] * ToFloat(k[j]) / std::sqrt(k2);
          }
          const double change = (ToFloat(v[i]) - known) * beta;
          for (int j = 0; j < kHead; ++j) {
            s[i * kHead + j] += change * ToFloat(k[j]) / std::sqrt(k2);
            result += s[i * kHead + j] * ToFloat(q[j]) / std::sqrt(q2) * d.scale;
          }
          o[i] = RoundTo<T>(static_cast<float>(result));
          squares += o[i] * o[i];
        }
        for (int i = 0; i < kHead; ++i) {
          const int64_t place = (int64_t{t} * d.heads + h) * kHead + i;
          const double gate = ToFloat(z[place]), sigmoid = 1 / (1 + std::exp(-gate));
          want[place] = o[i] / std::sqrt(squares / kHead + d.epsilon) * weight[i] *
                        (d.sigmoid ? sigmoid : gate * sigmoid);
        }
        const int number = t - starts[r];
        const int slot = number < d.columns ? indices[r * d.columns + number] : 0;
        if (slot > 0) std::copy(s.begin(), s.end(), at(slot));
      }
    }
  }
  want.back() = 77.0;

  emulation::Launch({static_cast<unsigned>(d.heads), static_cast<unsigned>(d.requests)},
                    kDraftThreads, [&] { DraftsKernel<T, State>(d); });
  const auto worst = [](double found, double wanted, double relative, double absolute) {
    const double error = std::abs(found - wanted) / (absolute + relative * std::abs(wanted));
    return error >= 0 ? error : INFINITY;
  };
  double results = 0, held = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    results = std::max(results, worst(ToFloat(out[i]), want[i], 3.0 / 256, 2e-4));
  }
  const double relative = std::is_same_v<State, float> ? 1e-5 : 1.0 / 256;
  for (size_t i = 0; i < want_state.size(); ++i) {
    held = std::max(held, worst(ToFloat(states[i]), want_state[i], relative, 1e-5));
  }
  if (results > 1 || held > 1) {
    std::printf(
        "%d requests, %d tokens, %d heads: errors %g and of the state %g of those allowed\n",
        d.requests, tokens, d.heads, results, held);
  }
  return results <= 1 && held <= 1;
}

}  // namespace

int main(int count, char** arguments) {
  return Repeat(count, arguments, [] { return Check<float>() && Check<BFloat16>(); });
}
