package demo

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// timeline prints what happens, as it happens, one line each: seconds since the
// start, who says it, and what.
type timeline struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
}

func newTimeline(w io.Writer) *timeline { return &timeline{w: w, start: time.Now()} }

// line prints one line of actor.
func (t *timeline) line(actor, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, "%7.2fs  %-12s %s\n", time.Since(t.start).Seconds(), actor, fmt.Sprintf(format, args...))
}

// heading separates the scenes.
func (t *timeline) heading(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, "\n── %s\n", fmt.Sprintf(format, args...))
}

// text prints a block without time.
func (t *timeline) text(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, format+"\n", args...)
}
