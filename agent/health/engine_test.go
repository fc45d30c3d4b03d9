package health

import (
	"fmt"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

var (
	t0        = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	catalogue = fault.NewCatalogue(fault.DefaultTiming())
	here      = Identity{Node: "ip-10-1-0-1", InstanceID: "i-0aaaaaaaaaaaaaaaa", BootID: "boot-1"}
)

func at(seconds float64) time.Time { return t0.Add(time.Duration(seconds * float64(time.Second))) }

func gpuAt(pci string) fault.Subject { return fault.Subject{Device: fault.DeviceGPU, PCI: pci} }

// see gives the engine one observation, made now and vouched for by the
// source that the catalogue names for the kind.
func (e *Engine) see(seconds float64, k fault.Kind, state fault.State, change ...func(*Observation)) bool {
	o := Observation{Time: at(seconds), Source: catalogue.Row(k).RaisedBy[0], Kind: k, Subject: gpuAt("0000:53:00"), State: state}
	o.Evidence.Authority = fault.ByKernel
	o.Evidence.Text = fmt.Sprintf("%s %s at %g", k, state, seconds)
	if state == fault.OK {
		o.Clear = fault.ClearReading
	}
	for _, c := range change {
		c(&o)
	}
	return e.Observe(at(seconds), []Observation{o})
}

func nobody(o *Observation)   { o.Evidence.Authority = fault.ByNobody }
func injected(o *Observation) { o.Simulated = true }
func of(s fault.Subject) func(*Observation) {
	return func(o *Observation) { o.Subject = s }
}
func happened(seconds float64) func(*Observation) {
	return func(o *Observation) { o.Time = at(seconds) }
}
func clearing(c fault.Clear) func(*Observation) {
	return func(o *Observation) { o.Clear = c }
}

// one gives the only finding of the kind.
func one(t *testing.T, e *Engine, k fault.Kind) fault.Finding {
	t.Helper()
	var found []fault.Finding
	for _, f := range e.Findings() {
		if f.Kind == k {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d findings of kind %s, want 1", len(found), k)
	}
	return found[0]
}

func TestConfirmByAgreement(t *testing.T) {
	for _, tc := range []struct {
		name         string
		xid, missing float64 // when each happened, seen in the order of time
		late         bool    // the Xid is seen only 100 s later
		want         bool
	}{
		{"Xid first", 0, 60, false, true},
		{"reading first", 60, 0, false, true},
		{"Xid too early", 0, 60.001, false, false},
		{"Xid too late", 60.001, 0, false, false},
		{"Xid read late", 1, 0, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := New(catalogue, here)
			if tc.late {
				e.see(tc.missing, fault.GPUMissing, fault.Bad)
				e.see(100, fault.XidOffTheBus, fault.Bad, happened(tc.xid))
			} else if tc.xid < tc.missing {
				e.see(tc.xid, fault.XidOffTheBus, fault.Bad)
				e.see(tc.missing, fault.GPUMissing, fault.Bad)
			} else {
				e.see(tc.missing, fault.GPUMissing, fault.Bad)
				e.see(tc.xid, fault.XidOffTheBus, fault.Bad)
			}
			xid := one(t, e, fault.XidOffTheBus)
			if got := !xid.Provisional; got != tc.want {
				t.Errorf("Xid 79 confirmed = %t, want %t", got, tc.want)
			}
			if got := one(t, e, fault.GPUMissing).SubsumedBy; tc.want && got != xid.ID {
				t.Errorf("missing GPU is explained by %q, want %q", got, xid.ID)
			}
		})
	}
	e := New(catalogue, here)
	e.see(0, fault.XidOffTheBus, fault.Bad)
	e.see(1, fault.GPUMissing, fault.Bad, of(gpuAt("0000:54:00")))
	if !one(t, e, fault.XidOffTheBus).Provisional {
		t.Error("Xid 79 is confirmed by another GPU that is missing")
	}
}

func TestConfirmKeepsID(t *testing.T) {
	e := New(catalogue, here)
	e.see(0, fault.XidOffTheBus, fault.Bad)
	before := one(t, e, fault.XidOffTheBus)
	e.see(1, fault.GPUMissing, fault.Bad)
	after := one(t, e, fault.XidOffTheBus)
	if !before.Provisional || after.Provisional || before.ID != after.ID {
		t.Errorf("Xid 79 went from %s (provisional %t) to %s (provisional %t), want the same id, confirmed", before.ID, before.Provisional, after.ID, after.Provisional)
	}
}

func TestConfirmByCount(t *testing.T) {
	for _, tc := range []struct {
		second float64
		want   bool
	}{{60, true}, {60.001, false}} {
		e := New(catalogue, here)
		e.see(0, fault.XidNVLink, fault.Bad)
		if !one(t, e, fault.XidNVLink).Provisional {
			t.Fatal("one observation of two confirms")
		}
		e.see(tc.second, fault.XidNVLink, fault.Bad)
		if got := !one(t, e, fault.XidNVLink).Provisional; got != tc.want {
			t.Errorf("a second observation after %g s confirms = %t, want %t", tc.second, got, tc.want)
		}
	}
}

func TestConfirmByHold(t *testing.T) {
	type step struct {
		seconds float64
		state   fault.State // empty for a tick
	}
	for _, tc := range []struct {
		name  string
		steps []step
		want  bool
	}{
		{"renewed until the hold", []step{{0, fault.Bad}, {15, fault.Bad}, {30, fault.Bad}}, true},
		{"elapses between readings", []step{{0, fault.Bad}, {20, fault.Bad}, {30, ""}}, true},
		{"not yet", []step{{0, fault.Bad}, {29, fault.Bad}, {29.999, ""}}, false},
		{"never renewed", []step{{0, fault.Bad}, {30, ""}, {90, ""}}, false},
		{"an ok between", []step{{0, fault.Bad}, {15, fault.OK}, {20, fault.Bad}, {30, fault.Bad}, {31, ""}}, false},
		{"an unknown between", []step{{0, fault.Bad}, {15, fault.Unknown}, {20, fault.Bad}, {30, fault.Bad}, {31, ""}}, false},
		{"a gap", []step{{0, fault.Bad}, {1, fault.Bad}, {32, fault.Bad}, {33, ""}}, false},
		{"a tick after a gap", []step{{0, fault.Bad}, {1, fault.Bad}, {32, ""}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := New(catalogue, here)
			for _, s := range tc.steps {
				if s.state == "" {
					e.Tick(at(s.seconds))
				} else {
					e.see(s.seconds, fault.GPUThermal, s.state)
				}
			}
			if got := !one(t, e, fault.GPUThermal).Provisional; got != tc.want {
				t.Errorf("confirmed = %t, want %t", got, tc.want)
			}
		})
	}
}

func TestNext(t *testing.T) {
	e := New(catalogue, here)
	if got := e.Next(); !got.IsZero() {
		t.Errorf("Next of an empty engine = %s, want never", got)
	}
	e.see(0, fault.GPUThermal, fault.Bad)
	if got := e.Next(); !got.IsZero() {
		t.Errorf("Next after one hot reading = %s, want never: it has to be renewed", got)
	}
	e.see(5, fault.GPUThermal, fault.Bad)
	if got := e.Next(); !got.Equal(at(30)) {
		t.Errorf("Next = %s, want %s, when the hold elapses", got, at(30))
	}
	if !e.Tick(at(30)) || !e.Next().IsZero() {
		t.Errorf("Tick at the hold changed nothing, or leaves something for %s", e.Next())
	}
}

func TestExplanation(t *testing.T) {
	e := New(catalogue, here)
	e.see(0, fault.XidMMUFault, fault.Bad)
	e.see(1, fault.XidOffTheBus, fault.Bad)
	xid := one(t, e, fault.XidOffTheBus)
	if got := one(t, e, fault.XidMMUFault).SubsumedBy; got != xid.ID {
		t.Errorf("MMU fault beside a provisional Xid 79 is explained by %q, want %q while it can be confirmed", got, xid.ID)
	}
	if got := e.Next(); !got.Equal(at(61)) {
		t.Errorf("Next = %s, want %s, when Xid 79 can no longer be confirmed", got, at(61))
	}
	if !e.Tick(at(61)) {
		t.Error("Tick reports no change when a provisional explanation lapses")
	}
	if got := one(t, e, fault.XidMMUFault).SubsumedBy; got != "" {
		t.Errorf("MMU fault is still explained by %s, which was never confirmed", got)
	}

	e = New(catalogue, here)
	for _, seconds := range []float64{0, 10, 20, 30} {
		e.see(seconds, fault.DriverHung, fault.Bad)
		e.see(seconds, fault.GPUMissing, fault.Bad)
	}
	missing := one(t, e, fault.GPUMissing)
	if got := one(t, e, fault.DriverHung).SubsumedBy; got != missing.ID {
		t.Errorf("hung driver is explained by %q, want %q", got, missing.ID)
	}
	e.see(31, fault.XidOffTheBus, fault.Bad)
	xid = one(t, e, fault.XidOffTheBus)
	for _, k := range []fault.Kind{fault.DriverHung, fault.GPUMissing} {
		if got := one(t, e, k).SubsumedBy; got != xid.ID {
			t.Errorf("%s is explained by %q, want the root %q", k, got, xid.ID)
		}
	}

	e = New(catalogue, here)
	e.see(0, fault.GPUMissing, fault.Bad)
	e.see(1, fault.GPUMissing, fault.Bad)
	e.see(1, fault.DriverHung, fault.Bad)
	for _, seconds := range []float64{2, 32, 62} {
		e.see(seconds, fault.GPUMissing, fault.OK)
	}
	if f := one(t, e, fault.DriverHung); f.SubsumedBy != "" || f.State != fault.Bad {
		t.Errorf("after its cause ended: %+v, want it bad and unexplained", f)
	}
}

func TestClearByReading(t *testing.T) {
	for _, tc := range []struct {
		name  string
		feed  func(e *Engine)
		want  fault.State
		after string
	}{
		{"held", func(e *Engine) { e.see(10, fault.XidMMUFault, fault.OK); e.see(70, fault.XidMMUFault, fault.OK) }, fault.OK, ""},
		{"not held", func(e *Engine) { e.see(10, fault.XidMMUFault, fault.OK); e.see(69.999, fault.XidMMUFault, fault.OK) }, fault.Bad, ""},
		{"a bad one between", func(e *Engine) {
			e.see(10, fault.XidMMUFault, fault.OK)
			e.see(40, fault.XidMMUFault, fault.Bad)
			e.see(70, fault.XidMMUFault, fault.OK)
			e.see(129.999, fault.XidMMUFault, fault.OK)
		}, fault.Bad, ""},
		{"an unknown between", func(e *Engine) {
			e.see(10, fault.XidMMUFault, fault.OK)
			e.see(40, fault.XidMMUFault, fault.Unknown)
			e.see(70, fault.XidMMUFault, fault.OK)
		}, fault.Bad, ""},
		{"a gap", func(e *Engine) { e.see(10, fault.XidMMUFault, fault.OK); e.see(70.001, fault.XidMMUFault, fault.OK) }, fault.Bad, ""},
		{"time alone", func(e *Engine) { e.see(10, fault.XidMMUFault, fault.OK); e.Tick(at(500)) }, fault.Bad, ""},
		{"nobody's word", func(e *Engine) {
			e.see(10, fault.XidMMUFault, fault.OK, nobody)
			e.see(70, fault.XidMMUFault, fault.OK, nobody)
		}, fault.Bad, ""},
		{"simulated", func(e *Engine) {
			e.see(10, fault.XidMMUFault, fault.OK, injected)
			e.see(70, fault.XidMMUFault, fault.OK, injected)
		}, fault.Bad, ""},
		{"another kind of evidence", func(e *Engine) { e.see(70, fault.XidMMUFault, fault.OK, clearing(fault.ClearKernel)) }, fault.Bad, ""},
		{"no kind of evidence", func(e *Engine) { e.see(70, fault.XidMMUFault, fault.OK, clearing("")) }, fault.Bad, ""},
		{"a reset", func(e *Engine) { e.see(10, fault.XidMMUFault, fault.OK, clearing(fault.ClearReset)) }, fault.OK, ""},
		{"a reset before the fault", func(e *Engine) {
			e.see(10, fault.XidMMUFault, fault.OK, clearing(fault.ClearReset), happened(-1))
		}, fault.Bad, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := New(catalogue, here)
			e.see(0, fault.XidMMUFault, fault.Bad)
			tc.feed(e)
			f := one(t, e, fault.XidMMUFault)
			if f.State != tc.want || (f.State == fault.OK) != (f.ClearedBy != nil && f.ClearedBy.Clear != "") {
				t.Errorf("state = %s, cleared by %+v, want %s", f.State, f.ClearedBy, tc.want)
			}
		})
	}
}

