# One file a kind of scale: together they would take nvcc minutes where many architectures are asked for.
foreach(scale IN ITEMS Float PowerOfTwo Packed)
  string(TOLOWER groups_${scale} name)
  vllm_cuda_instance(groups_instance.cu.in ${name} VK_SCALE ${scale})
endforeach()
