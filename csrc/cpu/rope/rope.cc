#include "cpu/rope/rope.h"
