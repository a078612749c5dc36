/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Copy the guests' console logs, line by line and marked with the domain's
 * name, to Dom0's console, so that one serial log holds everything. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define MAX_LOGS 32
#define PREFIX "guest-"

static struct log {
    char name[64];
    off_t pos;
    char line[1024];
    size_t used;
} logs[MAX_LOGS];

static volatile sig_atomic_t ending;

static void on_term(int sig)
{
    (void)sig;
    ending = 1;
}

static void emit(int out, struct log *l)
{
    char s[1200];
    int n = snprintf(s, sizeof(s), "%s| %.*s\n", l->name, (int)l->used, l->line);

    write_all(out, s, n);
    l->used = 0;
}

static struct log *find(const char *name)
{
    for (int i = 0; i < MAX_LOGS; i++) {
        if (!logs[i].name[0])
            snprintf(logs[i].name, sizeof(logs[i].name), "%s", name);
        if (!strcmp(logs[i].name, name))
            return &logs[i];
    }
    return NULL;
}

static void copy_new(const char *dir, const char *file, int out)
{
    char path[512], name[64], buf[4096];
    size_t len = strlen(file);
    struct log *l;
    struct stat st;
    ssize_t n;
    int fd;

    if (strncmp(file, PREFIX, strlen(PREFIX)) || len < 11 ||
        strcmp(file + len - 4, ".log"))
        return;
    snprintf(name, sizeof(name), "%.*s", (int)(len - 10), file + 6);
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    if (!(l = find(name)) || (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return;
    if (!fstat(fd, &st) && st.st_size < l->pos)
        l->pos = 0;
    while ((n = pread(fd, buf, sizeof(buf), l->pos)) > 0) {
        l->pos += n;
        for (ssize_t i = 0; i < n; i++) {
            if (buf[i] == '\n' || l->used == sizeof(l->line))
                emit(out, l);
            if (buf[i] != '\n' && buf[i] != '\r')
                l->line[l->used++] = buf[i];
        }
    }
    close(fd);
}

static void scan(const char *dir, int out)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d && (e = readdir(d)))
        copy_new(dir, e->d_name, out);
    if (d)
        closedir(d);
}

int consoles(const char *dir, const char *path)
{
    struct sigaction sa = { .sa_handler = on_term };
    int out = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC), in = inotify_init1(IN_CLOEXEC);
    char buf[8192];

    sigaction(SIGTERM, &sa, NULL);
    if (out < 0 || inotify_add_watch(in, dir, IN_MODIFY | IN_CREATE) < 0) {
        perror("labagent: consoles");
        return 1;
    }
    scan(dir, out);
    while (!ending) {
        struct pollfd p = { .fd = in, .events = POLLIN };

        /* The events only say when to look. */
        if (poll(&p, 1, 5000) == 1 && read(in, buf, sizeof(buf)) < 0)
            continue;
        scan(dir, out);
    }
    scan(dir, out);
    for (int i = 0; i < MAX_LOGS; i++)
        if (logs[i].used)
            emit(out, &logs[i]);
    return 0;
}