func TestDelivered(t *testing.T) {
	e := New(catalogue, here)
	e.see(0, fault.XidMMUFault, fault.Bad)
	id := one(t, e, fault.XidMMUFault).ID
	e.Delivered([]string{id})
	if f := one(t, e, fault.XidMMUFault); f.State != fault.Bad {
		t.Errorf("a delivered active finding is %s, want it kept", f.State)
	}
	e.see(1, fault.XidMMUFault, fault.OK, clearing(fault.ClearReset))
	if f := one(t, e, fault.XidMMUFault); f.State != fault.OK {
		t.Errorf("the finding is %s, want ok until it is delivered", f.State)
	}
	if e.see(2, fault.XidMMUFault, fault.Bad, happened(0.5)) {
		t.Error("a record older than the reset began the finding anew")
	}
	e.Delivered([]string{"another"})
	one(t, e, fault.XidMMUFault)
	e.see(3, fault.XidMMUFault, fault.Bad)
	if f := one(t, e, fault.XidMMUFault); f.State != fault.Bad || f.ID != id || f.Count != 1 || f.ClearedBy != nil {
		t.Errorf("after it came back: %+v, want it bad under the same id, begun anew", f)
	}
	e.see(4, fault.XidMMUFault, fault.OK, clearing(fault.ClearReset))
	e.Delivered([]string{id})
	if got := e.Findings(); len(got) != 0 {
		t.Errorf("Findings() after delivery = %v, want none", got)
	}
}

