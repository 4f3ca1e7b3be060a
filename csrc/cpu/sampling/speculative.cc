#include <limits>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/sampling/sampling.h"

namespace {

using vk::Arg;

const int64_t* Integers(const Arg& arg, int64_t size) {
  arg.Dtype({VK_I64}).Dims(1).Contiguous().Size(0, size);
  return static_cast<const int64_t*>(arg.tensor().data);
}

// Which drafted tokens are each request's. Checked before anything is written.
class Requests {
 public:
  Requests(const Arg& ends, const char* op, int64_t tokens) : count_(ends.size(0)) {
    ends_ = Integers(ends, count_);
    int64_t before = 0;
    for (int64_t i = 0; i < count_; ++i) {
      VK_CHECK(ends_[i] >= before && ends_[i] <= tokens,
               "%s: %s has %lld at index %lld, want %lld to %lld: ascending, up to the number of "
               "tokens",
               op, ends.name(), static_cast<long long>(ends_[i]), static_cast<long long>(i),
               static_cast<long long>(before), static_cast<long long>(tokens));
      longest_ = std::max(longest_, ends_[i] - before);
      before = ends_[i];
    }
  }

  int64_t count() const { return count_; }
  int64_t longest() const { return longest_; }
  int64_t begin(int64_t request) const { return request == 0 ? 0 : ends_[request - 1]; }
  int64_t end(int64_t request) const { return ends_[request]; }

 private:
  const int64_t* ends_;
  int64_t count_, longest_ = 0;
};

// The tokens of each request that are accepted, and the bonus after a whole draft.
class Output {
 public:
  Output(const char* op, const Requests& requests, const vk_tensor* output, const vk_tensor* bonus,
         const vk_tensor* is_greedy) {
    const Arg out(op, "output_token_ids", output), extra(op, "bonus_token_ids", bonus);
    out.Dtype({VK_I64}).Dims(2).LastDimContiguous().Size(0, requests.count());
    VK_CHECK(requests.longest() < out.size(1),
             "%s: output_token_ids has shape %s, want a row for %lld drafted tokens and one more",
             op, vk::ShapeString(*output).c_str(), static_cast<long long>(requests.longest()));
    extra.Dtype({VK_I64}).MinDims(1).Size(0, requests.count());
    if (bonus->ndim != 1) extra.Dims(2).Size(1, 1);
    if (is_greedy != nullptr) {
      const Arg mask(op, "is_greedy", is_greedy);
      mask.Dtype({VK_BOOL}).Dims(1).Contiguous().Size(0, requests.count());
      is_greedy_ = static_cast<const uint8_t*>(is_greedy->data);
    }
    rows_ = static_cast<int64_t*>(output->data);
    stride_ = out.stride(0);
    bonus_ = static_cast<const int64_t*>(bonus->data);
    bonus_stride_ = extra.stride(0);
  }

  // Whether a request is sampled otherwise: greedily or not.
  bool LeavesOut(int64_t request, bool greedy) const {
    return is_greedy_ != nullptr && (is_greedy_[request] != 0) != greedy;
  }

  // `choose(token, accepted)` gives the token to write in place of a drafted one.
  template <class Choose>
  void Write(int64_t request, int64_t begin, int64_t end, const Choose& choose) const {
    int64_t* row = rows_ + request * stride_;
    for (int64_t token = begin; token < end; ++token) {
      bool accepted = true;
      row[token - begin] = choose(token, accepted);
      if (!accepted) return;
    }
    row[end - begin] = bonus_[request * bonus_stride_];
  }

 private:
  int64_t* rows_;
  const int64_t* bonus_;
  const uint8_t* is_greedy_ = nullptr;
  int64_t stride_, bonus_stride_;
};

// [rows, >= vocabulary] of probabilities.
class Matrix {
 public:
  Matrix(const Arg& arg, const char* op, int64_t rows, int64_t vocabulary) {
    arg.Dtype({VK_F32}).Dims(2).LastDimContiguous().Size(0, rows);
    VK_CHECK(vocabulary > 0 && vocabulary <= arg.size(1) &&
                 vocabulary <= std::numeric_limits<int32_t>::max(),
             "%s: %s has shape %s, want at least vocab_size %lld columns, which is above 0", op,
             arg.name(), vk::ShapeString(arg.tensor()).c_str(), static_cast<long long>(vocabulary));
    first_ = static_cast<const float*>(arg.tensor().data);
    stride_ = arg.stride(0);
  }
  Matrix() = default;

