/* A pass of LSTM steps, as lstm.c takes it. */

#ifndef TIDEGATE_LSTM_H
#define TIDEGATE_LSTM_H

#include "native.h"

#define LAYERS_MAX 16

/* One pass over some rows. What is above the line stays for the life of a workspace, the rest is set for each pass.
   A session's row in `state` holds `row_width` floats: `channels` parts of `part_width`, each h | c of layer 0, then of
   layer 1, and so on. Row m of the pass is channel m % channels of session m / channels. A fresh session's states read
   as zero. All arrays are row-major; in Python: model/native_lstm.py, `Pass`. */
typedef struct {
    int64_t hidden, layers, channels, part_width, row_width, identity; /* identity: h' = o c' */
    int64_t columns;                   /* of the product: the gates i | f | g | o, then padding */
    float *product, *after;            /* [chunk, columns]; [rows, part_width]: the new states */
    const float *zeros;                /* [hidden] */
    float *x[LAYERS_MAX];              /* [rows, width + hidden]: what the layer sees beside its h */
    int64_t width[LAYERS_MAX];
    const float *bias[LAYERS_MAX];     /* [columns] */
    const float *peephole[LAYERS_MAX]; /* [3 x hidden], i | f | o; or NULL */
    const double *center, *scale;      /* [width]: x = (raw - center) / scale; NULL: x is there already */
    const double *unit, *base;         /* [outputs]: value = output * unit + base; NULL: values are there already */
    int64_t outputs;                   /* values of a session */
    /* The most rows at a time; weights in panels (product.h), of each layer and of the head, if it is linear; put_out
       [rows, PANEL x head_panels] is the head's product. */
    int64_t chunk;
    const float *weight[LAYERS_MAX], *head_weight, *head_bias;
    int64_t head_panels;
    float *put_out;
    /* -- */
    float *state;
    const int64_t *slots;
    const uint8_t *fresh;              /* or NULL: none is */
    const double *raw;                 /* [sessions, width] */
    double *values;                    /* [sessions, outputs] */
    uint8_t *finite;                   /* [sessions] */
} Pass;

int64_t tidegate_step(const Pass *pass, int64_t rows);

#endif
