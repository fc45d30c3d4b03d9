package snapshot

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"

	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/golden"
)

var at = time.UnixMilli(1_700_000_000_500)

// exampleState has one of everything that is shown, and of what is not.
func exampleState() State {
	gpu := []source.Label{
		{Name: "gpu", Value: "0"}, {Name: "UUID", Value: "GPU-0"}, {Name: "pci_bus_id", Value: "00000000:53:00.0"},
		{Name: "device", Value: "nvidia0"}, {Name: "modelName", Value: "NVIDIA H200"}, {Name: "Hostname", Value: "n1"},
	}
	subject := fault.Subject{Node: "n1", Device: fault.DeviceGPU, PCI: "0000:53:00", UUID: "GPU-0", Index: new(0)}
	finding := func(kind fault.Kind, state fault.State) fault.Finding {
		return fault.Finding{ID: string(kind), Kind: kind, Subject: subject, State: state, Severity: fault.Fatal, Action: fault.Replace}
	}
	provisional := finding("nvidia.xid.79", fault.Bad)
	provisional.Provisional, provisional.Simulated = true, true
	history := finding("nvidia.ecc.dbe", fault.Bad)
	history.History = true
	disk := finding("disk.read_only", fault.Bad)
	disk.Subject = fault.Subject{Node: "n1", Device: fault.DeviceDisk, Port: "nvme1n1"}
	otherDisk := disk
	otherDisk.Subject.Port = "nvme2n1" // the same series
	node := finding("agent.restarted", fault.Bad)
	node.Subject, node.Severity, node.Action = fault.Subject{Node: "n1"}, fault.Info, fault.None

	return State{
		Time: at,
		Findings: []fault.Finding{
			provisional, history, disk, otherDisk, node,
			finding("nvidia.nvlink", fault.OK), finding("nvidia.thermal", fault.Unknown),
		},
		Sources: []Source{
			{Name: "kernel", Coverage: fault.CoverageOK, Age: 1500 * time.Millisecond},
			{Name: "device", Coverage: fault.CoverageUnknown, Age: time.Minute, Readings: []source.Reading{
				{Name: "DCGM_FI_DEV_GPU_TEMP", Help: "GPU temperature (in C).", Type: source.Gauge, Labels: gpu, Value: 45},
				{Name: "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", Help: "Total number of double-bit volatile ECC errors.", Type: source.Counter, Labels: gpu, Value: 2},
			}},
			{Name: "never", Coverage: fault.CoverageUnknown, Age: -1},
			{Name: "neuron", Coverage: fault.CoverageAbsent, Age: -1},
		},
		Processes: []fault.Process{
			{Job: "42", Rank: new(8), LocalRank: new(0), PID: 100, DeviceUUID: "GPU-0", DeviceIndex: 0},
			{Job: "42", Rank: new(8), LocalRank: new(0), PID: 101, DeviceUUID: "GPU-0", DeviceIndex: 0}, // the same series
			{Job: "43", PID: 102, DeviceUUID: "GPU-0", DeviceIndex: 0},
		},
	}
}

