/* W3: one byte into the FIFO of each reader.
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

static int wake_fifo(const char *path)
{
    struct stat status;
    ssize_t written;
    int fd, result;

    do
        fd = open(path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
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
            written = write(fd, "", 1);
        while (written < 0 && errno == EINTR);
        if (written == 1 || errno == EAGAIN)
            result = 1;
        else
            result = errno == EPIPE ? 0 : -errno;
    }
    (void)close(fd);
    return result;
}

/* Every FIFO of a directory.  '.' begins one that is still being made, '@' the
 * directory of a plain channel. */
static int wake_directory(const char *directory)
{
    char path[PATH_MAX];
    struct dirent *entry;
    int result, woken = 0, failed = 0;
    DIR *entries = opendir(directory);

    if (!entries)
        return errno == ENOENT ? 0 : -errno;
    while ((entry = readdir(entries))) {
        if (entry->d_name[0] == '.' || entry->d_name[0] == '@')
            continue;
        if (snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) >= (int)sizeof path)
            continue;
        result = wake_fifo(path);
        if (result < 0)
            failed = result;
        else
            woken += result;
    }
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

int clw_wake(const char *sidecar, const char *channel)
{
    char path[PATH_MAX], name[NAME_SIZE];
    const char *token;
    int length;

    if (!is_channel_name(channel))
        return 0;
    length = (int)strcspn(channel, "!");
    (void)snprintf(name, sizeof name, "%.*s", length, channel);
    if (channel[length] == '\0') {
        if (snprintf(path, sizeof path, "%s/@%s", sidecar, name) >= (int)sizeof path)
            return -ENAMETOOLONG;
        return wake_directory(path);
    }
    token = strrchr(name, '.');
    token = token ? token + 1 : name;
    if (*token == '\0')
        return 0;
    if (snprintf(path, sizeof path, "%s/%s", sidecar, token) >= (int)sizeof path)
        return -ENAMETOOLONG;
    return wake_fifo(path);
}

int clw_wake_all(const char *sidecar)
{
    return wake_directory(sidecar);
}
