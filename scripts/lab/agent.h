/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* labagent: runs commands in the lab's domains and carries their output.
 *
 * One static binary, used in DomU ("serve"), in Dom0 ("serve-host", "call",
 * "consoles") and on the host ("drive").
 *
 * Wire: frames of type (1 byte), length (4 bytes, little-endian), payload.
 *   request  R  strings, NUL-terminated: target, uid, then argv
 *            I  bytes for the command's standard input (any number of them)
 *            G  go
 *            K  kill the running command
 *            Q  no more requests: tear the domains down
 *   answer   B  the lab is up
 *            o  standard output      e  standard error
 *            x  exit status, decimal L  the lab failed, text
 *            D  torn down
 */
#ifndef LAB_AGENT_H
#define LAB_AGENT_H

#include <stddef.h>
#include <stdint.h>

#define LAB_PORT      4880
#define LAB_DIR       "/lab"
#define FRAME_MAX     (1u << 20)
#define OUTPUT_CHUNK  32768

struct frame {
    char type;
    uint32_t len;
    char *data;            /* NUL after the last byte */
};

struct request {
    char *buf;             /* owns the strings below */
    const char *target;
    unsigned uid;
    char **argv;           /* NULL-terminated */
    int in;                /* standard input, or -1 */
    char *raw;             /* the R payload as received, to pass on */
    uint32_t raw_len;
};

/* frame.c */
int write_all(int fd, const void *p, size_t n);
int frame_send(int fd, char type, const void *p, size_t n);
int frame_text(int fd, char type, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int frame_read(int fd, struct frame *f);   /* 1 frame, 0 end, -1 error */
void frame_free(struct frame *f);
int request_read(int fd, const struct frame *first, struct request *rq);
void request_free(struct request *rq);
int64_t now_ms(void);

/* exec.c */
int exec_request(struct request *rq, int ctl, int out);

/* net.c */
int serve_guest(void);
int serve_host(const char *dev);
int call(int argc, char **argv);

/* consoles.c */
int consoles(const char *dir, const char *out);

/* watch.c: the console log, looked at while it grows */
int watch_open(const char *path, const char *allow);
/* A line that means the lab is broken, or NULL. */
const char *watch_poll(void);

/* drive.c */
int drive(int argc, char **argv);

#endif
