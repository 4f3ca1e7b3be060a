// Attention whose keys lie in any rows of a buffer. Rows that follow each other, as those of a
// paged cache do, are found to be blocks, which the kernels walk through; others are gathered.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/attention/attention.h"
#include "cpu/attention/checks.h"
#include "cpu/attention/run.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"

namespace {

using vk::Arg;
using vk::AttentionRequest;
using vk::Integers;
using vk::Print;

// Most rows of a block: more gain nothing.
constexpr int32_t kMostBlock = 256;

// One request: its row of req_to_token, keys, and place and number of its query tokens.
struct Request {
  int64_t table;
  int32_t keys;
  int64_t first_token;
  int32_t tokens;
};

class Call {
 public:
  Call(const char* op, const vk_row_attention_args& args)
      : op_(op),
        args_(args),
        extend_(args.k_extend != nullptr),
        query_(op, extend_ ? "q_extend" : "query", args.query),
        output_(op, extend_ ? "o_extend" : "output", args.output),
        key_(op, "k_buffer", args.k_buffer),
        value_(op, "v_buffer", args.v_buffer),
        table_(op, "req_to_token", args.req_to_token) {
    query_.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3).LastDimContiguous();
    CheckKeys(key_, value_);
    output_.SameDtype(query_).Dims(3).LastDimContiguous();
    output_.Size(0, query_.size(0)).Size(1, query_.size(1)).Size(2, value_.size(2));
    vk::CheckHeadSize(op, query_.size(2));
    value_.Size(0, key_.size(0));
    const int64_t heads = query_.size(1), kv_heads = key_.size(1);
    VK_CHECK(kv_heads > 0 && heads % kv_heads == 0 && heads / kv_heads <= vk::kMaxAttentionGroup,
             "%s: %s has %lld heads, want a multiple of the %lld of k_buffer, at most %d times", op,
             query_.name(), Print(heads), Print(kv_heads), vk::kMaxAttentionGroup);
    VK_CHECK(key_.size(0) <= INT32_MAX, "%s: k_buffer has %lld rows, want at most %d", op,
             Print(key_.size(0)), INT32_MAX);
    // The kernels take whole rows of values, of a key's size.
    const bool latent = args.v_buffer->data == args.k_buffer->data &&
                        value_.stride(0) == key_.stride(0) &&
                        (kv_heads == 1 || value_.stride(1) == key_.stride(1));
    whole_ = latent || value_.size(2) == key_.size(2);
    table_.Dtype({VK_I32, VK_I64}).Dims(2).LastDimContiguous();
    FindRequests();
  }

  void Run() {
    if (requests_.empty() || vk::NumElements(*args_.output) == 0) return;
    vk::AttentionProblem problem = MakeProblem();
    std::vector<float> sinks;
    problem.sinks = vk::PerHead(op_, "sinks", args_.sinks, query_, sinks);
    if (!whole_ || !Near() || !Rows(problem)) Gather(problem);
    vk::RunAttention(problem, *vk::Kernels().attention, found_, static_cast<int32_t>(key_.size(1)),
                     args_.query->dtype);
  }

 private:
  void CheckKeys(const Arg& key, const Arg& value) const {
    key.SameDtype(query_).Dims(3).Size(2, query_.size(2)).LastDimContiguous();
    value.SameDtype(query_).Dims(3).Size(1, key.size(1)).LastDimContiguous();
    VK_CHECK(value.size(2) <= key.size(2), "%s: %s has values of %lld elements, want at most %lld",
             op_, value.name(), Print(value.size(2)), Print(key.size(2)));
  }

