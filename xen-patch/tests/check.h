/* SPDX-License-Identifier: GPL-2.0-only */
/* What a violated property does: say so, and how to repeat it. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

void check_failed(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), noreturn));

#define CHECK(cond, ...) \
    ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, __VA_ARGS__))

/* Something that happened, kept to be printed when a property is violated. */
void trace(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
