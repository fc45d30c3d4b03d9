package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/internal/fault"
)

var catalogue = fault.NewCatalogue(fault.DefaultTiming())

func finding(k fault.Kind) *fault.Finding {
	row := catalogue.Row(k)
	return &fault.Finding{Kind: k, State: fault.Bad, Severity: row.Severity, Action: row.Action}
}

func shippedPolicy(t testing.TB, name string) Policy {
	t.Helper()
	p, err := Shipped(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every kind of the catalogue has a rule in hands-off, so that a new kind is a
// decision and not an oversight.
func TestHandsOffDecidesEveryKind(t *testing.T) {
	p := shippedPolicy(t, NameHandsOff)
	want := map[fault.Kind]fault.Action{
		fault.XidOffTheBus:     fault.Replace,
		fault.XidDoubleBitECC:  fault.Reboot,
		fault.XidMMUFault:      fault.None,
		fault.XidNVLink:        fault.Reboot,
		fault.GPUThermal:       fault.None,
		fault.GPUMissing:       fault.Reboot,
		fault.DriverHung:       fault.Reboot,
		fault.NeuronHardware:   fault.Replace,
		fault.EFAAdminQueue:    fault.Reboot,
		fault.LustreConnection: fault.None,
		fault.DiskReadOnly:     fault.Replace,
		fault.NodeSilent:       fault.Replace,
		fault.AgentSilent:      fault.None,
	}
	got := make(map[fault.Kind]fault.Action)
	for _, row := range catalogue.Rows() {
		d := p.Decide(finding(row.Kind), row)
		if d.Rule == "" {
			t.Errorf("Decide(%s) matched no rule", row.Kind)
		}
		if d.Mode != Act {
			t.Errorf("Decide(%s).Mode = %s, want %s", row.Kind, d.Mode, Act)
		}
		got[row.Kind] = d.Remedy
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("remedies differ (-want +got):\n%s", diff)
	}
}

// observe.yaml must say what hands-off.yaml would do, and do nothing.
func TestObserveDiffersInModeOnly(t *testing.T) {
	observe, handsOff := shippedPolicy(t, NameObserve), shippedPolicy(t, NameHandsOff)
	for i := range observe.Rules {
		if observe.Rules[i].Mode != Observe {
			t.Errorf("rule %s of %s has mode %s", observe.Rules[i].Name, NameObserve, observe.Rules[i].Mode)
		}
		observe.Rules[i].Mode = Act
	}
	observe.Version = handsOff.Version
	if diff := cmp.Diff(handsOff, observe); diff != "" {
		t.Errorf("the shipped policies differ in more than mode and version (-%s +%s):\n%s", NameHandsOff, NameObserve, diff)
	}
}

func TestShippedAgreesWithDefault(t *testing.T) {
	p, d := shippedPolicy(t, NameHandsOff), Default()
	if diff := cmp.Diff(d.Timing, p.Timing); diff != "" {
		t.Errorf("timing differs (-default +shipped):\n%s", diff)
	}
	d.Guards.ProtectedHosts = []string{}
	if diff := cmp.Diff(d.Guards, p.Guards); diff != "" {
		t.Errorf("guards differ (-default +shipped):\n%s", diff)
	}
}

func TestDecide(t *testing.T) {
	rule := func(name string, m Match, remedy fault.Action) Rule {
		return Rule{Name: name, Match: m, Remedy: remedy, Mode: Act, Reason: "because"}
	}
	p := &Policy{Rules: []Rule{
		rule("kind", Match{Kinds: []fault.Kind{fault.XidOffTheBus}}, fault.Replace),
		rule("kind and action", Match{Kinds: []fault.Kind{fault.XidNVLink}, Actions: []string{"reset_device"}}, fault.Reboot),
		rule("severe in family", Match{Families: []fault.Family{fault.FamilyHost}, SeverityAtLeast: fault.Fatal}, fault.Replace),
		rule("second for kind", Match{Kinds: []fault.Kind{fault.XidOffTheBus}}, fault.Reboot),
	}}
	with := func(k fault.Kind, change func(*fault.Finding)) *fault.Finding {
		f := finding(k)
		change(f)
		return f
	}
	for _, tc := range []struct {
		name string
		f    *fault.Finding
		want Decision
	}{
		{"first of two rules wins", finding(fault.XidOffTheBus), Decision{Remedy: fault.Replace, Mode: Act, Rule: "kind", Reason: "because"}},
		{"no rule", finding(fault.XidDoubleBitECC), Decision{Remedy: fault.None, Mode: Observe, Reason: "no rule matches"}},
		{
			"reset becomes reboot", finding(fault.XidNVLink),
			Decision{Remedy: fault.Reboot, Mode: Act, Rule: "kind and action", Reason: "because; the evidence asks for a device reset, for which there is no lever"},
		},
		{"another action", with(fault.XidNVLink, func(f *fault.Finding) { f.Action = fault.Reboot }), Decision{Remedy: fault.None, Mode: Observe, Reason: "no rule matches"}},
		{"severe enough", finding(fault.DiskReadOnly), Decision{Remedy: fault.Replace, Mode: Act, Rule: "severe in family", Reason: "because"}},
		{"one severity below", with(fault.DiskReadOnly, func(f *fault.Finding) { f.Severity = fault.Error }), Decision{Remedy: fault.None, Mode: Observe, Reason: "no rule matches"}},
		{
			"unknown severity matches no threshold", with(fault.DiskReadOnly, func(f *fault.Finding) { f.Severity = "apocalyptic" }),
			Decision{Remedy: fault.None, Mode: Observe, Reason: "no rule matches"},
		},
		{"unknown kind", &fault.Finding{Kind: "nvidia.xid.999", State: fault.Bad}, Decision{Remedy: fault.None, Mode: Observe, Reason: `kind "nvidia.xid.999" is not in the catalogue`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := p.Decide(tc.f, catalogue.Row(tc.f.Kind))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("Decide(%s) differs (-want +got):\n%s", tc.f.Kind, diff)
			}
		})
	}
}

const minimal = `
version: v1
rules:
  - name: r
    match: {kinds: [nvidia.xid.79]}
    remedy: replace
    mode: act
    reason: because
`

func TestDecodeFillsIn(t *testing.T) {
	p, err := Decode([]byte(minimal + "timing: {poll: 3s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultTiming()
	want.Poll = 3 * time.Second
	if diff := cmp.Diff(want, p.Timing); diff != "" {
		t.Errorf("timing differs (-want +got):\n%s", diff)
	}
	if p.Guards.Budget.ClusterInFlight != 1 {
		t.Errorf("budget = %d in flight, want 1", p.Guards.Budget.ClusterInFlight)
	}
}

func TestDecodeRefuses(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(minimal, old, new, 1) }
	for _, tc := range []struct{ name, content, want string }{
		{"empty", "", "version: must be set"},
		{"unknown key", minimal + "budgets: {}\n", "field budgets not found"},
		{"unknown kind", change("nvidia.xid.79", "nvidia.xid.97"), `rules[0].match.kinds[0]: "nvidia.xid.97" is not in the catalogue`},
		{"unknown family", change("kinds: [nvidia.xid.79]", "families: [fabrik]"), `rules[0].match.families[0]: "fabrik" is not in the catalogue`},
		{"unknown severity", change("kinds: [nvidia.xid.79]", "severity_at_least: critical"), `rules[0].match.severity_at_least: "critical"`},
		{"misspelt action", change("kinds: [nvidia.xid.79]", "actions: [rebot]"), `rules[0].match.actions[0]: "rebot" is no action`},
		{"device reset", change("remedy: replace", "remedy: reset_device"), "rules[0].remedy: no lever resets a device"},
		{"misspelt remedy", change("remedy: replace", "remedy: replcae"), "rules[0].remedy: must be one of"},
		{"no remedy", change("    remedy: replace\n", ""), "rules[0].remedy: must be set"},
		{"misspelt mode", change("mode: act", "mode: acting"), `rules[0].mode: "acting" is none of`},
		{"no mode", change("    mode: act\n", ""), `rules[0].mode: "" is none of`},
		{"no reason", change("    reason: because\n", ""), "rules[0].reason: must be set"},
		{"no name", change("name: r", `name: ""`), "rules[0].name: must be set"},
		{"two of a name", minimal + minimal[strings.Index(minimal, "  - name"):], `rules[1].name: "r" names another rule`},
		{"no budget", minimal + "guards: {budget: {cluster_in_flight: 0}}\n", "guards.budget.cluster_in_flight: must be 1 or higher"},
		{"negative budget", minimal + "guards: {budget: {per_node: {count: -1}}}\n", "guards.budget.per_node.count: must not be negative"},
		{"one node in common", minimal + "guards: {common_cause: {nodes: 1}}\n", "guards.common_cause.nodes: must be 2 or higher"},
		{"protected nothing", minimal + "guards: {protected_hosts: ['']}\n", "guards.protected_hosts[0]"},
		{"no time", minimal + "timing: {poll: 0s}\n", "timing.poll: must be positive"},
		{"time without unit", minimal + "timing: {poll: 15}\n", "line 9: cannot unmarshal"},
		{"lag below the deadline", minimal + "timing: {provider_lag: 59s}\n", "timing.provider_lag: must not be shorter"},
		{"two documents", minimal + "---\nversion: v2\n", "more than one YAML document"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Decode([]byte(tc.content))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Decode(%q) = %v, want an error with %q", tc.content, err, tc.want)
			}
		})
	}
	if _, err := Decode([]byte(minimal + "timing: {provider_lag: 60s}\n")); err != nil {
		t.Errorf("Decode with provider_lag = fresh_within: %v, want no error", err)
	}
}

// Whatever a policy file holds: either it is refused, or each of its decisions
// names a remedy and a mode that are known.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{NameObserve, NameHandsOff} {
		content, err := ShippedFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Add([]byte(minimal))
	f.Add([]byte("version: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := Decode(content)
		if err != nil {
			return
		}
		for _, row := range catalogue.Rows() {
			d := p.Decide(finding(row.Kind), row)
			switch d.Remedy {
			case fault.None, fault.RestartApp, fault.Reboot, fault.Replace:
			default:
				t.Errorf("Decide(%s).Remedy = %q", row.Kind, d.Remedy)
			}
			switch d.Mode {
			case Observe, Approve, Act:
			default:
				t.Errorf("Decide(%s).Mode = %q", row.Kind, d.Mode)
			}
		}
	})
}
