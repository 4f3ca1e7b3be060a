#include "cpu/activation/activation.h"
