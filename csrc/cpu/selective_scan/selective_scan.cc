#include "cpu/selective_scan/selective_scan.h"

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/round.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"
#include "cpu/sequences.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::ScanSequence;
using vk::SelectiveScan;

// A state of this many columns, or a head of this many rows, is no model's, and keeps products of
// sizes in range.
constexpr int64_t kMostStates = 4096, kMostRows = 1 << 20;

const vk::SelectiveScanTable& Table() { return *vk::Kernels().selective_scan; }

// The tensors of a call.
struct Call {
  const char* op;
  const vk_tensor *out, *x, *z;   // [tokens, heads, dim]
  const vk_tensor *dt, *dt_bias;  // [tokens, heads(, dim)], [heads(, dim)]
  const vk_tensor *a, *b, *c,
      *d;                   // [heads(, dim, dstate)], [tokens, groups, dstate], [heads(, dim)]
  const vk_tensor* states;  // [slots, heads, dim, dstate]
  const char* states_name;
  bool softplus;
};

// float32 or the dtype of `like`.
Arg Parameter(const char* op, const char* name, const vk_tensor* tensor, const Arg& like) {
  const Arg arg(op, name, tensor);
  if (tensor->dtype != VK_F32) arg.SameDtype(like);
  return arg;
}

// Whether a dimension that may be left out says the same of all its elements.
bool Same(const vk_tensor& tensor, int32_t dim) {
  return tensor.ndim <= dim || tensor.shape[dim] == 1 || tensor.stride[dim] == 0;
}

// [heads, width] as float32, of [heads] or [heads, dim]; `width` is dim or 1.
std::vector<float> PerRow(const vk_tensor& tensor, int64_t heads, int64_t width) {
  std::vector<float> values(heads * width);
  const auto widen = Table().widen[tensor.dtype];
  for (int64_t h = 0; h < heads; ++h) {
    float* row = values.data() + h * width;
    const bool same = Same(tensor, 1);
    for (int64_t i = 0; i < (same ? 1 : width); ++i) {
      const int64_t element = same ? 0 : i * tensor.stride[1];
      widen(row + i, vk::ElementAt(tensor, h * tensor.stride[0] + element), 1);
    }
    if (same) std::fill(row + 1, row + width, row[0]);
  }
  return values;
}

vk::ScanRows RowsOf(const vk_tensor& tensor) {
  return {static_cast<char*>(tensor.data), tensor.stride[0], tensor.stride[1], tensor.stride[2]};
}

// A call that has been checked, and what it keeps in float32.
class Scan {
 public:
  explicit Scan(const Call& call) : call_(call) {
    const Arg x = CheckRows();
    CheckParameters(x);
    scan_.dim = dim_, scan_.dstate = dstate_, scan_.heads = heads_;
    scan_.x = RowsOf(*call.x), scan_.out = RowsOf(*call.out);
    if (call.z != nullptr) scan_.z = RowsOf(*call.z);
    scan_.b = RowsOf(*call.b), scan_.c = RowsOf(*call.c);
    scan_.states = static_cast<char*>(call.states->data);
    scan_.slot = call.states->stride[0], scan_.head = call.states->stride[1];
    scan_.row = call.states->stride[2];
  }

  int64_t tokens() const { return tokens_; }
  int64_t slots() const { return call_.states->shape[0]; }

