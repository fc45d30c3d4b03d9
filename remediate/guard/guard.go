// Package guard holds back what policy asked for. Each [Guard] answers a
// [Request], which carries every fact it needs, with allow or with a [Hold] that
// says why and, where that is known, until when. A [Chain] asks all of them and
// returns every hold, so that a person sees all that stands in the way.
//
// Guards only ever restrain: isolating, stopping a job, rebooting and replacing.
// Giving a node or a job back is restrained by none. The package reads no clock
// and calls nothing.
package guard

import (
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// Purpose is what is asked for.
type Purpose string

// The purposes, which are all that guards restrain.
const (
	Isolate Purpose = "isolate"
	// Stop ends a job, to be resumed elsewhere or later.
	Stop Purpose = "stop"
	// Repair reboots or replaces a node.
	Repair Purpose = "repair"
)

// Hold says that something must wait. Its reason is the same for as long as its
// cause is.
type Hold struct {
	Guard  string `json:"guard"`
	Reason string `json:"reason"`
	// Until is when the guard will look at it differently, zero if that depends on
	// facts to come.
	Until time.Time `json:"until,omitzero"`
}

// Request is one thing to be done to one node, with the facts to judge it by.
type Request struct {
	Now     time.Time
	Purpose Purpose
	Node    string
	Remedy  fault.Action
	Mode    policy.Mode
	// Approved is true when a person consented.
	Approved bool
	// Simulated is true when the call will be marked as simulated.
	Simulated bool
	Evidence  Evidence
	// Witnesses say which instance and boot now stand behind the node name.
	Witnesses []Witness
	// IsolatedByOthers is true when somebody else keeps the node from new work.
	IsolatedByOthers bool
	// LastTouched is when the last incident that isolated or repaired the node
	// ended, zero for never.
	LastTouched time.Time
	Fleet       Fleet
}

// Evidence is the finding that the request rests on, as the newest facts have it.
type Evidence struct {
	Kind   fault.Kind
	Family fault.Family
	// InstanceID and BootID are those that the fault happened on.
	InstanceID string
	BootID     string
	// Since is when the remediator first saw it.
	Since time.Time
	// Standing is true when the newest facts hold the finding, confirmed and able
	// to authorise an action; Why says what is amiss otherwise.
	Standing bool
	Why      string
	// Current is true when the facts it comes from are not outdated.
	Current   bool
	Simulated bool
}

// Witness is one view of who stands behind a node name.
type Witness struct {
	Name string
	// Known is false when the view could not be read.
	Known bool
	// InstanceID and BootID are empty where the witness does not know such ids.
	InstanceID string
	BootID     string
}

// Fleet is what holds for the whole cluster.
type Fleet struct {
	// KillSwitch is the reason of the kill switch that is on, empty when it is off.
	KillSwitch string
	// InRepair and Isolated list the other nodes under repair, and those that
	// Evenkeel keeps isolated.
	InRepair []string
	Isolated []string
	// Acts are the reboots and replacements on record that may have taken effect.
	Acts []Act
	// Together is when faults of a family were last seen on many nodes at once.
	Together map[fault.Family]time.Time
}

// Act is one reboot or replacement that may have taken effect.
type Act struct {
	Incident   string
	Node       string
	Remedy     fault.Action
	InstanceID string
	BootID     string
	At         time.Time
}

// Guard restrains requests.
type Guard interface {
	// Check returns a hold and true, or false to allow.
	Check(r *Request) (Hold, bool)
}

// Chain is a list of guards that all have to allow.
type Chain []Guard

// Check returns every guard's hold; none means allowed.
func (c Chain) Check(r *Request) []Hold {
	var holds []Hold
	for _, g := range c {
		if h, held := g.Check(r); held {
			holds = append(holds, h)
		}
	}
	return holds
}

// Names lists what [Hold.Guard] can be.
var Names = []string{
	"kill_switch", "mode", "evidence", "freshness", "identity", "simulated", "others", "protected",
	"common_cause", "common_cause_wait", "cool_down", "once", "budget",
}

// Standard is every guard there is, as a policy configures them. A new guard is
// added here.
func Standard(p *policy.Policy) Chain {
	return Chain{
		Kill{},
		Mode{},
		Standing{},
		Current{},
		Identity{},
		Simulation{},
		Others{},
		Protected{Hosts: p.Guards.ProtectedHosts},
		CommonCause{Window: p.Timing.CommonCauseWindow},
		CommonCauseWait{Families: p.Guards.CommonCause.Families, Wait: p.Timing.CommonCauseWait},
		CoolDown{For: p.Timing.CoolDown},
		Once{},
		Budget{Budget: p.Guards.Budget, Window: p.Timing.BudgetWindow},
	}
}
