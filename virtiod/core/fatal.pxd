# The end of a process by a fatal signal, within a time.
cdef extern from *:
    """
    #include <signal.h>
    #include <string.h>
    #include <unistd.h>
    static const int vd_fatal[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV};
    #define VD_FATAL (sizeof vd_fatal / sizeof vd_fatal[0])
    static struct sigaction vd_fatal_before[VD_FATAL];
    static unsigned vd_fatal_s;

    /* Calls nothing but what a signal handler may (signal-safety(7)). Whoever was here before is to get the signal: it
       comes again when this returns, by raise(), or because the instruction faults again. */
    static void vd_on_fatal(int number) {
        struct sigaction kill;
        sigset_t alone;
        size_t i;
        memset(&kill, 0, sizeof kill);
        kill.sa_handler = SIG_DFL;
        sigaction(SIGALRM, &kill, 0);
        sigemptyset(&alone);
        sigaddset(&alone, SIGALRM);
        sigprocmask(SIG_UNBLOCK, &alone, 0);
        alarm(vd_fatal_s);
        for (i = 0; i < VD_FATAL; i++)
            if (vd_fatal[i] == number) sigaction(number, &vd_fatal_before[i], 0);
        raise(number);
    }

    static void bound_fatal(unsigned seconds) {
        struct sigaction now;
        size_t i;
        if (vd_fatal_s == 0) {
            memset(&now, 0, sizeof now);
            now.sa_handler = vd_on_fatal;
            now.sa_flags = SA_ONSTACK;
            for (i = 0; i < VD_FATAL; i++) sigaction(vd_fatal[i], &now, &vd_fatal_before[i]);
        }
        vd_fatal_s = seconds;
    }
    """
    void bound_fatal(unsigned seconds) noexcept nogil
