# Device registers that may be unmapped: a SIGBUS handler maps a page of ones in their place.
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <signal.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>
    #define VD_GUARDS 1024
    static struct { uint64_t start, end; int lost; } vd_guards[VD_GUARDS];
    static struct sigaction vd_before;
    static uint64_t vd_page;
    static int vd_ones = -1; /* a file of one page of ones, as long as there are guards */
    static int vd_guarded;   /* how many there are */

    /* Calls nothing but what a signal handler may: mmap is a plain system call. Where it maps, the instruction that
       faulted is run again, and finds what a device that is gone answers: all ones. One system call replaces the page,
       content and all: another thread that reads it meanwhile finds registers or ones, and nothing between. */
    static void vd_on_sigbus(int number, siginfo_t *info, void *context) {
        uint64_t at = (uint64_t)(uintptr_t)info->si_addr;
        int before = errno;
        int i;
        (void)number;
        (void)context;
        for (i = 0; i < VD_GUARDS; i++) {
            uint64_t start = __atomic_load_n(&vd_guards[i].start, __ATOMIC_ACQUIRE);
            if (start && at >= start && at < vd_guards[i].end) {
                void *page = (void *)(uintptr_t)(at & ~(vd_page - 1));
                /* Before the ones are to be seen: who sees them finds that they are not the device's. */
                __atomic_store_n(&vd_guards[i].lost, 1, __ATOMIC_RELEASE);
                if (mmap(page, vd_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, vd_ones, 0) == page) {
                    errno = before;
                    return;
                }
            }
        }
        sigaction(SIGBUS, &vd_before, 0); /* not ours: it faults again, for whoever was here before us */
    }

    /* The file is sealed when it is written: what is stored into a page that was mapped from it stays in that page. */
    static int vd_make_ones(void) {
        char ones[4096];
        int error = 0, fd = memfd_create("virtiod-ones", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        uint64_t done;
        if (fd < 0) return -errno;
        memset(ones, 0xff, sizeof ones);
        for (done = 0; done < vd_page && !error; done += sizeof ones)
            if (write(fd, ones, sizeof ones) != (ssize_t)sizeof ones) error = errno ? errno : EIO;
        if (!error && fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_WRITE) < 0) error = errno;
        if (error) {
            close(fd);
            return -error;
        }
        vd_ones = fd;
        return 0;
    }

    static int guard_install(void) {
        struct sigaction now, found;
        vd_page = (uint64_t)sysconf(_SC_PAGESIZE);
        if (vd_ones < 0) {
            int error = vd_make_ones();
            if (error) return error;
        }
        if (sigaction(SIGBUS, 0, &found) < 0) return -errno;
        if ((found.sa_flags & SA_SIGINFO) && found.sa_sigaction == vd_on_sigbus) return 0;
        vd_before = found;
        memset(&now, 0, sizeof now);
        now.sa_sigaction = vd_on_sigbus;
        now.sa_flags = SA_SIGINFO | SA_ONSTACK;
        return sigaction(SIGBUS, &now, 0) < 0 ? -errno : 0;
    }

    static int guard_add(uint64_t start, uint64_t size) {
        int i;
        for (i = 0; i < VD_GUARDS; i++)
            if (!vd_guards[i].start) {
                vd_guards[i].lost = 0;
                vd_guards[i].end = start + size;
                __atomic_store_n(&vd_guards[i].start, start, __ATOMIC_RELEASE);
                vd_guarded++;
                return i;
            }
        return -ENOSPC;
    }
    static void guard_remove(int i) {
        __atomic_store_n(&vd_guards[i].start, 0, __ATOMIC_RELEASE);
        if (--vd_guarded == 0) {
            close(vd_ones);
            vd_ones = -1;
        }
    }
    static int guard_lost(int i) { return __atomic_load_n(&vd_guards[i].lost, __ATOMIC_ACQUIRE); }
    """
    int guard_install() noexcept nogil
    int guard_add(uint64_t start, uint64_t size) noexcept nogil
    void guard_remove(int i) noexcept nogil
    int guard_lost(int i) noexcept nogil


cdef class Guard:
    cdef int place
