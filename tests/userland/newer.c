/* What the suite's libstdc++ takes from a C library that came after the old one. */
#include <stdint.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/types.h>

int __xstat(int version, const char* path, struct stat* status);
int __lxstat(int version, const char* path, struct stat* status);
int __fxstat64(int version, int file, struct stat64* status);

enum { STAT_VERSION = 1 }; /* of x86-64, which has had one only */

/* Since 2.32: nonzero while there is one thread; it is always right to say that there are more. */
char __libc_single_threaded = 0;

/* Since 2.33 functions; before, each program had its own. */
int stat(const char* path, struct stat* status) { return __xstat(STAT_VERSION, path, status); }
int lstat(const char* path, struct stat* status) { return __lxstat(STAT_VERSION, path, status); }
int fstat64(int file, struct stat64* status) { return __fxstat64(STAT_VERSION, file, status); }

/* Since 2.36. */
uint32_t arc4random(void) {
  uint32_t value;
  while (getrandom(&value, sizeof value, 0) != (ssize_t)sizeof value) {
  }
  return value;
}
