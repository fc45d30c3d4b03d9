package incident

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/guard"
)

// Run drives the open incidents until the context ends, and returns nil then.
// It returns an error when another controller acquired the journal, or when the
// journal's answer to a write is not known. A call to the world that is under way
// when the context ends is finished first, within timing.call_timeout.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var drivers sync.WaitGroup
	defer drivers.Wait()
	for {
		for _, t := range c.undriven() {
			drivers.Go(func() {
				if err := (&driver{Controller: c, t: t}).run(ctx); err != nil {
					cancel(err)
				}
			})
		}
		select {
		case <-c.opened:
		case <-ctx.Done():
			if err := context.Cause(ctx); errors.Is(err, errLost) {
				return err
			}
			return nil
		}
	}
}

// errLost marks an error after which this controller may not go on: what the
// journal holds is not what it believes.
var errLost = errors.New("the journal is no longer this controller's")

func (c *Controller) undriven() []*tracked {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*tracked
	for _, t := range c.open {
		if !t.driven {
			t.driven = true
			all = append(all, t)
		}
	}
	return all
}

// driver takes one incident to its end, one step at a time. Each step looks at
// the incident as journalled and at the newest facts, does at most one thing,
// journals it, and says when to look again. So a driver that starts from the
// journal goes on where any earlier one stopped.
type driver struct {
	*Controller
	t *tracked
	// readAfter paces readings of the world.
	readAfter time.Time
	// healthySince is when the node was first seen well without interruption.
	healthySince time.Time
}

// again is the wait of a step that is to be followed by the next at once.
const again time.Duration = 0

