/* The session rules for a batch in which every row is the next step of a healthy session, which most batches are.

   `look` says whether it is such a batch, and leaves all as it was where a row is not; the table in
   engine/judgement/rules.py then judges it. `commit` writes what the sessions remember after such a batch. */

#include "columns.h"

#define NO_TIME INT64_MIN
#define LATEST (INT64_MAX - 32LL * 86400 * 1000000000 + 1) /* as in model/frequency.py */
#define SLOT_BITS 27
#define SLAB_BITS 5
#define GENERATION_MASK 0x7fffffffLL
#define EXPONENT (0x7ffULL << 52)
#define DIGESTS 64 /* taken together */

static inline uint64_t mix(uint64_t state)
{
    state = (state ^ (state >> 33)) * 0xFF51AFD7ED558CCDULL;
    return (state ^ (state >> 33)) * 0xC4CEB9FE1A85EC53ULL + 1;
}

/* As `digest` in engine/judgement/rules.py; no value is NaN, and there is no reset. Column by column, for the compiler takes
   many rows at once then. */
static void digests(const Rows *rows, int64_t features)
{
    for (int64_t low = 0; low < rows->rows; low += DIGESTS) {
        int64_t count = rows->rows - low < DIGESTS ? rows->rows - low : DIGESTS;
        const double *values = rows->values + low * features;
        uint64_t total[DIGESTS] = {0};
        for (int64_t j = 0; j < features; j++)
            for (int64_t n = 0; n < count; n++) {
                double value = values[n * features + j] + 0.0;
                uint64_t word;
                memcpy(&word, &value, sizeof word);
                total[n] += mix(word ^ (uint64_t)(j + 1) * 0x9E3779B97F4A7C15ULL);
            }
        for (int64_t n = 0; n < count; n++)
            rows->digest[low + n] = mix(total[n] ^ mix((uint64_t)rows->time[low + n]));
    }
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

/* Looks up the rows' sessions; 0 where an alias is bound to none. */
static int find(const Rows *rows)
{
    const int64_t *aliases = rows->aliases;
    int64_t *refs = rows->refs;
    for (int64_t m = 0; m < rows->messages; m++) {
        Table table = *rows->tables[m];
        int64_t count = rows->parts[m];
        for (int64_t n = 0; n < count; n++) {
            if ((uint64_t)aliases[n] >= (uint64_t)table.size)
                return 0;
            refs[n] = table.refs[aliases[n]];
        }
        aliases += count;
        refs += count;
    }
    return 1;
}

/* Whether all rows say what an ordinary one may: every value, in time, without a reset. */
static int complete(const Rows *rows, int64_t values, double now)
{
    uint64_t wrong = 0;
    for (int64_t k = 0; k < values; k++) {
        uint64_t word;
        memcpy(&word, rows->values + k, sizeof word);
        wrong |= (word & EXPONENT) == EXPONENT; /* missing or infinite */
    }
    for (int64_t n = 0; n < rows->rows; n++)
        wrong |= (uint64_t)!(rows->deadline[n] >= now);
    for (int64_t n = 0; n < rows->rows; n++)
        wrong |= rows->reset[n];
    return wrong == 0;
}

/* Whether all rows are ordinary, each of another session of the lane. `grown` slots were ever in use; turn is the next
   one of the lane's queue, which is empty; now is the deadlines' clock. */
int64_t tidegate_look(const Columns *columns, const Rows *rows, int64_t grown, int64_t turn, double now)
{
    int64_t n = 0, features = columns->features, interval = columns->interval;
    if (!find(rows) || !complete(rows, rows->rows * features, now))
        return 0;
    for (; n < rows->rows; n++) {
        int64_t ref = rows->refs[n], slot = ref & ((1LL << SLOT_BITS) - 1);
        if (slot >= grown || !columns->taken[slot])
            break;
        int64_t generation = ((int64_t)columns->freed[slot] + columns->base) & GENERATION_MASK;
        if (ref != (generation << (SLOT_BITS + SLAB_BITS) | columns->slab << SLOT_BITS | slot))
            break;
        int64_t step = columns->step[slot] + 1, given = rows->step[n], time = rows->time[n];
        if (columns->leaving[slot] || columns->version[slot] != columns->lane || columns->diverged[slot] ||
            (given != 0 && given != step) || columns->next_turn[slot] > turn)
            break;
        if (!time_of(columns, time, columns->event_time[slot], &rows->time_after[n]))
            break;
        rows->valid_time[n] =
            interval > 0 && time > -LATEST && time <= LATEST - interval ? time + interval : NO_TIME;
        rows->slots[n] = slot;
        rows->step_after[n] = step;
        rows->seen[n] = columns->steps_seen[slot];
        rows->seen_after[n] = rows->seen[n] + 1;
        columns->next_turn[slot] = turn + 1;
    }
    if (n == rows->rows) {
        digests(rows, features);
        return 1;
    }
    while (n-- > 0)
        columns->next_turn[rows->slots[n]] = turn;
    return 0;
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
        memcpy(columns->last_input + slot * features, rows->values + (size_t)n * features, features * sizeof(double));
        memset(columns->missing_run + slot * features, 0, features * sizeof(uint16_t));
        memcpy(columns->reply + slot * outputs, replies + (size_t)n * outputs, outputs * sizeof(double));
        columns->reply_flags[slot] = 0;
        memset(columns->reply_imputed + slot * bytes, 0, bytes);
        columns->reply_gap[slot] = 0;
    }
}

/* Counts a value so many times. */
void tidegate_add(const Histogram *histogram, double value, int64_t times)
{
    int64_t place = 0;
    while (place < histogram->buckets && value > histogram->bounds[place])
        place++;
    histogram->counts[place] += times;
    *histogram->sum += (double)times * value;
}

/* How many moments from the first one on are the same: rows of one message came together. */
int64_t tidegate_alike(const double *since, int64_t rows)
{
    int64_t n = 1;
    while (n < rows && since[n] == since[0])
        n++;
    return n;
}

/* Counts what lies between each of `since` and now. */
void tidegate_count(const Histogram *histogram, const double *since, int64_t rows, double now)
{
    for (int64_t n = 0, times; n < rows; n += times)
        tidegate_add(histogram, now - since[n], times = tidegate_alike(since + n, rows - n));
}
