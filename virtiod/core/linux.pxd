# The Linux calls that the data plane makes, where Cython's own declarations have none.
from libc.stdint cimport uint32_t, uint64_t
from virtiod.core.types cimport iovec

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLLERR
        EPOLLHUP
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
    union epoll_data:
        void *ptr
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int max_events, int timeout_ms)

cdef extern from *:
    """
    #ifndef VIRTIOD_EPOLL_WAIT_NS
    #define VIRTIOD_EPOLL_WAIT_NS
    #include <errno.h>
    #include <stdint.h>
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    /* epoll_wait with a time-out in nanoseconds: Linux 5.11; before it rounded up to milliseconds. */
    static inline int vd_epoll_wait_ns(int epfd, struct epoll_event *events, int max_events, uint64_t ns) {
    #ifdef SYS_epoll_pwait2
        struct timespec ts = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
        int n = (int)syscall(SYS_epoll_pwait2, epfd, events, max_events, &ts, (void *)0, (size_t)0);
        if (n >= 0 || errno != ENOSYS) return n;
    #endif
        return epoll_wait(epfd, events, max_events, (int)((ns + 999999) / 1000000));
    }
    #endif
    """
    int epoll_wait_ns "vd_epoll_wait_ns" (int epfd, epoll_event *events, int max_events, uint64_t ns) noexcept nogil

cdef extern from *:
    """
    #ifndef VIRTIOD_DRAIN
    #define VIRTIOD_DRAIN
    #include <errno.h>
    #include <stdint.h>
    #include <sys/uio.h>
    #include <unistd.h>
    /* Empties an eventfd that another process shares, who can empty it first, and can make it block (O_NONBLOCK belongs
       to both). A read that never blocks: Linux 5.8. */
    static inline void vd_drain(int fd) {
        uint64_t count;
        struct iovec room = {&count, sizeof count};
        if (preadv2(fd, &room, 1, -1, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP && read(fd, &count, sizeof count) < 0) return;
    }
    #endif
    """
    void drain "vd_drain" (int fd) noexcept nogil

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags)

cdef extern from "<sys/uio.h>" nogil:
    ssize_t preadv(int fd, const iovec *iov, int count, long long offset)
    ssize_t pwritev(int fd, const iovec *iov, int count, long long offset)
    ssize_t readv(int fd, const iovec *iov, int count)

cdef extern from "<fcntl.h>" nogil:
    enum:
        FALLOC_FL_KEEP_SIZE
        FALLOC_FL_PUNCH_HOLE
    int fallocate(int fd, int mode, long long offset, long long length)

cdef extern from *:
    """
    #ifndef VIRTIOD_INTERRUPT
    #define VIRTIOD_INTERRUPT
    #include <signal.h>
    #include <string.h>
    #define VD_INTERRUPT (SIGRTMIN + 7)
    static void vd_on_interrupt(int number) { (void)number; }
    /* Without SA_RESTART: what a thread waits for in the kernel ends with EINTR. */
    static inline void vd_interruptible(void) {
        struct sigaction now;
        memset(&now, 0, sizeof now);
        now.sa_handler = vd_on_interrupt;
        sigaction(VD_INTERRUPT, &now, 0);
    }
    static inline void vd_interrupt(unsigned long thread) { pthread_kill((pthread_t)thread, VD_INTERRUPT); }
    #endif
    """
    void interruptible "vd_interruptible" () noexcept nogil
    void interrupt "vd_interrupt" (unsigned long thread) noexcept nogil

cdef extern from "<signal.h>" nogil:
    int kill_self "raise" (int signal)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    ssize_t recv(int fd, void *buffer, size_t length, int flags)

cdef extern from "<sched.h>" nogil:
    int sched_yield()
