// Package silence turns the absence of a node's reports into positive evidence,
// or into none.
//
// Three views have to agree before a node counts as silent (fault.NodeSilent):
// no report for a while, the orchestrator says that the node does not respond,
// and the provider answers for the very instance. While the provider still
// calls the instance running, its known lag is waited out as well. Each view
// alone is wrong often: a dead agent, a cut network, an API that lags by minutes.
//
// A node that the orchestrator still reaches is left alone; its agent is what
// is silent (fault.AgentSilent). A view that is missing, old, or an error is
// unknown: shown, and never a reason to act.
package silence

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

// Timing paces the judgement.
type Timing struct {
	// After is how long a node may go without a report.
	After time.Duration
	// Confirm is how long all three views have to agree.
	Confirm time.Duration
	// ProviderLag is how long the provider may go on calling a dead instance
	// running; it is waited out on top of Confirm.
	ProviderLag time.Duration
	// FreshWithin is how old the provider's answer may be.
	FreshWithin time.Duration
}

// Answer is what the provider said about the instance of a node.
type Answer struct {
	// At is when it was given; the zero time means that nobody asked yet.
	At      time.Time
	Machine incident.Machine
	// Err is why there is no Machine; incident.ErrNotFound in its chain means
	// that the provider has neither the instance nor another one for the node.
	Err error
}

// Sight is everything that is known about a node at one time.
type Sight struct {
	Node string
	// InstanceID and BootID are those of the last report, or else the
	// orchestrator's; empty if neither knows.
	InstanceID string
	BootID     string
	// Simulated is true if the last report was.
	Simulated bool
	// Heard is when the last report arrived, the zero time if none has.
	Heard time.Time
	// View is the orchestrator's; nil if there is no current one.
	View   *incident.NodeView
	Answer Answer
}

// Watch is what is remembered of a node from one decision to the next. It
// starts with Since alone.
type Watch struct {
	// Since is when watching began; a node never heard of counts from then.
	Since time.Time
	// AgreedSince is since when all three views have agreed, zero if they do not.
	AgreedSince time.Time
	// Node and Agent are the findings last given, nil if there was none.
	Node, Agent *fault.Finding

	instance string // the instance that AgreedSince is about
}

// Findings gives the findings of the last decision.
func (w Watch) Findings() []fault.Finding {
	var findings []fault.Finding
	for _, f := range []*fault.Finding{w.Node, w.Agent} {
		if f != nil {
			findings = append(findings, *f)
		}
	}
	return findings
}

// Suspect reports whether the provider's word about the node is needed.
func Suspect(w Watch, s Sight, t Timing, now time.Time) bool {
	return lost(w, s, t, now) > 0 && s.View != nil && s.View.Responding == incident.RespondingNo
}

// Decide judges a node by the three views.
func Decide(catalogue *fault.Catalogue, w Watch, s Sight, t Timing, now time.Time) Watch {
	d := decision{catalogue: catalogue, before: w, sight: s, now: now}
	quiet := lost(w, s, t, now)
	if quiet == 0 {
		return d.heard()
	}
	heartbeat := d.evidence("heartbeat", "no report for %s", quiet.Truncate(time.Second))
	switch {
	case s.View == nil:
		return d.unknown(heartbeat, d.evidence("orchestrator", "no current view of the node"))
	case s.View.Responding == incident.RespondingYes:
		return d.agentOnly(heartbeat, d.evidence("orchestrator", "says that the node responds"))
	case s.View.Responding != incident.RespondingNo:
		return d.unknown(heartbeat, d.evidence("orchestrator", "does not say whether the node responds"))
	}
	down := d.evidence("orchestrator", "says that the node does not respond (%s)", cmp.Or(s.View.Reason, "no reason given"))
	machine, doubt := provider(s, t, now)
	if doubt != "" {
		return d.unknown(heartbeat, down, d.evidence("provider", "%s", doubt))
	}
	wait := t.Confirm
	if machine.Running {
		wait += t.ProviderLag
	}
	return d.agreed(machine, wait, heartbeat, down,
		d.evidence("provider", "answers for instance %s: %s", machine.InstanceID, machine.Status))
}

// lost gives how long the node has been without a report, 0 while that is
// within what is allowed.
func lost(w Watch, s Sight, t Timing, now time.Time) time.Duration {
	heard := s.Heard
	if heard.IsZero() {
		heard = w.Since
	}
	if quiet := now.Sub(heard); quiet > t.After {
		return quiet
	}
	return 0
}

// provider gives the machine that the provider vouches for, or why its word
// does not count.
func provider(s Sight, t Timing, now time.Time) (incident.Machine, string) {
	a := s.Answer
	switch {
	case a.At.IsZero():
		return a.Machine, "not asked yet"
	case now.Sub(a.At) > t.FreshWithin:
		return a.Machine, "has not answered lately"
	case errors.Is(a.Err, incident.ErrNotFound):
		return a.Machine, "has no instance for the node"
	case a.Err != nil:
		return a.Machine, "does not answer: " + a.Err.Error()
	case a.Machine.InstanceID == "":
		return a.Machine, "answered without an instance id"
	case s.InstanceID != "" && a.Machine.InstanceID != s.InstanceID:
		return a.Machine, fmt.Sprintf("has put %s in the place of %s", a.Machine.InstanceID, s.InstanceID)
	case atWork(a.Machine.Status):
		return a.Machine, fmt.Sprintf("is at work on %s: %s", a.Machine.InstanceID, a.Machine.Status)
	}
	return a.Machine, ""
}

