# One file a dtype and weight type: eight kernels, one for each block shape (marlin_plan.h).
foreach(dtype IN ITEMS Bf16 Half)
  foreach(type IN ITEMS U4B8 U4 U8B128 Fp8)
    string(TOLOWER marlin_${dtype}_${type} name)
    vllm_cuda_instance(marlin_instance.cu.in ${name} VK_DTYPE ${dtype} VK_TYPE ${type})
  endforeach()
endforeach()
