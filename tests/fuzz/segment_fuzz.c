/*
 * A segment file of the embedded log with any bytes in it: opening, reading through, seeking by time and appending
 * never crash. The corpus holds small whole segments of one and of several partitions (make_segment_corpus.c); the
 * files lie in /dev/shm, as every run syncs.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/logger.h"
#include "log/plog.h"

static char dir[64];

static void remove_files(void)
{
    static const char *const names[] = {"LOCK",
                                        "meta.mdb",
                                        "00000000000000000000.seg",
                                        "00000000000000000000.seg-lock",
                                        "00000000000000000001.seg",
                                        "00000000000000000001.seg-lock"};
    char path[200];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        unlink(path);
    }
}

static void write_segment(const uint8_t *data, size_t size)
{
    char path[200];
    snprintf(path, sizeof(path), "%s/00000000000000000000.seg", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    close(fd);
}

static void read_all(struct plog *log, int32_t partition)
{
    int64_t first, next;
    struct err err = ERR_NONE;
    if (!plog_offsets(log, partition, &first, &next, &err))
        abort();
    for (int i = 0; i < 100 && first < next; i++) {
        struct plog_batch b;
        if (!plog_fetch(log, partition, first, 10000, 0, &b, &err))
            return;
        if (b.next_offset <= first)
            abort(); /* a consumer would turn in circles */
        first = b.next_offset;
        plog_batch_release(&b);
    }
    plog_offset_at(log, partition, 5, &first, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    log_min_level = LOG_LEVEL_ERROR + 1;
    if (!dir[0]) {
        snprintf(dir, sizeof(dir), "/dev/shm/brunn-segment-fuzz-XXXXXX");
        if (!mkdtemp(dir))
            abort();
    }
    write_segment(data, size);
    struct plog_config cfg = {.producer_max_buffered_bytes = 1 << 20,
                              .embedded_partitions = 4,
                              .embedded_segment_bytes = 1 << 20,
                              .embedded_max_hint_bytes = 0};
    struct err err = ERR_NONE;
    struct plog *log = plog_open_embedded(&cfg, dir, &err);
    if (log) {
        for (int32_t p = 0; p < plog_partitions(log); p++)
            read_all(log, p);
        plog_close(log);
    }
    remove_files();
    return 0;
}
