# One file an instance of the attention kernels: query dtype, cache dtype, head size.

foreach(head IN ITEMS 64 128 192 256)
  foreach(type IN ITEMS BFloat16 Half)
    string(TOLOWER "hopper_${type}_${head}_sm90" name)
    vllm_cuda_instance(hopper_instance_sm90.cu.in ${name} VK_ATTENTION_T ${type}
                       VK_ATTENTION_HEAD ${head})
    foreach(cache IN ITEMS ${type} E4M3)
      string(TOLOWER "instance_${type}_${cache}_${head}" name)
      vllm_cuda_instance(instance.cu.in ${name} VK_ATTENTION_T ${type} VK_ATTENTION_KV ${cache}
                         VK_ATTENTION_HEAD ${head})
    endforeach()
  endforeach()
endforeach()
