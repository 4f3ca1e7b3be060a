#include "cpu/attention/attention.h"
