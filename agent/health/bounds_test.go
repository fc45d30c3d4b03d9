package health

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/internal/fault"
)

func TestEvidenceIsBounded(t *testing.T) {
	e := New(catalogue, here)
	for i := range 20 {
		e.see(float64(i), fault.XidMMUFault, fault.Bad)
	}
	var got []float64
	f := one(t, e, fault.XidMMUFault)
	for _, ev := range f.Evidence {
		got = append(got, ev.Time.Sub(t0).Seconds())
	}
	if want := []float64{0, 1, 14, 15, 16, 17, 18, 19}; !slices.Equal(got, want) || f.Count != 20 {
		t.Errorf("evidence of %v, count %d, want of %v, count 20", got, f.Count, want)
	}
}

func TestReplayedRecordCountsOnce(t *testing.T) {
	record := func(o *Observation) { o.Evidence.Sequence = 812; o.Time = at(0); o.Evidence.Text = "NVRM: Xid" }
	e := New(catalogue, here)
	e.see(0, fault.XidNVLink, fault.Bad, record)
	if e.see(5, fault.XidNVLink, fault.Bad, record) || one(t, e, fault.XidNVLink).Count != 1 {
		t.Error("one record, read twice, is two observations")
	}
}

func TestFindingsAreBounded(t *testing.T) {
	e := New(catalogue, here)
	gpu := func(i int) func(*Observation) { return of(gpuAt(fmt.Sprintf("%04x:53:00", i))) }
	long := func(o *Observation) { o.Evidence.Text = strings.Repeat("<", 1000) }
	kinds := []fault.Kind{fault.XidMMUFault, fault.XidNVLink, fault.XidDoubleBitECC, fault.XidOffTheBus, fault.GPUThermal,
		fault.GPUMissing, fault.DriverHung, fault.NeuronHardware, fault.EFAAdminQueue, fault.LustreConnection}
	for i := range 100 {
		e.see(0, fault.XidMMUFault, fault.Bad, gpu(i), nobody)
	}
	if n := len(e.Findings()); n != maxUnvouchedOfKind {
		t.Errorf("%d findings that nobody vouches for, want %d", n, maxUnvouchedOfKind)
	}
	for _, k := range kinds {
		for i := range maxPerKind + 8 {
			for range 9 {
				e.see(1, k, fault.Bad, gpu(1000+i), long)
			}
		}
	}
	findings := e.Findings()
	if len(findings) > maxFindings || e.Dropped() == 0 {
		t.Errorf("%d findings, %d dropped, want at most %d and the rest counted", len(findings), e.Dropped(), maxFindings)
	}
	for _, f := range findings {
		if f.Evidence[0].Authority == fault.ByNobody && f.Kind == fault.XidMMUFault {
			t.Error("what nobody vouches for was kept before what the kernel says")
			break
		}
	}
	report := fault.NodeReport{Schema: 1, Cluster: "c", Node: here.Node, BootID: here.BootID, Incarnation: 1, Findings: findings}
	if size := jsonSize(t, report); size > fault.MaxReportBytes {
		t.Errorf("a report of all findings has %d bytes, want at most %d", size, fault.MaxReportBytes)
	}
	if err := report.Validate(); err != nil {
		t.Error(err)
	}
}

func TestFindingsOrder(t *testing.T) {
	feed := []func(*Engine){
		func(e *Engine) { e.see(0, fault.XidMMUFault, fault.Bad, of(gpuAt("0000:54:00"))) },
		func(e *Engine) { e.see(0, fault.XidMMUFault, fault.Bad, of(gpuAt("0000:53:00"))) },
		func(e *Engine) { e.see(0, fault.DriverHung, fault.Bad) },
	}
	var orders [][]fault.Finding
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		e := New(catalogue, here)
		for _, i := range order {
			feed[i](e)
		}
		orders = append(orders, e.Findings())
	}
	for _, o := range orders[1:] {
		if diff := cmp.Diff(orders[0], o); diff != "" {
			t.Errorf("Findings depend on the order of observations:\n%s", diff)
		}
	}
}

// BenchmarkSteadyReading is what a node that is well costs each interval: eight
// GPUs, five healthy verdicts on each.
func BenchmarkSteadyReading(b *testing.B) {
	var reading []Observation
	for i := range 8 {
		for _, k := range []fault.Kind{fault.GPUMissing, fault.DriverHung, fault.XidMMUFault, fault.GPUThermal, fault.XidNVLink} {
			s := gpuAt(fmt.Sprintf("0000:5%d:00", i))
			s.UUID, s.Index = fmt.Sprintf("GPU-%d", i), &i
			reading = append(reading, Observation{Time: t0, Source: "device", Kind: k, Subject: s, State: fault.OK, Clear: fault.ClearReading,
				Evidence: fault.Evidence{Authority: fault.ByDevice, Text: "the driver lists the GPU"}})
		}
	}
	e := New(catalogue, here)
	b.ReportAllocs()
	for b.Loop() {
		e.Observe(t0, reading)
	}
}
