package health

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Bounds on what an engine holds, far above what one honest node needs: 16 GPUs
// with all eight GPU kinds bad at once are 128 findings.
const (
	maxFindings        = 256
	maxPerKind         = 32
	maxUnvouchedOfKind = 4
)

// Identity names the machine and its boot that observations are about.
type Identity struct {
	Node       string `json:"node"`
	InstanceID string `json:"instance_id"`
	BootID     string `json:"boot_id"`
}

// Engine holds the findings of one node. It is not safe for concurrent use.
//
// Times given to it should come from one clock and carry Go's monotonic reading,
// so that a step of the wall clock neither confirms nor ends anything.
type Engine struct {
	catalogue *fault.Catalogue
	identity  Identity
	inventory inventory
	// current holds the findings of this boot.
	current map[slot]*record
	// past holds findings of earlier boots and instances: history, and what still
	// has to be reported as ended.
	past    []*record
	dropped uint64
}

// slot is where the engine looks for a finding.
type slot struct {
	kind fault.Kind
	key  string // fault.Subject.Key of the first observation
}

// New makes an engine without findings.
func New(c *fault.Catalogue, id Identity) *Engine {
	return &Engine{catalogue: c, identity: id, inventory: newInventory(), current: make(map[slot]*record)}
}

// Observe takes observations in the order in which they were made. It reports
// whether there is news for a report: a finding that began, ended, was confirmed,
// explained, escalated, or whose subject is better known. One that was merely
// seen again is none.
func (e *Engine) Observe(now time.Time, observations []Observation) (changed bool) {
	for i := range observations {
		if e.observe(now, observations[i]) {
			changed = true
		}
	}
	return e.settle(now) || changed
}

// Tick lets time pass: a bad run that has lasted long enough confirms, and a
// provisional explanation lapses. It reports whether there is news for a report.
func (e *Engine) Tick(now time.Time) (changed bool) {
	for _, r := range e.current {
		if r.State == fault.Bad && r.Provisional && r.tick(now) {
			changed = true
		}
	}
	return e.settle(now) || changed
}

// Next is when the next Tick can change something; zero for never.
func (e *Engine) Next() time.Time {
	var next time.Time
	earliest := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	explaining := make(map[string]bool)
	for _, r := range e.current {
		earliest(r.holdElapses())
		if r.SubsumedBy != "" {
			explaining[r.SubsumedBy] = true
		}
	}
	for _, r := range e.current {
		if explaining[r.ID] && r.Provisional {
			earliest(r.First.Add(r.row.Confirm.Window))
		}
	}
	return next
}

// Findings gives every finding that a report has to carry, ordered by kind,
// subject and id: active ones, history, and ended ones that were not delivered.
func (e *Engine) Findings() []fault.Finding {
	out := make([]fault.Finding, 0, len(e.current)+len(e.past))
	for r := range e.records() {
		f := r.Finding
		f.Evidence = slices.Clone(f.Evidence)
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b fault.Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Subject.Key(), b.Subject.Key()), strings.Compare(a.ID, b.ID))
	})
	return shed(out)
}

// Delivered tells the engine that a report in which these findings had ended was
// accepted; they need not be reported again.
func (e *Engine) Delivered(ids []string) {
	ended := func(r *record) bool { return r.State == fault.OK && slices.Contains(ids, r.ID) }
	for at, r := range e.current {
		if ended(r) {
			delete(e.current, at)
		}
	}
	e.past = slices.DeleteFunc(e.past, ended)
}

// Dropped counts observations that were not taken, because their kind is not in
// the catalogue or because of the bounds.
func (e *Engine) Dropped() uint64 { return e.dropped }

func (e *Engine) observe(now time.Time, o Observation) (changed bool) {
	row := e.catalogue.Row(o.Kind)
	if row == nil {
		e.dropped++
		return false
	}
	o = e.complete(now, o)
	changed = e.learn(o.Subject, standingOf(&o))
	e.inventory.enrich(&o.Subject)
	r := e.find(o.Kind, o.Subject)
	if r == nil {
		return e.begin(row, &o) || changed
	}
	if standingOf(&o) < r.standing {
		return changed
	}
	switch o.State {
	case fault.OK:
		return r.healthy(&o) || changed
	case fault.Bad:
		return r.bad(now, &o) || changed
	default:
		return r.unknown(&o) || changed
	}
}

