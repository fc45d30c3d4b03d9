package silence

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

const (
	node     = "ip-10-1-0-1"
	instance = "i-0aaa"
	boot     = "boot-1"
)

var (
	start     = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	timing    = Timing{After: time.Minute, Confirm: time.Minute, ProviderLag: 3 * time.Minute, FreshWithin: time.Minute}
	catalogue = fault.NewCatalogue(fault.DefaultTiming())
)

// machine gives the provider's word about the node's instance.
func machine(status string) incident.Machine {
	return incident.Machine{InstanceID: instance, Node: node, Status: status, Running: status == "Running"}
}

// agreeing is a sight in which all three views say that the node is gone.
func agreeing(now time.Time) Sight {
	return Sight{
		Node: node, InstanceID: instance, BootID: boot, Heard: start,
		View:   &incident.NodeView{Node: node, Responding: incident.RespondingNo, Reason: "Not responding"},
		Answer: Answer{At: now, Machine: machine("Failure")},
	}
}

// watch decides every second from start on, for as long as given, on what
// sight gives for each second, and returns the last decision.
func watch(t *testing.T, w Watch, from, until time.Duration, sight func(now time.Time) Sight) Watch {
	t.Helper()
	for after := from; after <= until; after += time.Second {
		now := start.Add(after)
		w = Decide(catalogue, w, sight(now), timing, now)
		for _, f := range w.Findings() {
			report := fault.NodeReport{Schema: 1, Cluster: "hp", Node: node, BootID: boot, Incarnation: 1, Findings: []fault.Finding{f}}
			if err := report.Validate(); err != nil {
				t.Fatalf("after %s the finding is not one: %v", after, err)
			}
		}
	}
	return w
}

// state says how a finding stands: absent, ok, unknown, provisional or confirmed.
func state(f *fault.Finding) string {
	switch {
	case f == nil:
		return "absent"
	case f.State != fault.Bad:
		return string(f.State)
	case f.Provisional:
		return "provisional"
	}
	return "confirmed"
}