func (d *driver) run(ctx context.Context) error {
	defer func() {
		d.mu.Lock()
		d.t.driven = false
		d.mu.Unlock()
		d.announce() // it may have been reopened since
	}()
	for d.t.current().Open() && ctx.Err() == nil {
		wait, err := d.takeStep(ctx)
		if err != nil {
			// Fenced, or a write that may have taken effect: only a fresh start can tell.
			return fmt.Errorf("%w: %w", errLost, err)
		}
		if wait <= again {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-d.t.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

func (d *driver) takeStep(ctx context.Context) (time.Duration, error) {
	d.slots <- struct{}{}
	defer func() { <-d.slots }()
	return handlers[d.t.current().State](d, ctx)
}

// look is what a step sees.
type look struct {
	i   *Incident
	now time.Time
	// node is nil when the facts do not mention the node.
	node *NodeFacts
	// current is true when the facts are not outdated.
	current bool
	// best is the candidate to act upon, nil for none.
	best  *candidate
	since time.Time
}

// look joins what is new to the incident, decides again unless something was
// done already, and gives what the newest facts say.
func (d *driver) look(ctx context.Context) (look, error) {
	now := d.opts.Now()
	d.mu.Lock()
	node := d.facts[d.t.current().Node]
	current := node != nil && now.Sub(d.factsAt) <= d.opts.Policy.Timing.FreshWithin
	d.mu.Unlock()
	l := look{now: now, node: node, current: current}
	if node != nil {
		all := d.judge.candidates(node, current)
		if err := d.refresh(ctx, node, all, l); err != nil {
			return look{}, err
		}
		if len(all) > 0 {
			l.best = &all[0]
			d.mu.Lock()
			l.since = d.beginning[all[0].finding.ID]
			d.mu.Unlock()
		}
	}
	l.i = d.t.current()
	return l, nil
}

// refresh journals what the facts change of the incident, if anything.
func (d *driver) refresh(ctx context.Context, node *NodeFacts, all []candidate, l look) error {
	change := func(i *Incident) bool {
		changed := i.join(node, all, l.now)
		changed = d.judge.clear(i, node, l.current) || changed
		if len(all) > 0 && (all[0].standing || i.State == Observed) && !i.struck() && i.Outcome == "" && i.decide(&all[0], node) {
			i.PolicyVersion = d.opts.Policy.Version
			changed = true
		}
		return changed
	}
	if !change(d.t.current().clone()) {
		return nil
	}
	return d.save(ctx, d.t, func(i *Incident) { change(i) })
}

// enter journals a transition.
func (d *driver) enter(ctx context.Context, s State, why string, change func(*Incident)) (time.Duration, error) {
	now := d.opts.Now()
	before := d.t.current()
	err := d.save(ctx, d.t, func(i *Incident) {
		if change != nil {
			change(i)
		}
		i.hold(nil, now)
		i.enter(s, now)
		if s == Closed {
			i.ClosedAt = now
		}
	})
	if err != nil {
		return 0, err
	}
	after := d.t.current()
	d.metrics.phase(before.State, now.Sub(before.since()))
	d.mu.Lock()
	d.t.holds = nil
	if s == Closed {
		delete(d.open, after.Node)
	}
	d.mu.Unlock()
	d.readAfter, d.healthySince = time.Time{}, time.Time{}
	d.log(after, "incident moved", "from", before.State, "to", s, "why", why)
	if s == Closed {
		d.metrics.closed.WithLabelValues(string(after.Outcome)).Inc()
		d.forget(ctx)
		// What waited for this one's place in a budget may go on.
		d.wakeAll()
	}
	return again, nil
}

// finish closes the incident, after its job is given back if it owes that.
func (d *driver) finish(ctx context.Context, o Outcome, why string) (time.Duration, error) {
	next := Closed
	if d.t.current().owesJob() {
		next = Resuming
	}
	return d.enter(ctx, next, why, func(i *Incident) { i.Outcome, i.OutcomeReason = o, why })
}

// held records what holds the incident and gives the time to look again.
func (d *driver) held(ctx context.Context, holds ...guard.Hold) (time.Duration, error) {
	now := d.opts.Now()
	if d.t.current().clone().hold(holds, now) {
		if err := d.save(ctx, d.t, func(i *Incident) { i.hold(holds, now) }); err != nil {
			return 0, err
		}
		for _, h := range holds {
			d.log(d.t.current(), "incident held", "guard", h.Guard, "reason", h.Reason)
		}
	}
	d.mu.Lock()
	d.t.holds = holds
	d.mu.Unlock()
	wait := d.opts.Policy.Timing.Poll
	for _, h := range holds {
		if until := h.Until.Sub(now); !h.Until.IsZero() && until > 0 {
			wait = min(wait, until)
		}
	}
	return wait, nil
}

// hold is held for one hold of the world's.
func (d *driver) hold(ctx context.Context, name, reason string, until time.Time) (time.Duration, error) {
	return d.held(ctx, guard.Hold{Guard: name, Reason: reason, Until: until})
}

// paced reports whether the world may be read now, and until when not. Facts
// wake an incident more often than the world should be asked.
func (d *driver) paced() (time.Duration, bool) {
	if wait := d.readAfter.Sub(d.opts.Now()); wait > 0 {
		return wait, true
	}
	d.readAfter = d.opts.Now().Add(d.opts.Policy.Timing.Poll)
	return 0, false
}

// call makes one call to the world with its deadline. A call that writes is
// finished even when the process is being ended, so that its answer is not lost.
func (d *driver) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.opts.Policy.Timing.CallTimeout)
	defer cancel()
	return f(ctx)
}

// read is call for a reading; it ends with the process.
func read[T any](ctx context.Context, d *driver, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opts.Policy.Timing.CallTimeout)
	defer cancel()
	return f(ctx)
}