  // A task is a few rows of a head over all sequences: of two with one slot the second sees what
  // the first has left.
  void Run(const std::vector<ScanSequence>& sequences) {
    int64_t tokens = 0;
    for (const ScanSequence& one : sequences) tokens += one.tokens;
    if (tokens == 0 || heads_ == 0 || dim_ == 0) return;
    scan_.group = heads_ / call_.b->shape[1];
    Decays();
    Steps();
    if (call_.d != nullptr) {
      through_ = PerRow(*call_.d, heads_, dim_);
      scan_.d = through_.data();
    }
    const auto kernel = Table().scan[call_.states->dtype][call_.x->dtype];
    const size_t bytes = Table().scratch_floats(dstate_) * sizeof(float);
    const int64_t rows = std::min(vk::kScanRows, dim_), blocks = vk::CeilDiv(dim_, rows);
    const int64_t moved =
        rows * dstate_ * (tokens + 2 * static_cast<int64_t>(sequences.size())) * 4;
    vk::ParallelFor(heads_ * blocks, vk::GrainFor(moved), [&](int64_t begin, int64_t end) {
      float* scratch = reinterpret_cast<float*>(vk::ThreadScratch(bytes));
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task % blocks * rows, count = std::min(rows, dim_ - row);
        for (const ScanSequence& one : sequences) {
          kernel(scan_, one, task / blocks, row, count, scratch);
        }
      }
    });
  }

 private:
  Arg CheckRows() {
    const char* op = call_.op;
    const Arg x(op, "x", call_.x);
    x.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3);
    tokens_ = x.size(0), heads_ = x.size(1), dim_ = x.size(2);
    Arg(op, "out", call_.out).SameDtype(x).SameShape(x);
    if (call_.z != nullptr) Arg(op, "z", call_.z).SameDtype(x).SameShape(x);
    const Arg b(op, "B", call_.b), c(op, "C", call_.c);
    b.SameDtype(x).Dims(3).Size(0, tokens_);
    c.SameDtype(x).SameShape(b);
    VK_CHECK(b.size(1) > 0 && heads_ % b.size(1) == 0,
             "%s: x has %lld heads and B %lld groups, want a multiple of the groups", op,
             Print(heads_), Print(b.size(1)));
    dstate_ = b.size(2);
    VK_CHECK(dstate_ >= 1 && dstate_ <= kMostStates && dim_ <= kMostRows,
             "%s: heads have %lld rows and states of %lld, want at most %lld, and 1 to %lld", op,
             Print(dim_), Print(dstate_), Print(kMostRows), Print(kMostStates));
    const Arg states = Parameter(op, call_.states_name, call_.states, x);
    states.Dims(4).Size(1, heads_).Size(2, dim_).Size(3, dstate_).LastDimContiguous();
    return x;
  }

  void CheckParameters(const Arg& x) {
    const char* op = call_.op;
    const Arg dt = Parameter(op, "dt", call_.dt, x);
    if (call_.dt->ndim != 2) dt.Dims(3).Size(2, dim_);
    dt.Size(0, tokens_).Size(1, heads_);
    const Arg a = Parameter(op, "A", call_.a, x);
    if (call_.a->ndim != 1) a.Dims(3).Size(1, dim_).Size(2, dstate_);
    a.Size(0, heads_);
    CheckPerHead("D", call_.d, x);
    CheckPerHead("dt_bias", call_.dt_bias, x);
  }

  void CheckPerHead(const char* name, const vk_tensor* tensor, const Arg& x) const {
    if (tensor == nullptr) return;
    const Arg arg = Parameter(call_.op, name, tensor, x);
    if (tensor->ndim != 1) arg.Dims(2).Size(1, dim_);
    arg.Size(0, heads_);
  }

  // A as float32.
  void Decays() {
    const vk_tensor& a = *call_.a;
    const int64_t rows = Same(a, 1) ? 1 : dim_, columns = Same(a, 2) ? 1 : dstate_;
    const int64_t row = rows == 1 ? 0 : a.stride[1], column = columns == 1 ? 0 : a.stride[2];
    if (a.dtype == VK_F32) {
      scan_.a = static_cast<const float*>(a.data);
      scan_.a_head = a.stride[0], scan_.a_row = row, scan_.a_element = column;
      return;
    }
    decays_.resize(heads_ * rows * columns);
    for (int64_t i = 0; i < heads_ * rows * columns; ++i) {
      const int64_t from = i / (rows * columns) * a.stride[0] + i / columns % rows * row;
      Table().widen[a.dtype](decays_.data() + i, vk::ElementAt(a, from + i % columns * column), 1);
    }
    scan_.a = decays_.data();
    scan_.a_head = rows * columns, scan_.a_row = rows == 1 ? 0 : columns;
    scan_.a_element = columns == 1 ? 0 : 1;
  }

  // dt, with its bias and softplus.
  void Steps() {
    const vk_tensor& dt = *call_.dt;
    const bool one = Same(dt, 2) && scan_.a_row == 0 && scan_.a_element == 0 &&
                     (call_.dt_bias == nullptr || Same(*call_.dt_bias, 1));
    const int64_t width = one ? 1 : dim_, count = heads_ * width;
    int64_t values, bytes;
    VK_CHECK(vk::Multiply(tokens_, count, &values) &&
                 vk::Multiply<int64_t>(values, sizeof(float), &bytes),
             "%s: %lld tokens of %lld steps pass int64", call_.op, Print(tokens_), Print(count));
    steps_ = vk::AllocateBytes(bytes);
    float* to = reinterpret_cast<float*>(steps_.get());
    std::vector<float> bias;
    if (call_.dt_bias != nullptr) bias = PerRow(*call_.dt_bias, heads_, width);
    const auto kernel = Table().steps[dt.dtype];
    // The steps of a token lie in one row, or each head's do.
    const bool by_head = !one && Same(dt, 2);
    const ptrdiff_t within = one ? dt.stride[1] : (by_head ? 0 : dt.stride[2]);
    const int64_t parts = one ? 1 : heads_, size = one ? heads_ : width;
    vk::ParallelFor(tokens_, vk::GrainFor(count * 16), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t part = 0; part < parts; ++part) {
          const int64_t head = one ? 0 : part;
          kernel(to + t * count + head * width,
                 vk::ElementAt(dt, t * dt.stride[0] + head * dt.stride[1]), within,
                 bias.empty() ? nullptr : bias.data() + head * width, size, call_.softplus);
        }
      }
    });
    scan_.steps = to, scan_.step_width = width;
  }

  const Call call_;
  SelectiveScan scan_{};
  int64_t tokens_ = 0, heads_ = 0, dim_ = 0, dstate_ = 0;
  std::vector<float> decays_, through_;
  vk::Bytes steps_;
};

