package incident

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/guard"
	"github.com/evenkeel/evenkeel/remediate/journal"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// Options is what a controller works with. Every field is required but
// Registerer (nil: metrics are not exported), Logger (nil: silent) and Now (nil:
// time.Now).
type Options struct {
	Cluster     string
	Policy      policy.Policy
	Catalogue   *fault.Catalogue
	Journal     journal.Journal
	Isolator    Isolator
	Nodes       Nodes
	Jobs        Jobs
	Machines    Machines
	Checkpoints Checkpoints
	Registerer  prometheus.Registerer
	Logger      *slog.Logger
	Now         func() time.Time
}

func (o *Options) validate() error {
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"Cluster", o.Cluster == ""}, {"Catalogue", o.Catalogue == nil}, {"Journal", o.Journal == nil},
		{"Isolator", o.Isolator == nil}, {"Nodes", o.Nodes == nil}, {"Jobs", o.Jobs == nil},
		{"Machines", o.Machines == nil}, {"Checkpoints", o.Checkpoints == nil},
	} {
		if f.missing {
			return fmt.Errorf("incident controller: option %s is missing", f.name)
		}
	}
	if err := o.Policy.Validate(); err != nil {
		return fmt.Errorf("incident controller: policy: %w", err)
	}
	return nil
}

