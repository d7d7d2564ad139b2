/* A quick turn, whole: engine/quick.py. */

#define _POSIX_C_SOURCE 199309L

#include <time.h>

#include "columns.h"
#include "lstm.h"

#define NOT_ORDINARY (-1)

/* Of one lane; in Python: engine/quick.py, `_Described`. */
typedef struct {
    const Columns *columns;
    const Rows *rows;
    const Pass *pass;
    double seconds; /* what the last step took */
} Turn;

static double seconds_between(struct timespec start, struct timespec end)
{
    return (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
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
    if (!lost)
        tidegate_commit(turn->columns, rows, turn->pass->values, now);
    return lost;
}