// int32 [sequences] or [sequences, columns].
struct Slots {
  Slots(const char* op, const char* name, const vk_tensor* slots, int64_t sequences)
      : op_(op), name_(name), tensor_(slots) {
    if (slots == nullptr) return;
    vk::CheckSlots(op, name, slots, sequences);
    if (slots->ndim == 2) columns_ = slots->shape[1];
  }

  int64_t columns() const { return columns_; }
  bool given() const { return tensor_ != nullptr; }
  int64_t stride() const { return tensor_->ndim == 1 ? 1 : tensor_->stride[1]; }
  const int32_t* Row(int64_t sequence) const {
    return static_cast<const int32_t*>(tensor_->data) + sequence * tensor_->stride[0];
  }

  // The slot of a sequence. One that is `null` is not checked.
  int64_t At(int64_t sequence, int64_t column, int64_t null, int64_t count) const {
    const int64_t slot = Row(sequence)[column * stride()];
    VK_CHECK(slot == null || (slot >= 0 && slot < count),
             "%s: %s has %lld for sequence %lld, want 0 to %lld or null_block_id %lld", op_, name_,
             Print(slot), Print(sequence), Print(count - 1), Print(null));
    return slot;
  }

 private:
  const char* op_;
  const char* name_;
  const vk_tensor* tensor_;
  int64_t columns_ = 1;
};

}  // namespace

