/*
 * For builds under the thread sanitizer alone. It follows the pthread functions; librdkafka uses C11's, which glibc does not route through them: a thread
 * made by thrd_create crashes under the sanitizer, and what a mtx_t orders looks like a race. So in these builds C11's threads are made of pthreads again.
 */
#ifdef __SANITIZE_THREAD__
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

_Static_assert(sizeof(mtx_t) >= sizeof(pthread_mutex_t) && sizeof(cnd_t) >= sizeof(pthread_cond_t), "glibc's are the same");

static int result_of(int error)
{
    switch (error) {
    case 0:
        return thrd_success;
    case EBUSY:
        return thrd_busy;
    case ETIMEDOUT:
        return thrd_timedout;
    case ENOMEM:
        return thrd_nomem;
    default:
        return thrd_error;
    }
}

struct call {
    thrd_start_t fn;
    void *arg;
};

static void *run(void *arg)
{
    struct call call = *(struct call *)arg;
    free(arg);
    return (void *)(intptr_t)call.fn(call.arg);
}

int thrd_create(thrd_t *ret, thrd_start_t fn, void *arg)
{
    struct call *call = malloc(sizeof(*call));
    if (!call)
        return thrd_nomem;
    *call = (struct call){fn, arg};
    int error = pthread_create(ret, NULL, run, call);
    if (error)
        free(call);
    return result_of(error);
}

int thrd_join(thrd_t thread, int *ret)
{
    void *value = NULL;
    int error = pthread_join(thread, &value);
    if (ret)
        *ret = (int)(intptr_t)value;
    return result_of(error);
}

int thrd_detach(thrd_t thread)
{
    return result_of(pthread_detach(thread));
}

static pthread_mutex_t *mutex_of(mtx_t *m)
{
    return (pthread_mutex_t *)(void *)m;
}

static pthread_cond_t *cond_of(cnd_t *c)
{
    return (pthread_cond_t *)(void *)c;
}

int mtx_init(mtx_t *m, int type)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    if (type & mtx_recursive)
        pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    int error = pthread_mutex_init(mutex_of(m), &attr);
    pthread_mutexattr_destroy(&attr);
    return result_of(error);
}

void mtx_destroy(mtx_t *m)
{
    pthread_mutex_destroy(mutex_of(m));
}

int mtx_lock(mtx_t *m)
{
    return result_of(pthread_mutex_lock(mutex_of(m)));
}

int mtx_trylock(mtx_t *m)
{
    return result_of(pthread_mutex_trylock(mutex_of(m)));
}

int mtx_unlock(mtx_t *m)
{
    return result_of(pthread_mutex_unlock(mutex_of(m)));
}

int cnd_init(cnd_t *c)
{
    return result_of(pthread_cond_init(cond_of(c), NULL));
}

void cnd_destroy(cnd_t *c)
{
    pthread_cond_destroy(cond_of(c));
}

int cnd_signal(cnd_t *c)
{
    return result_of(pthread_cond_signal(cond_of(c)));
}

int cnd_broadcast(cnd_t *c)
{
    return result_of(pthread_cond_broadcast(cond_of(c)));
}

int cnd_wait(cnd_t *c, mtx_t *m)
{
    return result_of(pthread_cond_wait(cond_of(c), mutex_of(m)));
}

int cnd_timedwait(cnd_t *c, mtx_t *m, const struct timespec *until)
{
    return result_of(pthread_cond_timedwait(cond_of(c), mutex_of(m), until));
}

/*
 * librdkafka is not built with the sanitizer, which so does not see its atomic counts of references: the last owner of a client destroys its lock after the
 * others let go of it, and that looks like a race. Only what destroys a rwlock is excused; everything that uses one is still looked at.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race_top:pthread_rwlock_destroy\n";
}
#else
extern int app_tsan_is_off; /* a file must declare something */
#endif