func TestUnknown(t *testing.T) {
	e := New(catalogue, here)
	if !e.see(0, fault.GPUThermal, fault.Unknown) {
		t.Error("that something is not known is no news")
	}
	f := one(t, e, fault.GPUThermal)
	if authorises, _ := f.Authorises(); f.State != fault.Unknown || authorises {
		t.Errorf("finding = %+v, want unknown, authorising nothing", f)
	}
	e.see(1, fault.GPUThermal, fault.Bad)
	if got := one(t, e, fault.GPUThermal); got.State != fault.Bad || got.ID != f.ID {
		t.Errorf("after a bad reading: %s %s, want bad %s", got.State, got.ID, f.ID)
	}
	e = New(catalogue, here)
	e.see(0, fault.GPUThermal, fault.Unknown)
	e.see(1, fault.GPUThermal, fault.OK)
	if got := one(t, e, fault.GPUThermal); got.State != fault.OK {
		t.Errorf("an unknown that became healthy is %s, want ok at once", got.State)
	}
	e = New(catalogue, here)
	e.see(0, fault.XidNVLink, fault.Unknown, func(o *Observation) { o.Source = "device" })
	e.see(0, fault.GPUThermal, fault.Unknown, nobody)
	if got := e.Findings(); len(got) != 0 {
		t.Errorf("unknown of a source that cannot know, and of nobody, began %v", got)
	}
}

