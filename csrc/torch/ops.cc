// The one place where the schemas of the namespace meet the dispatcher. Device libraries only add
// implementations (STABLE_TORCH_LIBRARY_IMPL).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(vllm_kernels, library) {
#define VK_OP(family, schema) library.def(schema);
#include "torch/ops.def"
#undef VK_OP
}