// KillSwitch stops every isolation, stop of a job, reboot and replacement that
// was not sent yet. Giving nodes and jobs back goes on.
type KillSwitch struct {
	On     bool      `json:"on"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
	Since  time.Time `json:"since,omitzero"`
}

// HoldView is one hold of one open incident.
type HoldView struct {
	Incident string     `json:"incident"`
	Node     string     `json:"node"`
	Kind     fault.Kind `json:"kind"`
	guard.Hold
	Since time.Time `json:"since"`
}

// Controller opens incidents from facts and drives them to their end.
type Controller struct {
	opts    Options
	judge   judge
	guards  guard.Chain
	metrics *metrics
	session journal.Session
	// opened wakes Run for an incident that nobody drives yet.
	opened chan struct{}
	// slots bounds how many incidents take a step at the same time.
	slots chan struct{}

	observing  sync.Mutex // one Observe at a time
	controlMu  sync.Mutex // one write of the control record at a time
	controlRev uint64     // guarded by controlMu

	mu        sync.Mutex // guards everything that follows; never held during a call or a write
	factsAt   time.Time
	facts     map[string]*NodeFacts
	beginning map[string]time.Time // finding id: when it was first seen bad
	control   control
	// togetherSeen is control.Together to the moment.
	togetherSeen map[fault.Family]time.Time
	incidents    map[string]*tracked
	open         map[string]*tracked // by node
}

// maxStepping bounds concurrent steps. A step waits for at most a few calls, so
// this many hung ones still leave the process answering.
const maxStepping = 64

// tracked is one incident with what belongs to it in memory.
type tracked struct {
	write    sync.Mutex // one write of the record at a time
	revision uint64     // guarded by write
	now      atomic.Pointer[Incident]
	wake     chan struct{}

	// Guarded by Controller.mu.
	driven bool
	// claim is a purpose that the guards allowed and whose intent is being
	// journalled: it counts against the budgets already.
	claim guard.Purpose
	holds []guard.Hold
}

// current is the incident as journalled; the value is never changed.
func (t *tracked) current() *Incident { return t.now.Load() }

func track(i *Incident, revision uint64) *tracked {
	t := &tracked{revision: revision, wake: make(chan struct{}, 1), holds: i.Held()}
	t.now.Store(i)
	return t
}

// New acquires the journal, which ends every other controller on it, and loads
// the incidents. A journal that cannot be read or holds a record that cannot be
// understood is an error: nothing may be done without its memory.
func New(ctx context.Context, opts Options) (*Controller, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	c := &Controller{
		opts:         opts,
		opened:       make(chan struct{}, 1),
		slots:        make(chan struct{}, maxStepping),
		facts:        make(map[string]*NodeFacts),
		beginning:    make(map[string]time.Time),
		control:      control{Together: make(map[fault.Family]time.Time)},
		togetherSeen: make(map[fault.Family]time.Time),
		incidents:    make(map[string]*tracked),
		open:         make(map[string]*tracked),
	}
	c.judge = judge{policy: &c.opts.Policy, catalogue: opts.Catalogue}
	c.guards = guard.Standard(&c.opts.Policy)
	session, err := opts.Journal.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	c.session = session
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	c.metrics = newMetrics(c, opts.Registerer)
	return c, nil
}

// load reads the journal. A reboot or replacement without an outcome becomes
// ambiguous as of now: the process that meant to send it cannot have done so
// later than this.
func (c *Controller) load(ctx context.Context) error {
	records, err := c.session.Load(ctx)
	if err != nil {
		return err
	}
	for _, jr := range records {
		r, err := decodeRecord(jr.Key, jr.Value)
		if err != nil {
			return err
		}
		if r.Control != nil {
			c.control, c.controlRev = *r.Control, jr.Revision
			if c.control.Together == nil {
				c.control.Together = make(map[fault.Family]time.Time)
			}
			maps.Copy(c.togetherSeen, c.control.Together)
			continue
		}
		t := track(r.Incident, jr.Revision)
		c.incidents[r.Incident.ID] = t
		if !r.Incident.Open() {
			continue
		}
		if other := c.open[r.Incident.Node]; other != nil {
			return fmt.Errorf("journal holds two open incidents on node %s: %s and %s", r.Incident.Node, other.current().ID, r.Incident.ID)
		}
		c.open[r.Incident.Node] = t
		for n := range r.Incident.Findings {
			s := &r.Incident.Findings[n]
			c.beginning[s.ID] = s.JoinedAt
		}
	}
	for _, t := range c.open {
		if act := t.current().act(); act != nil && act.Outcome == StepPending {
			err := c.save(ctx, t, func(i *Incident) {
				s := i.act()
				s.Outcome, s.OutcomeAt, s.Detail = StepAmbiguous, c.opts.Now(), "the remediator ended before the outcome was known"
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// save journals a change of an incident and then makes it visible. After an
// error the incident is as before.
func (c *Controller) save(ctx context.Context, t *tracked, change func(*Incident)) error {
	t.write.Lock()
	defer t.write.Unlock()
	next := t.current().clone()
	change(next)
	next.trim()
	value, err := encodeRecord(record{Incident: next})
	if err != nil {
		return err
	}
	// What happened must be written down, also while the process is being ended.
	revision, err := c.session.Put(context.WithoutCancel(ctx), incidentPrefix+next.ID, t.revision, value)
	if err != nil {
		return fmt.Errorf("incident %s: %w", next.ID, err)
	}
	t.revision = revision
	t.now.Store(next)
	return nil
}

// Incidents gives all incidents that the journal remembers, newest first.
func (c *Controller) Incidents() []Incident {
	c.mu.Lock()
	all := make([]Incident, 0, len(c.incidents))
	for _, t := range c.incidents {
		all = append(all, *t.current())
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b Incident) int {
		return cmp.Or(b.OpenedAt.Compare(a.OpenedAt), strings.Compare(a.ID, b.ID))
	})
	return all
}

// Incident gives one incident; false if the journal does not remember it.
func (c *Controller) Incident(id string) (Incident, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.incidents[id]
	if t == nil {
		return Incident{}, false
	}
	return *t.current(), true
}

// OpenIncident gives the id of the open incident on a node, empty if there is none.
func (c *Controller) OpenIncident(node string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.open[node]; t != nil {
		return t.current().ID
	}
	return ""
}

func (c *Controller) openIncidents() []*tracked {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*tracked, 0, len(c.open))
	for _, t := range c.open {
		all = append(all, t)
	}
	return all
}

// Holds gives what holds the open incidents, ordered by node and guard.
func (c *Controller) Holds() []HoldView {
	c.mu.Lock()
	defer c.mu.Unlock()
	views := []HoldView{}
	for _, t := range c.open {
		i := t.current()
		for _, h := range t.holds {
			views = append(views, HoldView{Incident: i.ID, Node: i.Node, Kind: i.Kind, Hold: h, Since: i.heldSince(h)})
		}
	}
	slices.SortFunc(views, func(a, b HoldView) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Guard, b.Guard))
	})
	return views
}

// KillSwitch gives the kill switch.
func (c *Controller) KillSwitch() KillSwitch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.control.KillSwitch
}

// SetKillSwitch turns the kill switch on. It holds from the moment of the call,
// also when it could not be journalled, which is the error.
func (c *Controller) SetKillSwitch(ctx context.Context, by, reason string) error {
	k := KillSwitch{On: true, By: by, Reason: cmp.Or(reason, "no reason given"), Since: c.opts.Now()}
	c.opts.Logger.Warn("kill switch on", "by", by, "reason", k.Reason)
	c.mu.Lock()
	c.control.KillSwitch = k
	c.mu.Unlock()
	return c.saveControl(ctx, func(next *control) { next.KillSwitch = k })
}

// ClearKillSwitch turns it off, once that is journalled.
func (c *Controller) ClearKillSwitch(ctx context.Context, by string) error {
	if err := c.saveControl(ctx, func(next *control) { next.KillSwitch = KillSwitch{} }); err != nil {
		return err
	}
	c.opts.Logger.Warn("kill switch off", "by", by)
	c.wakeAll()
	return nil
}

// saveControl journals a change of the control record and then makes it visible.
func (c *Controller) saveControl(ctx context.Context, change func(*control)) error {
	c.controlMu.Lock()
	defer c.controlMu.Unlock()
	c.mu.Lock()
	next := control{KillSwitch: c.control.KillSwitch, Together: maps.Clone(c.control.Together)}
	c.mu.Unlock()
	change(&next)
	value, err := encodeRecord(record{Control: &next})
	if err != nil {
		return err
	}
	revision, err := c.session.Put(context.WithoutCancel(ctx), controlKey, c.controlRev, value)
	if err != nil {
		return fmt.Errorf("control record: %w", err)
	}
	c.controlRev = revision
	c.mu.Lock()
	defer c.mu.Unlock()
	// Not "c.control = next": the kill switch may have been turned on meanwhile.
	change(&c.control)
	return nil
}

// ErrNotWaiting is in the chain of an error about an approval that nothing waits for.
var ErrNotWaiting = errors.New("not waiting for approval")

// Approve consents to what an open incident's rule asks for under mode approve.
func (c *Controller) Approve(ctx context.Context, id, by string) error {
	c.mu.Lock()
	t := c.incidents[id]
	c.mu.Unlock()
	if t == nil {
		return fmt.Errorf("incident %q: %w", id, ErrNotFound)
	}
	if i := t.current(); !i.Open() || i.Decision.Mode != policy.Approve || i.Approval != nil {
		return fmt.Errorf("incident %s: %w", id, ErrNotWaiting)
	}
	err := c.save(ctx, t, func(i *Incident) { i.Approval = &Approval{By: by, At: c.opts.Now()} })
	if err != nil {
		return err
	}
	c.opts.Logger.Info("incident approved", "incident", id, "by", by)
	t.poke()
	return nil
}

func (c *Controller) wakeAll() {
	for _, t := range c.openIncidents() {
		t.poke()
	}
}

func (t *tracked) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}
