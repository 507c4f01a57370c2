#include "base/big_file.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/priority.h"

#define WRITE_STEP ((uint64_t)256 << 10)
#define FREE_STEP ((off_t)1 << 20)
#define FREE_STEPS_MAX 512 /* larger files in larger steps */
#define FREE_PAUSE_NS 5000000

void big_file_write_behind(int fd, uint64_t written, uint64_t *behind)
{
    for (; written - *behind >= WRITE_STEP; *behind += WRITE_STEP) {
        (void)sync_file_range(fd, (off_t)*behind, (off_t)WRITE_STEP, SYNC_FILE_RANGE_WRITE);
        if (*behind > 0)
            (void)sync_file_range(fd, (off_t)(*behind - WRITE_STEP), (off_t)WRITE_STEP, SYNC_FILE_RANGE_WAIT_BEFORE);
    }
}

uint64_t big_file_blank(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || st.st_size <= 0)
        return 0;
    (void)fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, st.st_size);
    return (uint64_t)st.st_size;
}

void big_file_free(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 0) {
        off_t step = MAX(FREE_STEP, st.st_size / FREE_STEPS_MAX);
        for (off_t left = st.st_size - step; left > 0 && ftruncate(fd, left) == 0; left -= step)
            nanosleep(&(struct timespec){.tv_nsec = FREE_PAUSE_NS}, NULL);
    }
    close(fd);
}

static void *free_aside(void *fd)
{
    pthread_setname_np(pthread_self(), "big-file-free");
    priority_lower(gettid(), 0); /* it has what its maker has, who may be in a hurry */
    big_file_free((int)(intptr_t)fd);
    return NULL;
}

void big_file_free_aside(int fd)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, free_aside, (void *)(intptr_t)fd) == 0)
        pthread_detach(thread);
    else
        close(fd); /* all at once */
}