// complete fills in what the source leaves to the engine.
func (e *Engine) complete(now time.Time, o Observation) Observation {
	if o.Time.IsZero() || o.Time.After(now) {
		o.Time = now
	}
	o.Evidence.Source = o.Source
	o.Evidence.Time = o.Time
	o.Evidence.BootID = e.identity.BootID
	o.Evidence.Text = fault.Clip(o.Evidence.Text)
	o.Evidence.Clear = ""
	if o.State == fault.OK {
		o.Evidence.Clear = o.Clear
	}
	o.Subject.Node = e.identity.Node
	o.Subject.InstanceID = e.identity.InstanceID
	return o
}

// learn takes the names that belong to one device, and gives them to the
// findings that lack them.
func (e *Engine) learn(s fault.Subject, by standing) (changed bool) {
	if by == unvouched || !e.inventory.learn(s) {
		return false
	}
	for _, r := range e.current {
		if e.inventory.enrich(&r.Subject) {
			r.key = r.Subject.Key()
			changed = true
		}
	}
	return changed
}

func (e *Engine) find(k fault.Kind, s fault.Subject) *record {
	if r := e.current[slot{k, s.Key()}]; r != nil {
		return r
	}
	if s.PCI != "" && s.UUID != "" { // it may have begun before its PCI address was known
		s.PCI = ""
		return e.current[slot{k, s.Key()}]
	}
	return nil
}

// begin makes a finding of the first observation of it, if there is room. That
// something is not known is for the sources to say that could know it.
func (e *Engine) begin(row *fault.Row, o *Observation) bool {
	vouched := standingOf(o) > unvouched
	if o.State == fault.OK || o.State != fault.Bad && !(vouched && slices.Contains(row.RaisedBy, o.Source)) {
		return false
	}
	r := newRecord(row, e.identity.BootID, o)
	if e.has(r.ID) || !e.makeRoom(o.Kind, vouched) {
		e.dropped++
		return false
	}
	e.current[slot{o.Kind, r.key}] = r
	return true
}

// has reports whether a finding has the id; one of another subject can have it
// only if a restored state was tampered with.
func (e *Engine) has(id string) bool {
	for r := range e.records() {
		if r.ID == id {
			return true
		}
	}
	return false
}

// makeRoom reports whether one more finding of the kind may begin. A newcomer
// that somebody vouches for displaces history and what nobody vouches for, never
// an active finding.
func (e *Engine) makeRoom(k fault.Kind, vouched bool) bool {
	total, ofKind, unvouchedOfKind := 0, 0, 0
	for r := range e.records() {
		total++
		if r.Kind != k {
			continue
		}
		ofKind++
		if r.standing == unvouched {
			unvouchedOfKind++
		}
	}
	if !vouched && unvouchedOfKind >= maxUnvouchedOfKind {
		return false
	}
	if total < maxFindings && ofKind < maxPerKind {
		return true
	}
	return vouched && e.displace(k, total < maxFindings)
}

// displace removes the oldest finding that is history or that nobody vouches
// for; only one of the kind, if the kind alone is at its bound.
func (e *Engine) displace(k fault.Kind, sameKind bool) bool {
	var victim *record
	for r := range e.records() {
		if (sameKind && r.Kind != k) || (!r.History && r.standing != unvouched) {
			continue
		}
		if victim == nil || cmp.Or(r.Last.Compare(victim.Last), strings.Compare(r.ID, victim.ID)) < 0 {
			victim = r
		}
	}
	if victim == nil {
		return false
	}
	for at, r := range e.current {
		if r == victim {
			delete(e.current, at)
		}
	}
	e.past = slices.DeleteFunc(e.past, func(r *record) bool { return r == victim })
	return true
}

// records yields every finding, in no order.
func (e *Engine) records() func(yield func(*record) bool) {
	return func(yield func(*record) bool) {
		for _, r := range e.current {
			if !yield(r) {
				return
			}
		}
		for _, r := range e.past {
			if !yield(r) {
				return
			}
		}
	}
}
