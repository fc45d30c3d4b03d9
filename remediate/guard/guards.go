package guard

import (
	"fmt"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

func hold(guard, format string, args ...any) (Hold, bool) {
	return Hold{Guard: guard, Reason: fmt.Sprintf(format, args...)}, true
}

func allow() (Hold, bool) { return Hold{}, false }

// Kill holds everything while the kill switch is on.
type Kill struct{}

// Check implements [Guard].
func (Kill) Check(r *Request) (Hold, bool) {
	if reason := r.Fleet.KillSwitch; reason != "" {
		return hold("kill_switch", "the kill switch is on: %s", reason)
	}
	return allow()
}

// Mode holds what the rule does not let happen by itself.
type Mode struct{}

// Check implements [Guard].
func (Mode) Check(r *Request) (Hold, bool) {
	switch {
	case r.Remedy == fault.None || r.Remedy == "":
		return hold("mode", "the policy asks for nothing")
	case r.Mode == policy.Act, r.Mode == policy.Approve && r.Approved:
		return allow()
	case r.Mode == policy.Approve:
		return hold("mode", "%s waits for approval", r.Remedy)
	}
	return hold("mode", "observed only, would %s", r.Remedy)
}

// Standing holds what the newest facts do not call for any more, or not yet.
type Standing struct{}

// Check implements [Guard].
func (Standing) Check(r *Request) (Hold, bool) {
	if !r.Evidence.Standing {
		return hold("evidence", "%s", r.Evidence.Why)
	}
	return allow()
}

// Current holds what rests on outdated facts: absence of news is no evidence.
type Current struct{}

// Check implements [Guard].
func (Current) Check(r *Request) (Hold, bool) {
	if !r.Evidence.Current {
		return hold("freshness", "the node's newest report is outdated")
	}
	return allow()
}

// Identity holds unless every witness is known and none names another instance
// or boot than the evidence's. A repair in addition needs one that names the
// instance.
type Identity struct{}

// Check implements [Guard].
func (Identity) Check(r *Request) (Hold, bool) {
	e := r.Evidence
	if e.InstanceID == "" {
		return hold("identity", "the evidence names no instance")
	}
	named := false
	for _, w := range r.Witnesses {
		switch {
		case !w.Known:
			return hold("identity", "what the %s says about the node is not known", w.Name)
		case w.InstanceID != "" && w.InstanceID != e.InstanceID:
			return hold("identity", "the evidence is about instance %s, and the %s says that the node is %s", e.InstanceID, w.Name, w.InstanceID)
		case w.BootID != "" && e.BootID != "" && w.BootID != e.BootID:
			return hold("identity", "the evidence is about boot %s, and the %s says that the node runs boot %s", e.BootID, w.Name, w.BootID)
		}
		named = named || w.InstanceID != ""
	}
	if r.Purpose == Repair && !named {
		return hold("identity", "no view says which instance the node is")
	}
	return allow()
}

// Simulation holds what simulated evidence asks for unless the call will say so;
// the actuators refuse such calls off loopback.
type Simulation struct{}

// Check implements [Guard].
func (Simulation) Check(r *Request) (Hold, bool) {
	if r.Evidence.Simulated && !r.Simulated {
		return hold("simulated", "the evidence is simulated and the call would not say so")
	}
	return allow()
}

// Others holds while somebody else keeps the node from new work: whoever does
// that has a plan for it.
type Others struct{}

// Check implements [Guard].
func (Others) Check(r *Request) (Hold, bool) {
	if r.IsolatedByOthers {
		return hold("others", "the node was isolated by somebody else")
	}
	return allow()
}

// Protected holds what must never be touched.
type Protected struct{ Hosts []string }

// Check implements [Guard].
func (g Protected) Check(r *Request) (Hold, bool) {
	if slices.Contains(g.Hosts, r.Node) {
		return hold("protected", "%s is a protected host", r.Node)
	}
	return allow()
}

// CoolDown holds on a node that an incident touched a short time ago.
type CoolDown struct{ For time.Duration }

// Check implements [Guard].
func (g CoolDown) Check(r *Request) (Hold, bool) {
	if r.LastTouched.IsZero() {
		return allow()
	}
	until := r.LastTouched.Add(g.For)
	if !r.Now.Before(until) {
		return allow()
	}
	return Hold{Guard: "cool_down", Reason: "an earlier incident touched the node a short time ago", Until: until}, true
}

// Once holds a second replacement of one instance, a second reboot of one boot,
// and a reboot of an instance that was replaced: if the first did not help or did
// not show, a person has to look.
type Once struct{}

// Check implements [Guard].
func (Once) Check(r *Request) (Hold, bool) {
	if r.Purpose != Repair {
		return allow()
	}
	for _, a := range r.Fleet.Acts {
		if a.InstanceID != r.Evidence.InstanceID {
			continue
		}
		switch {
		case a.Remedy == fault.Replace:
			return hold("once", "instance %s was replaced already by %s", a.InstanceID, a.Incident)
		case r.Remedy == fault.Reboot && (a.BootID == r.Evidence.BootID || a.BootID == "" || r.Evidence.BootID == ""):
			return hold("once", "instance %s was rebooted already by %s for the same boot", a.InstanceID, a.Incident)
		}
	}
	return allow()
}

// Budget holds what would be too much at once or within the window.
type Budget struct {
	policy.Budget
	Window time.Duration
}

// Check implements [Guard].
func (g Budget) Check(r *Request) (Hold, bool) {
	switch r.Purpose {
	case Isolate:
		if n := len(r.Fleet.Isolated); g.ClusterIsolated > 0 && n >= g.ClusterIsolated {
			return hold("budget", "%d nodes are isolated, of at most %d", n, g.ClusterIsolated)
		}
		return allow()
	case Stop:
		return allow()
	}
	if n := len(r.Fleet.InRepair); n >= g.ClusterInFlight {
		return hold("budget", "%d nodes are under repair, of at most %d", n, g.ClusterInFlight)
	}
	var all, node []time.Time
	for _, a := range r.Fleet.Acts {
		if a.At.Add(g.Window).After(r.Now) {
			all = append(all, a.At)
			if a.Node == r.Node {
				node = append(node, a.At)
			}
		}
	}
	if h, held := g.within("the cluster", all, g.PerWindow.Count); held {
		return h, true
	}
	return g.within("this node", node, g.PerNode.Count)
}

// within holds until so many acts have left the window that one more fits.
func (g Budget) within(what string, acts []time.Time, limit int) (Hold, bool) {
	if limit == 0 || len(acts) < limit {
		return allow()
	}
	slices.SortFunc(acts, time.Time.Compare)
	return Hold{
		Guard:  "budget",
		Reason: fmt.Sprintf("%s had %d reboots and replacements within %s, of at most %d", what, len(acts), g.Window, limit),
		Until:  acts[len(acts)-limit].Add(g.Window),
	}, true
}
