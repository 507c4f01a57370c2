/*
 * Makes the seeds of segment_fuzz.c: make_segment_corpus <folder>; then move the .seg files of the sub-folders to
 * corpus/segment/.
 */
#include <semaphore.h>
#include <stdio.h>
#include <string.h>

#include "base/logger.h"
#include "log/plog.h"

struct job {
    struct plog_produce p;
    sem_t done;
};

static void on_done(struct plog_produce *p, const struct err *err)
{
    if (err)
        fprintf(stderr, "%s\n", err->text);
    sem_post(&((struct job *)p)->done);
}

static int make(const char *dir, int partitions, int records, size_t size)
{
    static char value[100000];
    struct plog_config cfg = {
        .producer_max_buffered_bytes = 1 << 20, .embedded_partitions = partitions, .embedded_segment_bytes = 1 << 20};
    struct err err = ERR_NONE;
    struct plog *log = plog_open_embedded(&cfg, dir, &err);
    if (!log) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (int i = 0; i < records; i++) {
        struct plog_record r = {
            .partition = i % partitions, .timestamp_ms = i + 1, .tenant = SL("t"), .value = {value, size}};
        struct job job = {.p = {.records = &r, .n = 1, .done = on_done}};
        sem_init(&job.done, 0, 0);
        if (plog_produce(log, &job.p, &err))
            sem_wait(&job.done);
        sem_destroy(&job.done);
    }
    plog_close(log);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    log_min_level = LOG_LEVEL_WARN;
    char dir[500];
    static const struct {
        const char *name;
        int partitions, records;
        size_t size;
    } seeds[] = {{"one", 1, 3, 20}, {"large", 1, 4, 5000}, {"partitions", 4, 12, 10}, {"deep", 1, 60, 300}};
    for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++) {
        snprintf(dir, sizeof(dir), "%s/%s", argv[1], seeds[i].name);
        if (make(dir, seeds[i].partitions, seeds[i].records, seeds[i].size))
            return 1;
    }
    return 0;
}
