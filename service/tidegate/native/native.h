/* What the files of this library share. Called from Python by ctypes (see __init__.py), built by hatch_build.py. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
