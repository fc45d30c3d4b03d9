package trainer

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// clocks has the time that each rank has computed.
type clocks []time.Duration

func newClocks(ranks int) clocks { return make(clocks, ranks) }

// each runs f for every rank at the same time and waits for all: what a
// collective is to real ranks. The time of a rank is its thread's processor
// time, so that it does not depend on what else the machine does.
func (w *world) each(f func(r int)) {
	var all sync.WaitGroup
	for r := range w.ranks {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			start := threadTime()
			f(r)
			w.busy[r] += threadTime() - start
		})
	}
	all.Wait()
}

// threadTime is the processor time of this thread.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // Linux has this clock since 2.6.12
	}
	return time.Duration(t.Nano())
}
