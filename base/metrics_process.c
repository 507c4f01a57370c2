/* The process_* metrics that every Prometheus client has, from /proc(5) and getrlimit(2), as callbacks. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/metrics.h"

#define METRICS_ROOM process
#define METRICS_DEF "base/process_metrics.def"
#define METRICS_DEFINE
#include "base/metrics_table.h"

/* Field `field` (counted from 1, as proc(5) does; at least 4) of /proc/self/stat; 0 when it cannot be read. */
static double stat_field(int field)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    /* Field 2 is the program's name in parentheses and may hold blanks; the last ')' ends it. */
    const char *p = strrchr(text, ')');
    for (int i = 2; p && i < field; i++) {
        p = strchr(p, ' ');
        p = p ? p + 1 : NULL;
    }
    return p ? strtod(p, NULL) : 0;
}

static double cpu_seconds(void *arg)
{
    (void)arg;
    struct timespec t;
    return clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0 ? (double)t.tv_sec + (double)t.tv_nsec / 1e9 : 0;
}

static double resident_bytes(void *arg)
{
    (void)arg;
    return stat_field(24) * (double)sysconf(_SC_PAGESIZE);
}

static double virtual_bytes(void *arg)
{
    (void)arg;
    return stat_field(23);
}

static double open_fds(void *arg)
{
    (void)arg;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return 0;
    int n = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n - 1; /* not the one that lists them */
}

static double max_fds(void *arg)
{
    (void)arg;
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? (double)limit.rlim_cur : 0;
}

static double boot_seconds(void)
{
    double boot = 0;
    FILE *f = fopen("/proc/stat", "re");
    if (!f)
        return 0;
    char line[512];
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "btime ", 6) == 0)
            boot = strtod(line + 6, NULL);
    fclose(f);
    return boot;
}

static double start_seconds(void *arg)
{
    (void)arg;
    return boot_seconds() + stat_field(22) / (double)sysconf(_SC_CLK_TCK);
}

void metrics_register_process(void)
{
    process_metrics_register();
    static const struct {
        enum process_metric_id id;
        double (*fn)(void *arg);
    } callbacks[] = {
        {PROCESS_M_CPU, cpu_seconds},   {PROCESS_M_RESIDENT, resident_bytes}, {PROCESS_M_VIRTUAL, virtual_bytes},
        {PROCESS_M_OPEN_FDS, open_fds}, {PROCESS_M_MAX_FDS, max_fds},         {PROCESS_M_START_TIME, start_seconds},
    };
    for (size_t i = 0; i < sizeof callbacks / sizeof callbacks[0]; i++)
        metric_set_callback(metric_single(process_metrics[callbacks[i].id]), callbacks[i].fn, NULL);
}