func newSnapshot(t *testing.T) *Snapshot {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	sent := prometheus.NewCounter(prometheus.CounterOpts{Name: "evenkeel_agent_own_total", Help: "A metric of the agent's own."})
	prometheus.WrapRegistererWith(prometheus.Labels{"cluster": "c1", "node": "n1"}, registry).MustRegister(sent)
	s, err := New("c1", "n1", registry)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func take(t *testing.T, s *Snapshot, state State) []*dto.MetricFamily {
	t.Helper()
	families, err := s.Take(state)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func get(t *testing.T, h http.Handler, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func read(t *testing.T, r *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestGoldenExposition(t *testing.T) {
	s := newSnapshot(t)
	take(t, s, exampleState())
	golden.Check(t, "testdata/exposition.golden", []byte(read(t, get(t, s))))
}

func TestNames(t *testing.T) {
	s := newSnapshot(t)
	var own []*dto.MetricFamily
	for _, family := range take(t, s, exampleState()) {
		if !model.LegacyValidation.IsValidMetricName(family.GetName()) {
			t.Errorf("%q is not a name that every store takes", family.GetName())
		}
		if strings.HasPrefix(family.GetName(), "evenkeel_") {
			own = append(own, family)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(own).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if len(own) < 6 {
		t.Errorf("linted %d families, want all of them", len(own))
	}
}

// What promhttp would have sent is what is sent.
func TestServesLikePromhttp(t *testing.T) {
	s := newSnapshot(t)
	take(t, s, exampleState())
	reference := promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{})
	for _, accept := range []string{"", "*/*", "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
		"application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"} {
		got, want := get(t, s, "Accept", accept), get(t, reference, "Accept", accept)
		if g, w := read(t, got), read(t, want); g != w {
			t.Errorf("Accept %q: body differs from promhttp's", accept)
		}
		if g, w := got.Header.Get("Content-Type"), want.Header.Get("Content-Type"); !strings.HasPrefix(w, g) {
			t.Errorf("Accept %q: Content-Type = %q, want what %q begins with", accept, g, w)
		}
	}
}

func TestCompression(t *testing.T) {
	s := newSnapshot(t)
	take(t, s, exampleState())
	plain := read(t, get(t, s))
	for accept, compressed := range map[string]bool{
		"": false, "gzip": true, "deflate, gzip;q=1.0": true, "gzip;q=0": false, "*": true, "gzip;q=0, *": false, "identity": false, "gzip;q=x": false,
	} {
		r := get(t, s, "Accept-Encoding", accept)
		if got := r.Header.Get("Content-Encoding") == "gzip"; got != compressed {
			t.Errorf("Accept-Encoding %q: compressed = %v, want %v", accept, got, compressed)
			continue
		}
		if compressed {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			r.Body = z
		}
		if got := read(t, r); got != plain {
			t.Errorf("Accept-Encoding %q: body differs from the plain one", accept)
		}
	}
}

func TestNothingToServeYet(t *testing.T) {
	if r := get(t, newSnapshot(t)); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status before the first snapshot = %d, want 503", r.StatusCode)
	}
}

// A reading that cannot be shown takes none of the others with it.
func TestBadReadingIsLeftOut(t *testing.T) {
	for name, bad := range map[string]source.Reading{
		"same series twice": {Name: "g", Help: "h", Type: source.Gauge, Value: 2},
		"two types":         {Name: "g", Help: "h", Type: source.Counter, Labels: []source.Label{{Name: "a", Value: "1"}}},
		"no name":           {Help: "h", Type: source.Gauge},
		"a label of ours":   {Name: "x", Help: "h", Labels: []source.Label{{Name: "node", Value: "other"}}},
		"a label twice":     {Name: "x", Help: "h", Labels: []source.Label{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}},
		"not UTF-8":         {Name: "x", Help: "h", Labels: []source.Label{{Name: "a", Value: "\xff"}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSnapshot(t)
			_, err := s.Take(State{Time: at, Sources: []Source{{Name: "device", Coverage: fault.CoverageOK, Readings: []source.Reading{
				{Name: "g", Help: "h", Type: source.Gauge, Value: 1}, bad, {Name: "z", Help: "h", Type: source.Gauge, Value: 3},
			}}}})
			if err == nil {
				t.Error("Take = nil error, want one that names the reading")
			}
			body := read(t, get(t, s))
			for _, want := range []string{`g{cluster="c1",node="n1"} 1`, `z{cluster="c1",node="n1"} 3`, "evenkeel_agent_heartbeat_timestamp_seconds"} {
				if !strings.Contains(body, want) {
					t.Errorf("page lacks %s:\n%s", want, body)
				}
			}
		})
	}
}

func TestWhatIsGoneTakesItsSeriesWithIt(t *testing.T) {
	s := newSnapshot(t)
	take(t, s, exampleState())
	take(t, s, State{Time: at.Add(time.Second)})
	body := read(t, get(t, s))
	for _, gone := range []string{"DCGM_", "evenkeel_agent_finding{", "evenkeel_process_info", "evenkeel_agent_source_up"} {
		if strings.Contains(body, gone) {
			t.Errorf("page still has %s", gone)
		}
	}
	if !strings.Contains(body, `evenkeel_agent_findings{cluster="c1",node="n1",state="bad"} 0`) {
		t.Errorf("page lacks the count of zero findings:\n%s", body)
	}
}
