# One file a tile of tokens (grouped.h).
foreach(tokens IN ITEMS 16 32 64 128 256)
  vllm_cuda_instance(grouped_instance.cu.in grouped_${tokens} VK_TOKENS ${tokens})
endforeach()
# One file a tile of tokens, and how often weights of 128 rows (blocks.h).
foreach(tile IN ITEMS 16x1 64x1 64x2 128x1 128x2)
  string(REPLACE "x" ";" words ${tile})
  list(GET words 0 tokens)
  list(GET words 1 waves)
  vllm_cuda_instance(blocks_instance.cu.in blocks_${tile} VK_TOKENS ${tokens} VK_WAVES ${waves})
endforeach()