func TestAllThreeViewsAreNeeded(t *testing.T) {
	const (
		heartbeat = 61 * time.Second          // the first second at which the heartbeat counts as lost
		confirmed = heartbeat + time.Minute   // ... and at which the node is silent
		lagged    = confirmed + 3*time.Minute // ... and at which it is although the provider says Running
		never     = lagged + 10*time.Minute   // long after everything was waited out
		before    = confirmed - time.Second   // a second too early
		notLagged = lagged - time.Second      // a second too early
		yes       = incident.RespondingYes
		dontKnow  = incident.RespondingUnknown
		stranger  = "i-0bbb"
		cutOff    = heartbeat + 30*time.Second // in the middle of the confirmation
	)
	with := func(change func(s *Sight, now time.Time)) func(time.Time) Sight {
		return func(now time.Time) Sight {
			s := agreeing(now)
			change(&s, now)
			return s
		}
	}
	for _, test := range []struct {
		name        string
		until       time.Duration
		sight       func(time.Time) Sight
		node, agent string
	}{
		{"report one second ago in time", heartbeat - time.Second, agreeing, "absent", "absent"},
		{"report lost", heartbeat, agreeing, "provisional", "absent"},
		{"agreed a second too short", before, agreeing, "provisional", "absent"},
		{"agreed long enough", confirmed, agreeing, "confirmed", "absent"},

		{"still heard", never, with(func(s *Sight, now time.Time) { s.Heard = now.Add(-timing.After) }), "absent", "absent"},

		{"orchestrator not asked or not answering", never, with(func(s *Sight, _ time.Time) { s.View = nil }), "unknown", "absent"},
		{"orchestrator says responding", never, with(func(s *Sight, _ time.Time) { s.View.Responding = yes }), "absent", "confirmed"},
		{"orchestrator does not say", never, with(func(s *Sight, _ time.Time) { s.View.Responding = dontKnow }), "unknown", "absent"},
		{"orchestrator silent for a moment", confirmed, with(func(s *Sight, now time.Time) {
			if now.Equal(start.Add(cutOff)) {
				s.View = nil
			}
		}), "provisional", "absent"},

		{"provider not asked", never, with(func(s *Sight, _ time.Time) { s.Answer = Answer{} }), "unknown", "absent"},
		{"provider's answer just old enough", confirmed, with(func(s *Sight, now time.Time) { s.Answer.At = now.Add(-timing.FreshWithin) }), "confirmed", "absent"},
		{"provider's answer too old", confirmed, with(func(s *Sight, now time.Time) { s.Answer.At = now.Add(-timing.FreshWithin - 1) }), "unknown", "absent"},
		{"provider fails", never, with(func(s *Sight, now time.Time) { s.Answer = Answer{At: now, Err: errors.New("throttled")} }), "unknown", "absent"},
		{"provider has none", never, with(func(s *Sight, now time.Time) {
			s.Answer = Answer{At: now, Err: fmt.Errorf("no instance: %w", incident.ErrNotFound)}
		}), "unknown", "absent"},
		{"provider answers without an instance", never, with(func(s *Sight, _ time.Time) { s.Answer.Machine.InstanceID = "" }), "unknown", "absent"},
		{"provider put another in its place", never, with(func(s *Sight, _ time.Time) { s.Answer.Machine.InstanceID = stranger }), "unknown", "absent"},
		{"provider is at work on it", never, with(func(s *Sight, _ time.Time) { s.Answer.Machine = machine("DeepHealthCheckInProgress") }), "unknown", "absent"},
		{"provider fails for a moment", confirmed, with(func(s *Sight, now time.Time) {
			if now.Equal(start.Add(cutOff)) {
				s.Answer.Err = errors.New("throttled")
			}
		}), "provisional", "absent"},

		{"provider says running, lag a second short", notLagged, with(func(s *Sight, _ time.Time) { s.Answer.Machine = machine("Running") }), "provisional", "absent"},
		{"provider says running, lag waited out", lagged, with(func(s *Sight, _ time.Time) { s.Answer.Machine = machine("Running") }), "confirmed", "absent"},
		{"provider comes to see it", confirmed, with(func(s *Sight, now time.Time) {
			if now.Before(start.Add(confirmed)) {
				s.Answer.Machine = machine("Running")
			}
		}), "confirmed", "absent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := watch(t, Watch{Since: start}, 0, test.until, test.sight)
			if got := state(w.Node); got != test.node {
				t.Errorf("%s after %s is %s, want %s", fault.NodeSilent, test.until, got, test.node)
			}
			if got := state(w.Agent); got != test.agent {
				t.Errorf("%s after %s is %s, want %s", fault.AgentSilent, test.until, got, test.agent)
			}
			if w.Node == nil {
				return
			}
			if allowed, why := w.Node.Authorises(); allowed != (test.node == "confirmed") {
				t.Errorf("Authorises() = %v, %q, want %v", allowed, why, test.node == "confirmed")
			}
		})
	}
}

func TestNodeNeverHeardCountsFromTheStart(t *testing.T) {
	unheard := func(now time.Time) Sight {
		s := agreeing(now)
		s.Heard, s.InstanceID, s.BootID = time.Time{}, "", ""
		return s
	}
	if got := state(watch(t, Watch{Since: start}, 0, timing.After, unheard).Node); got != "absent" {
		t.Errorf("a remediator that started %s ago gives %s, want nothing yet", timing.After, got)
	}
	w := watch(t, Watch{Since: start}, 0, timing.After+timing.Confirm+time.Second, unheard)
	if got := state(w.Node); got != "confirmed" {
		t.Fatalf("%s is %s, want confirmed", fault.NodeSilent, got)
	}
	if got := w.Node.Subject.InstanceID; got != instance {
		t.Errorf("the finding is about instance %q, want %q, for which the provider answered", got, instance)
	}
}

