package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/strictyaml"
)

// Mode says how far a rule may go by itself.
type Mode string

// The modes, from the most careful.
const (
	// Observe says what would have been done, and does nothing.
	Observe Mode = "observe"
	// Approve does it once a person approved the incident.
	Approve Mode = "approve"
	// Act does it.
	Act Mode = "act"
)

// Remedies lists what a rule may name. A device reset is not among them: no
// lever for it exists on HyperPod, and a reboot contains it.
var Remedies = []fault.Action{fault.None, fault.RestartApp, fault.Reboot, fault.Replace}

// Policy is the whole file.
type Policy struct {
	// Version names the policy in incidents; it should change with the content.
	Version string `yaml:"version"`
	Timing  Timing `yaml:"timing"`
	Rules   []Rule `yaml:"rules"`
	Guards  Guards `yaml:"guards"`
}

// Rule ties the findings that it matches to a remedy.
type Rule struct {
	Name   string       `yaml:"name"`
	Match  Match        `yaml:"match"`
	Remedy fault.Action `yaml:"remedy"`
	Mode   Mode         `yaml:"mode"`
	// Reason says to a person why this remedy for these findings.
	Reason string `yaml:"reason"`
}

// Match holds conditions that all have to be met; one that is left out is met.
type Match struct {
	Kinds           []fault.Kind   `yaml:"kinds"`
	Families        []fault.Family `yaml:"families"`
	SeverityAtLeast fault.Severity `yaml:"severity_at_least"`
	// Actions lists what the evidence may ask for. They are plain words here, since
	// a [fault.Action] that is misspelt decodes as investigate.
	Actions []string `yaml:"actions"`
}

// Guards configures the guards.
type Guards struct {
	Budget      Budget      `yaml:"budget"`
	CommonCause CommonCause `yaml:"common_cause"`
	// ProtectedHosts are never isolated, rebooted or replaced: the scheduler's
	// controller, the remediator's own host, the store.
	ProtectedHosts []string `yaml:"protected_hosts"`
}

// Budget bounds how much may be done. Zero means no bound for every field but
// ClusterInFlight.
type Budget struct {
	// ClusterInFlight is how many nodes may be under repair at once: from the
	// intent to reboot or replace until the node is back in service or given up.
	ClusterInFlight int `yaml:"cluster_in_flight"`
	// ClusterIsolated is how many nodes Evenkeel may keep isolated at once.
	ClusterIsolated int `yaml:"cluster_isolated"`
	// PerWindow bounds reboots and replacements in timing.budget_window.
	PerWindow Count `yaml:"per_window"`
	// PerNode bounds them for one node name: a repair that did not help twice
	// does not help a third time.
	PerNode Count `yaml:"per_node"`
}

// Count is a number of actions within timing.budget_window; 0 for no bound.
type Count struct {
	Count int `yaml:"count"`
}

// CommonCause configures the hold for faults of many nodes at once.
type CommonCause struct {
	// Nodes is how many nodes with findings of one family, begun within
	// timing.common_cause_window of each other, have a common cause.
	Nodes int `yaml:"nodes"`
	// Families lists those whose cause is often outside the node. Their findings
	// wait timing.common_cause_wait before anything is done, so that the other
	// nodes' can show up. The hold itself counts every family but the
	// application's and the agent's own.
	Families []fault.Family `yaml:"families"`
}

