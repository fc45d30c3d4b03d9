package incident

import (
	"context"
	"slices"
)

// maxClosed is how many closed incidents are remembered beyond those that a
// guard still needs. One is a few KiB.
const maxClosed = 1000

// forget drops the oldest closed incidents. Those whose reboot or replacement
// still counts in a budget or a cool-down stay, and so do those that were given
// up with the node isolated.
func (c *Controller) forget(ctx context.Context) {
	now, timing := c.opts.Now(), c.opts.Policy.Timing
	c.mu.Lock()
	var closed []*tracked
	for _, t := range c.incidents {
		if i := t.current(); !i.Open() && i.isolationKey() == "" && now.Sub(i.ClosedAt) > max(timing.BudgetWindow, timing.CoolDown) {
			closed = append(closed, t)
		}
	}
	excess := len(c.incidents) - len(c.open) - maxClosed
	c.mu.Unlock()
	slices.SortFunc(closed, func(a, b *tracked) int { return a.current().ClosedAt.Compare(b.current().ClosedAt) })
	for _, t := range closed[:max(0, min(excess, len(closed)))] {
		t.write.Lock()
		err := c.session.Delete(context.WithoutCancel(ctx), incidentPrefix+t.current().ID, t.revision)
		t.write.Unlock()
		if err != nil {
			c.opts.Logger.Error("forget incident", "incident", t.current().ID, "err", err)
			return
		}
		c.mu.Lock()
		delete(c.incidents, t.current().ID)
		c.mu.Unlock()
	}
}
