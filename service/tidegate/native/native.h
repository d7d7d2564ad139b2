/* What the files of this library share. Called from Python by ctypes (see __init__.py), built by build.py. */

#ifndef TIDEGATE_NATIVE_H
#define TIDEGATE_NATIVE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ALIKE static inline __attribute__((always_inline))

#endif
