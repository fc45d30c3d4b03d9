package incident

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
)

// condemned is an incident that the kernel's word opened.
func condemned(kind fault.Kind) *Incident {
	n := &node{name: "n1", instance: "i-1", boot: "b-1"}
	return &Incident{Node: "n1", Findings: []Snapshot{{Finding: finding(n, kind)}}}
}

// well is a node that may be given back.
func well() *NodeFacts {
	return &NodeFacts{Fresh: true, NodeStatus: fault.NodeStatus{
		Node: "n1", InstanceID: "i-2", BootID: "b-2", State: fault.OK,
		Coverage: []fault.Coverage{{Source: "kernel", State: fault.CoverageOK}, {Source: "device", State: fault.CoverageAbsent}},
	}}
}

func TestHealthy(t *testing.T) {
	j := judge{policy: new(handsOff(t)), catalogue: catalogue}
	if ok, why := j.healthy(condemned(fault.XidOffTheBus), well(), true); !ok {
		t.Errorf("healthy(well) = false, %s", why)
	}
	for _, tc := range []struct {
		name   string
		change func(*NodeFacts)
	}{
		{"state unknown", func(nf *NodeFacts) { nf.State = fault.Unknown }},
		{"state bad", func(nf *NodeFacts) { nf.State = fault.Bad }},
		{"no state", func(nf *NodeFacts) { nf.State = "" }},
		{"report outdated", func(nf *NodeFacts) { nf.Fresh = false }},
		{"a source does not answer", func(nf *NodeFacts) { nf.Coverage[1].State = fault.CoverageUnknown }},
		{"the source that condemned it is absent", func(nf *NodeFacts) { nf.Coverage[0].State = fault.CoverageAbsent }},
		{"the source that condemned it is not mentioned", func(nf *NodeFacts) { nf.Coverage = nf.Coverage[1:] }},
		{"a warning stands", func(nf *NodeFacts) {
			nf.Findings = []fault.Finding{{Kind: fault.LustreConnection, State: fault.Bad, Severity: fault.Warning}}
		}},
		{"a fault is not confirmed yet", func(nf *NodeFacts) {
			nf.Findings = []fault.Finding{{Kind: fault.XidNVLink, State: fault.Bad, Provisional: true}}
		}},
	} {
		nf := well()
		tc.change(nf)
		if ok, _ := j.healthy(condemned(fault.XidOffTheBus), nf, true); ok {
			t.Errorf("healthy(%s) = true, want false", tc.name)
		}
	}
	if ok, _ := j.healthy(condemned(fault.XidOffTheBus), well(), false); ok {
		t.Error("healthy(outdated facts) = true, want false")
	}
	nf := well()
	nf.Findings = []fault.Finding{{Kind: fault.XidOffTheBus, State: fault.Bad, History: true}}
	nf.Coverage = nf.Coverage[1:]
	silent := condemned(fault.NodeSilent)
	if ok, why := j.healthy(silent, nf, true); !ok {
		t.Errorf("healthy(history of another boot; condemned by its silence) = false, %s", why)
	}
}

func TestCleared(t *testing.T) {
	j := judge{policy: new(handsOff(t)), catalogue: catalogue}
	for _, tc := range []struct {
		name   string
		kind   fault.Kind
		change func(*NodeFacts)
		want   bool
	}{
		{"nothing said", fault.XidOffTheBus, func(*NodeFacts) {}, false},
		{"another instance", fault.DiskReadOnly, func(nf *NodeFacts) { nf.InstanceID = "i-2" }, true},
		{"instance not said", fault.DiskReadOnly, func(nf *NodeFacts) { nf.InstanceID = "" }, false},
		{"another instance, report outdated", fault.DiskReadOnly, func(nf *NodeFacts) { nf.InstanceID, nf.Fresh = "i-2", false }, false},
		{"another boot", fault.XidOffTheBus, func(nf *NodeFacts) { nf.BootID = "b-2" }, true},
		{"another boot, which does not end it", fault.DiskReadOnly, func(nf *NodeFacts) { nf.BootID = "b-2" }, false},
		{"silent node reports", fault.NodeSilent, func(*NodeFacts) {}, true},
		{"silent node is silent", fault.NodeSilent, func(nf *NodeFacts) { nf.Fresh = false }, false},
		{"ok by reading", fault.XidNVLink, func(nf *NodeFacts) { end(nf, fault.ClearReading) }, true},
		{"ok by a kind of evidence that does not end it", fault.XidNVLink, func(nf *NodeFacts) { end(nf, fault.ClearKernel) }, false},
		{"ok without evidence", fault.XidNVLink, func(nf *NodeFacts) { end(nf, fault.ClearReading); nf.Findings[0].ClearedBy = nil }, false},
		{"unknown", fault.XidNVLink, func(nf *NodeFacts) { end(nf, fault.ClearReading); nf.Findings[0].State = fault.Unknown }, false},
		{"another finding of the kind", fault.XidNVLink, func(nf *NodeFacts) { end(nf, fault.ClearReading); nf.Findings[0].ID = "another" }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i := condemned(tc.kind)
			nf := &NodeFacts{Fresh: true, NodeStatus: fault.NodeStatus{Node: "n1", InstanceID: "i-1", BootID: "b-1", Findings: []fault.Finding{i.Findings[0].Finding}}}
			tc.change(nf)
			if nf.Findings[0].State == fault.Bad {
				nf.Findings = nil // an ended finding may not be mentioned any more
			}
			if got, why := j.cleared(&i.Findings[0], nf, true); got != tc.want {
				t.Errorf("cleared = %v (%s), want %v", got, why, tc.want)
			}
		})
	}
}

