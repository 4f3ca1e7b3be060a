#include "cuda/moe_routing/launch.h"
#include "cuda/moe_routing/moe_routing.h"

namespace {

using vk::Arg;
using vk::cuda::moe_routing::Scoring;
using vk::cuda::moe_routing::TopK;
using vk::cuda::moe_routing::TopKTypes;

// What all of the routing ops check.
struct Routing {
  Routing(const char* op, const vk_tensor* weights, const char* weights_name,
          const vk_tensor* indices, const vk_tensor* scores, const char* scores_name,
          bool renormalize, double factor, Scoring scoring, void* stream) {
    const Arg in(op, scores_name, scores);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    VK_CHECK(in.size(1) >= 1 && in.size(1) <= vk::cuda::moe_routing::kMaxExperts,
             "%s: %s has shape %s, want 1 to %d experts in the last dimension", op, scores_name,
             vk::ShapeString(*scores).c_str(), vk::cuda::moe_routing::kMaxExperts);
    const Arg out(op, weights_name, weights);
    out.Dtype({VK_F32}).Dims(2).Size(0, in.size(0)).Contiguous();
    VK_CHECK(out.size(1) <= in.size(1), "%s: %s has shape %s, want at most %lld, the experts", op,
             weights_name, vk::ShapeString(*weights).c_str(), static_cast<long long>(in.size(1)));
    const Arg index(op, "topk_indices", indices);
    index.Dtype({VK_I32, VK_I64}).SameShape(out).Contiguous();
    VK_CHECK(vk::NumElements(*weights) <= INT32_MAX,
             "%s: %s has shape %s, want fewer than 2^31 elements", op, weights_name,
             vk::ShapeString(*weights).c_str());
    problem.scores = scores->data;
    problem.score_stride = in.stride(0);
    problem.weights = static_cast<float*>(weights->data);
    problem.indices = indices->data;
    problem.tokens = in.size(0);
    problem.experts = static_cast<int32_t>(in.size(1));
    problem.topk = static_cast<int32_t>(out.size(1));
    problem.groups = problem.group_topk = 1;
    problem.renormalize = renormalize;
    problem.factor = static_cast<float>(factor);
    types = {op,
             scoring,
             scores->dtype,
             VK_F32,
             indices->dtype,
             VK_I32,
             VK_I32,
             vk::cuda::AsStream(stream)};
  }

  void SourceRows(const vk_tensor* rows) {
    const Arg arg(types.op, "token_expert_indices", rows);
    arg.Dtype({VK_I32}).Dims(2).Size(0, problem.tokens).Size(1, problem.topk).Contiguous();
    problem.source_rows = static_cast<int32_t*>(rows->data);
  }

  void Bias(const vk_tensor* bias, bool any_dtype) {
    if (bias == nullptr) return;
    const Arg arg(types.op, "bias", bias);
    if (any_dtype) {
      arg.Dtype({VK_F32, VK_BF16, VK_F16});
    } else {
      arg.Dtype({VK_F32});
    }
    arg.Dims(1).Size(0, problem.experts).Contiguous();
    problem.bias = bias->data;
    types.bias = bias->dtype;
  }

  TopK problem = {};
  TopKTypes types = {};
};

}  // namespace

