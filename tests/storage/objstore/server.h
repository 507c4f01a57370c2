/* A copy of s3_server.py for one test. Included behind suite.h. */
#pragma once

#include <signal.h>
#include <sys/wait.h>

#ifndef TEST_SOURCE_DIR
#define TEST_SOURCE_DIR "." /* of a program that ./check runs */
#endif

struct server {
    pid_t pid;
    int port;
    char endpoint[64];
    const char *scheme;
};

static inline struct server server_start(const char *certificate, const char *key)
{
    struct server s = {.scheme = certificate ? "https" : "http"};
    int out[2];
    CLAIM(pipe(out) == 0, "no pipe");
    s.pid = fork();
    if (s.pid == 0) {
        dup2(out[1], 1);
        execl("/usr/bin/python3", "python3", TEST_SOURCE_DIR "/tests/storage/objstore/s3_server.py", certificate, key, NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    CLAIM(fscanf(f, "%d", &s.port) == 1, "s3_server.py does not start");
    fclose(f);
    snprintf(s.endpoint, sizeof(s.endpoint), "127.0.0.1:%d", s.port);
    return s;
}

static inline void server_stop(struct server *s)
{
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
}
