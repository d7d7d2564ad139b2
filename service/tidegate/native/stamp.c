/* Which sources the library was built from: see `stamp` in build.py. */

#include "native.h"

int64_t tidegate_stamp(void) { return TIDEGATE_STAMP; }
