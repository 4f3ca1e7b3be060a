#include "cpu/gemm/gemm.h"
