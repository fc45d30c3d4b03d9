package remediate

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
	"github.com/evenkeel/evenkeel/remediate/ingest"
	"github.com/evenkeel/evenkeel/remediate/journal"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// heard is a node whose newest report is of the given age.
func heard(name string, age time.Duration, findings ...fault.Finding) ingest.Node {
	return ingest.Node{
		Report: &fault.NodeReport{
			Schema: 1, Cluster: "hp", Node: name, InstanceID: "i-" + name, BootID: "b-" + name, Incarnation: 1,
			Coverage: []fault.Coverage{{Source: "kernel", State: fault.CoverageOK}}, Findings: findings,
		},
		Received: start.Add(-age),
		Findings: findings,
	}
}

// offTheBus is a finding that hands-off.yaml replaces a node for.
func offTheBus(node string) fault.Finding {
	subject := fault.Subject{Node: node, InstanceID: "i-" + node, Device: fault.DeviceGPU, PCI: "0000:53:00"}
	return fault.Finding{
		ID: fault.NewID(fault.XidOffTheBus, subject, "b-"+node), Kind: fault.XidOffTheBus, Subject: subject, State: fault.Bad,
		Severity: fault.Fatal, Action: fault.Reboot, BootID: "b-" + node, First: start, Last: start, Count: 2,
		Evidence: []fault.Evidence{{Source: "kernel", Authority: fault.ByKernel, Time: start, BootID: "b-" + node}},
	}
}

func knowing(nodes ...ingest.Node) *knowledge {
	return &knowledge{now: start, timing: policy.DefaultTiming(), nodes: nodes, incident: func(string) string { return "" }}
}

func TestFactsJoinReportsAndViews(t *testing.T) {
	k := knowing(heard("n2", 0), heard("n4", 0))
	k.viewed = true
	k.views = map[string]*incident.NodeView{
		"n1": {Node: "n1", Responding: incident.RespondingYes, InstanceID: "i-1", BootID: "b-1"},
		"n4": {Node: "n4", Responding: incident.RespondingYes, Isolated: true},
		"n5": {Node: "n5", Responding: incident.RespondingNo},
	}
	k.alerts = map[string][]string{"n2": {"GPUHot"}, "n9": {"Elsewhere"}}
	k.incident = func(node string) string { return map[string]string{"n4": "inc-1"}[node] }

	type brief struct {
		Node, Instance string
		State          fault.State
		Fresh, View    bool
		Isolated       bool
		Alerts         []string
		Incident       string
	}
	var got []brief
	for _, f := range k.facts().Nodes {
		got = append(got, brief{f.Node, f.InstanceID, f.State, f.Fresh, f.View != nil, f.Isolated, f.Alerts, f.Incident})
	}
	want := []brief{
		{Node: "n1", Instance: "i-1", State: fault.Unknown, View: true},
		{Node: "n2", Instance: "i-n2", State: fault.OK, Fresh: true, Alerts: []string{"GPUHot"}},
		{Node: "n4", Instance: "i-n4", State: fault.OK, Fresh: true, View: true, Isolated: true, Incident: "inc-1"},
		{Node: "n5", State: fault.Unknown, View: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	if sights := k.sights(); len(sights) != len(want) || sights[0].InstanceID != "i-1" || sights[1].View != nil || !sights[0].Heard.IsZero() {
		t.Errorf("sights() = %+v, want one of each node with what is known of it", sights)
	}
}

func TestSilenceCountsInTheState(t *testing.T) {
	for _, test := range []struct {
		name    string
		age     time.Duration
		finding fault.Finding
		want    fault.State
	}{
		{"silent for sure", time.Hour, fault.Finding{Kind: fault.NodeSilent, State: fault.Bad, Severity: fault.Fatal}, fault.Bad},
		{"not for sure", time.Hour, fault.Finding{Kind: fault.NodeSilent, State: fault.Bad, Severity: fault.Fatal, Provisional: true}, fault.Unknown},
		{"only the agent", time.Hour, fault.Finding{Kind: fault.AgentSilent, State: fault.Bad, Severity: fault.Warning}, fault.Unknown},
		{"heard again", 0, fault.Finding{Kind: fault.NodeSilent, State: fault.OK, Severity: fault.Fatal}, fault.OK},
	} {
		k := knowing(heard("n1", test.age))
		k.silence = map[string][]fault.Finding{"n1": {test.finding}}
		f := k.facts().Nodes[0]
		if f.State != test.want || len(f.Findings) != 1 {
			t.Errorf("%s: state = %s with %d findings, want %s with 1", test.name, f.State, len(f.Findings), test.want)
		}
	}
}

func TestGone(t *testing.T) {
	long := policy.DefaultTiming().ReturnTimeout
	for _, test := range []struct {
		name   string
		age    time.Duration
		change func(*knowledge)
		want   bool
	}{
		{"silent for longer than a replacement takes, not listed", long + 1, func(*knowledge) {}, true},
		{"not that long yet", long, func(*knowledge) {}, false},
		{"listed", long + 1, func(k *knowledge) { k.views["n1"] = &incident.NodeView{Node: "n1"} }, false},
		{"orchestrator not answering", long + 1, func(k *knowledge) { k.viewed = false }, false},
		{"incident open", long + 1, func(k *knowledge) { k.incident = func(string) string { return "inc-1" } }, false},
	} {
		k := knowing(heard("n1", test.age))
		k.views, k.viewed = map[string]*incident.NodeView{}, true
		test.change(k)
		if got := len(k.gone()) == 1; got != test.want {
			t.Errorf("%s: gone = %v, want %v", test.name, got, test.want)
		}
	}
}

// TestAlertsDecideNothing judges the same node, once with firing alerts and once
// with a finding, by the policy that acts on everything.
func TestAlertsDecideNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		node ingest.Node
		want int
	}{
		{"alerts alone", heard("n1", 0), 0},
		{"a finding", heard("n1", 0, offTheBus("n1")), 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			none := unconfigured("test")
			file, err := journal.OpenBolt(t.TempDir()+"/journal.db", time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			c, err := incident.New(t.Context(), incident.Options{
				Cluster: "hp", Policy: mustShip(t, policy.NameHandsOff), Catalogue: fault.NewCatalogue(fault.DefaultTiming()),
				Journal: file, Isolator: none, Nodes: none, Jobs: none, Machines: none, Checkpoints: noCheckpoints{},
			})
			if err != nil {
				t.Fatal(err)
			}
			k := knowing(test.node)
			k.alerts = map[string][]string{"n1": {"GPUFellOffTheBus", "NodeDown"}}
			if err := c.Observe(t.Context(), k.facts()); err != nil {
				t.Fatal(err)
			}
			if got := len(c.Incidents()); got != test.want {
				t.Errorf("%d incidents, want %d", got, test.want)
			}
		})
	}
}
