package ingest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/evenkeel/evenkeel/internal/fault"
)

const (
	cluster  = "hp"
	node     = "ip-10-1-0-1"
	instance = "i-0aaa"
	boot     = "boot-1"
)

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// clock is a receiver's clock that moves when told.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newStore(t *testing.T, o Options) (*Store, *clock) {
	t.Helper()
	c := &clock{now: start}
	o.Cluster, o.Now = cluster, c.Now
	return New(o), c
}

func finding(kind fault.Kind, state fault.State) fault.Finding {
	subject := fault.Subject{Node: node, InstanceID: instance, Device: fault.DeviceGPU, PCI: "0000:53:00"}
	f := fault.Finding{
		ID: fault.NewID(kind, subject, boot), Kind: kind, Subject: subject, State: state, Severity: fault.Fatal, Action: fault.Reboot,
		BootID: boot, First: start, Last: start, Count: 1,
		Evidence: []fault.Evidence{{Source: "kernel", Authority: fault.ByKernel, Time: start, BootID: boot}},
	}
	if state == fault.OK {
		f.ClearedBy = &fault.Evidence{Source: "device", Time: start, Clear: fault.ClearReset}
	}
	return f
}

func report(incarnation int64, sequence uint64, findings ...fault.Finding) *fault.NodeReport {
	return &fault.NodeReport{
		Schema: fault.ReportSchema, Cluster: cluster, Node: node, InstanceID: instance, BootID: boot,
		Incarnation: incarnation, Sequence: sequence, SentAt: start, Findings: findings,
	}
}

func accept(t *testing.T, s *Store, r *fault.NodeReport) {
	t.Helper()
	if err := r.Validate(); err != nil {
		t.Fatalf("the test's report is not one: %v", err)
	}
	if err := s.Accept(r); err != nil {
		t.Fatalf("Accept(%v) = %v, want nil", r.Position(), err)
	}
}

func only(t *testing.T, s *Store) Node {
	t.Helper()
	nodes := s.Nodes()
	if len(nodes) != 1 {
		t.Fatalf("Nodes() holds %d nodes, want 1", len(nodes))
	}
	return nodes[0]
}

