/* A crew: threads that step a batch together. Whoever is free takes the next share of its rows, so that a thread which
   the system holds up delays nobody by more than a share. Python's lock is not needed, neither to begin nor to end. */

#define _XOPEN_SOURCE 700

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "lstm.h"

#define THREADS_MAX 256
#define NICE 10 /* below the event loop, which brings the rows of the next batch */

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    int64_t threads, batches, at_work; /* batches that there were; threads that have a hand in this one */
    int open, over;                    /* this one may be joined; there will be none any more */
    const Pass *const *passes;         /* a workspace for each thread */
    int64_t rows, share;
    int bell;
    struct timespec begun;
    double seconds;
    atomic_int_fast64_t next, lost;
    pthread_t ids[THREADS_MAX];
} Crew;

typedef struct {
    Crew *crew;
    int64_t number;
} Hand;

static void take_shares(Crew *crew, const Pass *workspace)
{
    for (;;) {
        int64_t low = atomic_fetch_add(&crew->next, crew->share);
        if (low >= crew->rows)
            return;
        Pass pass = from_session(workspace, low);
        int64_t rows = crew->rows - low < crew->share ? crew->rows - low : crew->share;
        atomic_fetch_add(&crew->lost, tidegate_step(&pass, rows));
    }
}

/* The last thread has left. */
static void ring(Crew *crew)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    crew->seconds = (double)(now.tv_sec - crew->begun.tv_sec) + 1e-9 * (double)(now.tv_nsec - crew->begun.tv_nsec);
    pthread_cond_signal(&crew->end);
    uint64_t one = 1;
    if (crew->bell >= 0 && write(crew->bell, &one, sizeof one) < 0)
        return; /* it is rung already */
}

/* Where there are fewer cores than threads with work, the event loop goes first: it needs a core for a moment, and while
   it waits for one, neither answers leave nor rows come, so that cores are idle when the step ends. */
static void give_way(void)
{
#ifdef __linux__ /* elsewhere nice is the whole process's */
    if (nice(NICE) == -1)
        return; /* not so quick, no worse */
#endif
}

static void *work(void *given)
{
    Hand hand = *(Hand *)given;
    Crew *crew = hand.crew;
    free(given);
    give_way();
    pthread_mutex_lock(&crew->lock);
    for (int64_t seen = 0;;) {
        while (!crew->over && (!crew->open || seen == crew->batches))
            pthread_cond_wait(&crew->begin, &crew->lock);
        if (crew->over)
            break;
        seen = crew->batches;
        crew->at_work++;
        pthread_mutex_unlock(&crew->lock);
        take_shares(crew, crew->passes[hand.number]);
        pthread_mutex_lock(&crew->lock);
        crew->open = 0; /* nothing is left to take */
        if (--crew->at_work == 0)
            ring(crew);
    }
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

/* Ends the threads, after their batch. */
int64_t tidegate_crew_end(Crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    crew->over = 1;
    pthread_cond_broadcast(&crew->begin);
    pthread_mutex_unlock(&crew->lock);
    for (int64_t n = 0; n < crew->threads; n++)
        pthread_join(crew->ids[n], NULL);
    pthread_cond_destroy(&crew->begin);
    pthread_cond_destroy(&crew->end);
    pthread_mutex_destroy(&crew->lock);
    free(crew);
    return 0;
}

/* So many threads; NULL where they cannot be had. */
Crew *tidegate_crew(int64_t threads)
{
    Crew *crew = threads <= THREADS_MAX ? calloc(1, sizeof(Crew)) : NULL;
    if (crew == NULL)
        return NULL;
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->begin, NULL);
    pthread_cond_init(&crew->end, NULL);
    sigset_t all, before; /* signals are for Python's threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (crew->threads < threads) {
        Hand *hand = malloc(sizeof(Hand));
        if (hand == NULL)
            break;
        *hand = (Hand){crew, crew->threads};
        if (pthread_create(&crew->ids[crew->threads], NULL, work, hand) != 0) {
            free(hand);
            break;
        }
        crew->threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (crew->threads == threads)
        return crew;
    tidegate_crew_end(crew);
    return NULL;
}

/* Begins `tidegate_step` of all rows (1 or more), `share` of them at a time, and rings (writes to the eventfd `bell`, if
   that is not -1) when it is done. `passes`, one a thread, differ in their workspaces alone. Not before the last batch is
   done. */
int64_t tidegate_crew_post(Crew *crew, const Pass *const *passes, int64_t rows, int64_t share, int64_t bell)
{
    pthread_mutex_lock(&crew->lock);
    crew->passes = passes;
    crew->rows = rows;
    crew->share = share;
    crew->bell = (int)bell;
    clock_gettime(CLOCK_MONOTONIC, &crew->begun);
    atomic_store(&crew->next, 0);
    atomic_store(&crew->lost, 0);
    crew->batches++;
    crew->open = 1;
    pthread_cond_broadcast(&crew->begin);
    pthread_mutex_unlock(&crew->lock);
    return 0;
}

/* Waits until the batch is done. Returns how many of its rows are not finite; `seconds` is what it took. */
int64_t tidegate_crew_wait(Crew *crew, double *seconds)
{
    pthread_mutex_lock(&crew->lock);
    while (crew->open || crew->at_work)
        pthread_cond_wait(&crew->end, &crew->lock);
    *seconds = crew->seconds;
    pthread_mutex_unlock(&crew->lock);
    return atomic_load(&crew->lost);
}
