/* The session rules for a batch in which every row is the next step of a healthy session, which most batches are.

   `look` says whether it is such a batch, row by row, and stops at the first row that is not; the table in
   engine/rules.py then judges it. `commit` writes what the sessions remember after such a batch. */

#include "native.h"

#define NO_TIME INT64_MIN
#define LATEST (INT64_MAX - 32LL * 86400 * 1000000000) /* as in model/frequency.py */
#define SLOT_BITS 27
#define SLAB_BITS 5
#define GENERATION_MASK 0x7fffffffLL

/* A slab's columns, and what a lane says of its rows; in Python: engine/ordinary.py. */
typedef struct {
    const uint32_t *freed;   /* of engine/slots.py, as `taken` and `base` */
    const uint8_t *taken, *leaving;
    uint8_t *unsaved, *diverged;
    const int32_t *version;
    int64_t *next_turn, *step, *steps_seen, *event_time;
    uint64_t *digest;
    double *active_at, *last_input, *reply;
    uint16_t *missing_run, *reply_gap;
    uint8_t *reply_flags, *reply_imputed;
    int64_t base, slab, lane, features, outputs, imputed_bytes;
    int64_t interval;        /* ns between steps; 0: the package says none; -1: months, which are not counted here */
    double tolerance;        /* of an interval */
} Columns;

/* A batch, n of each; values [n, features], replies [n, outputs]. The second half is filled by `look`. */
typedef struct {
    int64_t rows;
    const int64_t *refs, *step, *time;
    const double *values, *deadline;
    const uint8_t *reset;
    int64_t *slots, *step_after, *seen, *seen_after, *time_after, *valid_time;
    uint64_t *digest;
} Rows;

static inline uint64_t mix(uint64_t state)
{
    state = (state ^ (state >> 33)) * 0xFF51AFD7ED558CCDULL;
    return (state ^ (state >> 33)) * 0xC4CEB9FE1A85EC53ULL + 1;
}

/* As `digest` in engine/rules.py; no value is NaN, and there is no reset. */
static inline uint64_t digest_of(const double *values, int64_t features, int64_t time)
{
    uint64_t total = 0;
    for (int64_t j = 0; j < features; j++) {
        union { double f; uint64_t u; } word = {values[j] + 0.0};
        total += mix(word.u ^ (uint64_t)(j + 1) * 0x9E3779B97F4A7C15ULL);
    }
    return mix(total ^ mix((uint64_t)time));
}

/* The time of the step: the one given, else one interval after the last. 0 where the rules have something to say. */
static inline int time_of(const Columns *columns, int64_t given, int64_t last, int64_t *after)
{
    int64_t interval = columns->interval;
    *after = given;
    if (given == NO_TIME) {
        *after = last;
        if (last != NO_TIME && interval != 0)
            *after = last <= LATEST - interval ? last + interval : NO_TIME;
        return last == NO_TIME || (interval >= 0 && last > -LATEST);
    }
    if (interval < 0 || given > LATEST || given < -LATEST)
        return 0;
    if (last == NO_TIME)
        return 1;
    if (last < -LATEST || given <= last || given / 2 - last / 2 > LATEST / 2)
        return 0;
    if (interval == 0)
        return 1;
    double exact = (double)(given - last) / (double)interval;
    return exact < 1.5 && fabs(exact - 1.0) <= columns->tolerance;
}

/* Whether all rows are ordinary, each of another session of the lane. `grown` slots were ever in use; turn is the next
   one of the lane's queue, which is empty; now is the deadlines' clock. */
int64_t tidegate_look(const Columns *columns, const Rows *rows, int64_t grown, int64_t turn, double now)
{
    int64_t n = 0, features = columns->features;
    for (; n < rows->rows; n++) {
        int64_t ref = rows->refs[n], slot = ref & ((1LL << SLOT_BITS) - 1);
        if (slot >= grown || !columns->taken[slot])
            break;
        int64_t generation = ((int64_t)columns->freed[slot] + columns->base) & GENERATION_MASK;
        if (ref != (generation << (SLOT_BITS + SLAB_BITS) | columns->slab << SLOT_BITS | slot))
            break;
        int64_t step = columns->step[slot] + 1, given = rows->step[n];
        if (columns->leaving[slot] || columns->version[slot] != columns->lane || columns->diverged[slot] || rows->reset[n] ||
            (given != 0 && given != step) || !(rows->deadline[n] >= now) || columns->next_turn[slot] > turn)
            break;
        if (!time_of(columns, rows->time[n], columns->event_time[slot], &rows->time_after[n]))
            break;
        const double *values = rows->values + n * features;
        double sum = 0.0;
        for (int64_t j = 0; j < features; j++)
            sum += values[j] * 0.0; /* NaN where a value is missing or infinite */
        if (sum != 0.0)
            break;
        int64_t interval = columns->interval, time = rows->time[n];
        rows->valid_time[n] =
            interval > 0 && time > -LATEST && time <= LATEST - interval ? time + interval : NO_TIME;
        rows->slots[n] = slot;
        rows->step_after[n] = step;
        rows->seen[n] = columns->steps_seen[slot];
        rows->seen_after[n] = rows->seen[n] + 1;
        rows->digest[n] = digest_of(values, features, rows->time[n]);
        columns->next_turn[slot] = turn + 1;
    }
    if (n == rows->rows)
        return 1;
    while (n-- > 0)
        columns->next_turn[rows->slots[n]] = turn;
    return 0;
}

/* As memcpy and memset of so few bytes that a call would cost more. */
static inline void copy_few(double *to, const double *from, size_t count)
{
    for (size_t j = 0; j < count; j++)
        to[j] = from[j];
}

static inline void clear_few(uint8_t *bytes, size_t count)
{
    for (size_t j = 0; j < count; j++)
        bytes[j] = 0;
}

/* Every row's step was taken, and is finite: `values` are the inputs, replies [n, outputs] what was predicted. */
void tidegate_commit(const Columns *columns, const Rows *rows, const double *replies, double now)
{
    size_t features = (size_t)columns->features, outputs = (size_t)columns->outputs;
    size_t bytes = (size_t)columns->imputed_bytes;
    for (int64_t n = 0; n < rows->rows; n++) {
        size_t slot = (size_t)rows->slots[n];
        columns->step[slot] = rows->step_after[n];
        columns->steps_seen[slot] = rows->seen_after[n];
        columns->event_time[slot] = rows->time_after[n];
        columns->digest[slot] = rows->digest[n];
        columns->active_at[slot] = now;
        columns->unsaved[slot] = 1;
        copy_few(columns->last_input + slot * features, rows->values + (size_t)n * features, features);
        for (size_t j = 0; j < features; j++)
            columns->missing_run[slot * features + j] = 0;
        copy_few(columns->reply + slot * outputs, replies + (size_t)n * outputs, outputs);
        columns->reply_flags[slot] = 0;
        clear_few(columns->reply_imputed + slot * bytes, bytes);
        columns->reply_gap[slot] = 0;
    }
}

/* Counts what lies between each of `since` and now in buckets with inclusive upper bounds; returns the sum. */
double tidegate_count(const double *bounds, int64_t buckets, int64_t *counts, const double *since, int64_t rows,
                      double now)
{
    double sum = 0.0;
    for (int64_t n = 0; n < rows;) {
        double value = now - since[n];
        int64_t place = 0, first = n;
        while (place < buckets && value > bounds[place])
            place++;
        while (++n < rows && since[n] == since[first]) /* rows of one message came together */
            ;
        counts[place] += n - first;
        sum += (double)(n - first) * value;
    }
    return sum;
}
