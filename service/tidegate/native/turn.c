/* A quick turn, whole: engine/flights/quick.py. */

#define _POSIX_C_SOURCE 199309L

#include <time.h>

#include "columns.h"
#include "lstm.h"

#define NOT_ORDINARY (-1)
#define SIZES 64

/* Of one lane; in Python: engine/flights/quick.py, `_Described`. */
typedef struct {
    const Columns *columns;
    const Rows *rows;
    const Pass *pass;
    const Turns *counts;
    double *row_seconds; /* [SIZES]: what was learned of steps so far; see engine/step/pace.py */
    double seconds;      /* what the last step took */
} Turn;

static double seconds_between(struct timespec start, struct timespec end)
{
    return (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
}

/* As `Pace.measured`. */
static void learn(double *row_seconds, int64_t rows, double seconds)
{
    double *mean = row_seconds + (SIZES - __builtin_clzll((uint64_t)rows)), now = seconds / (double)rows;
    double before = *mean != 0.0 ? *mean : now;
    *mean = before + 0.1 * ((now < 2.0 * before ? now : 2.0 * before) - before);
}

/* Looks, steps and commits (columns.c, lstm.c). Returns how many rows are not finite, and where some are, nothing is
   committed; NOT_ORDINARY where the rows are not, and then nothing has happened. */
int64_t tidegate_turn(Turn *turn, int64_t grown, int64_t number, double now)
{
    const Rows *rows = turn->rows;
    struct timespec start, end;
    if (!tidegate_look(turn->columns, rows, grown, number, now))
        return NOT_ORDINARY;
    clock_gettime(CLOCK_MONOTONIC, &start);
    int64_t lost = tidegate_step(turn->pass, rows->rows);
    clock_gettime(CLOCK_MONOTONIC, &end);
    turn->seconds = seconds_between(start, end);
    learn(turn->row_seconds, rows->rows, turn->seconds);
    if (!lost)
        tidegate_commit(turn->columns, rows, turn->pass->values, now);
    return lost;
}

/* Counts a turn that was taken, which began and ended then. */
void tidegate_count_turn(const Turn *turn, double began, double ended)
{
    const double *since = turn->rows->arrived;
    int64_t rows = turn->rows->rows;
    for (int64_t n = 0, times; n < rows; n += times) {
        times = tidegate_alike(since + n, rows - n);
        tidegate_add(turn->counts->queue_wait, began - since[n], times);
        tidegate_add(turn->counts->end_to_end, ended - since[n], times);
    }
    tidegate_add(turn->counts->batch_rows, (double)rows, 1);
    tidegate_add(turn->counts->step_seconds, turn->seconds, 1);
}
