/* A pass of LSTM steps, as lstm.c takes it. */

#ifndef TIDEGATE_LSTM_H
#define TIDEGATE_LSTM_H

#include "inputs.h"

#define LAYERS_MAX 16
#define HEADS_MAX 5

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
    const Inputs *inputs;
    double *level;                     /* [3 x features]: of one session at a time; its center and scale behind it */
    float *whole;                      /* [columns]: of one session at a time */
    double *new_levels, *new_running;  /* [sessions, lagged]; [sessions, 2, session_features] */
    double *meaning;                   /* [sessions, 2, targets]: base | unit; or one for all, if they are fixed */
    int64_t outputs;                   /* values of a session */
    int64_t room, chunk;               /* the most sessions, and of their rows, at a time */
    const float *weight[LAYERS_MAX];   /* in panels (product.h) */
    /* The head: layers of weights [depth, panels] and biases, with relu or tanh between them, softmax behind the last. */
    int64_t heads, tanh, softmax, head_depth[HEADS_MAX], head_panels[HEADS_MAX];
    const float *head_weight[HEADS_MAX], *head_bias[HEADS_MAX];
    float *between[2];                 /* [chunk, the most columns] */
    float *put_out;                    /* [rows, columns of the last] */
    /* -- */
    float *state;                      /* what sessions remember: [slots, row_width]; and, if the package derives it: */
    double *ring, *running;            /* [slots, ring_steps, lagged]; [slots, 2, session_features] */
    float *feedback;                   /* [slots, channels, feedback] */
    int64_t ring_steps;
    const int64_t *slots;
    const uint8_t *fresh;              /* or NULL: none is */
    const double *raw;                 /* [sessions, features] */
    const int64_t *seen;               /* steps since the state was zero. This and the next if the package asks for it */
    const float *calendar, *ages;
    const int32_t *id;                 /* from 1; 0: none of the ids */
    double *values;                    /* [sessions, outputs] */
    uint8_t *finite;                   /* [sessions] */
} Pass;

/* The pass from session `first` on; its workspace stays. */
ALIKE Pass from_session(const Pass *pass, int64_t first)
{
    Pass rest = *pass;
    const Inputs *inputs = pass->inputs;
    rest.slots += first;
    rest.fresh = pass->fresh == NULL ? NULL : pass->fresh + first;
    rest.raw += first * inputs->features;
    rest.seen = pass->seen == NULL ? NULL : pass->seen + first;
    rest.calendar = pass->calendar == NULL ? NULL : pass->calendar + first * inputs->calendar;
    rest.ages = pass->ages == NULL ? NULL : pass->ages + first * inputs->ages;
    rest.id = pass->id == NULL ? NULL : pass->id + first;
    rest.values += first * pass->outputs;
    rest.finite += first;
    return rest;
}

/* A whole step of any number of sessions. Returns how many of them are not finite. */
int64_t tidegate_step(const Pass *pass, int64_t sessions);

void tidegate_derive(const Pass *pass, int64_t sessions);
void tidegate_restore(const Pass *pass, int64_t n, const float *outputs, int64_t stride, double *values);
void tidegate_remember(const Pass *pass, int64_t n, const float *outputs, int64_t stride);

#endif
