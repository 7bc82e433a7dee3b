/* A disk that fails: preloaded into a process, it lets calls on files below one folder fail.
 *
 * FAULTY_FOLDER  the folder; without it nothing fails
 * FAULTY_CALLS   which calls count, some of: open read write sync rename
 * FAULTY_ERROR   EIO or ENOSPC
 * FAULTY_FROM    the first call that fails, from 1
 * FAULTY_TIMES   how many fail
 *
 * Each that fails is told on stderr, in a line such as `faulty disk: sync of /a/b fails`.
 *
 * It is C, because a stable Rust cannot take the place of a function like open() with a variable number of arguments, and because errno and
 * the functions of the C library are C's own. A call that fails does nothing: after a failed sync the caller must not rely on anything that
 * was written, and the tests see whether it does. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *folder, *calls;
static int error;
static long from, times;
static atomic_long passed;

__attribute__((constructor)) static void configure(void) {
    folder = getenv("FAULTY_FOLDER");
    calls = getenv("FAULTY_CALLS");
    const char *name = getenv("FAULTY_ERROR"), *first = getenv("FAULTY_FROM"), *most = getenv("FAULTY_TIMES");
    error = name && !strcmp(name, "ENOSPC") ? ENOSPC : EIO;
    from = first ? atol(first) : 1;
    times = most ? atol(most) : 1;
    if (!calls) folder = NULL;
}

/* Whether this call on this path is one of those that fail; errno is set then. */
static int fails(const char *call, const char *path) {
    size_t length = strlen(folder);
    if (strncmp(path, folder, length) || (path[length] != '/' && path[length])) return 0;
    if (!strstr(calls, call)) return 0;
    long number = atomic_fetch_add(&passed, 1) + 1;
    if (number < from || number - from >= times) return 0;
    dprintf(2, "faulty disk: %s of %s fails\n", call, path);
    errno = error;
    return 1;
}

static int fails_at(const char *call, int file) {
    if (!folder) return 0;
    char link[64], path[PATH_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int before = errno;
    ssize_t length = readlink(link, path, PATH_MAX);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

/* Defines a function that fails or calls the one that it hides. */
#define HIDE(result, call, name, parameters, arguments)                          \
    result name parameters {                                                     \
        static result(*hidden) parameters;                                       \
        if (!hidden) hidden = (result(*) parameters)dlsym(RTLD_NEXT, #name);     \
        return fails_at(call, file) ? -1 : hidden arguments;                     \
    }

HIDE(ssize_t, "read", read, (int file, void *bytes, size_t n), (file, bytes, n))
HIDE(ssize_t, "read", pread, (int file, void *bytes, size_t n, off_t at), (file, bytes, n, at))
HIDE(ssize_t, "read", pread64, (int file, void *bytes, size_t n, off64_t at), (file, bytes, n, at))
HIDE(ssize_t, "write", write, (int file, const void *bytes, size_t n), (file, bytes, n))
HIDE(ssize_t, "write", writev, (int file, const struct iovec *parts, int n), (file, parts, n))
HIDE(ssize_t, "write", pwrite, (int file, const void *bytes, size_t n, off_t at), (file, bytes, n, at))
HIDE(ssize_t, "write", pwrite64, (int file, const void *bytes, size_t n, off64_t at), (file, bytes, n, at))
HIDE(int, "sync", fsync, (int file), (file))
HIDE(int, "sync", fdatasync, (int file), (file))

static int makes(int flags) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

/* As HIDE, for functions that open a path, with a mode behind it if the file may be made. */
#define HIDE_OPEN(name, parameters, arguments)                                   \
    int name parameters {                                                        \
        static int(*hidden) parameters;                                          \
        if (!hidden) hidden = (int(*) parameters)dlsym(RTLD_NEXT, #name);        \
        va_list rest;                                                            \
        va_start(rest, flags);                                                   \
        int mode = makes(flags) ? va_arg(rest, int) : 0;                         \
        va_end(rest);                                                            \
        return folder && fails("open", path) ? -1 : hidden arguments;            \
    }

HIDE_OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
HIDE_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
HIDE_OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))

int rename(const char *old, const char *new) {
    static int (*hidden)(const char *, const char *);
    if (!hidden) hidden = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    return folder && fails("rename", new) ? -1 : hidden(old, new);
}