  // Of either kind of call, checked.
  void FindRequests() {
    const Arg pool(op_, "req_pool_indices", args_.req_pool_indices);
    const Arg lengths(op_, "seq_lens", args_.seq_lens);
    lengths.Dtype({VK_I64}).Dims(1).Contiguous();
    pool.Dtype({VK_I64}).Dims(1).Contiguous().Size(0, lengths.size(0));
    const vk_tensor* counts = args_.seq_lens;
    const vk_tensor* starts = args_.seq_lens;
    if (extend_) {
      const Arg new_keys(op_, "k_extend", args_.k_extend);
      const Arg new_values(op_, "v_extend", args_.v_extend);
      CheckKeys(new_keys, new_values);
      new_keys.Size(0, query_.size(0)).Size(1, key_.size(1));
      new_values.Size(0, query_.size(0)).Size(2, value_.size(2));
      counts = args_.extend_seq_lens;
      starts = args_.extend_start_loc;
      for (const auto& [name, tensor] :
           {std::pair{"extend_seq_lens", counts}, std::pair{"extend_start_loc", starts}}) {
        Arg(op_, name, tensor).SameDtype(table_).Dims(1).Contiguous().Size(0, lengths.size(0));
      }
    } else {
      query_.Size(0, lengths.size(0));
    }
    const Integers table(*args_.req_pool_indices), keys(*args_.seq_lens), tokens(*counts);
    const Integers first(*starts);
    int64_t end = 0;  // of the query tokens of the requests before
    for (int64_t i = 0; i < lengths.size(0); ++i) {
      VK_CHECK(keys[i] >= 0 && keys[i] <= vk::kMaxAttentionKeys && keys[i] <= table_.size(1),
               "%s: seq_lens[%lld] is %lld, want 0 to the %lld that req_to_token has room for", op_,
               Print(i), Print(keys[i]),
               Print(std::min<int64_t>(table_.size(1), vk::kMaxAttentionKeys)));
      VK_CHECK(table[i] >= 0 && table[i] < table_.size(0),
               "%s: req_pool_indices[%lld] is %lld, want 0 to %lld", op_, Print(i), Print(table[i]),
               Print(table_.size(0) - 1));
      if (!extend_) {
        requests_.push_back({table[i], static_cast<int32_t>(keys[i]), i, 1});
        continue;
      }
      VK_CHECK(tokens[i] >= 0 && tokens[i] <= keys[i],
               "%s: extend_seq_lens[%lld] is %lld, want 0 to the request's %lld keys", op_,
               Print(i), Print(tokens[i]), Print(keys[i]));
      VK_CHECK(vk::Within(first[i], tokens[i], query_.size(0)),
               "%s: extend_start_loc[%lld] is %lld, want %lld tokens from there on among the %lld "
               "of q_extend",
               op_, Print(i), Print(first[i]), Print(tokens[i]), Print(query_.size(0)));
      if (tokens[i] == 0) continue;
      VK_CHECK(first[i] >= end,
               "%s: extend_start_loc[%lld] is %lld, want at least %lld: the tokens "
               "of requests lie behind each other",
               op_, Print(i), Print(first[i]), Print(end));
      end = first[i] + tokens[i];
      requests_.push_back(
          {table[i], static_cast<int32_t>(keys[i]), first[i], static_cast<int32_t>(tokens[i])});
    }
    CheckRows();
  }

  int64_t RowOf(const Request& request, int64_t token) const {
    return Integers(*args_.req_to_token)[request.table * table_.stride(0) + token];
  }

  // Keys of a request that are read from the buffers in any case.
  int32_t Cached(const Request& request) const {
    return extend_ ? request.keys - request.tokens : request.keys;
  }

  bool Known(int64_t row) const { return row >= 0 && row < key_.size(0); }

  void CheckRows() const {
    for (const Request& request : requests_) {
      for (int64_t token = 0; token < Cached(request); ++token) {
        const int64_t row = RowOf(request, token);
        VK_CHECK(Known(row), "%s: req_to_token[%lld, %lld] is %lld, want 0 to %lld", op_,
                 Print(request.table), Print(token), Print(row), Print(key_.size(0) - 1));
      }
    }
  }

