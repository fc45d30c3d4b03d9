package remotewrite

import (
	"log/slog"
	"sync"
	"time"
)

// complainEvery bounds how often trouble that lasts is logged; the counters have
// every case.
const complainEvery = time.Minute

// complainer logs the first case of each kind of trouble, and then at most one
// a minute, with the number of those left out.
type complainer struct {
	logger *slog.Logger

	mu    sync.Mutex
	kinds map[string]*complaint
}

type complaint struct {
	logged     time.Time
	suppressed int
}

func newComplainer(logger *slog.Logger) *complainer {
	return &complainer{logger: logger, kinds: make(map[string]*complaint)}
}

// about logs a case. Kinds come from a fixed set.
func (c *complainer) about(kind, message string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[kind]
	if k == nil {
		k = new(complaint)
		c.kinds[kind] = k
	}
	now := time.Now()
	if !k.logged.IsZero() && now.Sub(k.logged) < complainEvery {
		k.suppressed++
		return
	}
	if k.suppressed > 0 {
		args = append(args, "suppressed", k.suppressed)
	}
	c.logger.Warn(message, args...)
	k.logged, k.suppressed = now, 0
}