func end(nf *NodeFacts, by fault.Clear) {
	f := &nf.Findings[0]
	f.State, f.ClearedBy = fault.OK, &fault.Evidence{Source: "device", Time: f.First, Clear: by}
}

// Clearing is noted when it is seen: agents do not repeat it for ever. A finding
// that is bad again is not ended.
func TestClearIsNoted(t *testing.T) {
	j := judge{policy: new(handsOff(t)), catalogue: catalogue}
	i := condemned(fault.XidNVLink)
	bad := i.Findings[0].Finding
	nf := &NodeFacts{Fresh: true, NodeStatus: fault.NodeStatus{Node: "n1", InstanceID: "i-1", BootID: "b-1", Findings: []fault.Finding{bad}}}
	end(nf, fault.ClearReading)
	var noted []bool
	step := func(findings ...fault.Finding) {
		nf.Findings = findings
		j.clear(i, nf, true)
		ok, _ := i.cleared()
		noted = append(noted, ok)
	}
	ended := nf.Findings[0]
	step(bad)
	step(ended)
	step() // not mentioned any more
	step(bad)
	step() // forgotten while bad
	if diff := cmp.Diff([]bool{false, true, true, false, false}, noted); diff != "" {
		t.Errorf("cleared differs (-want +got):\n%s", diff)
	}
}

// The count of duplicates must be able to rise: it looks at the journal alone.
func TestDuplicateIsCounted(t *testing.T) {
	for _, tc := range []struct {
		name    string
		earlier Step
		want    float64
	}{
		{"replaced before", Step{Name: StepReplace, Key: "inc-0/replace/1", InstanceID: "i-1", Outcome: StepDone}, 1},
		{"perhaps replaced before", Step{Name: StepReplace, Key: "inc-0/replace/1", InstanceID: "i-1", Outcome: StepAmbiguous}, 1},
		{"refused before", Step{Name: StepReplace, Key: "inc-0/replace/1", InstanceID: "i-1", Outcome: StepRefused}, 0},
		{"another instance", Step{Name: StepReplace, Key: "inc-0/replace/1", InstanceID: "i-0", Outcome: StepDone}, 0},
		{"rebooted before", Step{Name: StepReboot, Key: "inc-0/reboot/1", InstanceID: "i-1", Outcome: StepDone}, 0},
	} {
		c, err := New(t.Context(), newWorld(2, false).options(handsOff(t), &journal.Memory{}))
		if err != nil {
			t.Fatal(err)
		}
		phases := []Phase{{State: Closed, From: time.Now()}}
		c.incidents["inc-0"] = track(&Incident{ID: "inc-0", Node: "n1", State: Closed, Phases: phases, Steps: []Step{tc.earlier}}, 1)
		now := &Incident{ID: "inc-1", Node: "n1", State: Acting, Steps: []Step{{Name: StepReplace, Key: "inc-1/replace/1", InstanceID: "i-1"}}}
		c.incidents["inc-1"] = track(now, 1)
		(&driver{Controller: c, t: c.incidents["inc-1"]}).countDuplicate(now)
		if got := testutil.ToFloat64(c.metrics.duplicates); got != tc.want {
			t.Errorf("%s: duplicates = %v, want %v", tc.name, got, tc.want)
		}
	}
}
