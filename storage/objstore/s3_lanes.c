/* Lanes: libcurl handles that are kept with their connections. See s3_int.h. */
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/objstore/s3_int.h"

static struct s3_lane *lane_new(void)
{
    struct s3_lane *l = calloc(1, sizeof(*l));
    ASSERT(l);
    l->multi = curl_multi_init();
    l->easy = curl_easy_init();
    ASSERT(l->multi && l->easy);
    curl_multi_setopt(l->multi, CURLMOPT_MAXCONNECTS, 1L);
    return l;
}

static void lane_free(struct s3_lane *l)
{
    curl_easy_cleanup(l->easy);
    curl_multi_cleanup(l->multi);
    free(l);
}

/* Waits for the lock's condition a little. */
static void wait_a_little(struct s3 *s)
{
    int64_t until_ns = clock_mono_ns() + OBJSTORE_LOOK_MS * 1000000;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    pthread_cond_timedwait(&s->lane_free, &s->lock, &until);
}

struct s3_lane *s3_lane_take(struct s3 *s, const struct ctx *ctx, struct err *err)
{
    struct s3_lane *l = NULL;
    bool make = false, wanted = true;
    pthread_mutex_lock(&s->lock);
    while (!s->idle && s->n_lanes >= s->cfg.max_lanes && (wanted = ctx_check(ctx, err)))
        wait_a_little(s);
    if (s->idle) {
        l = s->idle;
        s->idle = l->next;
        s->n_idle--;
    } else if (wanted) {
        s->n_lanes++;
        make = true;
    }
    pthread_mutex_unlock(&s->lock);
    return make ? lane_new() : l;
}

void s3_lane_give(struct s3 *s, struct s3_lane *l)
{
    pthread_mutex_lock(&s->lock);
    bool keep = s->n_idle < s->cfg.max_idle;
    if (keep) {
        l->next = s->idle;
        s->idle = l;
        s->n_idle++;
    } else {
        s->n_lanes--;
    }
    pthread_cond_signal(&s->lane_free);
    pthread_mutex_unlock(&s->lock);
    if (!keep)
        lane_free(l);
}

void s3_lanes_release(struct s3 *s)
{
    ASSERT(s->n_idle == s->n_lanes);
    while (s->idle) {
        struct s3_lane *next = s->idle->next;
        lane_free(s->idle);
        s->idle = next;
    }
}
