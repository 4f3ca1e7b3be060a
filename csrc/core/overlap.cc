#include "core/overlap.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/checked.h"

namespace vk {
namespace {

// Steps of the search below that are worth a call's time; views of one buffer take a few dozen.
constexpr int kBudget = 20000;

// The solutions of sum(step[i] * x[i]) = target with 0 <= x[i] <= most[i]: a bounded linear
// Diophantine equation. In general that is hard; steps that nest leave one or two candidates each.
class Equation {
 public:
  void AddTerm(int64_t step, int64_t most) {
    if (step == 0 || most == 0) return;
    terms_[count_++] = {step, most};
  }

  // Whether there are at least `wanted` solutions, or finding out takes long.
  bool Has(int wanted, __int128 target) {
    std::sort(terms_, terms_ + count_,
              [](const Term& a, const Term& b) { return a.step > b.step; });
    Merge();
    reach_[count_] = 0;
    divisor_[count_] = 0;
    for (int at = count_ - 1; at >= 0; --at) {
      reach_[at] = reach_[at + 1] + static_cast<__int128>(terms_[at].step) * terms_[at].most;
      divisor_[at] = std::gcd(divisor_[at + 1], terms_[at].step);
    }
    wanted_ = wanted;
    Search(0, target);
    return wanted_ <= 0 || budget_ <= 0;
  }

 private:
  struct Term {
    int64_t step, most;
  };

  // Terms of one step are one: its x is their sum. That keeps whether a solution exists, not how
  // many there are, so two of them count as many.
  void Merge() {
    int kept = 0;
    for (int at = 0; at < count_; ++at) {
      if (kept > 0 && terms_[kept - 1].step == terms_[at].step) {
        terms_[kept - 1].most += terms_[at].most;
      } else {
        terms_[kept++] = terms_[at];
      }
    }
    count_ = kept;
  }

  void Search(int at, __int128 target) {
    if (target < 0 || target > reach_[at] || wanted_ <= 0 || --budget_ <= 0) return;
    if (at == count_) {
      --wanted_;  // the reach is 0 here, and so is the target
      return;
    }
    if (target % divisor_[at] != 0) return;
    const __int128 step = terms_[at].step;
    const __int128 rest = reach_[at + 1];
    const __int128 first = target > rest ? (target - rest + step - 1) / step : 0;
    const __int128 last = std::min<__int128>(target / step, terms_[at].most);
    for (__int128 x = first; x <= last && wanted_ > 0 && budget_ > 0; ++x) {
      Search(at + 1, target - x * step);
    }
  }