// request is what the guards are asked.
func (d *driver) request(l look, p guard.Purpose, witnesses []guard.Witness, others bool) *guard.Request {
	r := &guard.Request{
		Now: l.now, Purpose: p, Node: l.i.Node, Remedy: l.i.Decision.Remedy, Mode: l.i.Decision.Mode,
		Approved: l.i.Approval != nil, Simulated: l.i.Simulated, Witnesses: witnesses, IsolatedByOthers: others,
	}
	if l.best == nil {
		r.Evidence = guard.Evidence{Family: l.i.Family, InstanceID: l.i.InstanceID, BootID: l.i.BootID,
			Current: l.current, Why: "the newest facts do not hold the finding any more, and nothing cleared it"}
	} else {
		r.Evidence = l.best.evidence(l.node, l.current, l.since)
	}
	return r
}

// authorise asks the guards; if all allow, it claims the purpose against the
// budgets, and the job for a stop, until the intent is journalled. Question and
// claim are one: of two incidents that ask at the same time, one sees the other.
func (d *driver) authorise(r *guard.Request, p guard.Purpose) []guard.Hold {
	d.mu.Lock()
	defer d.mu.Unlock()
	r.Fleet, r.LastTouched = d.fleet(d.t)
	holds := d.guards.Check(r)
	if p == guard.Stop {
		if other := d.mover(d.t.current()); other != "" {
			holds = append(holds, guard.Hold{Guard: holdJob, Reason: fmt.Sprintf("incident %s is moving the job", other)})
		}
	}
	if len(holds) == 0 {
		d.t.claim = p
	}
	return holds
}

func (d *driver) unclaim() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.t.claim = ""
}

// fleet gives the state of the cluster beside the incident itself; the caller
// holds mu.
func (c *Controller) fleet(self *tracked) (guard.Fleet, time.Time) {
	f := guard.Fleet{Together: maps.Clone(c.togetherSeen)}
	if k := c.control.KillSwitch; k.On {
		f.KillSwitch = k.Reason
	}
	isolated := make(map[string]bool)
	var touched time.Time
	for _, t := range c.incidents {
		i := t.current()
		for n := range i.Steps {
			if s := &i.Steps[n]; s.Destructive() && s.MayHaveTakenEffect() {
				f.Acts = append(f.Acts, guard.Act{Incident: i.ID, Node: i.Node, Remedy: fault.Action(s.Name), InstanceID: s.InstanceID, BootID: s.BootID, At: s.IntentAt})
			}
		}
		if !i.Open() {
			if i.Node == self.current().Node && i.touched() && i.ClosedAt.After(touched) {
				touched = i.ClosedAt
			}
			if i.Node != self.current().Node && c.facts[i.Node] != nil && c.facts[i.Node].View != nil &&
				c.leftBehind(i.Node, c.facts[i.Node].View.IsolationKey) == t {
				isolated[i.Node] = true
			}
			continue
		}
		if t == self {
			continue
		}
		if i.struck() || t.claim == guard.Repair {
			f.InRepair = append(f.InRepair, i.Node)
		}
		if i.isolationKey() != "" || t.claim == guard.Isolate {
			isolated[i.Node] = true
		}
		if t.claim == guard.Repair && !i.struck() {
			f.Acts = append(f.Acts, guard.Act{Incident: i.ID, Node: i.Node, Remedy: i.Decision.Remedy, InstanceID: i.InstanceID, BootID: i.BootID, At: c.factsAt})
		}
	}
	f.Isolated = slices.Sorted(maps.Keys(isolated))
	return f, touched
}

// leftBehind gives the closed incident that left the isolation with a key on a
// node, nil if there is none; the caller holds mu.
func (c *Controller) leftBehind(node, key string) *tracked {
	if key == "" {
		return nil
	}
	for _, t := range c.incidents {
		if i := t.current(); !i.Open() && i.Node == node && i.isolationKey() == key {
			return t
		}
	}
	return nil
}

// killed reports whether the kill switch is on.
func (c *Controller) killed() bool { return c.KillSwitch().On }

func (c *Controller) log(i *Incident, message string, args ...any) {
	c.opts.Logger.Info(message, append([]any{"incident", i.ID, "node", i.Node, "kind", i.Kind, "state", i.State}, args...)...)
}