extern "C" {

vk_status vk_cpu_mamba_chunk_scan(const vk_tensor* out, const vk_tensor* final_states,
                                  const vk_tensor* x, const vk_tensor* dt, const vk_tensor* A,
                                  const vk_tensor* B, const vk_tensor* C, const vk_tensor* D,
                                  const vk_tensor* z, const vk_tensor* starts) {
  return vk::Guard([&] {
    const char* op = "mamba_chunk_scan_fwd_cpu";
    Scan scan({op, out, x, z, dt, nullptr, A, B, C, D, final_states, "final_states", false});
    Arg(op, "final_states", final_states).Dtype({VK_F32});
    const Arg first(op, "cu_seqlens", starts);
    const int64_t count = vk::CheckStarts(first, op, scan.tokens());
    VK_CHECK(count == scan.slots(),
             "%s: final_states has shape %s, want a state for each of %lld "
             "sequences",
             op, vk::ShapeString(*final_states).c_str(), Print(count));
    const auto* start = static_cast<const int32_t*>(starts->data);
    std::vector<ScanSequence> sequences;
    for (int64_t s = 0; s < count; ++s) {
      if (start[s] == start[s + 1]) continue;
      sequences.push_back({start[s], start[s + 1] - start[s], s, s, nullptr, 0, -1});
    }
    scan.Run(sequences);
  });
}

vk_status vk_cpu_selective_state_update(const vk_tensor* state, const vk_tensor* x,
                                        const vk_tensor* dt, const vk_tensor* A, const vk_tensor* B,
                                        const vk_tensor* C, const vk_tensor* D, const vk_tensor* z,
                                        const vk_tensor* dt_bias, int32_t softplus,
                                        const vk_tensor* from, const vk_tensor* to,
                                        int64_t null_slot, const vk_tensor* out,
                                        const vk_tensor* accepted, const vk_tensor* starts) {
  return vk::Guard([&] {
    const char* op = "selective_state_update_cpu";
    Scan scan({op, out, x, z, dt, dt_bias, A, B, C, D, state, "state", softplus != 0});
    int64_t count = scan.tokens();
    const int32_t* start = nullptr;
    if (starts != nullptr) {
      count = vk::CheckStarts(Arg(op, "cu_seqlens", starts), op, scan.tokens());
      start = static_cast<const int32_t*>(starts->data);
    }
    const Slots read(op, "state_batch_indices", from, count);
    const Slots written(op, "dst_state_batch_indices", to, count);
    const int32_t* taken = nullptr;
    if (accepted != nullptr) {
      const Arg counts(op, "num_accepted_tokens", accepted);
      counts.Dtype({VK_I32}).Dims(1).Size(0, count).Contiguous();
      taken = static_cast<const int32_t*>(accepted->data);
    }
    std::vector<ScanSequence> sequences;
    for (int64_t s = 0; s < count; ++s) {
      ScanSequence one{start == nullptr ? s : start[s],
                       start == nullptr ? 1 : start[s + 1] - start[s],
                       0,
                       -1,
                       nullptr,
                       0,
                       null_slot};
      if (one.tokens == 0) continue;
      int64_t column = 0;
      if (taken != nullptr && read.given()) {
        VK_CHECK(taken[s] <= read.columns(),
                 "%s: num_accepted_tokens has %d at index %lld, want at most the %lld columns of "
                 "state_batch_indices",
                 op, taken[s], Print(s), Print(read.columns()));
        column = std::max(taken[s] - 1, 0);
      }
      one.from = read.given() ? read.At(s, column, null_slot, scan.slots()) : s;
      if (read.given() && one.from == null_slot) continue;
      VK_CHECK(one.from < scan.slots(),
               "%s: state has %lld slots, want one for each of %lld "
               "sequences",
               op, Print(scan.slots()), Print(count));
      if (taken != nullptr && written.given()) {
        VK_CHECK(one.tokens <= written.columns(),
                 "%s: sequence %lld has %lld tokens, want at most the %lld columns of "
                 "dst_state_batch_indices",
                 op, Print(s), Print(one.tokens), Print(written.columns()));
        for (int64_t t = 0; t < one.tokens; ++t) written.At(s, t, null_slot, scan.slots());
        one.slots = written.Row(s), one.slots_stride = written.stride();
      } else {
        const int64_t last = written.given() ? written.At(s, 0, null_slot, scan.slots()) : one.from;
        one.to = written.given() && last == null_slot ? -1 : last;
      }
      sequences.push_back(one);
    }
    scan.Run(sequences);
  });
}

}  // extern "C"