func TestAnotherInstanceStartsAnew(t *testing.T) {
	const confirmed = 121 * time.Second
	unheard := func(id string) func(time.Time) Sight {
		return func(now time.Time) Sight {
			s := agreeing(now)
			s.Heard, s.InstanceID = time.Time{}, ""
			s.Answer.Machine.InstanceID = id
			return s
		}
	}
	w := watch(t, Watch{Since: start}, 0, confirmed, unheard(instance))
	first := w.Node
	w = watch(t, w, confirmed+time.Second, confirmed+time.Second, unheard("i-0bbb"))
	if got := state(w.Node); got != "provisional" || w.Node.ID == first.ID {
		t.Errorf("another instance under the name: %s, same finding %v, want a provisional finding of its own", got, w.Node.ID == first.ID)
	}
}

func TestReportEndsSilence(t *testing.T) {
	const confirmed, back = 121 * time.Second, 125 * time.Second
	reporting := func(instanceID string) func(time.Time) Sight {
		return func(now time.Time) Sight {
			s := agreeing(now)
			s.Heard, s.InstanceID = now, instanceID
			return s
		}
	}
	for _, test := range []struct {
		name     string
		instance string
		want     fault.Clear
	}{
		{"same instance", instance, fault.ClearReport},
		{"another instance", "i-0bbb", fault.ClearReplaced},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := watch(t, Watch{Since: start}, 0, confirmed, agreeing)
			id := w.Node.ID
			w = watch(t, w, back, back+time.Minute, reporting(test.instance))
			if w.Node == nil || w.Node.ID != id || w.Node.State != fault.OK {
				t.Fatalf("after a report the finding is %+v, want %s ok", w.Node, id)
			}
			if got := w.Node.ClearedBy.Clear; got != test.want || !catalogue.Row(fault.NodeSilent).Cleared(got) {
				t.Errorf("cleared by %q, want %q", got, test.want)
			}
			if got := w.Node.ClearedBy.Time; !got.Equal(start.Add(back)) {
				t.Errorf("cleared at %s, want %s, when the report came", got, start.Add(back))
			}
		})
	}
}

func TestDoubtDoesNotClear(t *testing.T) {
	const confirmed = 121 * time.Second
	w := watch(t, Watch{Since: start}, 0, confirmed, agreeing)
	id := w.Node.ID
	w = watch(t, w, confirmed+time.Second, confirmed+time.Minute, func(now time.Time) Sight {
		s := agreeing(now)
		s.View.Responding = incident.RespondingYes
		return s
	})
	if w.Node == nil || w.Node.ID != id || w.Node.State != fault.Unknown {
		t.Errorf("the orchestrator changed its mind: %s is %s, want unknown under the same id", fault.NodeSilent, state(w.Node))
	}
	if got := state(w.Agent); got != "confirmed" {
		t.Errorf("%s is %s, want confirmed", fault.AgentSilent, got)
	}
	again := start.Add(confirmed + time.Hour)
	w = Decide(catalogue, w, agreeing(again), timing, again)
	if got := state(w.Node); got != "provisional" || w.Node.ID != id {
		t.Errorf("and changed it back: %s is %s, want provisional: agreement starts anew", fault.NodeSilent, got)
	}
	if got := state(w.Agent); got != "unknown" {
		t.Errorf("%s is %s, want unknown", fault.AgentSilent, got)
	}
}

func TestSilenceOfSimulatedNodeIsSimulated(t *testing.T) {
	for _, simulated := range []bool{true, false} {
		w := watch(t, Watch{Since: start}, 0, 2*time.Minute, func(now time.Time) Sight {
			s := agreeing(now)
			s.Simulated = simulated
			return s
		})
		if got := w.Node.Simulated; got != simulated {
			t.Errorf("last report simulated %v: finding simulated %v", simulated, got)
		}
	}
}
