#include "cuda/gemm/dispatch.h"

#include "cuda/common/launch.h"
#include "cuda/gemm/blocks_plan.h"
#include "cuda/gemm/rounds.h"

namespace vk::cuda::gemm {
namespace {

Kind KindOf(const Problem& p) {
  if (p.dtype == VK_I8) return Kind::kInt8;
  return p.blocks ? Kind::kFp8Blocks : Kind::kFp8;
}

const char* Words(Kind kind) {
  switch (kind) {
    case Kind::kInt8:
      return "int8";
    case Kind::kFp8:
      return "float8_e4m3fn";
    default:
      return "float8_e4m3fn with scales for blocks";
  }
}

enum class Part { none, c2x, sm90, sm100, sm120 };

// The parts in this library, each with the GPUs that run it and the oldest GPUs of the code there.
struct Served {
  Part part;
  int gpu;
  int code;
};
constexpr Served kServed[] = {
#define VK_SERVED(part, gpu, code) {Part::part, gpu, code},
#include "cuda/gemm/served.inc"
#undef VK_SERVED
    {Part::none, 0, 0},
};

#ifdef VK_GEMM_C2X
template <int kArch, Kind kKind>
void LaunchC2xBySize(const Problem& p) {
  if (p.m <= 64) return LaunchC2x<kArch, kKind, Tile::kFew>(p);
  return LaunchC2x<kArch, kKind, Tile::kMany>(p);
}

void RunC2x(Kind kind, const Problem& p) {
  if (kind == Kind::kFp8) return LaunchC2xBySize<89, Kind::kFp8>(p);
  if (p.capability < 80) return LaunchC2xBySize<75, Kind::kInt8>(p);
  return LaunchC2xBySize<80, Kind::kInt8>(p);
}
#endif

#ifdef VK_GEMM_SM90
// By measurement on an H100 and an H200 (benchmarks/cuda/bench_gemm.py). Of INT8, tiles of
// 128 x 256 are the faster ones where they leave no more multiprocessors idle at the end; of FP8
// they were the slower ones whenever the power limit set the clock.
template <Kind kKind>
void RunSm90By(const Problem& p) {
  if (p.m <= 16) return LaunchSm90<kKind, Tile::kRows16>(p);
  if (p.m <= 32) return LaunchSm90<kKind, Tile::kRows32>(p);
  if (p.m <= 64) return LaunchSm90<kKind, Tile::kRows64>(p);
  const auto rounds = [&](int64_t columns) {
    return CeilDiv(CeilDiv(p.m, 128) * CeilDiv(p.n, columns), p.multiprocessors);
  };
  if (p.m <= 128 || CeilDiv(p.m, 64) * CeilDiv(p.n, 128) <= p.multiprocessors) {
    return LaunchSm90<kKind, Tile::kRows128>(p);
  }
  if constexpr (kKind == Kind::kInt8) {
    if (p.m >= 2048 && 2 * rounds(256) <= rounds(128)) return LaunchSm90<kKind, Tile::kLarge>(p);
  }
  return LaunchSm90<kKind, Tile::kMany>(p);
}

void RunSm90(Kind kind, const Problem& p) {
  if (kind == Kind::kFp8) return RunSm90By<Kind::kFp8>(p);
  if (kind == Kind::kInt8) return RunSm90By<Kind::kInt8>(p);
  const FewRowsPlan few = PlanFewRows(p.m, p.n, p.k, p.multiprocessors);
  const BlocksTile blocks = PlanBlocks(p.m, p.n, p.k, p.multiprocessors);
  if (few.rows > 0 && (blocks.columns == 0 || few.time <= blocks.time)) {
    return LaunchFewRows(p, few);
  }
  if (blocks.columns == 64 && blocks.split == 2) return LaunchBlocksSm90<64, 2>(p);
  if (blocks.columns == 64) return LaunchBlocksSm90<64, 1>(p);
  if (blocks.columns == 128) return LaunchBlocksSm90<128, 1>(p);
  if (blocks.columns == 192) return LaunchBlocksSm90<192, 1>(p);
  if (blocks.columns == 256) return LaunchBlocksSm90<256, 1>(p);
  if (FewRowsAreFaster(p.m, p.n, p.multiprocessors)) {
    return LaunchSm90<Kind::kFp8Blocks, Tile::kFew>(p);
  }
  return LaunchSm90<Kind::kFp8Blocks, Tile::kMany>(p);
}
#endif

#ifdef VK_GEMM_SM100
void RunSm100(Kind kind, const Problem& p) {
  if (kind == Kind::kFp8Blocks) return LaunchSm100<Kind::kFp8Blocks, Tile::kMany>(p);
  if (p.m <= 32) return LaunchSm100<Kind::kFp8, Tile::kFew>(p);
  if (CeilDiv(p.m, 256) * CeilDiv(p.n, 256) * 2 < p.multiprocessors) {
    return LaunchSm100<Kind::kFp8, Tile::kMany>(p);
  }
  return LaunchSm100<Kind::kFp8, Tile::kLarge>(p);
}
#endif

#ifdef VK_GEMM_SM120
template <Kind kKind>
void RunSm120As(const Problem& p) {
  if (p.m <= 64) return LaunchSm120<kKind, Tile::kFew>(p);
  return LaunchSm120<kKind, Tile::kMany>(p);
}

void RunSm120(Kind kind, const Problem& p) {
  if (kind == Kind::kFp8) return RunSm120As<Kind::kFp8>(p);
  return RunSm120As<Kind::kFp8Blocks>(p);
}
#endif

using Runner = void(Kind, const Problem&);

// What multiplies that kind on those GPUs with that code; null: nothing.
Runner* RunnerOf([[maybe_unused]] Kind kind, const Served& served) {
  switch (served.part) {
#ifdef VK_GEMM_C2X
    case Part::c2x:  // code of 8.0 runs on 8.9 too, but multiplies no FP8
      if (kind == Kind::kInt8 || (kind == Kind::kFp8 && served.code == 89)) return &RunC2x;
      return nullptr;
#endif
#ifdef VK_GEMM_SM90
    case Part::sm90:
      return &RunSm90;
#endif
#ifdef VK_GEMM_SM100
    case Part::sm100:
      return kind == Kind::kInt8 ? nullptr : &RunSm100;
#endif
#ifdef VK_GEMM_SM120
    case Part::sm120:
      return kind == Kind::kInt8 ? nullptr : &RunSm120;
#endif
    default:
      return nullptr;
  }
}

Runner* Find(Kind kind, int64_t capability) {
  for (const Served& served : kServed) {
    if (served.gpu == capability) return RunnerOf(kind, served);
  }
  return nullptr;
}

}  // namespace

bool Serves(Kind kind, int64_t capability) { return Find(kind, capability) != nullptr; }

void Run(const Problem& p) {
  const Kind kind = KindOf(p);
  if (Runner* run = Find(kind, p.capability)) return run(kind, p);
  Fail(VK_UNSUPPORTED,
       "%s: this library (%s) has no kernel of %s for GPUs of %d.%d; FP8 takes 8.9 or newer, by "
       "blocks 9.0 or newer, INT8 7.5 to 9.0",
       p.op, VK_CUDA_ARCHS, Words(kind), p.capability / 10, p.capability % 10);
}

}  // namespace vk::cuda::gemm