// Decode reads a policy from YAML. What the content leaves out is as in
// [Default].
func Decode(content []byte) (Policy, error) {
	p := Default()
	if err := strictyaml.Decode(content, &p); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// Load is Decode for a file.
func Load(path string) (Policy, error) {
	p := Default()
	if err := strictyaml.Load(path, &p); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// Default holds everything but the version and the rules.
func Default() Policy {
	return Policy{
		Timing: DefaultTiming(),
		Guards: Guards{
			// One node at a time: a wrong policy then costs one node, and the budget
			// is the first thing to raise when it has proved itself.
			// 2,000 GPUs see about one hardware interruption a day (Llama 3: 419 in 54
			// days on 16,384 GPUs); ten times that is a wrong detector, not a bad day.
			Budget:      Budget{ClusterInFlight: 1, ClusterIsolated: 10, PerWindow: Count{10}, PerNode: Count{2}},
			CommonCause: CommonCause{Nodes: 3, Families: slices.Clone(outsideFamilies)},
		},
	}
}

// outsideFamilies often have a cause outside the node: switch, file system,
// cooling, a change.
var outsideFamilies = []fault.Family{fault.FamilyFabric, fault.FamilyNetwork, fault.FamilyStorage, fault.FamilyThermal}

// Validate names every field that cannot be meant.
func (p *Policy) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if p.Version == "" {
		bad("version", "must be set")
	}
	p.Timing.validate(func(field, format string, args ...any) { bad("timing."+field, format, args...) })
	catalogue := fault.NewCatalogue(fault.DefaultTiming())
	names := make(map[string]bool)
	for i := range p.Rules {
		r := &p.Rules[i]
		field := fmt.Sprintf("rules[%d]", i)
		switch {
		case r.Name == "":
			bad(field+".name", "must be set")
		case names[r.Name]:
			bad(field+".name", "%q names another rule already", r.Name)
		}
		names[r.Name] = true
		r.validate(catalogue, func(f, format string, args ...any) { bad(field+"."+f, format, args...) })
	}
	p.Guards.validate(func(field, format string, args ...any) { bad("guards."+field, format, args...) })
	return errors.Join(errs...)
}

type complain func(field, format string, args ...any)

func (r *Rule) validate(catalogue *fault.Catalogue, bad complain) {
	for i, k := range r.Match.Kinds {
		if catalogue.Row(k) == nil {
			bad(fmt.Sprintf("match.kinds[%d]", i), "%q is not in the catalogue", k)
		}
	}
	for i, f := range r.Match.Families {
		if !knownFamily(catalogue, f) {
			bad(fmt.Sprintf("match.families[%d]", i), "%q is not in the catalogue", f)
		}
	}
	for i, a := range r.Match.Actions {
		if action := fault.Action(a); action.Rung() < 0 && action != fault.Investigate {
			bad(fmt.Sprintf("match.actions[%d]", i), "%q is no action", a)
		}
	}
	if s := r.Match.SeverityAtLeast; s != "" && s.Rank() == 0 {
		bad("match.severity_at_least", "%q is none of info, warning, error, fatal", s)
	}
	switch {
	case r.Remedy == "":
		bad("remedy", "must be set")
	case r.Remedy == fault.ResetDevice:
		bad("remedy", "no lever resets a device; use %s, which contains it", fault.Reboot)
	case !slices.Contains(Remedies, r.Remedy):
		bad("remedy", "must be one of %v", Remedies)
	}
	switch r.Mode {
	case Observe, Approve, Act:
	default:
		bad("mode", "%q is none of observe, approve, act", r.Mode)
	}
	if r.Reason == "" {
		bad("reason", "must be set: the incident shows it to people")
	}
}

func (g *Guards) validate(bad complain) {
	if g.Budget.ClusterInFlight < 1 {
		bad("budget.cluster_in_flight", "must be 1 or higher, got %d", g.Budget.ClusterInFlight)
	}
	for _, n := range []struct {
		field string
		value int
	}{
		{"budget.cluster_isolated", g.Budget.ClusterIsolated},
		{"budget.per_window.count", g.Budget.PerWindow.Count},
		{"budget.per_node.count", g.Budget.PerNode.Count},
	} {
		if n.value < 0 {
			bad(n.field, "must not be negative, got %d", n.value)
		}
	}
	if g.CommonCause.Nodes < 2 {
		bad("common_cause.nodes", "must be 2 or higher, got %d", g.CommonCause.Nodes)
	}
	catalogue := fault.NewCatalogue(fault.DefaultTiming())
	for i, f := range g.CommonCause.Families {
		if !knownFamily(catalogue, f) {
			bad(fmt.Sprintf("common_cause.families[%d]", i), "%q is not in the catalogue", f)
		}
	}
	for i, h := range g.ProtectedHosts {
		if !fault.ValidName(h) {
			bad(fmt.Sprintf("protected_hosts[%d]", i), "%.64q is not a host name", h)
		}
	}
}

func knownFamily(c *fault.Catalogue, f fault.Family) bool {
	return slices.ContainsFunc(c.Rows(), func(r *fault.Row) bool { return r.Family == f })
}

// Timing holds every duration that paces decisions.
type Timing struct {
	// SilenceAfter is how long a node may go without a report.
	SilenceAfter time.Duration `yaml:"silence_after"`
	// SilenceConfirm is how long the three views have to agree that it is silent.
	SilenceConfirm time.Duration `yaml:"silence_confirm"`
	// ProviderLag is how long the provider's view may trail the truth. An
	// ambiguous call is judged as not executed only after it.
	ProviderLag time.Duration `yaml:"provider_lag"`
	// CommonCauseWindow is how close the beginnings of faults with a common cause lie.
	CommonCauseWindow time.Duration `yaml:"common_cause_window"`
	// CommonCauseWait is how long the families of guards.common_cause wait.
	CommonCauseWait time.Duration `yaml:"common_cause_wait"`
	// FreshWithin is the age up to which a report speaks for its node.
	FreshWithin time.Duration `yaml:"fresh_within"`
	// HealthyFor is how long a node has to be well before it is put back.
	HealthyFor time.Duration `yaml:"healthy_for"`
	// ReturnTimeout is how long a node may take to come back and to become well.
	ReturnTimeout time.Duration `yaml:"return_timeout"`
	// CallTimeout is the deadline of one call to the world.
	CallTimeout time.Duration `yaml:"call_timeout"`
	// RetryAfter is the pause after a refused call; it doubles with each refusal.
	RetryAfter time.Duration `yaml:"retry_after"`
	// Poll is how often the world is read while waiting for it.
	Poll time.Duration `yaml:"poll"`
	// CoolDown is how long a node is left alone after an incident that touched it.
	CoolDown time.Duration `yaml:"cool_down"`
	// CheckpointWait is how long a job's checkpoint folder has to be seen empty
	// before the job is started from its beginning.
	CheckpointWait time.Duration `yaml:"checkpoint_wait"`
	// BudgetWindow is the window of guards.budget.per_window and per_node.
	BudgetWindow time.Duration `yaml:"budget_window"`
}

// DefaultTiming is the timing of the shipped policies, whose files give the
// sources.
func DefaultTiming() Timing {
	return Timing{
		SilenceAfter:      time.Minute,
		SilenceConfirm:    time.Minute,
		ProviderLag:       3 * time.Minute,
		CommonCauseWindow: 5 * time.Minute,
		CommonCauseWait:   30 * time.Second,
		FreshWithin:       time.Minute,
		HealthyFor:        time.Minute,
		ReturnTimeout:     time.Hour,
		CallTimeout:       20 * time.Second,
		RetryAfter:        30 * time.Second,
		Poll:              15 * time.Second,
		CoolDown:          10 * time.Minute,
		CheckpointWait:    time.Minute,
		BudgetWindow:      24 * time.Hour,
	}
}

func (t *Timing) validate(bad complain) {
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"silence_after", t.SilenceAfter},
		{"silence_confirm", t.SilenceConfirm},
		{"provider_lag", t.ProviderLag},
		{"common_cause_window", t.CommonCauseWindow},
		{"common_cause_wait", t.CommonCauseWait},
		{"fresh_within", t.FreshWithin},
		{"healthy_for", t.HealthyFor},
		{"return_timeout", t.ReturnTimeout},
		{"call_timeout", t.CallTimeout},
		{"retry_after", t.RetryAfter},
		{"poll", t.Poll},
		{"cool_down", t.CoolDown},
		{"checkpoint_wait", t.CheckpointWait},
		{"budget_window", t.BudgetWindow},
	} {
		if d.value <= 0 {
			bad(d.field, "must be positive, got %s", d.value)
		}
	}
	// A call that outlives the lag could take effect after it was judged lost, and a
	// report from before the call could be taken for one from after it.
	if least := max(t.CallTimeout, t.FreshWithin); t.ProviderLag < least {
		bad("provider_lag", "must not be shorter than call_timeout and fresh_within (%s), got %s", least, t.ProviderLag)
	}
}
