# One file a tile of tokens (grouped.h).
foreach(tokens IN ITEMS 16 32 64 128 256)
  vllm_cuda_instance(grouped_instance.cu.in grouped_${tokens} VK_TOKENS ${tokens})
endforeach()