  const float* Row(int64_t row) const {
    return first_ == nullptr ? nullptr : first_ + row * stride_;
  }

 private:
  const float* first_ = nullptr;
  int64_t stride_ = 0;
};

Matrix DraftProbs(const char* op, const vk_tensor* probs, int64_t tokens, int64_t vocabulary,
                  bool none) {
  if (none) return {};
  VK_CHECK(probs != nullptr, "%s: draft_probs is missing, want it unless no_draft_probs is set",
           op);
  return {Arg(op, "draft_probs", probs), op, tokens, vocabulary};
}

void CheckIds(const char* op, const int64_t* ids, int64_t begin, int64_t end, int64_t vocabulary) {
  for (int64_t i = begin; i < end; ++i) {
    VK_CHECK(ids[i] >= 0 && ids[i] < vocabulary,
             "%s: draft_token_ids has %lld at index %lld, want 0 to %lld", op,
             static_cast<long long>(ids[i]), static_cast<long long>(i),
             static_cast<long long>(vocabulary - 1));
  }
}

}  // namespace

extern "C" {

vk_status vk_cpu_expand(const vk_tensor* output, const vk_tensor* input, const vk_tensor* ends,
                        int64_t replace_from, int64_t replace_to) {
  return vk::Guard([&] {
    const char* op = "expand_kernel_impl";
    const Arg out(op, "output", output);
    Integers(out, out.size(0));
    const Requests requests(Arg(op, "cu_num_tokens", ends), op, out.size(0));
    const int64_t* values = Integers(Arg(op, "input", input), requests.count());
    int64_t* to = static_cast<int64_t*>(output->data);
    for (int64_t i = 0; i < requests.count(); ++i) {
      const int64_t value = values[i] == replace_from ? replace_to : values[i];
      std::fill(to + requests.begin(i), to + requests.end(i), value);
    }
  });
}

vk_status vk_cpu_rejection_greedy_sample(const vk_tensor* output, const vk_tensor* ends,
                                         const vk_tensor* draft, const vk_tensor* target,
                                         const vk_tensor* bonus, const vk_tensor* is_greedy,
                                         int64_t /*max_spec_len*/) {
  return vk::Guard([&] {
    const char* op = "rejection_greedy_sample_kernel_impl";
    const Arg drafted(op, "draft_token_ids", draft);
    const int64_t tokens = drafted.size(0);
    const int64_t* ids = Integers(drafted, tokens);
    const int64_t* wanted = Integers(Arg(op, "target_argmax", target), tokens);
    const Requests requests(Arg(op, "cu_num_draft_tokens", ends), op, tokens);
    const Output out(op, requests, output, bonus, is_greedy);
    for (int64_t i = 0; i < requests.count(); ++i) {
      if (out.LeavesOut(i, true)) continue;
      out.Write(i, requests.begin(i), requests.end(i), [&](int64_t token, bool& accepted) {
        accepted = ids[token] == wanted[token];
        return wanted[token];
      });
    }
  });
}

vk_status vk_cpu_rejection_random_sample(const vk_tensor* output, const vk_tensor* ends,
                                         const vk_tensor* draft, const vk_tensor* draft_probs,
                                         const vk_tensor* target_probs, const vk_tensor* bonus,
                                         const vk_tensor* recovered, const vk_tensor* uniform,
                                         const vk_tensor* is_greedy, int64_t /*max_spec_len*/,
                                         int64_t vocab_size, bool no_draft_probs) {
  return vk::Guard([&] {
    const char* op = "rejection_random_sample_kernel_impl";
    const Arg drafted(op, "draft_token_ids", draft);
    const int64_t tokens = drafted.size(0);
    const int64_t* ids = Integers(drafted, tokens);
    const int64_t* instead = Integers(Arg(op, "recovered_token_ids", recovered), tokens);
    const Arg random(op, "uniform_probs", uniform);
    random.Dtype({VK_F32}).Dims(1).Contiguous().Size(0, tokens);
    const float* bound = static_cast<const float*>(uniform->data);
    const Matrix p(Arg(op, "target_probs", target_probs), op, tokens, vocab_size);
    const Matrix q = DraftProbs(op, draft_probs, tokens, vocab_size, no_draft_probs);
    const Requests requests(Arg(op, "cu_num_draft_tokens", ends), op, tokens);
    const Output out(op, requests, output, bonus, is_greedy);
    for (int64_t i = 0; i < requests.count(); ++i) {
      if (!out.LeavesOut(i, false)) {
        CheckIds(op, ids, requests.begin(i), requests.end(i), vocab_size);
      }
    }
    for (int64_t i = 0; i < requests.count(); ++i) {
      if (out.LeavesOut(i, false)) continue;
      out.Write(i, requests.begin(i), requests.end(i), [&](int64_t token, bool& accepted) {
        const int64_t id = ids[token];
        const float* proposal = q.Row(token);
        const float chance = proposal == nullptr ? 1.0f : proposal[id];
        accepted = chance > 0.0f && p.Row(token)[id] / chance >= bound[token];
        return accepted ? id : instead[token];
      });
    }
  });
}

vk_status vk_cpu_sample_recovered_tokens(const vk_tensor* output, const vk_tensor* ends,
                                         const vk_tensor* draft, const vk_tensor* draft_probs,
                                         const vk_tensor* target_probs, const vk_tensor* inv_q,
                                         int64_t vocab_size, bool no_draft_probs) {
  return vk::Guard([&] {
    const char* op = "sample_recovered_tokens_kernel_impl";
    const Arg drafted(op, "draft_token_ids", draft);
    const int64_t tokens = drafted.size(0);
    const int64_t* ids = Integers(drafted, tokens);
    Integers(Arg(op, "output_token_ids", output), tokens);
    int64_t* to = static_cast<int64_t*>(output->data);
    const Matrix p(Arg(op, "target_probs", target_probs), op, tokens, vocab_size);
    const Matrix q = DraftProbs(op, draft_probs, tokens, vocab_size, no_draft_probs);
    const Requests requests(Arg(op, "cu_num_draft_tokens", ends), op, tokens);
    const Matrix factors(Arg(op, "inv_q", inv_q), op, requests.count(), vocab_size);
    const int64_t last = requests.count() == 0 ? 0 : requests.end(requests.count() - 1);
    if (no_draft_probs) CheckIds(op, ids, 0, last, vocab_size);
    const auto largest = vk::Kernels().sampling->largest_rest;
    const size_t width = static_cast<size_t>(vocab_size);
    vk::ParallelFor(
        last, vk::GrainFor(3 * vocab_size * int64_t{sizeof(float)}),
        [&](int64_t begin, int64_t end) {
          int64_t request = 0;
          for (int64_t token = begin; token < end; ++token) {
            while (requests.end(request) <= token) ++request;
            const float* target = p.Row(token);
            const float* factor = factors.Row(request);
            if (!no_draft_probs) {
              to[token] = static_cast<int64_t>(largest(target, q.Row(token), factor, width).place);
              continue;
            }
            // What is left and right of the drafted token, whose own probability counts as 0.
            const size_t id = static_cast<size_t>(ids[token]);
            vk::Largest best = largest(target, nullptr, factor, id);
            if (0.0f * factor[id] > best.value) best = {0.0f, id};
            const size_t next = id + 1;
            const vk::Largest right = largest(target + next, nullptr, factor + next, width - next);
            if (right.value > best.value) best = {right.value, right.place + next};
            to[token] = static_cast<int64_t>(best.place);
          }
        });
  });
}

}  // extern "C"
