/* A file layer that fails: preloaded into a process, it counts the file operations below a folder and fails one of
 * them. Operations on all other files, and all operations while it is not armed, are passed on.
 *
 *     arm(folder, at, error, kind, reads)    the operation number `at`, from 1, fails in the way `kind`
 *     count()                                operations since then
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { ONCE = 1, FROM_THEN_ON, HALF_A_WRITE, KILLED, TERMINATED };

static char root[4096];
static long at, seen;
static int error_number, kind, counts_reads;
static long clock_shift;
static unsigned char below[65536];

void arm(const char *folder, long number, int error, int how, int reads) {
    snprintf(root, sizeof root, "%s", folder);
    at = number, error_number = error, kind = how, counts_reads = reads, seen = 0;
}

long count(void) { return seen; }

void shift_clock(long seconds) { clock_shift = seconds; }

static int is_below(const char *path) {
    size_t length = strlen(root);
    return length && path && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static int is_below_at(int folder, const char *path) {
    return is_below(path) || (path && path[0] != '/' && folder >= 0 && folder < 65536 && below[folder]);
}

static int is_open_below(int file) { return file >= 0 && file < 65536 && below[file]; }

/* True where the operation fails; errno says why. `half` is set where a write is to be cut in the middle. */
static int fails(int counted, int *half) {
    if (!counted || !at) return 0;
    ++seen;
    if (seen < at) return 0;
    switch (kind) {
    case KILLED:
        if (seen == at) kill(getpid(), SIGKILL);
        return 0;
    case TERMINATED:
        if (seen == at) kill(getpid(), SIGTERM);
        return 0;
    case ONCE:
        if (seen > at) return 0;
        break;
    case HALF_A_WRITE:
        if (half && seen == at) {
            *half = 1;
            return 0;
        }
        break;
    }
    errno = error_number;
    return 1;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int track(int file, int counted) {
    if (file >= 0 && file < 65536) below[file] = counted;
    return file;
}

#define MODE(flags, mode) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags, mode) \
        REAL(name); \
        int counted = is_below(path); \
        if (fails(counted && (writes(flags) || counts_reads), NULL)) return -1; \
        return track(real(path, flags, mode), counted); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        MODE(flags, mode) \
        REAL(name); \
        int counted = is_below_at(folder, path); \
        if (fails(counted && (writes(flags) || counts_reads), NULL)) return -1; \
        return track(real(folder, path, flags, mode), counted); \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int file) {
    REAL(close);
    track(file, 0);
    return real(file);
}

#define WRITE(name, arguments, pass, halved) \
    ssize_t name arguments { \
        REAL(name); \
        int half = 0; \
        if (fails(is_open_below(file), &half)) return -1; \
        return half && size > 1 ? real halved : real pass; \
    }
WRITE(write, (int file, const void *from, size_t size), (file, from, size), (file, from, size / 2))
WRITE(pwrite, (int file, const void *from, size_t size, off_t to), (file, from, size, to), (file, from, size / 2, to))
WRITE(pwrite64, (int file, const void *from, size_t size, off64_t to), (file, from, size, to), (file, from, size / 2, to))

#define READ(name, arguments, pass) \
    ssize_t name arguments { \
        REAL(name); \
        if (fails(counts_reads && is_open_below(file), NULL)) return -1; \
        return real pass; \
    }
READ(read, (int file, void *into, size_t size), (file, into, size))
READ(pread, (int file, void *into, size_t size, off_t from), (file, into, size, from))
READ(pread64, (int file, void *into, size_t size, off64_t from), (file, into, size, from))

#define ONE(name, arguments, pass, counted) \
    int name arguments { \
        REAL(name); \
        if (fails(counted, NULL)) return -1; \
        return real pass; \
    }
ONE(fsync, (int file), (file), is_open_below(file))
ONE(fdatasync, (int file), (file), is_open_below(file))
ONE(ftruncate, (int file, off_t size), (file, size), is_open_below(file))
ONE(ftruncate64, (int file, off64_t size), (file, size), is_open_below(file))
ONE(fchmod, (int file, mode_t mode), (file, mode), is_open_below(file))
ONE(rename, (const char *from, const char *to), (from, to), is_below(to))
ONE(link, (const char *from, const char *to), (from, to), is_below(to))
ONE(unlink, (const char *path), (path), is_below(path))
ONE(unlinkat, (int folder, const char *path, int flags), (folder, path, flags), is_below_at(folder, path))
ONE(rmdir, (const char *path), (path), is_below(path))
ONE(mkdir, (const char *path, mode_t mode), (path, mode), is_below(path))
ONE(chmod, (const char *path, mode_t mode), (path, mode), is_below(path))
#define LOOK(name, type) ONE(name, (const char *path, struct type *about), (path, about), counts_reads && is_below(path))
LOOK(stat, stat)
LOOK(stat64, stat64)
LOOK(lstat, stat)
LOOK(lstat64, stat64)
ONE(access, (const char *path, int mode), (path, mode), counts_reads && is_below(path))

DIR *opendir(const char *path) {
    REAL(opendir);
    if (fails(counts_reads && is_below(path), NULL)) return NULL;
    return real(path);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(clock_gettime);
    int code = real(which, now);
    if (!code && which == CLOCK_REALTIME) now->tv_sec += clock_shift;
    return code;
}