  vk::AttentionProblem MakeProblem() const {
    vk::AttentionProblem problem{};
    problem.query = args_.query->data;
    problem.key = args_.k_buffer->data;
    problem.value = args_.v_buffer->data;
    problem.output = args_.output->data;
    problem.query_token_stride = query_.stride(0);
    problem.query_head_stride = query_.stride(1);
    problem.output_token_stride = output_.stride(0);
    problem.output_head_stride = output_.stride(1);
    // The number of a block is that of its first row.
    problem.key_block_stride = problem.key_slot_stride = key_.stride(0);
    problem.value_block_stride = problem.value_slot_stride = value_.stride(0);
    problem.key_head_stride = key_.stride(1);
    problem.value_head_stride = value_.stride(1);
    problem.head_size = static_cast<int32_t>(query_.size(2));
    problem.value_size = static_cast<int32_t>(value_.size(2));
    problem.group = static_cast<int32_t>(query_.size(1) / key_.size(1));
    const bool windowed = args_.sliding_window > 0 && args_.sliding_window < INT32_MAX;
    problem.window = windowed ? static_cast<int32_t>(args_.sliding_window) : INT32_MAX;
    VK_CHECK(args_.softcap >= 0, "%s: logit_cap is %g, want 0 (none) or a positive number", op_,
             args_.softcap);
    problem.softcap = static_cast<float>(args_.softcap);
    problem.scale = static_cast<float>(args_.scale);
    problem.value_scale = 1.0f;
    problem.coding = vk::kCachePlain;
    return problem;
  }

  // Whether a token's row of one tensor is that of another, of `width` elements a head.
  static bool Same(const vk_tensor& one, int64_t one_row, const vk_tensor& other,
                   int64_t other_row) {
    const int64_t bytes = vk::DtypeSize(one.dtype);
    for (int64_t head = 0; head < one.shape[1]; ++head) {
      const char* a = static_cast<const char*>(one.data) +
                      (one_row * one.stride[0] + head * one.stride[1]) * bytes;
      const char* b = static_cast<const char*>(other.data) +
                      (other_row * other.stride[0] + head * other.stride[1]) * bytes;
      if (std::memcmp(a, b, one.shape[2] * bytes) != 0) return false;
    }
    return true;
  }

