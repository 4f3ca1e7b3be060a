# One file an instance of the attention kernels: query dtype, cache dtype, head size, and whether rows
# are whole vectors (others are rare, so one head size serves them all).

foreach(type IN ITEMS BFloat16 Half)
  foreach(head IN ITEMS 64 128 192 256)
    string(TOLOWER "hopper_${type}_${head}_sm90" name)
    vllm_cuda_instance(hopper_instance_sm90.cu.in ${name} VK_ATTENTION_T ${type}
                       VK_ATTENTION_HEAD ${head})
  endforeach()
  foreach(cache IN ITEMS ${type} E4M3)
    foreach(kind IN ITEMS 64_true 128_true 192_true 256_true 256_false)
      string(TOLOWER "instance_${type}_${cache}_${kind}" name)
      string(REPLACE "_" ";" kind "${kind}")
      list(GET kind 0 head)
      list(GET kind 1 fast)
      vllm_cuda_instance(
        instance.cu.in ${name}
        VK_ATTENTION_T ${type} VK_ATTENTION_KV ${cache}
        VK_ATTENTION_HEAD ${head} VK_ATTENTION_FAST ${fast})
    endforeach()
  endforeach()
endforeach()
