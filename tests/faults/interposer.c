/* Disturbs one call of a process, for LD_PRELOAD: kills it there, lets the call fail, or lets it do half its work.
 *
 * Calls of the C library on files beneath one folder are counted over all threads of the process (strace, which could
 * do much of this, counts each thread by itself), in three series that each begin at 0: "change" (all that alters the
 * disk), "read" (opening for reading, listing, reading) and "close". What a process starts is left alone.
 *
 *   FAULTS_ROOT    the folder, absolute and without symbolic links
 *   FAULTS_LOG     a file that gets a line for each call: series, number, call, path, between tabs; a last field "hit"
 *   FAULTS_SERIES  the series that is disturbed; without it all is only counted
 *   FAULTS_AT      the number of the call in its series
 *   FAULTS_ACT     kill       SIGKILL instead of the call
 *                  torn       half of what is to be written, then SIGKILL
 *                  half       half of what is to be written or read
 *                  full       half, and no space from then on
 *                  fail       the call fails with FAULTS_ERRNO, the others do not
 *                  lasting    this and all later calls of the series fail; those that need space, for ENOSPC and EDQUOT
 *   FAULTS_ERRNO   a number
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/time.h>
#include <unistd.h>

enum series { CHANGE, READ, CLOSE, NUMBER_OF_SERIES };
enum act { NOTHING, KILL, TORN, HALF, FULL, FAIL, LASTING };
/* What the disturbed call is to do. */
enum order { GO_ON, DO_HALF, DO_HALF_AND_DIE, REFUSE };
enum need { NO_SPACE_NEEDED, SPACE_NEEDED };

static const char *const series_names[] = {"change", "read", "close"};
static const char *const act_names[] = {"", "kill", "torn", "half", "full", "fail", "lasting"};

static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static pid_t watched;
static int disturbed = -1;
static enum act act = NOTHING;
static long at = -1;
static int error_number = EIO;
static atomic_long counts[NUMBER_OF_SERIES];
static atomic_int is_over; /* no space from now on, or nothing works any more */

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    return found;
}

#define NEXT(name) \
    static __typeof__(name) *real; \
    if (real == NULL) \
        real = (__typeof__(real))next(#name)

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("FAULTS_ROOT"), *log = getenv("FAULTS_LOG");
    if (folder == NULL || log == NULL)
        return;
    root_length = strlen(folder);
    if (root_length >= sizeof root)
        return;
    memcpy(root, folder, root_length + 1);
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    /* Out of the way of a program that counts its descriptors. */
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 800);
    syscall(SYS_close, fd);
    const char *series = getenv("FAULTS_SERIES"), *wanted = getenv("FAULTS_ACT"), *number = getenv("FAULTS_AT");
    for (int each = 0; series != NULL && each < NUMBER_OF_SERIES; each++)
        if (strcmp(series, series_names[each]) == 0)
            disturbed = each;
    for (int each = 1; wanted != NULL && each <= LASTING; each++)
        if (strcmp(wanted, act_names[each]) == 0)
            act = each;
    at = number == NULL ? -1 : atol(number);
    if (getenv("FAULTS_ERRNO") != NULL)
        error_number = atoi(getenv("FAULTS_ERRNO"));
    watched = getpid();
    unsetenv("LD_PRELOAD");
}

static int is_below(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == '\0');
}

static void path_of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = '\0';
}

static void path_at(int folder, const char *name, char *path) {
    path[0] = '\0';
    if (name == NULL)
        return;
    if (name[0] != '/') {
        if (folder != AT_FDCWD)
            path_of_fd(folder, path);
        else if (getcwd(path, PATH_MAX) == NULL)
            path[0] = '\0';
        strncat(path, "/", PATH_MAX - strlen(path) - 1);
    }
    strncat(path, name, PATH_MAX - strlen(path) - 1);
}