func TestNobodysWord(t *testing.T) {
	e := New(catalogue, here)
	for i := range 10 {
		e.see(float64(i), fault.XidDoubleBitECC, fault.Bad, nobody)
		e.see(float64(i), fault.XidOffTheBus, fault.Bad, nobody)
	}
	e.see(10, fault.GPUMissing, fault.Bad)
	e.see(11, fault.GPUMissing, fault.Bad)
	for _, k := range []fault.Kind{fault.XidDoubleBitECC, fault.XidOffTheBus} {
		f := one(t, e, k)
		if authorises, _ := f.Authorises(); !f.Provisional || authorises {
			t.Errorf("%s that nobody vouches for: provisional %t, authorises %t", k, f.Provisional, authorises)
		}
	}
	missing := one(t, e, fault.GPUMissing)
	if authorises, why := missing.Authorises(); !authorises {
		t.Errorf("a forged Xid 79 keeps a missing GPU from authorising: %s", why)
	}

	e.see(12, fault.XidDoubleBitECC, fault.Bad)
	for i := range 10 { // a flood after the kernel's own record
		e.see(13+float64(i), fault.XidDoubleBitECC, fault.Bad, nobody, func(o *Observation) { o.Action = fault.Replace })
	}
	f := one(t, e, fault.XidDoubleBitECC)
	if authorises, why := f.Authorises(); !authorises || f.Action != fault.ResetDevice || f.Count != 1 || !f.First.Equal(at(12)) {
		t.Errorf("the kernel's word among forged ones: %+v (%s), want it to stand alone", f, why)
	}
}

