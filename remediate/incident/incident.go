package incident

import (
	"slices"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/guard"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// State is where an incident stands.
type State string

// The states. An incident whose job can go on at once on a spare passes through
// CheckpointGate and Resuming before Acting; without a spare it passes through
// Resuming last, or as soon as a spare turns up.
const (
	Observed       State = "observed"
	Confirmed      State = "confirmed"
	Isolated       State = "isolated"
	CheckpointGate State = "checkpoint_gate"
	Acting         State = "acting"
	AwaitingReturn State = "awaiting_return"
	Validating     State = "validating"
	Resuming       State = "resuming"
	Closed         State = "closed"
)

// States lists them in the order of an incident without a spare.
var States = []State{Observed, Confirmed, Isolated, CheckpointGate, Acting, AwaitingReturn, Validating, Resuming, Closed}

// Outcome is how an incident ended.
type Outcome string

// The outcomes.
const (
	// Repaired is a node that was rebooted or replaced and is well again, or a job
	// that was started again.
	Repaired Outcome = "repaired"
	// Recovered is evidence that cleared before anything was done to the node.
	Recovered Outcome = "recovered"
	// Failed is a node that did not come back well in time. It stays isolated.
	Failed Outcome = "failed"
	// HandedOver is a node that a person put back into service meanwhile.
	HandedOver Outcome = "handed_over"
)

// Outcomes lists them.
var Outcomes = []Outcome{Repaired, Recovered, Failed, HandedOver}

// StepName is one kind of call to the world.
type StepName string

// The steps.
const (
	StepIsolate   StepName = "isolate"
	StepStop      StepName = "stop"
	StepResume    StepName = "resume"
	StepReboot    StepName = "reboot"
	StepReplace   StepName = "replace"
	StepUnisolate StepName = "unisolate"
)

// StepNames lists them.
var StepNames = []StepName{StepIsolate, StepStop, StepResume, StepReboot, StepReplace, StepUnisolate}

// StepOutcome is what came of a step.
type StepOutcome string

// The outcomes of a step. The empty one is an intent whose outcome is not known:
// the call may not have been made yet.
const (
	StepPending StepOutcome = ""
	StepDone    StepOutcome = "done"
	// StepRefused certainly had no effect.
	StepRefused StepOutcome = "refused"
	// StepAmbiguous may have had one.
	StepAmbiguous StepOutcome = "ambiguous"
	// StepSettledDone and StepSettledNotDone are ambiguous steps that the world
	// has answered for.
	StepSettledDone    StepOutcome = "settled_done"
	StepSettledNotDone StepOutcome = "settled_not_done"
	// StepSkipped was not necessary.
	StepSkipped StepOutcome = "skipped"
)

// StepOutcomes lists them without the empty one.
var StepOutcomes = []StepOutcome{StepDone, StepRefused, StepAmbiguous, StepSettledDone, StepSettledNotDone, StepSkipped}

// Step is one call to the world: the intent is journalled before it, the outcome
// after it.
type Step struct {
	Name StepName `json:"name"`
	// Key is the idempotency key: incident, step and attempt.
	Key      string      `json:"key"`
	Attempt  int         `json:"attempt"`
	IntentAt time.Time   `json:"intent_at"`
	Outcome  StepOutcome `json:"outcome,omitempty"`
	// OutcomeAt is when the outcome was written. For an ambiguous one it is the
	// last moment at which the call can have been sent.
	OutcomeAt time.Time `json:"outcome_at,omitzero"`
	Detail    string    `json:"detail,omitempty"`
	// InstanceID and BootID name what a reboot or replacement was meant for.
	InstanceID string `json:"instance_id,omitempty"`
	BootID     string `json:"boot_id,omitempty"`
	// MachineStatus is the provider's word for the instance before the call.
	MachineStatus string `json:"machine_status,omitempty"`
}

// Destructive reports whether the step ends the work of a whole node.
func (s *Step) Destructive() bool { return s.Name == StepReboot || s.Name == StepReplace }

// MayHaveTakenEffect is false only for steps that certainly had no effect.
func (s *Step) MayHaveTakenEffect() bool {
	switch s.Outcome {
	case StepRefused, StepSettledNotDone, StepSkipped:
		return false
	}
	return true
}

// TookEffect is true only for steps that certainly had one.
func (s *Step) TookEffect() bool { return s.Outcome == StepDone || s.Outcome == StepSettledDone }

// open reports whether the outcome has to be found out.
func (s *Step) open() bool { return s.Outcome == StepPending || s.Outcome == StepAmbiguous }

// Decision is what the incident is for.
type Decision struct {
	Remedy fault.Action `json:"remedy"`
	Mode   policy.Mode  `json:"mode"`
	Rule   string       `json:"rule,omitempty"`
	// Finding is the id of the finding that the decision rests on.
	Finding string   `json:"finding,omitempty"`
	Reasons []string `json:"reasons,omitempty"`
}

// Snapshot is a finding as it was when it joined the incident.
type Snapshot struct {
	fault.Finding
	JoinedAt time.Time `json:"joined_at"`
	// Ended says which evidence ended the finding, empty while none has.
	Ended string `json:"ended,omitempty"`
}

// HoldPeriod is a time during which a guard or the world held the incident.
type HoldPeriod struct {
	guard.Hold
	From time.Time `json:"from"`
	To   time.Time `json:"to,omitzero"`
}

// Phase is the time that the incident spent in one state.
type Phase struct {
	State State     `json:"state"`
	From  time.Time `json:"from"`
	To    time.Time `json:"to,omitzero"`
}

// Approval is a person's consent to an incident whose rule asks for it.
type Approval struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Incident is the unit of remediation: one node and whatever is wrong with it.
type Incident struct {
	ID         string `json:"id"`
	Cluster    string `json:"cluster"`
	Node       string `json:"node"`
	InstanceID string `json:"instance_id"`
	BootID     string `json:"boot_id"`
	// Kind and Family are those of the finding that the decision rests on.
	Kind   fault.Kind   `json:"kind"`
	Family fault.Family `json:"family"`
	// Job is the job that held the node, empty for none.
	Job              string     `json:"job,omitempty"`
	State            State      `json:"state"`
	Simulated        bool       `json:"simulated,omitempty"`
	PolicyVersion    string     `json:"policy_version"`
	CatalogueVersion string     `json:"catalogue_version"`
	Findings         []Snapshot `json:"findings"`
	Checkpoint       Choice     `json:"checkpoint"`
	Decision         Decision   `json:"decision"`
	// ResumeFirst is true when a spare lets the job go on before the node is repaired.
	ResumeFirst bool `json:"resume_first,omitempty"`
	// GateSince is when the checkpoint gate first saw an empty folder.
	GateSince  time.Time    `json:"gate_since,omitzero"`
	Approval   *Approval    `json:"approval,omitempty"`
	Steps      []Step       `json:"steps,omitempty"`
	Holds      []HoldPeriod `json:"holds,omitempty"`
	Phases     []Phase      `json:"phases"`
	OpenedAt   time.Time    `json:"opened_at"`
	ReturnedAt time.Time    `json:"returned_at,omitzero"`
	ClosedAt   time.Time    `json:"closed_at,omitzero"`
	// Outcome may be known before the incident is closed, while its job is still
	// to be resumed.
	Outcome       Outcome `json:"outcome,omitempty"`
	OutcomeReason string  `json:"outcome_reason,omitempty"`
}

// Open reports whether the incident still is to be driven.
func (i *Incident) Open() bool { return i.State != Closed }

// Held gives the holds that are in force.
func (i *Incident) Held() []guard.Hold {
	var held []guard.Hold
	for _, h := range i.Holds {
		if h.To.IsZero() {
			held = append(held, h.Hold)
		}
	}
	return held
}

// last gives the newest step of a name, nil if there is none.
func (i *Incident) last(names ...StepName) *Step {
	for n := len(i.Steps) - 1; n >= 0; n-- {
		if slices.Contains(names, i.Steps[n].Name) {
			return &i.Steps[n]
		}
	}
	return nil
}

// did reports whether a step of the name certainly took effect.
func (i *Incident) did(name StepName) bool {
	s := i.last(name)
	return s != nil && s.TookEffect()
}

// act gives the newest reboot or replacement, nil if there is none.
func (i *Incident) act() *Step { return i.last(StepReboot, StepReplace) }

// struck reports whether a reboot or replacement may have taken effect.
func (i *Incident) struck() bool {
	s := i.act()
	return s != nil && s.MayHaveTakenEffect()
}

// cleared reports whether evidence ended every finding, and which.
func (i *Incident) cleared() (bool, string) {
	var reasons []string
	for n := range i.Findings {
		if i.Findings[n].Ended == "" {
			return false, ""
		}
		reasons = append(reasons, i.Findings[n].Ended)
	}
	return len(reasons) > 0, strings.Join(reasons, "; ")
}

// touched reports whether anything was done to the node.
func (i *Incident) touched() bool {
	return slices.ContainsFunc(i.Steps, func(s Step) bool {
		return (s.Name == StepIsolate || s.Destructive()) && s.MayHaveTakenEffect()
	})
}

// owesJob reports whether the incident stopped its job and has not resumed it.
func (i *Incident) owesJob() bool {
	stop, resume := i.last(StepStop), i.last(StepResume)
	return stop != nil && stop.MayHaveTakenEffect() && (resume == nil || resume.Outcome != StepSkipped && !resume.TookEffect())
}

// isolationKey is the key of the isolation that is still to be undone, empty for none.
func (i *Incident) isolationKey() string {
	isolate, undo := i.last(StepIsolate), i.last(StepUnisolate)
	if isolate == nil || !isolate.MayHaveTakenEffect() || undo != nil && (undo.TookEffect() || undo.Outcome == StepSkipped) {
		return ""
	}
	return isolate.Key
}

func (i *Incident) clone() *Incident {
	c := *i
	c.Findings = slices.Clone(i.Findings)
	c.Steps = slices.Clone(i.Steps)
	c.Holds = slices.Clone(i.Holds)
	c.Phases = slices.Clone(i.Phases)
	c.Decision.Reasons = slices.Clone(i.Decision.Reasons)
	return &c
}

// Bounds of one record: an agent that reports without measure must not fill the
// journal. Of steps and holds the oldest that are over are dropped.
const (
	maxFindings = 32
	maxSteps    = 64
	maxHolds    = 64
	maxPhases   = 64
)

// join adds the candidates that the incident does not know yet, and brings those
// it knows up to date, so that the snapshot shows them confirmed.
func (i *Incident) join(nf *NodeFacts, all []candidate, now time.Time) (changed bool) {
	if nf.Simulated && !i.Simulated {
		i.Simulated, changed = true, true
	}
	for _, c := range all {
		i.Simulated = i.Simulated || c.finding.Simulated
		n := slices.IndexFunc(i.Findings, func(s Snapshot) bool { return s.ID == c.finding.ID })
		switch {
		case n >= 0 && i.Findings[n].Provisional && !c.finding.Provisional:
			i.Findings[n].Finding, changed = *c.finding, true
		case n < 0 && len(i.Findings) < maxFindings:
			i.Findings = append(i.Findings, Snapshot{Finding: *c.finding, JoinedAt: now})
			changed = true
		}
	}
	return changed
}

// decide rests the incident on a candidate.
func (i *Incident) decide(c *candidate, nf *NodeFacts) (changed bool) {
	if i.Decision.Finding == c.finding.ID && i.Decision.Remedy == c.decision.Remedy &&
		i.Decision.Mode == c.decision.Mode && i.Decision.Rule == c.decision.Rule {
		return false
	}
	if i.Decision.Remedy != c.decision.Remedy {
		i.Approval = nil // the consent was to something else
	}
	e := c.evidence(nf, true, time.Time{})
	i.Kind, i.Family, i.InstanceID, i.BootID = e.Kind, e.Family, e.InstanceID, e.BootID
	i.Decision = Decision{
		Remedy: c.decision.Remedy, Mode: c.decision.Mode, Rule: c.decision.Rule,
		Finding: c.finding.ID, Reasons: []string{c.decision.Reason},
	}
	return true
}

// enter moves the incident into a state.
func (i *Incident) enter(s State, now time.Time) {
	i.State = s
	i.Phases[len(i.Phases)-1].To = now
	i.Phases = append(i.Phases, Phase{State: s, From: now})
}

// since is when the incident entered its state.
func (i *Incident) since() time.Time { return i.Phases[len(i.Phases)-1].From }

// hold makes these holds, and no other, the ones in force.
func (i *Incident) hold(holds []guard.Hold, now time.Time) (changed bool) {
	for n := range i.Holds {
		h := &i.Holds[n]
		if h.To.IsZero() && !slices.ContainsFunc(holds, h.same) {
			h.To, changed = now, true
		}
	}
	for _, h := range holds {
		if i.heldSince(h).IsZero() {
			i.Holds = append(i.Holds, HoldPeriod{Hold: h, From: now})
			changed = true
		}
	}
	return changed
}

func (p *HoldPeriod) same(h guard.Hold) bool { return p.Guard == h.Guard && p.Reason == h.Reason }

// heldSince is when a hold that is in force began, zero if it is not in force.
func (i *Incident) heldSince(h guard.Hold) time.Time {
	for n := range i.Holds {
		if p := &i.Holds[n]; p.To.IsZero() && p.same(h) {
			return p.From
		}
	}
	return time.Time{}
}

// trim keeps the record within its bounds.
func (i *Incident) trim() {
	i.Steps = dropOldest(i.Steps, maxSteps, func(s *Step) bool { return !s.MayHaveTakenEffect() })
	i.Holds = dropOldest(i.Holds, maxHolds, func(h *HoldPeriod) bool { return !h.To.IsZero() })
	i.Phases = dropOldest(i.Phases, maxPhases, func(p *Phase) bool { return !p.To.IsZero() })
}

// dropOldest drops elements that are over until at most limit are left.
func dropOldest[T any](all []T, limit int, over func(*T) bool) []T {
	excess := len(all) - limit
	return slices.DeleteFunc(all, func(e T) bool {
		if excess <= 0 || !over(&e) {
			return false
		}
		excess--
		return true
	})
}