func TestOrder(t *testing.T) {
	at := func(bootID string, incarnation int64, sequence uint64) *fault.NodeReport {
		r := report(incarnation, sequence)
		r.BootID = bootID
		return r
	}
	for _, test := range []struct {
		name   string
		second *fault.NodeReport
		stale  bool
	}{
		{"next of the incarnation", at(boot, 5, 8), false},
		{"the same again", at(boot, 5, 7), true},
		{"one before", at(boot, 5, 6), true},
		{"first of a later incarnation", at(boot, 6, 1), false},
		{"last of an earlier incarnation", at(boot, 4, 900), true},
		{"later incarnation in another boot", at("boot-2", 6, 1), false},
		{"earlier incarnation in another boot", at("boot-2", 4, 900), true},
		{"same incarnation in another boot", at("boot-2", 5, 8), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := newStore(t, Options{})
			first := at(boot, 5, 7)
			accept(t, s, first)
			err := s.Accept(test.second)
			stale, isStale := errors.AsType[*StaleError](err)
			if isStale != test.stale || (err != nil) != test.stale {
				t.Fatalf("Accept(%v) after %v = %v, want stale %v", test.second.Position(), first.Position(), err, test.stale)
			}
			want := test.second
			if test.stale {
				want = first
				if stale.Held != first.Position() {
					t.Errorf("StaleError.Held = %v, want %v", stale.Held, first.Position())
				}
			}
			if got := only(t, s).Report; got != want {
				t.Errorf("held report is %v, want %v", got.Position(), want.Position())
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	s, _ := newStore(t, Options{MaxNodes: 1, Registerer: registry})

	other := report(1, 1)
	other.Cluster = "other"
	if err := s.Accept(other); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("Accept(report of another cluster) = %v, want %v", err, ErrOtherCluster)
	}
	if n := len(s.Nodes()); n != 0 {
		t.Errorf("%d nodes held after a refused report, want 0", n)
	}
	accept(t, s, report(1, 1))
	second := report(1, 1)
	second.Node = "ip-10-1-0-2"
	if err := s.Accept(second); !errors.Is(err, ErrFull) {
		t.Errorf("Accept(one node too many) = %v, want %v", err, ErrFull)
	}
	accept(t, s, report(1, 2)) // a node that is held stays welcome
	if err := s.Accept(report(1, 2)); err == nil {
		t.Error("Accept(the same report again) = nil, want an error")
	}
	s.Refused(ReasonIdentity)

	want := `
# HELP evenkeel_remediator_report_refusals_total Node reports that were refused, by reason.
# TYPE evenkeel_remediator_report_refusals_total counter
evenkeel_remediator_report_refusals_total{cluster="hp",reason="cluster"} 1
evenkeel_remediator_report_refusals_total{cluster="hp",reason="full"} 1
evenkeel_remediator_report_refusals_total{cluster="hp",reason="identity"} 1
evenkeel_remediator_report_refusals_total{cluster="hp",reason="malformed"} 0
evenkeel_remediator_report_refusals_total{cluster="hp",reason="stale"} 1
evenkeel_remediator_report_refusals_total{cluster="hp",reason="too_large"} 0
# HELP evenkeel_remediator_reports_accepted_total Node reports that became the newest of their node.
# TYPE evenkeel_remediator_reports_accepted_total counter
evenkeel_remediator_reports_accepted_total{cluster="hp"} 2
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
		"evenkeel_remediator_report_refusals_total", "evenkeel_remediator_reports_accepted_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("GatherAndLint() = %v, %v, want nothing", problems, err)
	}
}

func TestAbsenceClearsNothing(t *testing.T) {
	next := func(change func(*fault.NodeReport)) *fault.NodeReport {
		r := report(2, 1)
		change(r)
		return r
	}
	for _, test := range []struct {
		name   string
		kind   fault.Kind
		report *fault.NodeReport
		want   fault.State
		clear  fault.Clear
	}{
		{"same boot, not named", fault.XidOffTheBus, next(func(r *fault.NodeReport) {}), fault.Unknown, ""},
		{"same boot, named ok", fault.XidOffTheBus, next(func(r *fault.NodeReport) {
			r.Findings = []fault.Finding{finding(fault.XidOffTheBus, fault.OK)}
		}), fault.OK, fault.ClearReset},
		{"same boot, another finding named ok", fault.XidOffTheBus, next(func(r *fault.NodeReport) {
			r.Findings = []fault.Finding{finding(fault.XidNVLink, fault.OK)}
		}), fault.Unknown, ""},
		{"same boot, still bad", fault.XidOffTheBus, next(func(r *fault.NodeReport) {
			r.Findings = []fault.Finding{finding(fault.XidOffTheBus, fault.Bad)}
		}), fault.Bad, ""},
		{"new boot, a reboot clears the kind", fault.XidOffTheBus, next(func(r *fault.NodeReport) { r.BootID = "boot-2" }), fault.OK, fault.ClearReboot},
		{"new boot, only a replacement clears the kind", fault.NeuronHardware, next(func(r *fault.NodeReport) { r.BootID = "boot-2" }), fault.Unknown, ""},
		{"new boot, kind that this version does not know", "nvidia.xid.9999", next(func(r *fault.NodeReport) { r.BootID = "boot-2" }), fault.Unknown, ""},
		{"new instance", fault.NeuronHardware, next(func(r *fault.NodeReport) { r.BootID, r.InstanceID = "boot-2", "i-0bbb" }), fault.OK, fault.ClearReplaced},
		{"instance no longer known", fault.NeuronHardware, next(func(r *fault.NodeReport) { r.BootID, r.InstanceID = "boot-2", "" }), fault.Unknown, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, c := newStore(t, Options{})
			before := finding(test.kind, fault.Bad)
			accept(t, s, report(1, 1, before))
			c.now = c.now.Add(time.Second)
			accept(t, s, test.report)
			var got *fault.Finding
			held := only(t, s).Findings
			for i := range held {
				if held[i].ID == before.ID {
					got = &held[i]
				}
			}
			if got == nil {
				t.Fatalf("finding %s is gone, want it with state %s", before.ID, test.want)
			}
			if got.State != test.want {
				t.Errorf("state = %s, want %s", got.State, test.want)
			}
			if allowed, _ := got.Authorises(); allowed != (test.want == fault.Bad) {
				t.Errorf("Authorises() = %v, want %v", allowed, test.want == fault.Bad)
			}
			var clear fault.Clear
			if got.ClearedBy != nil {
				clear = got.ClearedBy.Clear
			}
			if clear != test.clear {
				t.Errorf("cleared by %q, want %q", clear, test.clear)
			}
		})
	}
}

func TestUnconfirmedStaysUntilNamedAgain(t *testing.T) {
	s, c := newStore(t, Options{})
	accept(t, s, report(1, 1, finding(fault.XidOffTheBus, fault.Bad)))
	var evidence int
	for sequence := uint64(2); sequence < 5; sequence++ {
		c.now = c.now.Add(10 * time.Second)
		accept(t, s, report(1, sequence))
		held := only(t, s).Findings
		if len(held) != 1 || held[0].State != fault.Unknown {
			t.Fatalf("after report %d held %v, want one unknown finding", sequence, held)
		}
		evidence = len(held[0].Evidence)
	}
	if evidence != 2 {
		t.Errorf("finding carries %d pieces of evidence, want 2: the doubt is written once", evidence)
	}
	accept(t, s, report(1, 5, finding(fault.XidOffTheBus, fault.Bad)))
	if got := only(t, s).Findings; len(got) != 1 || got[0].State != fault.Bad || len(got[0].Evidence) != 1 {
		t.Errorf("named bad again, held %v, want the report's finding", got)
	}
	accept(t, s, report(1, 6, finding(fault.XidOffTheBus, fault.OK)))
	accept(t, s, report(1, 7))
	if got := only(t, s).Findings; len(got) != 1 || got[0].State != fault.OK {
		t.Errorf("after ok and a report without it, held %v, want it still ok: one missed look must not hide the end", got)
	}
}

func TestHeldFindingsAreBounded(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	s, c := newStore(t, Options{Registerer: registry})
	for sequence := range uint64(3) {
		var findings []fault.Finding
		for i := range 1000 {
			f := finding(fault.XidNVLink, fault.Bad)
			f.ID = fmt.Sprintf("invented-%d-%d", sequence, i)
			findings = append(findings, f)
		}
		c.now = c.now.Add(time.Second)
		accept(t, s, report(1, sequence+1, findings...))
	}
	if got, want := len(only(t, s).Findings), 1000+maxUnconfirmed; got != want {
		t.Errorf("%d findings held, want %d", got, want)
	}
	if got, want := testutil.ToFloat64(s.dropped), float64(2000-maxUnconfirmed); got != want {
		t.Errorf("evenkeel_remediator_findings_dropped_total = %v, want %v", got, want)
	}
}

func TestSimulatedReachesEveryFinding(t *testing.T) {
	s, _ := newStore(t, Options{})
	r := report(1, 1, finding(fault.XidOffTheBus, fault.Bad))
	r.Simulated = true
	accept(t, s, r)
	accept(t, s, report(1, 2, finding(fault.XidNVLink, fault.Bad)))
	got := map[fault.Kind]bool{}
	for _, f := range only(t, s).Findings {
		got[f.Kind] = f.Simulated
	}
	want := map[fault.Kind]bool{fault.XidOffTheBus: true, fault.XidNVLink: false}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("simulated by kind (-want +got):\n%s", diff)
	}
	if r.Findings[0].Simulated {
		t.Error("the accepted report was modified")
	}
}

// notices counts the changes that wait.
func notices(s *Store) int {
	for n := 0; ; n++ {
		select {
		case <-s.Changed():
		default:
			return n
		}
	}
}

func TestChangesAreCoalesced(t *testing.T) {
	s, _ := newStore(t, Options{})
	for sequence := range uint64(3) {
		accept(t, s, report(1, sequence+1, finding(fault.XidOffTheBus, []fault.State{fault.Bad, fault.OK}[sequence%2])))
	}
	if got := notices(s); got != 1 {
		t.Errorf("%d notices wait after three changes, want 1", got)
	}
}

func TestOnlyChangesGiveNotice(t *testing.T) {
	with := func(change func(*fault.Finding)) fault.Finding {
		f := finding(fault.XidOffTheBus, fault.Bad)
		change(&f)
		return f
	}
	before := with(func(*fault.Finding) {})
	for _, test := range []struct {
		name   string
		change func(*fault.NodeReport)
		want   int
	}{
		{"heartbeat", func(r *fault.NodeReport) { r.SentAt = r.SentAt.Add(time.Minute) }, 0},
		{"finding seen again", func(r *fault.NodeReport) {
			r.Findings = []fault.Finding{with(func(f *fault.Finding) { f.Count, f.Last = 2, f.Last.Add(time.Minute) })}
		}, 0},
		{"source read again", func(r *fault.NodeReport) { r.Coverage[0].AgeSeconds = 3 }, 0},
		{"finding confirmed", func(r *fault.NodeReport) {
			r.Findings = []fault.Finding{with(func(f *fault.Finding) { f.Provisional = true })}
		}, 1},
		{"finding explained", func(r *fault.NodeReport) {
			r.Findings = []fault.Finding{with(func(f *fault.Finding) { f.SubsumedBy = "x" })}
		}, 1},
		{"finding cleared", func(r *fault.NodeReport) { r.Findings = []fault.Finding{finding(fault.XidOffTheBus, fault.OK)} }, 1},
		{"finding left out", func(r *fault.NodeReport) { r.Findings = nil }, 1},
		{"another finding", func(r *fault.NodeReport) { r.Findings = append(r.Findings, finding(fault.XidNVLink, fault.Bad)) }, 1},
		{"source lost", func(r *fault.NodeReport) { r.Coverage[0].State = fault.CoverageUnknown }, 1},
		{"job gone", func(r *fault.NodeReport) { r.Jobs = nil }, 1},
		{"rebooted", func(r *fault.NodeReport) { r.BootID = "boot-2" }, 1},
		{"replaced", func(r *fault.NodeReport) { r.InstanceID = "i-0bbb" }, 1},
		{"simulated", func(r *fault.NodeReport) { r.Simulated = true }, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := newStore(t, Options{})
			fresh := func(incarnation int64) *fault.NodeReport {
				r := report(incarnation, 1, before)
				r.Coverage = []fault.Coverage{{Source: "kernel", State: fault.CoverageOK}}
				r.Jobs = []fault.Process{{Job: "42", PID: 1, DeviceUUID: "GPU-1"}}
				return r
			}
			accept(t, s, fresh(1))
			if got := notices(s); got != 1 {
				t.Fatalf("first report of a node gave %d notices, want 1", got)
			}
			second := fresh(2)
			test.change(second)
			accept(t, s, second)
			if got := notices(s); got != test.want {
				t.Errorf("%d notices, want %d", got, test.want)
			}
			if err := s.Accept(fresh(1)); err == nil {
				t.Fatal("Accept(stale report) = nil, want an error")
			}
			if got := notices(s); got != 0 {
				t.Errorf("a refused report gave %d notices, want 0", got)
			}
		})
	}
}

func TestForget(t *testing.T) {
	s, c := newStore(t, Options{})
	accept(t, s, report(1, 1))
	looked := c.now.Add(-time.Second)
	s.Forget(node, looked)
	if got := len(s.Nodes()); got != 1 {
		t.Errorf("%d nodes held, want 1: it reported after the look that missed it", got)
	}
	s.Forget(node, c.now)
	if got := len(s.Nodes()); got != 0 {
		t.Errorf("%d nodes held, want 0", got)
	}
}

func TestStatus(t *testing.T) {
	provisional := finding(fault.XidOffTheBus, fault.Bad)
	provisional.Provisional = true
	warning := finding(fault.XidMMUFault, fault.Bad)
	warning.Severity = fault.Warning
	explained := finding(fault.GPUMissing, fault.Bad)
	explained.SubsumedBy = "nvidia.xid.79-1"
	history := finding(fault.XidOffTheBus, fault.Bad)
	history.History = true
	dark := fault.Coverage{Source: "device", State: fault.CoverageUnknown}
	const fresh = time.Minute
	for _, test := range []struct {
		name     string
		findings []fault.Finding
		coverage []fault.Coverage
		age      time.Duration
		want     fault.State
	}{
		{"well", nil, []fault.Coverage{{Source: "kernel", State: fault.CoverageOK}, {Source: "neuron", State: fault.CoverageAbsent}}, fresh, fault.OK},
		{"report a moment too old", nil, nil, fresh + 1, fault.Unknown},
		{"source that does not answer", nil, []fault.Coverage{dark}, 0, fault.Unknown},
		{"confirmed error", []fault.Finding{finding(fault.XidOffTheBus, fault.Bad)}, []fault.Coverage{dark}, fresh + 1, fault.Bad},
		{"not confirmed", []fault.Finding{provisional}, nil, 0, fault.Unknown},
		{"warning only", []fault.Finding{warning}, nil, 0, fault.OK},
		{"explained by another", []fault.Finding{explained}, nil, 0, fault.OK},
		{"earlier boot", []fault.Finding{history}, nil, 0, fault.OK},
		{"cleared", []fault.Finding{finding(fault.XidOffTheBus, fault.OK)}, nil, 0, fault.OK},
		{"in doubt", []fault.Finding{finding(fault.XidOffTheBus, fault.Unknown)}, nil, 0, fault.Unknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, c := newStore(t, Options{})
			r := report(1, 1, test.findings...)
			r.Coverage = test.coverage
			accept(t, s, r)
			c.now = c.now.Add(test.age)
			got := only(t, s).Status(c.now, fresh)
			if got.State != test.want {
				t.Errorf("Status().State = %s, want %s", got.State, test.want)
			}
			if got.ReportAgeSeconds != test.age.Seconds() {
				t.Errorf("Status().ReportAgeSeconds = %v, want %v", got.ReportAgeSeconds, test.age.Seconds())
			}
		})
	}
}
