/* How a package derives what its cell sees, as inputs.c takes it. All arrays are row-major; in Python:
   model/native_inputs.py. The equations and the order of the columns: model/inputs.py. */

#ifndef TIDEGATE_INPUTS_H
#define TIDEGATE_INPUTS_H

#include "native.h"

typedef struct {
    int64_t features;
    const uint8_t *curved;             /* [features]: log1p; or NULL: none is */
    const double *center, *scale;      /* [features]: of the package */
    int64_t session_features, window;  /* how many are scaled by session, over about how many steps */
    const int64_t *session_feature;    /* [session_features] */
    const uint8_t *instance;           /* [session_features]: by mean and deviation; else by size alone */
    const uint8_t *session_scaled;     /* [features]: whether it is one of them */
    int64_t values;                    /* columns of the features themselves */
    const int64_t *value_feature;      /* [values] */
    const double *value_category;      /* [values]: the category that makes it 1; negative: it is a number */
    int64_t lagged, lags;              /* features with lags; lag differences */
    const int64_t *lagged_feature;     /* [lagged] */
    const int64_t *lag_entry, *lag_steps;
    const double *lag_scale;           /* [lags] each: which of the lagged, how far back, of what size */
    int64_t calendar, ids, ages;       /* columns */
    int64_t columns, arranged;         /* of the whole row; of a channel, without its number and feedback */
    const int64_t *arrange;            /* [channels, arranged]: columns of the whole row; NULL: one channel, all of it */
    int64_t feedback;                  /* outputs of a channel that it sees again */
    int64_t targets, target_width;     /* outputs = targets x width */
    const int64_t *target_feature;     /* [targets] */
    const double *change;              /* [targets]: sizes of the changes that are predicted; NULL: levels are */
    int64_t plain, fixed;              /* x is all features, scaled by package, and nothing else; fixed: base and unit
                                          are the same for all. What is plain is fixed */
} Inputs;

#endif
