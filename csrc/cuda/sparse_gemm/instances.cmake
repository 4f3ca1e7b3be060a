# One file a kernel: type of the weights, few or many rows of activations.
foreach(type IN ITEMS Fp8 Int8 Bf16)
  foreach(rows IN ITEMS Few Many)
    string(TOLOWER "sparse_${type}_${rows}" name)
    vllm_cuda_instance(instance.cu.in ${name} VK_TYPE ${type} VK_ROWS ${rows})
  endforeach()
endforeach()