  // Whether all keys and values are in the buffers.
  bool Near() const {
    if (!extend_) return true;
    std::atomic<bool> near{true};
    for (const Request& request : requests_) {
      const int64_t grain = vk::GrainFor(4 * key_.size(1) * key_.size(2) * key_.ItemSize());
      vk::ParallelFor(request.tokens, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end && near.load(std::memory_order_relaxed); ++i) {
          const int64_t row = RowOf(request, Cached(request) + i), token = request.first_token + i;
          if (!Known(row) || !Same(*args_.k_extend, token, *args_.k_buffer, row) ||
              !Same(*args_.v_extend, token, *args_.v_buffer, row)) {
            near.store(false, std::memory_order_relaxed);
          }
        }
      });
      if (!near.load()) return false;
    }
    return true;
  }

  // Blocks of rows in the buffers: as many rows as follow each other everywhere. False where the
  // kernels cannot walk through them: they take `multiple_` keys at once from one block, and step
  // over a request's last key to a whole multiple, which has to be in the buffers too.
  bool Rows(vk::AttentionProblem& problem) {
    int32_t block = kMostBlock;
    size_t keys = 0;
    for (const Request& request : requests_) {
      if (request.keys == 0) continue;
      keys += request.keys;
      for (int64_t token = 1; token < request.keys; ++token) {
        if (RowOf(request, token) == RowOf(request, token - 1) + 1) continue;
        while (token % block != 0) block /= 2;
        if (block < multiple_) return false;
      }
      const int64_t last = (request.keys - 1) / multiple_ * multiple_;
      if (RowOf(request, last) > key_.size(0) - multiple_) return false;
    }
    problem.block_size = block;
    blocks_.reserve(keys / block + requests_.size());
    for (const Request& request : requests_) {
      for (int64_t token = 0; token < request.keys; token += block) {
        blocks_.push_back(static_cast<int32_t>(RowOf(request, token)));
      }
    }
    ListRequests(block);
    return true;
  }

  // Copies the keys of the buffers and the new ones into memory where they follow each other.
  void Gather(vk::AttentionProblem& problem) {
    std::vector<int64_t> first;
    int64_t rows = 0;
    for (const Request& request : requests_) {
      first.push_back(rows);
      rows += vk::RoundUp(int64_t{request.keys}, multiple_);
    }
    VK_CHECK(rows <= INT32_MAX, "%s: seq_lens has %lld keys in all, want at most %d", op_,
             Print(rows), INT32_MAX);
    const size_t row_bytes = key_.size(1) * key_.size(2) * key_.ItemSize();
    gathered_ = vk::AllocateBytes(vk::SaturatingMultiply<size_t>(2 * rows, row_bytes));
    char* keys = gathered_.get();
    char* values = keys + rows * row_bytes;
    for (size_t i = 0; i < requests_.size(); ++i) {
      const Request& request = requests_[i];
      const int32_t cached = Cached(request);
      vk::ParallelFor(request.keys, vk::GrainFor(4 * row_bytes), [&](int64_t begin, int64_t end) {
        for (int64_t token = begin; token < end; ++token) {
          const bool old = token < cached;
          const int64_t row = old ? RowOf(request, token) : request.first_token + token - cached;
          const int64_t to = (first[i] + token) * row_bytes;
          Copy(old ? *args_.k_buffer : *args_.k_extend, row, keys + to);
          Copy(old ? *args_.v_buffer : *args_.v_extend, row, values + to);
        }
      });
    }
    problem.key = keys;
    problem.value = values;
    problem.key_block_stride = problem.key_slot_stride = key_.size(1) * key_.size(2);
    problem.value_block_stride = problem.value_slot_stride = problem.key_slot_stride;
    problem.key_head_stride = problem.value_head_stride = key_.size(2);
    problem.block_size = kMostBlock;
    for (size_t i = 0; i < requests_.size(); ++i) {
      for (int64_t token = 0; token < requests_[i].keys; token += kMostBlock) {
        blocks_.push_back(static_cast<int32_t>(first[i] + token));
      }
    }
    ListRequests(kMostBlock);
  }

  // The heads of one row, apart by the size of a key; what a value lacks is 0.
  void Copy(const vk_tensor& from, int64_t row, char* to) const {
    const int64_t bytes = vk::DtypeSize(from.dtype), step = key_.size(2) * bytes;
    const int64_t width = from.shape[2] * bytes;
    const char* data = vk::RowAt(from, row);
    for (int64_t head = 0; head < key_.size(1); ++head, to += step) {
      std::memcpy(to, data + head * from.stride[1] * bytes, width);
      std::memset(to + width, 0, step - width);
    }
  }

  void ListRequests(int32_t block) {
    const int32_t* blocks = blocks_.data();
    for (const Request& request : requests_) {
      found_.push_back({blocks, request.first_token, request.tokens, request.keys, extend_});
      blocks += vk::CeilDiv(request.keys, block);
    }
  }

  const char* op_;
  const vk_row_attention_args& args_;
  const bool extend_;
  const Arg query_, output_, key_, value_, table_;
  const int64_t multiple_ = vk::Kernels().attention->key_multiple;
  bool whole_ = false;
  std::vector<Request> requests_;
  std::vector<int32_t> blocks_;
  std::vector<AttentionRequest> found_;
  vk::Bytes gathered_;
};

}  // namespace

extern "C" vk_status vk_cpu_decode_attention(const vk_row_attention_args* args) {
  return vk::Guard([&] { Call("decode_attention_cpu", *args).Run(); });
}

extern "C" vk_status vk_cpu_extend_attention(const vk_row_attention_args* args) {
  return vk::Guard([&] { Call("extend_attention_cpu", *args).Run(); });
}