  Term terms_[2 * VK_MAX_DIMS + 2] = {};
  __int128 reach_[2 * VK_MAX_DIMS + 3] = {};
  int64_t divisor_[2 * VK_MAX_DIMS + 3] = {};
  int count_ = 0, wanted_ = 0, budget_ = kBudget;
};

bool Empty(const vk_tensor& tensor) {
  return std::find(tensor.shape, tensor.shape + tensor.ndim, 0) != tensor.shape + tensor.ndim;
}

// From contiguous inwards to outwards: each stride passes what the inner dimensions reach.
bool Nests(const vk_tensor& tensor) {
  int64_t reach = 1;
  for (int32_t dim = tensor.ndim - 1; dim >= 0; --dim) {
    if (tensor.shape[dim] == 1) continue;
    if (tensor.stride[dim] < reach) return false;
    reach += (tensor.shape[dim] - 1) * tensor.stride[dim];
  }
  return true;
}

// Rows without gaps inside, all at multiples of one pitch.
struct Rows {
  int64_t bytes, pitch;
};

bool FindRows(const vk_tensor& tensor, int64_t item, Rows* rows) {
  int64_t reach = item;
  int32_t dim = tensor.ndim - 1;
  for (; dim >= 0; --dim) {
    if (tensor.shape[dim] == 1) continue;
    if (tensor.stride[dim] * item != reach) break;
    reach *= tensor.shape[dim];
  }
  if (dim < 0) return false;
  const int64_t pitch = tensor.stride[dim] * item;
  if (pitch < reach) return false;
  for (--dim; dim >= 0; --dim) {
    if (tensor.shape[dim] != 1 && tensor.stride[dim] * item % pitch != 0) return false;
  }
  *rows = {reach, pitch};
  return true;
}

// Whether they are columns of one matrix that do not meet, as queries and keys of one projection
// and keys and values of one cache are. Saves these calls the search for solutions.
bool ApartInOnePitch(const vk_tensor& one, int64_t one_item, const vk_tensor& other,
                     int64_t other_item) {
  Rows first, second;
  if (!FindRows(one, one_item, &first) || !FindRows(other, other_item, &second)) return false;
  if (first.pitch != second.pitch) return false;
  int64_t apart = static_cast<const char*>(other.data) - static_cast<const char*>(one.data);
  apart %= first.pitch;
  if (apart < 0) apart += first.pitch;
  return apart >= first.bytes && apart + second.bytes <= first.pitch;
}

}  // namespace

bool FindSpan(const vk_tensor& tensor, int64_t item, Span* span) {
  int64_t count = item, below = 0, above = 0;
  bool empty = false;
  for (int32_t dim = 0; dim < tensor.ndim; ++dim) {
    const int64_t size = tensor.shape[dim];
    if (size <= 0) {
      empty = true;
      continue;
    }
    if (!Multiply(count, size, &count)) return false;
  }
  if (empty) {
    *span = {};
    return true;
  }
  for (int32_t dim = 0; dim < tensor.ndim; ++dim) {
    int64_t reach;
    if (!Multiply(tensor.shape[dim] - 1, tensor.stride[dim], &reach) ||
        !Multiply(reach, item, &reach)) {
      return false;
    }
    int64_t& side = reach < 0 ? below : above;
    if (!Add(side, reach, &side)) return false;
  }
  const uintptr_t data = reinterpret_cast<uintptr_t>(tensor.data);
  *span = {data + static_cast<uintptr_t>(below), data + static_cast<uintptr_t>(above) + item};
  return span->begin <= data && data < span->end;
}

bool OverlapsItself(const vk_tensor& tensor) {
  if (Empty(tensor) || Nests(tensor)) return false;
  // Two elements share an address where their indices differ by d with sum(stride * d) = 0 and
  // |d| < size. Moved by size - 1 that is an equation with one solution that does not count, d = 0.
  Equation equation;
  __int128 target = 0;
  bool repeated = false;
  for (int32_t dim = 0; dim < tensor.ndim; ++dim) {
    if (tensor.shape[dim] == 1) continue;
    if (tensor.stride[dim] == 0) return true;
    const int64_t stride = std::abs(tensor.stride[dim]);
    for (int32_t other = 0; other < dim; ++other) {
      repeated |= tensor.shape[other] > 1 && std::abs(tensor.stride[other]) == stride;
    }
    target += static_cast<__int128>(stride) * (tensor.shape[dim] - 1);
    equation.AddTerm(stride, 2 * (tensor.shape[dim] - 1));
  }
  return repeated || equation.Has(2, target);
}

bool Overlap(const vk_tensor& one, int64_t one_item, const vk_tensor& other, int64_t other_item) {
  Span first, second;
  if (!FindSpan(one, one_item, &first) || !FindSpan(other, other_item, &second)) return true;
  if (!first.Meets(second) || ApartInOnePitch(one, one_item, other, other_item)) return false;
  // Bytes from the start of one's span and, backwards, from the end of the other's: both are sums
  // of steps of 0 or more, and together they are the distance of those ends.
  Equation equation;
  for (const auto& [tensor, item] : {std::pair(&one, one_item), std::pair(&other, other_item)}) {
    for (int32_t dim = 0; dim < tensor->ndim; ++dim) {
      equation.AddTerm(std::abs(tensor->stride[dim]) * item, tensor->shape[dim] - 1);
    }
    equation.AddTerm(1, item - 1);
  }
  return equation.Has(1, static_cast<__int128>(second.end - 1) - first.begin);
}

bool SameElements(const vk_tensor& one, const vk_tensor& other) {
  if (one.data != other.data || one.dtype != other.dtype || one.ndim != other.ndim) return false;
  for (int32_t dim = 0; dim < one.ndim; ++dim) {
    if (one.shape[dim] != other.shape[dim]) return false;
    if (one.shape[dim] > 1 && one.stride[dim] != other.stride[dim]) return false;
  }
  return true;
}

}  // namespace vk
