package incident

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// fleetFacts is a cluster of 8-GPU nodes that are well but for every hundredth,
// which has a finding of long ago.
func fleetFacts(nodes int) Facts {
	f := Facts{Now: time.Now()}
	for n := range nodes {
		nf := NodeFacts{Fresh: true, View: &NodeView{Node: fmt.Sprintf("n%d", n), Responding: RespondingYes, Job: "42"}, NodeStatus: fault.NodeStatus{
			Node: fmt.Sprintf("n%d", n), InstanceID: fmt.Sprintf("i-%d", n), BootID: fmt.Sprintf("b-%d", n), State: fault.OK,
			Coverage: []fault.Coverage{{Source: "kernel", State: fault.CoverageOK}, {Source: "device", State: fault.CoverageOK}},
			Jobs:     make([]fault.Process, 8),
		}}
		if n%100 == 0 {
			nf.Findings = append(nf.Findings, finding(&node{name: nf.Node, instance: nf.InstanceID, boot: nf.BootID}, fault.XidMMUFault))
		}
		f.Nodes = append(f.Nodes, nf)
	}
	return f
}

// BenchmarkObserve judges 2,048 nodes of which each time one more has a new
// fault, journalled on a disk. The budget is 50 ms at the 99th percentile.
func BenchmarkObserve(b *testing.B) {
	j, err := journal.OpenBolt(filepath.Join(b.TempDir(), "journal.db"), time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	pol, err := policy.Shipped(policy.NameObserve)
	if err != nil {
		b.Fatal(err)
	}
	c, err := New(b.Context(), newWorld(1, false).options(pol, j))
	if err != nil {
		b.Fatal(err)
	}
	facts := fleetFacts(2048)
	var took []time.Duration
	next := 0
	for b.Loop() {
		if next < len(facts.Nodes) {
			nf := &facts.Nodes[next]
			nf.Findings = append(nf.Findings, finding(&node{name: nf.Node, instance: nf.InstanceID, boot: nf.BootID}, fault.XidOffTheBus))
			next++
		}
		facts.Now = time.Now()
		if err := c.Observe(b.Context(), facts); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(facts.Now))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkOpenMany opens 750 incidents at once and drives each to its isolation,
// journalled on a disk. The budget is 10 s.
func BenchmarkOpenMany(b *testing.B) {
	for b.Loop() {
		j, err := journal.OpenBolt(filepath.Join(b.TempDir(), "journal.db"), time.Second)
		if err != nil {
			b.Fatal(err)
		}
		w := newWorld(750, false)
		w.job.nodes = nil
		for name := range w.nodes {
			w.raise(name, fault.XidDoubleBitECC)
		}
		pol := handsOff(b, func(p *policy.Policy) {
			p.Guards.Budget.ClusterIsolated = 0
			p.Guards.CommonCause.Nodes = 1000
		})
		start := time.Now()
		p := launch(b, w, w.options(pol, j))
		for isolated := 0; isolated < 750; {
			time.Sleep(10 * time.Millisecond)
			isolated = 0
			for _, i := range p.Incidents() {
				if i.did(StepIsolate) {
					isolated++
				}
			}
		}
		b.ReportMetric(time.Since(start).Seconds(), "s/750-isolations")
		p.stop()
		j.Close()
	}
}
