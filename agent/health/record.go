package health

import (
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// A finding keeps its first observations, which say how it began, and its
// latest, which say how it stands.
const (
	firstEvidence = 2
	lastEvidence  = 6
)

// standing is what an observation or a finding weighs against another one.
type standing int

const (
	unvouched standing = iota // any user of the node could have written it
	simulated                 // vouched for, by an injected source
	genuine                   // vouched for, by the node's own source
)

func standingOf(o *Observation) standing { return weigh(o.Evidence.Authority, o.Simulated) }

func weigh(a fault.Authority, sim bool) standing {
	switch {
	case a == fault.ByNobody:
		return unvouched
	case sim:
		return simulated
	}
	return genuine
}

// record is a finding and what the engine remembers about how it came to be.
type record struct {
	fault.Finding
	row      *fault.Row
	key      string // Subject.Key
	standing standing
	// recent holds the times of the latest bad observations within the confirm
	// window, sorted, at most Confirm.Count of them.
	recent []time.Time
	// badRun and healthyRun are the uninterrupted runs of such observations that
	// last until now.
	badRun, healthyRun run
}

// run is an uninterrupted sequence of equal observations.
type run struct {
	since, last time.Time
	length      int
}

// extend adds an observation. One that comes later than gap after the last
// starts a new run: nobody knows what was between.
func (r *run) extend(t time.Time, gap time.Duration) {
	if r.length == 0 || t.Sub(r.last) > gap {
		*r = run{since: t, last: t, length: 1}
		return
	}
	r.length++
	if t.After(r.last) {
		r.last = t
	}
	if t.Before(r.since) {
		r.since = t
	}
}

// lasted is the time from the first to the last observation of the run.
func (r *run) lasted() time.Duration { return r.last.Sub(r.since) }

func (r *run) stop() { *r = run{} }

func newRecord(row *fault.Row, bootID string, o *Observation) *record {
	r := &record{row: row, key: o.Subject.Key(), Finding: fault.Finding{
		ID: fault.NewID(o.Kind, o.Subject, bootID), Kind: o.Kind, Subject: o.Subject, BootID: bootID,
	}}
	r.restart(o)
	r.add(o)
	return r
}

// restart begins the finding anew, under the same id.
func (r *record) restart(o *Observation) {
	r.State = o.State
	r.Severity, r.Action = r.row.Severity, r.row.Action
	r.Provisional = true
	r.SubsumedBy = ""
	r.Simulated = o.Simulated
	r.ClearedBy = nil
	r.Evidence = nil
	r.Count = 0
	r.First, r.Last = o.Time, o.Time
	r.standing = standingOf(o)
	r.recent = nil
	r.badRun.stop()
	r.healthyRun.stop()
}

// add takes an observation of the finding's own state.
func (r *record) add(o *Observation) {
	r.Evidence = append(r.Evidence, o.Evidence)
	if len(r.Evidence) > firstEvidence+lastEvidence {
		r.Evidence = slices.Delete(r.Evidence, firstEvidence, firstEvidence+1)
	}
	r.Count++
	if o.Time.Before(r.First) {
		r.First = o.Time
	}
	if o.Time.After(r.Last) {
		r.Last = o.Time
	}
	if r.State != fault.Bad {
		return
	}
	r.escalate(o)
	r.badRun.extend(o.Time, r.row.Confirm.Hold)
	r.countRecent(o.Time)
	if r.standing > unvouched && (r.row.Confirm.Immediate() || r.counted() || r.held(o.Time)) {
		r.Provisional = false
	}
}

// escalate takes the remedy and the severity that the evidence itself names. The
// first observation sets them, later ones only raise them.
func (r *record) escalate(o *Observation) {
	action, severity := r.row.Action, r.row.Severity
	if o.Action != "" {
		action = o.Action
	}
	if o.Severity != "" {
		severity = o.Severity
	}
	if r.Count == 1 || action.Rung() > r.Action.Rung() {
		r.Action = action
	}
	if r.Count == 1 || severity.Rank() > r.Severity.Rank() {
		r.Severity = severity
	}
}

func (r *record) countRecent(t time.Time) {
	c := r.row.Confirm
	if c.Count <= 1 {
		return
	}
	at, _ := slices.BinarySearchFunc(r.recent, t, time.Time.Compare)
	r.recent = slices.Insert(r.recent, at, t)
	newest := r.recent[len(r.recent)-1]
	r.recent = slices.DeleteFunc(r.recent, func(t time.Time) bool { return newest.Sub(t) > c.Window })
	if len(r.recent) > c.Count {
		r.recent = r.recent[len(r.recent)-c.Count:]
	}
}

func (r *record) counted() bool {
	return r.row.Confirm.Count > 1 && len(r.recent) >= r.row.Confirm.Count
}

// held reports whether the bad run has lasted long enough at now. It takes at
// least two observations, and the last must not be older than the hold itself.
func (r *record) held(now time.Time) bool {
	hold := r.row.Confirm.Hold
	if hold <= 0 || r.badRun.length < 2 {
		return false
	}
	return r.badRun.lasted() >= hold || now.Sub(r.badRun.since) >= hold && now.Sub(r.badRun.last) <= hold
}

// holdElapses is when tick can confirm the finding; zero for never.
func (r *record) holdElapses() time.Time {
	if r.State != fault.Bad || !r.Provisional || r.standing == unvouched || r.row.Confirm.Hold <= 0 || r.badRun.length < 2 {
		return time.Time{}
	}
	return r.badRun.since.Add(r.row.Confirm.Hold)
}

// tick confirms a finding whose bad run has lasted long enough.
func (r *record) tick(now time.Time) (changed bool) {
	at := r.holdElapses()
	if at.IsZero() || now.Before(at) {
		return false
	}
	if !r.held(now) { // nothing was heard for longer than the hold
		r.badRun.stop()
		return false
	}
	r.Provisional = false
	return true
}

// bad takes a bad observation that weighs no less than the finding.
func (r *record) bad(now time.Time, o *Observation) (changed bool) {
	switch {
	case r.replayed(o):
		return false
	case r.State == fault.OK && !o.Time.After(r.ClearedBy.Time):
		return false // older than what ended the finding
	case r.State != fault.Bad, standingOf(o) > r.standing:
		r.restart(o)
		r.add(o)
		return true
	}
	provisional, action, severity := r.Provisional, r.Action, r.Severity
	if r.healthyRun.length > 0 && !o.Time.Before(r.healthyRun.since) {
		r.healthyRun.stop()
	}
	r.add(o)
	if r.Provisional && r.held(now) {
		r.Provisional = false
	}
	return provisional != r.Provisional || action != r.Action || severity != r.Severity
}

// replayed reports whether the observation is one that the finding already
// rests on, read again by a source that was restarted.
func (r *record) replayed(o *Observation) bool {
	return o.Evidence.Sequence != 0 && slices.ContainsFunc(r.Evidence, func(e fault.Evidence) bool {
		return e.Sequence == o.Evidence.Sequence && e.Source == o.Evidence.Source && e.Time.Equal(o.Evidence.Time) && e.Text == o.Evidence.Text
	})
}

// healthy takes an OK observation that weighs no less than the finding.
func (r *record) healthy(o *Observation) (changed bool) {
	if r.State == fault.OK || standingOf(o) == unvouched || !r.row.Cleared(o.Clear) || o.Time.Before(r.Last) {
		return false
	}
	r.badRun.stop()
	if r.State == fault.Bad && o.Clear == fault.ClearReading {
		r.healthyRun.extend(o.Time, r.row.ClearHold)
		if r.healthyRun.lasted() < r.row.ClearHold {
			return false
		}
	}
	r.clear(o.Evidence)
	return true
}

func (r *record) clear(by fault.Evidence) {
	r.State = fault.OK
	r.ClearedBy = &by
	r.SubsumedBy = ""
	r.recent = nil
	r.badRun.stop()
	r.healthyRun.stop()
}

// unknown takes an observation that says that the source cannot tell. It ends
// every run, and it does not hide that an ended finding has to be reported.
func (r *record) unknown(o *Observation) (changed bool) {
	if standingOf(o) == unvouched {
		return false
	}
	r.badRun.stop()
	r.healthyRun.stop()
	if r.State == fault.Unknown {
		r.add(o)
	}
	return false
}
