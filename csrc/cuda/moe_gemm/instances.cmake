# One file a tile of tokens (grouped.h).
foreach(tokens IN ITEMS 16 32 64 128 256)
  vllm_cuda_instance(grouped_instance.cu.in grouped_${tokens} VK_TOKENS ${tokens})
endforeach()
# One file a tile of tokens and weights, with these as its rows (blocks.cuh, in waves of 128) or those
# (blocks_rows.cuh).
foreach(tile IN ITEMS 16x128 64x128 64x256)
  string(REPLACE "x" ";" words ${tile})
  list(GET words 0 tokens)
  list(GET words 1 weights)
  math(EXPR waves "${weights} / 128")
  vllm_cuda_instance(
    blocks_instance.cu.in blocks_${tile} VK_NAME Turned${tile}
    VK_LAUNCH "LaunchTurned<${tokens}, ${waves}>"
  )
endforeach()
foreach(weights IN ITEMS 128 192 256)
  vllm_cuda_instance(
    blocks_instance.cu.in blocks_rows_${weights} VK_NAME Rows128x${weights}
    VK_LAUNCH "LaunchRows<${weights}, 1>"
  )
endforeach()
