package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/agent/report"
	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
)

const staleAfter = 30 * time.Second

var start = time.Now()

func testNode() *node {
	engine := health.New(fault.NewCatalogue(fault.DefaultTiming()), health.Identity{Node: "n1", InstanceID: "i-1", BootID: "b-1"})
	return newNode(engine, staleAfter, []string{"device"}, []string{"neuron"})
}

func okBatch() source.Batch {
	return source.Batch{
		Coverage:  fault.CoverageOK,
		Readings:  []source.Reading{{Name: "g", Help: "h"}},
		Processes: []fault.Process{{Job: "42", PID: 1, Rank: new(3)}},
	}
}

func coverageOf(t *testing.T, s report.State, name string) fault.Coverage {
	t.Helper()
	for _, c := range s.Coverage {
		if c.Source == name {
			return c
		}
	}
	t.Fatalf("no coverage of %q in %+v", name, s.Coverage)
	return fault.Coverage{}
}

func TestCoverage(t *testing.T) {
	for _, tc := range []struct {
		name   string
		happen func(n *node)
		at     time.Duration // after start
		want   fault.CoverageState
		age    float64
		detail string
		shown  bool // readings and processes are current
	}{
		{"never heard", func(*node) {}, 0, fault.CoverageUnknown, -1, "not answered", false},
		{"ok", func(n *node) { n.take("device", okBatch(), start) }, time.Second, fault.CoverageOK, 1, "", true},
		{"just not stale", func(n *node) { n.take("device", okBatch(), start) }, staleAfter, fault.CoverageOK, 30, "", true},
		{"stale", func(n *node) { n.take("device", okBatch(), start) }, staleAfter + 1, fault.CoverageUnknown, 30.000000001, "silent", false},
		{"failed", func(n *node) {
			n.take("device", okBatch(), start)
			n.fail("device", "library is gone", start)
		}, time.Second, fault.CoverageUnknown, 1, "library is gone", false},
		{"failed and back", func(n *node) {
			n.fail("device", "library is gone", start)
			n.take("device", okBatch(), start)
		}, 0, fault.CoverageOK, 0, "", true},
		{"says unknown after an answer", func(n *node) {
			n.take("device", okBatch(), start)
			n.take("device", source.Batch{Coverage: fault.CoverageUnknown, Detail: "no lock"}, start.Add(time.Second))
		}, 2 * time.Second, fault.CoverageUnknown, 2, "no lock", false},
		{"says nothing that is known", func(n *node) { n.take("device", source.Batch{Coverage: "fine"}, start) }, 0, fault.CoverageUnknown, 0, "", false},
		{"says absent", func(n *node) { n.take("device", source.Batch{Coverage: fault.CoverageAbsent}, start) }, 0, fault.CoverageAbsent, 0, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := testNode()
			tc.happen(n)
			now := start.Add(tc.at)
			state := n.report(now)
			got := coverageOf(t, state, "device")
			if got.State != tc.want || got.AgeSeconds != tc.age || !strings.Contains(got.Detail, tc.detail) {
				t.Errorf("coverage = %+v, want %s, age %v, detail with %q", got, tc.want, tc.age, tc.detail)
			}
			shown := n.snapshot(now)
			if got := len(shown.Sources[0].Readings) > 0; got != tc.shown {
				t.Errorf("readings shown = %v, want %v", got, tc.shown)
			}
			if got := len(state.Jobs) > 0; got != tc.shown || got != (len(shown.Processes) > 0) {
				t.Errorf("processes in the report = %v and shown = %v, want both %v", got, len(shown.Processes) > 0, tc.shown)
			}
			if c := coverageOf(t, state, "neuron"); c.State != fault.CoverageAbsent {
				t.Errorf("coverage of what the node does not have = %+v", c)
			}
		})
	}
}

func TestNews(t *testing.T) {
	n := testNode()
	take := func(b source.Batch) (news, findings bool) { return n.take("device", b, start) }
	if news, _ := take(okBatch()); !news {
		t.Error("the first word of a source is no news")
	}
	if news, findings := take(okBatch()); news || findings {
		t.Error("the same again is news")
	}
	other := okBatch()
	other.Processes[0].Rank = new(4)
	if news, findings := take(other); !news || findings {
		t.Errorf("another process: news %v, findings %v, want true, false", news, findings)
	}
	b := other
	b.Observations = []health.Observation{{
		Time: start, Source: "device", Kind: fault.GPUMissing, State: fault.Bad,
		Subject: fault.Subject{Device: fault.DeviceGPU, PCI: "0000:53:00"}, Evidence: fault.Evidence{Authority: fault.ByDevice, Text: "lost"},
	}}
	if news, findings := take(b); !news || !findings {
		t.Errorf("a fault: news %v, findings %v, want both", news, findings)
	}
	if !n.fail("device", "gone", start) || n.fail("device", "gone", start) {
		t.Error("a failure is news once")
	}
	b = other
	b.Simulated = true
	take(b)
	take(other)
	if !n.report(start).Simulated {
		t.Error("a node forgot that a source of it was injected")
	}
}

func TestSilenceIsNewsWhenItBegins(t *testing.T) {
	n := testNode()
	n.take("device", okBatch(), start)
	due := n.next()
	if due.Before(start.Add(staleAfter)) || due.After(start.Add(staleAfter+time.Millisecond)) {
		t.Fatalf("next = %v after the start, want %v", due.Sub(start), staleAfter)
	}
	if news, _ := n.tick(due.Add(-2)); news {
		t.Error("silence is news before it has lasted")
	}
	if news, _ := n.tick(due); !news {
		t.Error("silence is no news when it begins")
	}
	if news, _ := n.tick(due.Add(time.Second)); news || !n.next().IsZero() {
		t.Error("silence is news twice")
	}
}
