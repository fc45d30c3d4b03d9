package health

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// stateSchema is the version of the saved state that this code reads and writes.
const stateSchema = 1

// ErrForeignState is Restore's refusal of another node's state.
var ErrForeignState = errors.New("state of another node")

type savedState struct {
	Schema   int            `json:"schema"`
	Identity Identity       `json:"identity"`
	Findings []savedFinding `json:"findings"`
}

type savedFinding struct {
	fault.Finding
	Recent []time.Time `json:"recent,omitempty"`
}

// Save gives what has to survive a restart of the agent, as JSON: every finding
// that [Engine.Findings] gives.
func (e *Engine) Save() []byte {
	s := savedState{Schema: stateSchema, Identity: e.identity, Findings: []savedFinding{}}
	for r := range e.records() {
		s.Findings = append(s.Findings, savedFinding{Finding: r.Finding, Recent: r.recent})
	}
	slices.SortFunc(s.Findings, func(a, b savedFinding) int { return cmp.Compare(a.ID, b.ID) })
	data, err := json.Marshal(s)
	if err != nil {
		panic("health: a finding does not marshal: " + err.Error()) // only unsupported types do not
	}
	return data
}

// Restore takes up what Save gave, before the first observation. What happened in
// an earlier boot becomes history, ended by the reboot where the catalogue says
// that a reboot ends it; what happened on another instance is ended by its
// replacement. An instance id that is not known on both sides tells nothing. On
// an error the engine is as it was.
func (e *Engine) Restore(data []byte, now time.Time) error {
	var s savedState
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("decode state: %w", err)
	}
	if s.Schema != stateSchema {
		return fmt.Errorf("state has schema %d, want %d", s.Schema, stateSchema)
	}
	if s.Identity.Node != e.identity.Node {
		return fmt.Errorf("%w: %.64q, this is %q", ErrForeignState, s.Identity.Node, e.identity.Node)
	}
	if len(s.Findings) > maxFindings {
		return fmt.Errorf("state has %d findings, at most %d are taken", len(s.Findings), maxFindings)
	}
	records := make([]*record, len(s.Findings))
	seen := make(map[string]bool, len(s.Findings))
	for i := range s.Findings {
		r, err := restoreRecord(&s.Findings[i], now)
		if err != nil {
			return fmt.Errorf("state: findings[%d]: %w", i, err)
		}
		if seen[r.ID] {
			return fmt.Errorf("state: findings[%d]: id %q appears twice", i, r.ID)
		}
		seen[r.ID] = true
		r.Subject.Node = e.identity.Node
		records[i] = r
	}
	for _, r := range records {
		e.place(r, s.Identity, now)
	}
	return nil
}

func restoreRecord(s *savedFinding, now time.Time) (*record, error) {
	r := &record{Finding: s.Finding, recent: s.Recent}
	switch {
	case r.ID == "" || len(r.ID) > 253:
		return nil, errors.New("id: must be set and at most 253 bytes long")
	case r.Kind == "":
		return nil, errors.New("kind: must be set")
	case r.State == fault.OK && r.ClearedBy == nil:
		return nil, errors.New("cleared_by: a finding is cleared only by evidence")
	case r.State == "":
		r.State = fault.Unknown
	}
	if r.Action == "" {
		r.Action = fault.Investigate
	}
	if extra := len(r.Evidence) - firstEvidence - lastEvidence; extra > 0 {
		r.Evidence = slices.Delete(r.Evidence, firstEvidence, firstEvidence+extra)
	}
	for i := range r.Evidence {
		r.Evidence[i].Text = fault.Clip(r.Evidence[i].Text)
		r.standing = max(r.standing, weigh(r.Evidence[i].Authority, r.Simulated))
	}
	// The clock may have been set back since; nothing that happened lies ahead.
	r.First = earlier(r.First, now)
	r.Last = earlier(r.Last, now)
	if r.ClearedBy != nil {
		r.ClearedBy.Time = earlier(r.ClearedBy.Time, now)
		r.ClearedBy.Text = fault.Clip(r.ClearedBy.Text)
	}
	r.recent = slices.DeleteFunc(r.recent, func(t time.Time) bool { return t.After(now) })
	slices.SortFunc(r.recent, time.Time.Compare)
	return r, nil
}

func earlier(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}

// place puts a restored finding where it belongs under the present identity.
func (e *Engine) place(r *record, saved Identity, now time.Time) {
	r.row, r.key = e.catalogue.Row(r.Kind), r.Subject.Key()
	replaced := saved.InstanceID != "" && e.identity.InstanceID != "" && saved.InstanceID != e.identity.InstanceID ||
		r.Subject.InstanceID != "" && e.identity.InstanceID != "" && r.Subject.InstanceID != e.identity.InstanceID
	sameBoot := r.BootID == e.identity.BootID && !replaced
	at := slot{r.Kind, r.key}
	twice := sameBoot && e.current[at] != nil
	if sameBoot && r.row != nil && !r.History && !twice {
		if c := r.row.Confirm; len(r.recent) > c.Count {
			r.recent = r.recent[len(r.recent)-c.Count:]
		}
		e.current[at] = r
		e.learn(r.Subject, r.standing)
		return
	}
	r.SubsumedBy = ""
	r.History = r.History || !sameBoot || twice
	if r.State != fault.OK {
		switch {
		case replaced && r.clearedBy(fault.ClearReplaced):
			r.clear(e.identityEvidence(fault.ClearReplaced, now, "instance", r.Subject.InstanceID, e.identity.InstanceID))
		case !sameBoot && r.clearedBy(fault.ClearReboot):
			r.clear(e.identityEvidence(fault.ClearReboot, now, "boot", r.BootID, e.identity.BootID))
		}
	}
	e.past = append(e.past, r)
}

// clearedBy is the catalogue's word. A kind that this version does not know is
// ended by what ends every kind: the machine is another one.
func (r *record) clearedBy(c fault.Clear) bool {
	if r.row == nil {
		return c == fault.ClearReplaced
	}
	return r.row.Cleared(c)
}

func (e *Engine) identityEvidence(c fault.Clear, now time.Time, what, was, is string) fault.Evidence {
	return fault.Evidence{
		Source: "agent", Authority: fault.ByKernel, Time: now, BootID: e.identity.BootID, Clear: c,
		Text: fault.Clip(fmt.Sprintf("%s id was %q, is %q", what, was, is)),
	}
}
