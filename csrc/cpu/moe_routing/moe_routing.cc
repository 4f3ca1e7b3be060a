#include "cpu/moe_routing/moe_routing.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/sampling/sampling.h"

namespace {

using vk::Arg;
using vk::Print;

constexpr const char* kBiased = "biased_topk_cpu";
constexpr const char* kHash = "hash_topk_cpu";
// No model has as many; a thread keeps the scores of one token.
constexpr int64_t kMostExperts = 1 << 16;

vk::MoeScoring ScoringOf(const char* op, const char* name, bool softmax) {
  if (std::strcmp(name, "sigmoid") == 0) return vk::kMoeSigmoid;
  if (std::strcmp(name, "sqrtsoftplus") == 0) return vk::kMoeSqrtSoftplus;
  if (softmax && std::strcmp(name, "softmax") == 0) return vk::kMoeSoftmax;
  vk::Fail(VK_UNSUPPORTED, "%s: scoring_func is \"%s\", want sigmoid%s", op, name,
           softmax ? ", sqrtsoftplus or softmax" : " or sqrtsoftplus");
}

// Checked tensors of a call, token by token.
class Tokens {
 public:
  Tokens(const char* op, const vk_tensor* weights, const vk_tensor* ids, const vk_tensor* logits) {
    const Arg in(op, "gating_output", logits), out(op, "topk_weights", weights);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    out.Dtype({VK_F32}).Dims(2).Contiguous().Size(0, in.size(0));
    Arg(op, "topk_ids", ids).Dtype({VK_I32}).SameShape(out).Contiguous();
    tokens_ = in.size(0);
    experts = in.size(1);
    topk = out.size(1);
    VK_CHECK(experts <= kMostExperts, "%s: gating_output has %lld experts, want at most %lld", op,
             Print(experts), Print(kMostExperts));
    dtype_ = logits->dtype;
    logits_ = static_cast<const char*>(logits->data);
    stride_ = in.stride(0) * in.ItemSize();
    weights_ = static_cast<float*>(weights->data);
    ids_ = static_cast<int32_t*>(ids->data);
  }

  // Calls choose(token, scores, room for as many, ids), which fills in the token's experts; their
  // weights are then those scores, times `factor` and divided by their sum if `renormalize`.
  template <class Choose>
  void Route(vk::MoeScoring scoring, bool renormalize, float factor, const Choose& choose) const {
    if (experts == 0 || topk == 0) return;
    const auto score = vk::Kernels().moe_routing->score[scoring][dtype_];
    const int64_t threads =
        omp_in_parallel() ? 1 : std::min<int64_t>(omp_get_max_threads(), tokens_);
    std::vector<float> room(static_cast<size_t>(2 * threads * experts));
    // Each expert is scored, and looked at for each choice.
    const int64_t grain = vk::GrainFor(experts * (topk + 8) * int64_t{sizeof(float)});
    vk::ParallelFor(tokens_, grain, [&](int64_t begin, int64_t end) {
      float* scores = room.data() + (threads == 1 ? 0 : omp_get_thread_num()) * 2 * experts;
      for (int64_t token = begin; token < end; ++token) {
        score(scores, logits_ + token * stride_, static_cast<size_t>(experts));
        int32_t* ids = ids_ + token * topk;
        choose(token, scores, scores + experts, ids);
        float* weights = weights_ + token * topk;
        float sum = 0.0f;
        for (int64_t i = 0; i < topk; ++i) sum += weights[i] = scores[ids[i]];
        if (!renormalize) continue;
        const float scale = sum > 0.0f ? factor / sum : factor;
        for (int64_t i = 0; i < topk; ++i) weights[i] *= scale;
      }
    });
  }

  int64_t experts, topk;

 private:
  int64_t tokens_;
  int32_t dtype_;
  const char* logits_;
  int64_t stride_;
  float* weights_;
  int32_t* ids_;
};

// The places of the `topk` largest of `ranks`, which are lost.
void ChooseLargest(float* ranks, int64_t count, int64_t topk, int32_t* places) {
  constexpr float kChosen = -std::numeric_limits<float>::infinity();
  const auto largest = vk::Kernels().sampling->largest;
  int64_t chosen = 0;
  for (; chosen < topk; ++chosen) {
    const vk::Largest best = largest(ranks, static_cast<size_t>(count));
    // What is left has the rank of those that were chosen.
    if (best.value == kChosen) break;
    places[chosen] = static_cast<int32_t>(best.place);
    ranks[best.place] = kChosen;
  }
  const int64_t ranked = chosen;
  for (int32_t place = 0; chosen < topk; ++place) {
    if (std::find(places, places + ranked, place) == places + ranked) places[chosen++] = place;
  }
}

}  // namespace

extern "C" vk_status vk_cpu_biased_topk(const vk_tensor* weights, const vk_tensor* ids,
                                        const vk_tensor* logits, const vk_tensor* correction_bias,
                                        const char* scoring, int32_t renormalize, double factor) {
  return vk::Guard([&] {
    const vk::MoeScoring how = ScoringOf(kBiased, scoring, false);
    const Tokens tokens(kBiased, weights, ids, logits);
    const Arg bias(kBiased, "correction_bias", correction_bias);
    bias.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(1).Size(0, tokens.experts).Contiguous();
    VK_CHECK(tokens.topk <= tokens.experts, "%s: topk is %lld, want at most the %lld experts",
             kBiased, Print(tokens.topk), Print(tokens.experts));
    const auto rank = vk::Kernels().moe_routing->rank[correction_bias->dtype];
    tokens.Route(how, renormalize != 0, static_cast<float>(factor),
                 [&](int64_t, const float* scores, float* ranks, int32_t* chosen) {
                   rank(ranks, scores, correction_bias->data, tokens.experts);
                   ChooseLargest(ranks, tokens.experts, tokens.topk, chosen);
                 });
  });
}

extern "C" vk_status vk_cpu_hash_topk(const vk_tensor* weights, const vk_tensor* ids,
                                      const vk_tensor* logits, const vk_tensor* experts,
                                      const char* scoring, double factor) {
  return vk::Guard([&] {
    const vk::MoeScoring how = ScoringOf(kHash, scoring, true);
    const Tokens tokens(kHash, weights, ids, logits);
    const Arg named(kHash, "tid2eid", experts);
    named.Dtype({VK_I32}).Dims(2).LastDimContiguous();
    named.Size(0, logits->shape[0]).Size(1, tokens.topk);
    const int32_t* first = static_cast<const int32_t*>(experts->data);
    const int64_t stride = experts->stride[0];
    for (int64_t token = 0; token < logits->shape[0]; ++token) {
      for (int64_t i = 0; i < tokens.topk; ++i) {
        const int32_t id = first[token * stride + i];
        VK_CHECK(id >= 0 && id < tokens.experts, "%s: tid2eid[%lld, %lld] is %d, want 0 to %lld",
                 kHash, Print(token), Print(i), id, Print(tokens.experts - 1));
      }
    }
    tokens.Route(how, how != vk::kMoeSoftmax, static_cast<float>(factor),
                 [&](int64_t token, const float*, float*, int32_t* chosen) {
                   std::copy_n(first + token * stride, tokens.topk, chosen);
                 });
  });
}