extern "C" {

vk_status vk_cuda_topk_softmax(const vk_tensor* topk_weights, const vk_tensor* topk_indices,
                               const vk_tensor* token_expert_indices,
                               const vk_tensor* gating_output, bool renormalize,
                               const vk_tensor* bias, void* stream) {
  return vk::Guard([&] {
    Routing routing("topk_softmax", topk_weights, "topk_weights", topk_indices, gating_output,
                    "gating_output", renormalize, 1.0, Scoring::kSoftmax, stream);
    routing.SourceRows(token_expert_indices);
    routing.Bias(bias, false);
    LaunchTopK(routing.problem, routing.types);
  });
}

vk_status vk_cuda_topk_sigmoid(const vk_tensor* topk_weights, const vk_tensor* topk_indices,
                               const vk_tensor* token_expert_indices,
                               const vk_tensor* gating_output, bool renormalize,
                               const vk_tensor* bias, double routed_scaling_factor, void* stream) {
  return vk::Guard([&] {
    Routing routing("topk_sigmoid", topk_weights, "topk_weights", topk_indices, gating_output,
                    "gating_output", renormalize, routed_scaling_factor, Scoring::kSigmoid, stream);
    routing.SourceRows(token_expert_indices);
    routing.Bias(bias, false);
    LaunchTopK(routing.problem, routing.types);
  });
}

vk_status vk_cuda_topk_softplus_sqrt(const vk_tensor* topk_weights, const vk_tensor* topk_indices,
                                     const vk_tensor* token_expert_indices,
                                     const vk_tensor* gating_output, bool renormalize,
                                     double routed_scaling_factor, const vk_tensor* bias,
                                     const vk_tensor* input_ids, const vk_tensor* tid2eid,
                                     void* stream) {
  return vk::Guard([&] {
    const char* op = "topk_softplus_sqrt";
    Routing routing(op, topk_weights, "topk_weights", topk_indices, gating_output, "gating_output",
                    renormalize, routed_scaling_factor, Scoring::kSoftplusSqrt, stream);
    routing.SourceRows(token_expert_indices);
    routing.Bias(bias, false);
    VK_CHECK((input_ids == nullptr) == (tid2eid == nullptr),
             "%s: only one of input_ids and tid2eid is given, want both or neither", op);
    if (tid2eid == nullptr) return LaunchTopK(routing.problem, routing.types);
    const Arg ids(op, "input_ids", input_ids), table(op, "tid2eid", tid2eid);
    ids.Dtype({VK_I32, VK_I64}).Dims(1).Size(0, routing.problem.tokens).Contiguous();
    table.Dtype({VK_I32, VK_I64}).Dims(2).Size(1, routing.problem.topk).Contiguous();
    routing.problem.token_ids = input_ids->data;
    routing.problem.table = tid2eid->data;
    routing.problem.table_rows = table.size(0);
    routing.types.token_ids = input_ids->dtype;
    routing.types.table = tid2eid->dtype;
    LaunchTable(routing.problem, routing.types);
  });
}

vk_status vk_cuda_grouped_topk(const vk_tensor* topk_values, const vk_tensor* topk_indices,
                               const vk_tensor* scores, int64_t n_group, int64_t topk_group,
                               bool renormalize, double routed_scaling_factor,
                               const vk_tensor* bias, int64_t scoring_func, void* stream) {
  return vk::Guard([&] {
    const char* op = "grouped_topk";
    VK_CHECK(scoring_func == 0 || scoring_func == 1,
             "%s: scoring_func is %lld, want 0 (scores as they are) or 1 (sigmoid)", op,
             static_cast<long long>(scoring_func));
    Routing routing(op, topk_values, "topk_values", topk_indices, scores, "scores", renormalize,
                    routed_scaling_factor, scoring_func == 1 ? Scoring::kSigmoid : Scoring::kNone,
                    stream);
    Arg(op, "bias", bias);
    routing.Bias(bias, true);
    const int64_t experts = routing.problem.experts, topk = routing.problem.topk;
    VK_CHECK(n_group >= 1 && n_group <= 32 && experts % n_group == 0,
             "%s: n_group is %lld, want 1 to 32 and a divisor of %lld experts", op,
             static_cast<long long>(n_group), static_cast<long long>(experts));
    VK_CHECK(topk_group >= 1 && topk_group <= n_group,
             "%s: topk_group is %lld, want 1 to n_group, %lld", op,
             static_cast<long long>(topk_group), static_cast<long long>(n_group));
    VK_CHECK(topk >= 1 && topk <= topk_group * (experts / n_group),
             "%s: topk is %lld, want 1 to %lld, the experts of topk_group groups", op,
             static_cast<long long>(topk), static_cast<long long>(topk_group * experts / n_group));
    routing.problem.groups = static_cast<int32_t>(n_group);
    routing.problem.group_topk = static_cast<int32_t>(topk_group);
    LaunchTopK(routing.problem, routing.types);
  });
}

}  // extern "C"