// atWork reports whether the provider is changing the instance itself, which
// explains the silence: SageMaker's ClusterInstanceStatus.
func atWork(status string) bool {
	switch status {
	case "Pending", "ShuttingDown", "SystemUpdating", "DeepHealthCheckInProgress":
		return true
	}
	return false
}

// decision builds the next Watch of a node.
type decision struct {
	catalogue *fault.Catalogue
	before    Watch
	sight     Sight
	now       time.Time
}

func (d decision) evidence(source, format string, args ...any) fault.Evidence {
	return fault.Evidence{
		Source: source, Authority: fault.ByRemediator, Time: d.now, BootID: d.sight.BootID, Text: fault.Clip(fmt.Sprintf(format, args...)),
	}
}

// heard ends both findings: a report is there.
func (d decision) heard() Watch {
	return Watch{Since: d.before.Since, Node: d.ended(d.before.Node), Agent: d.ended(d.before.Agent)}
}

func (d decision) ended(f *fault.Finding) *fault.Finding {
	if f == nil || f.State == fault.OK {
		return f
	}
	ok := *f
	ok.State = fault.OK
	ok.Last = d.now
	e := d.evidence("heartbeat", "a report arrived again")
	e.Clear = fault.ClearReport
	if was := f.Subject.InstanceID; was != "" && d.sight.InstanceID != "" && was != d.sight.InstanceID {
		e = d.evidence("heartbeat", "a report of instance %s arrived, which took the place of %s", d.sight.InstanceID, was)
		e.Clear = fault.ClearReplaced
	}
	ok.ClearedBy = &e
	return &ok
}

// unknown says that the node may be silent and nobody can tell.
func (d decision) unknown(evidence ...fault.Evidence) Watch {
	return Watch{
		Since: d.before.Since,
		Node:  d.finding(d.before.Node, fault.NodeSilent, d.sight.InstanceID, fault.Unknown, evidence),
		Agent: d.doubted(d.before.Agent, evidence),
	}
}

// agentOnly says that the agent is silent and the node is not.
func (d decision) agentOnly(evidence ...fault.Evidence) Watch {
	return Watch{
		Since: d.before.Since,
		Node:  d.doubted(d.before.Node, evidence),
		Agent: d.finding(d.before.Agent, fault.AgentSilent, d.sight.InstanceID, fault.Bad, evidence),
	}
}

// agreed says that the node is silent, for sure once the views have agreed for
// the wait.
func (d decision) agreed(machine incident.Machine, wait time.Duration, evidence ...fault.Evidence) Watch {
	since := d.before.AgreedSince
	if since.IsZero() || d.before.instance != machine.InstanceID {
		since = d.now
	}
	f := d.finding(d.before.Node, fault.NodeSilent, machine.InstanceID, fault.Bad, evidence)
	f.Provisional = d.now.Sub(since) < wait
	return Watch{
		Since:       d.before.Since,
		AgreedSince: since,
		instance:    machine.InstanceID,
		Node:        f,
		Agent:       d.doubted(d.before.Agent, evidence),
	}
}

// doubted keeps a finding that was bad as unknown: nothing has cleared it, and
// it is no longer what the views say. One that never was bad is let go.
func (d decision) doubted(f *fault.Finding, evidence []fault.Evidence) *fault.Finding {
	switch {
	case f == nil || f.State == fault.OK:
		return f
	case f.State == fault.Unknown && f.Count == 0:
		return nil
	}
	doubt := *f
	doubt.State = fault.Unknown
	doubt.Evidence = evidence
	return &doubt
}

// finding gives before with a new state if it is about the same instance and
// boot and was not ended, or else a new one. Count is how often it was seen bad.
func (d decision) finding(before *fault.Finding, kind fault.Kind, instanceID string, state fault.State, evidence []fault.Evidence) *fault.Finding {
	row := d.catalogue.Row(kind)
	subject := fault.Subject{Node: d.sight.Node, InstanceID: instanceID}
	if kind == fault.AgentSilent {
		subject.Device = fault.DeviceAgent
	}
	f := fault.Finding{
		ID: fault.NewID(kind, subject, d.sight.BootID), Kind: kind, Subject: subject, State: state,
		Severity: row.Severity, Action: row.Action, BootID: d.sight.BootID, Simulated: d.sight.Simulated,
		Evidence: evidence, First: d.now, Last: d.now,
	}
	if before != nil && before.ID == f.ID && before.State != fault.OK {
		f.First, f.Count = before.First, before.Count
	}
	if state == fault.Bad {
		f.Count++
	}
	return &f
}
