/*
 * brunn: one binary.
 *
 * Exit status: 0 a clean stop; 1 it could not start or run (one line on stderr says why); 2 the command line or the configuration is wrong.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "app/process.h"
#include "app/tool.h"
#include "base/logger.h"
#include "base/priority.h"
#include "base/resident.h"

/*
 * Read by jemalloc when it is linked (release builds). Its threads give freed pages back while the process is idle: after a
 * burst of pushes they are a third of the memory, and nobody else would call it to see that they have become old.
 */
extern const char *malloc_conf;
const char *malloc_conf = "background_thread:true,dirty_decay_ms:2000";

static int fail(const struct err *err, int status)
{
    fprintf(stderr, "brunn: %s\n", err->text);
    return status;
}

static void print_buf(struct buf *b)
{
    fwrite(b->p, 1, b->n, stdout);
    buf_release(b);
}

static void print_help(struct process *p, bool all)
{
    struct buf out;
    buf_init(&out, 0);
    buf_puts(&out, "Usage of brunn:\n");
    flag_set_print_help(p->flags, all, &out);
    if (!all)
        buf_puts(&out, "\nTo see all flags, use -help-all.\n");
    print_buf(&out);
}

/* The flags that print something and end the process; false when there is none. */
static bool printed(struct process *p)
{
    if (p->app.print_help || p->app.print_help_all) {
        print_help(p, p->app.print_help_all);
    } else if (p->app.print_version) {
        printf("brunn, version %s\n", BRUNN_VERSION);
    } else if (p->app.print_modules) {
        for (size_t i = 0; i < process_targets_n; i++)
            puts(process_targets[i].name);
    } else if (p->app.print_config) {
        struct buf out;
        buf_init(&out, 0);
        flag_set_print_yaml(p->flags, FLAG_DUMP_ALL, &out);
        print_buf(&out);
    } else {
        return false;
    }
    return true;
}

/* Waits for SIGTERM or SIGINT, then goes on serving for -shutdown-delay; a second signal ends the wait. */
static void wait_for_stop(struct process *p, const sigset_t *stop_signals)
{
    int sig;
    sigwait(stop_signals, &sig);
    LOG_INFO("stopping", {"signal", LOG_STR(strsignal(sig))});
    atomic_store(&p->stopping, true);
    if (p->app.shutdown_delay > 0) {
        struct timespec delay = {p->app.shutdown_delay / 1000, p->app.shutdown_delay % 1000 * 1000000};
        sigtimedwait(stop_signals, NULL, &delay);
    }
}

static int run(struct process *p)
{
    struct err err = ERR_NONE;
    sigset_t stop_signals;
    sigemptyset(&stop_signals);
    sigaddset(&stop_signals, SIGTERM);
    sigaddset(&stop_signals, SIGINT);
    /* Blocked before any thread exists, so that only sigwait sees them. */
    pthread_sigmask(SIG_BLOCK, &stop_signals, NULL);
    signal(SIGPIPE, SIG_IGN);

    bool ok = process_start(p, &err);
    if (ok) {
        resident_forget_code();
        priority_lower_named("jemalloc_bg_thd"); /* giving pages back takes a millisecond at a time, and is in no hurry */
        LOG_INFO("brunn is up", {"version", LOG_STR(BRUNN_VERSION)}, {"http_port", LOG_I64(http_server_port(p->server))},
                 {"data_dir", LOG_STR(p->app.data_dir)});
        wait_for_stop(p, &stop_signals);
    }
    process_stop(p);
    return ok ? EXIT_SUCCESS : fail(&err, EXIT_FAILURE);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "tool") == 0)
        return tool_main(argc - 1, argv + 1);
    static struct process process;
    struct err err = ERR_NONE;
    int status = EXIT_SUCCESS;
    if (!process_configure(&process, argc, argv, &err))
        status = fail(&err, 2);
    else if (!printed(&process))
        status = run(&process);
    process_release(&process);
    return status;
}