static void note(enum series series, long number, const char *call, const char *path, int is_hit) {
    char line[PATH_MAX + 100];
    int length = snprintf(line, sizeof line, "%s\t%ld\t%s\t%s%s\n", series_names[series], number, call, path,
                          is_hit ? "\thit" : "");
    if (length > 0 && log_fd >= 0)
        syscall(SYS_write, log_fd, line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
}

/* Count one call. What it is to do; for REFUSE errno is set. */
static enum order order_for(enum series series, const char *call, const char *path, enum need need) {
    if (watched == 0 || !is_below(path) || getpid() != watched)
        return GO_ON;
    int kept = errno;
    long number = atomic_fetch_add(&counts[series], 1);
    int is_hit = (int)series == disturbed && number == at;
    note(series, number, call, path, is_hit);
    errno = kept;
    if (is_hit) {
        switch (act) {
        case KILL:
            kill(getpid(), SIGKILL);
            for (;;)
                pause();
        case TORN:
            return DO_HALF_AND_DIE;
        case HALF:
            return DO_HALF;
        case FULL:
            atomic_store(&is_over, 1);
            return DO_HALF;
        case LASTING:
            atomic_store(&is_over, 1);
            errno = error_number;
            return REFUSE;
        case FAIL:
            errno = error_number;
            return REFUSE;
        default:
            return GO_ON;
        }
    }
    if (atomic_load(&is_over) && (int)series == disturbed) {
        int number_of_error = act == FULL ? ENOSPC : error_number;
        int is_about_space = number_of_error == ENOSPC || number_of_error == EDQUOT;
        if (!is_about_space || need == SPACE_NEEDED) {
            errno = number_of_error;
            return REFUSE;
        }
    }
    return GO_ON;
}

static enum order order_at(enum series series, const char *call, int folder, const char *name, enum need need) {
    char path[PATH_MAX];
    path_at(folder, name, path);
    return order_for(series, call, path, need);
}

static enum order order_fd(enum series series, const char *call, int fd, enum need need) {
    if (watched == 0)
        return GO_ON;
    int kept = errno;
    char path[PATH_MAX];
    path_of_fd(fd, path);
    errno = kept;
    return order_for(series, call, path, need);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Calls on names. */

#define ON_NAME(call, need, folder, name) \
    if (order_at(CHANGE, call, folder, name, need) == REFUSE) \
        return -1

#define NAMED(name, need, parameters, folder, path, arguments) \
    int name parameters { \
        NEXT(name); \
        ON_NAME(#name, need, folder, path); \
        return real arguments; \
    }

NAMED(unlink, NO_SPACE_NEEDED, (const char *a), AT_FDCWD, a, (a))
NAMED(unlinkat, NO_SPACE_NEEDED, (int f, const char *a, int flags), f, a, (f, a, flags))
NAMED(rmdir, NO_SPACE_NEEDED, (const char *a), AT_FDCWD, a, (a))
NAMED(mkdir, SPACE_NEEDED, (const char *a, mode_t m), AT_FDCWD, a, (a, m))
NAMED(mkdirat, SPACE_NEEDED, (int f, const char *a, mode_t m), f, a, (f, a, m))
NAMED(rename, NO_SPACE_NEEDED, (const char *a, const char *b), AT_FDCWD, b, (a, b))
NAMED(renameat, NO_SPACE_NEEDED, (int f, const char *a, int g, const char *b), g, b, (f, a, g, b))
NAMED(renameat2, NO_SPACE_NEEDED, (int f, const char *a, int g, const char *b, unsigned int n), g, b, (f, a, g, b, n))
NAMED(link, SPACE_NEEDED, (const char *a, const char *b), AT_FDCWD, b, (a, b))
NAMED(linkat, SPACE_NEEDED, (int f, const char *a, int g, const char *b, int n), g, b, (f, a, g, b, n))
NAMED(symlink, SPACE_NEEDED, (const char *a, const char *b), AT_FDCWD, b, (a, b))
NAMED(symlinkat, SPACE_NEEDED, (const char *a, int g, const char *b), g, b, (a, g, b))
NAMED(truncate, NO_SPACE_NEEDED, (const char *a, off_t n), AT_FDCWD, a, (a, n))
NAMED(truncate64, NO_SPACE_NEEDED, (const char *a, off64_t n), AT_FDCWD, a, (a, n))
NAMED(chmod, NO_SPACE_NEEDED, (const char *a, mode_t m), AT_FDCWD, a, (a, m))
NAMED(fchmodat, NO_SPACE_NEEDED, (int f, const char *a, mode_t m, int n), f, a, (f, a, m, n))
NAMED(chown, NO_SPACE_NEEDED, (const char *a, uid_t u, gid_t g), AT_FDCWD, a, (a, u, g))
NAMED(lchown, NO_SPACE_NEEDED, (const char *a, uid_t u, gid_t g), AT_FDCWD, a, (a, u, g))
NAMED(fchownat, NO_SPACE_NEEDED, (int f, const char *a, uid_t u, gid_t g, int n), f, a, (f, a, u, g, n))
NAMED(mknod, SPACE_NEEDED, (const char *a, mode_t m, dev_t d), AT_FDCWD, a, (a, m, d))
NAMED(mknodat, SPACE_NEEDED, (int f, const char *a, mode_t m, dev_t d), f, a, (f, a, m, d))
NAMED(utimes, NO_SPACE_NEEDED, (const char *a, const struct timeval t[2]), AT_FDCWD, a, (a, t))

int utimensat(int folder, const char *name, const struct timespec times[2], int flags) {
    NEXT(utimensat);
    ON_NAME("utimensat", NO_SPACE_NEEDED, folder, name);
    return real(folder, name, times, flags);
}

/* Calls on open files. */

#define OPENED(name, need, parameters, arguments) \
    int name parameters { \
        NEXT(name); \
        if (order_fd(CHANGE, #name, fd, need) == REFUSE) \
            return -1; \
        return real arguments; \
    }

OPENED(fsync, NO_SPACE_NEEDED, (int fd), (fd))
OPENED(fdatasync, NO_SPACE_NEEDED, (int fd), (fd))
OPENED(syncfs, NO_SPACE_NEEDED, (int fd), (fd))
OPENED(ftruncate, NO_SPACE_NEEDED, (int fd, off_t n), (fd, n))
OPENED(ftruncate64, NO_SPACE_NEEDED, (int fd, off64_t n), (fd, n))
OPENED(fchmod, NO_SPACE_NEEDED, (int fd, mode_t m), (fd, m))
OPENED(fchown, NO_SPACE_NEEDED, (int fd, uid_t u, gid_t g), (fd, u, g))
OPENED(futimens, NO_SPACE_NEEDED, (int fd, const struct timespec t[2]), (fd, t))
OPENED(futimes, NO_SPACE_NEEDED, (int fd, const struct timeval t[2]), (fd, t))
OPENED(fallocate, SPACE_NEEDED, (int fd, int mode, off_t a, off_t b), (fd, mode, a, b))
OPENED(fallocate64, SPACE_NEEDED, (int fd, int mode, off64_t a, off64_t b), (fd, mode, a, b))

int ioctl(int fd, unsigned long request, ...) {
    NEXT(ioctl);
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    /* FICLONE and FICLONERANGE */
    if ((request == 0x40049409 || request == 0x4020940d) && order_fd(CHANGE, "ioctl", fd, SPACE_NEEDED) == REFUSE)
        return -1;
    return real(fd, request, argument);
}

/* Opening. */

static enum order order_open(const char *call, int folder, const char *name, int flags) {
    int changes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    enum need need = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? SPACE_NEEDED : NO_SPACE_NEEDED;
    return order_at(changes ? CHANGE : READ, call, folder, name, need);
}

#define MODE_FROM(last) \
    mode_t mode = 0; \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list arguments; \
        va_start(arguments, last); \
        mode = va_arg(arguments, mode_t); \
        va_end(arguments); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(name); \
        MODE_FROM(flags) \
        return order_open(#name, AT_FDCWD, path, flags) == REFUSE ? -1 : real(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        NEXT(name); \
        MODE_FROM(flags) \
        return order_open(#name, folder, path, flags) == REFUSE ? -1 : real(folder, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
/* What gcc makes of them with _FORTIFY_SOURCE, where no mode is given. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int folder, const char *path, int flags) { return openat(folder, path, flags); }
int __openat64_2(int folder, const char *path, int flags) { return openat64(folder, path, flags); }

DIR *opendir(const char *path) {
    NEXT(opendir);
    return order_at(READ, "opendir", AT_FDCWD, path, NO_SPACE_NEEDED) == REFUSE ? NULL : real(path);
}

#define READDIR(name, kind) \
    struct kind *name(DIR *folder) { \
        NEXT(name); \
        return order_fd(READ, #name, dirfd(folder), NO_SPACE_NEEDED) == REFUSE ? NULL : real(folder); \
    }
READDIR(readdir, dirent)
READDIR(readdir64, dirent64)

/* Writing and reading: half of it may be done. */

static ssize_t written(ssize_t done, enum order order) {
    if (order == DO_HALF_AND_DIE)
        die();
    return done;
}

static size_t half(size_t size, enum order order) {
    return order == DO_HALF || order == DO_HALF_AND_DIE ? (size + 1) / 2 : size;
}

#define WRITE(name, parameters, size, arguments) \
    ssize_t name parameters { \
        NEXT(name); \
        enum order order = order_fd(CHANGE, #name, fd, SPACE_NEEDED); \
        if (order == REFUSE) \
            return -1; \
        size = half(size, order); \
        return written(real arguments, order); \
    }
WRITE(write, (int fd, const void *data, size_t size), size, (fd, data, size))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t offset), size, (fd, data, size, offset))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t offset), size, (fd, data, size, offset))
WRITE(writev, (int fd, const struct iovec *parts, int size), size, (fd, parts, size))
WRITE(pwritev, (int fd, const struct iovec *parts, int size, off_t offset), size, (fd, parts, size, offset))
WRITE(pwritev64, (int fd, const struct iovec *parts, int size, off64_t offset), size, (fd, parts, size, offset))
WRITE(sendfile, (int fd, int from, off_t *offset, size_t size), size, (fd, from, offset, size))
WRITE(sendfile64, (int fd, int from, off64_t *offset, size_t size), size, (fd, from, offset, size))

ssize_t copy_file_range(int from, off64_t *start, int fd, off64_t *to, size_t size, unsigned int flags) {
    NEXT(copy_file_range);
    enum order order = order_fd(CHANGE, "copy_file_range", fd, SPACE_NEEDED);
    return order == REFUSE ? -1 : written(real(from, start, fd, to, half(size, order), flags), order);
}

#define READ_AT(name, parameters, size, arguments) \
    ssize_t name parameters { \
        NEXT(name); \
        enum order order = order_fd(READ, #name, fd, NO_SPACE_NEEDED); \
        if (order == REFUSE) \
            return -1; \
        ssize_t got = real arguments; \
        return order == DO_HALF && got > 1 ? got / 2 : got; \
    }
READ_AT(pread, (int fd, void *data, size_t size, off_t offset), size, (fd, data, size, offset))
READ_AT(pread64, (int fd, void *data, size_t size, off64_t offset), size, (fd, data, size, offset))
READ_AT(preadv, (int fd, const struct iovec *parts, int size, off_t offset), size, (fd, parts, size, offset))
READ_AT(preadv64, (int fd, const struct iovec *parts, int size, off64_t offset), size, (fd, parts, size, offset))

#define READ_ON(name, parameters, arguments) \
    ssize_t name parameters { \
        NEXT(name); \
        enum order order = order_fd(READ, #name, fd, NO_SPACE_NEEDED); \
        if (order == REFUSE) \
            return -1; \
        ssize_t got = real arguments; \
        if (order == DO_HALF && got > 1) { \
            lseek64(fd, got / 2 - got, SEEK_CUR); \
            got = got / 2; \
        } \
        return got; \
    }
READ_ON(read, (int fd, void *data, size_t size), (fd, data, size))
READ_ON(readv, (int fd, const struct iovec *parts, int size), (fd, parts, size))
ssize_t __read_chk(int fd, void *data, size_t size, size_t room) {
    (void)room;
    return read(fd, data, size);
}
ssize_t __pread_chk(int fd, void *data, size_t size, off_t offset, size_t room) {
    (void)room;
    return pread(fd, data, size, offset);
}
ssize_t __pread64_chk(int fd, void *data, size_t size, off64_t offset, size_t room) {
    (void)room;
    return pread64(fd, data, size, offset);
}

/* As on Linux, a file is closed even where that fails. */
int close(int fd) {
    NEXT(close);
    enum order order = order_fd(CLOSE, "close", fd, NO_SPACE_NEEDED);
    int number = errno, result = real(fd);
    if (order == REFUSE) {
        errno = number;
        return -1;
    }
    return result;
}
