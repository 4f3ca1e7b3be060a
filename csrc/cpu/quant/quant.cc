#include "cpu/quant/quant.h"