func TestSimulatedBesideGenuine(t *testing.T) {
	e := New(catalogue, here)
	e.see(0, fault.XidOffTheBus, fault.Bad)
	e.see(1, fault.GPUMissing, fault.Bad, injected)
	if f := one(t, e, fault.XidOffTheBus); !f.Provisional || f.Simulated {
		t.Errorf("a genuine Xid 79 beside a simulated missing GPU: %+v, want it provisional and genuine", f)
	}
	e.see(2, fault.XidMMUFault, fault.Bad, injected)
	e.see(3, fault.XidMMUFault, fault.Bad)
	e.see(4, fault.XidMMUFault, fault.Bad, injected)
	if f := one(t, e, fault.XidMMUFault); f.Simulated || f.Count != 1 {
		t.Errorf("a genuine MMU fault among simulated ones: %+v, want it to stand alone", f)
	}
}

func TestMergeSubjects(t *testing.T) {
	index := 3
	full := fault.Subject{Device: fault.DeviceGPU, PCI: "0000:53:00", UUID: "GPU-a", Index: &index}
	byUUID := fault.Subject{Device: fault.DeviceGPU, UUID: "GPU-a"}

	e := New(catalogue, here)
	e.see(0, fault.XidMMUFault, fault.Bad)
	if !e.see(1, fault.GPUThermal, fault.OK, of(full)) {
		t.Error("that a finding's device is known by name is no news")
	}
	f := one(t, e, fault.XidMMUFault)
	if f.Subject.UUID != "GPU-a" || f.Subject.Index == nil || *f.Subject.Index != 3 {
		t.Errorf("subject = %+v, want it enriched by the reading", f.Subject)
	}
	e.see(2, fault.XidMMUFault, fault.Bad, of(byUUID))
	if got := one(t, e, fault.XidMMUFault); got.ID != f.ID || got.Count != 2 {
		t.Errorf("by UUID: id %s seen %d times, want %s twice", got.ID, got.Count, f.ID)
	}

	e = New(catalogue, here)
	e.see(0, fault.GPUMissing, fault.Bad, of(byUUID))
	id := one(t, e, fault.GPUMissing).ID
	e.see(1, fault.GPUMissing, fault.Bad, of(full))
	e.see(2, fault.XidOffTheBus, fault.Bad)
	f = one(t, e, fault.GPUMissing)
	if f.ID != id || f.Count != 2 || f.SubsumedBy != one(t, e, fault.XidOffTheBus).ID {
		t.Errorf("finding that began without PCI address: %+v, want id %s, seen twice, explained", f, id)
	}
}

func TestEscalation(t *testing.T) {
	neuron := func(e *Engine, seconds float64, action fault.Action, severity fault.Severity) bool {
		return e.see(seconds, fault.NeuronHardware, fault.Bad, func(o *Observation) { o.Action, o.Severity = action, severity })
	}
	e := New(catalogue, here)
	neuron(e, 0, fault.Investigate, fault.Warning)
	if f := one(t, e, fault.NeuronHardware); f.Action != fault.Investigate || f.Severity != fault.Warning {
		t.Errorf("action %s, severity %s, want what the evidence names", f.Action, f.Severity)
	}
	if !neuron(e, 1, "", "") {
		t.Error("an escalation is no news")
	}
	neuron(e, 2, fault.Reboot, fault.Warning)
	if f := one(t, e, fault.NeuronHardware); f.Action != fault.Replace || f.Severity != fault.Fatal {
		t.Errorf("action %s, severity %s, want the highest that was asked for", f.Action, f.Severity)
	}
}
