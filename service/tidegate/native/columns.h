/* What a batch is to the session rules, and where a slab keeps what sessions remember. */

#ifndef TIDEGATE_COLUMNS_H
#define TIDEGATE_COLUMNS_H

#include "native.h"

/* A slab's columns, and what a lane says of its rows; in Python: engine/flights/ordinary.py. */
typedef struct {
    const uint32_t *freed;   /* of engine/memory/slots.py, as `taken` and `base` */
    const uint8_t *taken, *leaving;
    uint8_t *unsaved, *diverged;
    const int32_t *version;
    int64_t *next_turn, *step, *steps_seen, *event_time;
    uint64_t *digest;
    double *active_at, *last_input, *reply;
    uint16_t *missing_run, *reply_gap;
    uint8_t *reply_flags, *reply_imputed;
    int64_t base, slab, lane, features, outputs, imputed_bytes;
    int64_t interval;        /* ns between steps; 0: the package says none; -1: days or months of a time zone */
    double tolerance;        /* of an interval */
} Columns;

/* A stream's references to its sessions, by alias; in Python: engine/queues/block.py, `AliasTable`. */
typedef struct {
    const int64_t *refs;
    int64_t size;
} Table;

/* A batch, n of each; values [n, features], replies [n, outputs]. What is given lies as `Addresses` in
   engine/queues/block.py has it. The rest is filled by `look`, and so are refs where the rows are of `messages` that
   name their sessions by alias: `parts` rows each, each of one of the `tables`. */
typedef struct {
    int64_t rows, messages;
    const int64_t *step, *time;
    const double *values, *deadline;
    const uint8_t *reset;
    const double *arrived;
    const int64_t *sequence, *id_bytes;
    int64_t *refs;
    const int64_t *aliases;
    const Table *const *tables;
    const int64_t *parts;
    int64_t *slots, *step_after, *seen, *seen_after, *time_after, *valid_time;
    uint64_t *digest;
} Rows;

/* Buckets with inclusive upper bounds, and the last one without; in Python: metrics.py, `ColumnHistogram`. */
typedef struct {
    const double *bounds;
    int64_t buckets;
    int64_t *counts;
    double *sum;
} Histogram;

/* What is counted of a quick turn; in Python: metrics.py, `Metrics.turn_at`. */
typedef struct {
    const Histogram *queue_wait, *end_to_end, *batch_rows, *step_seconds;
} Turns;

/* See columns.c. */
int64_t tidegate_look(const Columns *columns, const Rows *rows, int64_t grown, int64_t turn, double now);
void tidegate_commit(const Columns *columns, const Rows *rows, const double *replies, double now);
void tidegate_add(const Histogram *histogram, double value, int64_t times);
int64_t tidegate_alike(const double *since, int64_t rows);

#endif
