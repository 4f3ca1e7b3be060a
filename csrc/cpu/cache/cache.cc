#include "cpu/cache/cache.h"
