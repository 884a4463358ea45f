/* W3: one byte into the FIFO of each reader, which says what was written.
 *
 * Thread: any.  GIL: not held.  State: none; every descriptor opened here is
 * closed here, so fork and exec need no care.  Memory: the stack only.
 * SIGPIPE: a reader may go between open and write; CPython ignores the signal
 * from its start on, and this code runs only in a CPython process.
 *
 * What each errno means, decided here once:
 *   ENOENT          nobody has ever listened here             nobody woken
 *   ENXIO           a name with no reader: the owner is dead  nobody woken
 *   EAGAIN          the pipe is full: a wake is waiting       woken
 *   EPIPE           the reader went just now                  nobody woken
 *   EINTR           again
 *   ELOOP           a symbolic link was planted               refused
 *   EPERM           not a FIFO, or not ours                   refused
 *   anything else   returned; the fallback interval rescues the row
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wakeup.h"

/* Longest channel name of the specification, with its end. */
enum { NAME_SIZE = 100 };

enum { ANYTHING = 0, PROCESS_LOCAL = 1, PLAIN = 2 };

/* `path` is as openat(2) takes it. */
static int wake_fifo(int directory, const char *path, unsigned char sign)
{
    struct stat status;
    ssize_t written;
    int fd, result;

    do
        fd = openat(directory, path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        /* The name of a dead process stays: it tells the upkeep whose rows to delete. */
        return errno == ENOENT || errno == ENXIO ? 0 : -errno;
    }
    if (fstat(fd, &status) < 0) {
        result = -errno;
    } else if (!S_ISFIFO(status.st_mode) || status.st_uid != geteuid()) {
        result = -EPERM;
    } else {
        do
            written = write(fd, &sign, 1);
        while (written < 0 && errno == EINTR);
        if (written == 1 || errno == EAGAIN)
            result = 1;
        else
            result = errno == EPIPE ? 0 : -errno;
    }
    (void)close(fd);
    return result;
}

/* Every FIFO of a directory: all the names without '.', which begins one that is
 * still being made, and is in those of what lies beside a FIFO; nor '@', which
 * begins the directory of a plain channel. */
static int wake_directory(const char *path, unsigned char sign)
{
    struct dirent *entry;
    int result, woken = 0, failed = 0;
    DIR *entries = opendir(path);

    if (!entries)
        return errno == ENOENT ? 0 : -errno;
    while (errno = 0, (entry = readdir(entries))) {
        if (strpbrk(entry->d_name, ".@"))
            continue;
        result = wake_fifo(dirfd(entries), entry->d_name, sign);
        if (result < 0)
            failed = result;
        else
            woken += result;
    }
    if (errno)
        failed = -errno;
    (void)closedir(entries);
    return woken || !failed ? woken : failed;
}

/* A name from a row goes into a path only if it is one the specification
 * allows: anybody who may write the table may write any text into it. */
static int is_channel_name(const char *name)
{
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz"
                                 "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
    return length > 0 && length < NAME_SIZE && (name[length] == '\0' || name[length] == '!');
}

/* What the byte says of a plain channel. */
static unsigned char sign_of(const char *name)
{
    unsigned sum = 0;

    while (*name)
        sum += (unsigned char)*name++;
    return (unsigned char)(PLAIN + sum % (UCHAR_MAX + 1 - PLAIN));
}

int clw_wake(const char *sidecar, const char *channel)
{
    char path[PATH_MAX], name[NAME_SIZE];
    const char *token;
    int length, woken;

    if (!is_channel_name(channel))
        return 0;
    length = (int)strcspn(channel, "!");
    (void)snprintf(name, sizeof name, "%.*s", length, channel);
    if (channel[length] == '\0') {
        /* One of its readers takes the byte; without such a FIFO, all are woken. */
        if (snprintf(path, sizeof path, "%s/.@%s", sidecar, name) >= (int)sizeof path)
            return -ENAMETOOLONG;
        woken = wake_fifo(AT_FDCWD, path, sign_of(name));
        if (woken > 0)
            return woken;
        if (snprintf(path, sizeof path, "%s/@%s", sidecar, name) >= (int)sizeof path)
            return -ENAMETOOLONG;
        return wake_directory(path, sign_of(name));
    }
    token = strrchr(name, '.');
    token = token ? token + 1 : name;
    if (*token == '\0')
        return 0;
    if (snprintf(path, sizeof path, "%s/%s", sidecar, token) >= (int)sizeof path)
        return -ENAMETOOLONG;
    return wake_fifo(AT_FDCWD, path, PROCESS_LOCAL);
}

int clw_wake_all(const char *sidecar)
{
    return wake_directory(sidecar, ANYTHING);
}
